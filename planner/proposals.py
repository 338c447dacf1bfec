"""What the two lines try: the champion with one or two dials turned, or new settings from a declared space.

Draws are made from the SHA-256 of the topic's id, so that planning a topic again proposes the same, and nothing here
depends on a generator's version. What past changes brought biases them: a dial and a direction are drawn in proportion
to how often they helped (planner/lessons.py), none of them ever without a chance. The spaces (planner/dials.py) hold
only settings worth training; the evolver turns dials of the training, never of the architecture: its weights have to
fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from mesh.messages.base import Facts
from mesh.messages.models import ModelFormat
from planner.dials import DECLARED, Dial, Space, space_for
from planner.lessons import Lesson, Odds, odds_of_dials

__all__ = ["SPACES", "STARTS_FROM", "Dial", "Proposal", "Space", "evolver", "reinventor", "space_for"]


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """Settings for one task, and in words what is different about them."""

    settings: Facts
    changed: str


SPACES: dict[str, dict[str, Space]] = {kind: DECLARED[kind] for kind in ("classify", "language-model", "lora")}
"""Executor kinds that the lines of a topic can train: those whose data a profile understands."""

STARTS_FROM: dict[str, frozenset[ModelFormat]] = {
    "classify": frozenset({ModelFormat.RAMIFY}),
    "language-model": frozenset({ModelFormat.RAMIFY}),
}
"""Executor kind to the forms of base models that it goes on training. A kind that is not named starts from zero or from
its own champions only; an adapter's base is no start, it stays as it is (planner/bases.py)."""

SHARPNESS = 2.0
"""Odds are drawn in proportion to this power of them: a change that helped in three of four tries comes nine times as
often as one that helped in one of four."""

_Odds = Mapping[tuple[str, int], Odds]


def evolver(
    topic: str, executor: str, modality: str, champion: Facts | None, lessons: Sequence[Lesson] = ()
) -> Proposal:
    """champion: the champion's settings, None when there is no champion yet. lessons: what past changes brought."""
    if champion is None:
        return Proposal({}, "lays the first champion with the kind's defaults")
    space, odds = space_for(executor, modality), odds_of_dials(lessons)
    settings, words = dict(champion), []
    for name in _turned(topic, space, odds):
        dial = space.dials[name]
        old = _number(champion.get(name), dial.unset)
        factor = _factor(f"{topic}/{name}", name, dial, odds)
        new = dial.turned(old, factor)
        if new == old:
            continue
        settings[name] = new
        words.append(f"{name} {new:g} instead of {old:g}{_told(odds.get((name, _direction(factor))))}")
    return Proposal(settings, "; ".join(words) or "continues the champion with its own settings")


def reinventor(topic: str, executor: str, modality: str) -> Proposal:
    """Settings drawn from the space, from zero."""
    space = space_for(executor, modality)
    settings = {name: values[_draw(f"{topic}/{name}", len(values))] for name, values in sorted(space.drawn.items())}
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    return Proposal(settings, f"from zero with {words}" if words else "from zero with the kind's defaults")


def _turned(topic: str, space: Space, odds: _Odds) -> list[str]:
    """One or two dials: the one that is always turned, and by the toss of a coin one of the others."""
    others = sorted(name for name in space.dials if name != space.always)
    second = []
    if others and _draw(f"{topic}/count", 2):
        best = [max(_mean(odds, name, -1), _mean(odds, name, 1)) for name in others]
        second = [others[_weighted(f"{topic}/second", best)]]
    return [name for name in (space.always, *second) if name]


def _factor(seed: str, name: str, dial: Dial, odds: _Odds) -> float:
    """One of the dial's factors, those in a direction that helped more often."""
    return dial.factors[_weighted(seed, [_mean(odds, name, _direction(factor)) for factor in dial.factors])]


def _direction(factor: float) -> int:
    return 1 if factor > 1.0 else -1


def _mean(odds: _Odds, name: str, direction: int) -> float:
    return odds.get((name, direction), Odds()).mean


def _told(odds: Odds | None) -> str:
    """What the past says of a turn, for people."""
    return f" (so turned {odds.tries:g} times before, expected gain {odds.mean:.2f})" if odds is not None else ""


def _weighted(seed: str, means: Sequence[float]) -> int:
    """An index in proportion to its odds, from the seed alone; with equal odds exactly `_draw`."""
    if len(set(means)) == 1:
        return _draw(seed, len(means))
    weights = [mean**SHARPNESS for mean in means]
    left = int.from_bytes(_digest(seed)[:8]) / 2**64 * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0.0:
            return index
    return len(weights) - 1


def _draw(seed: str, count: int) -> int:
    """0 to count - 1, from the seed alone."""
    return int.from_bytes(_digest(seed)[:8]) % count


def _digest(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
