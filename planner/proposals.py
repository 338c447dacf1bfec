"""What the two lines try: the champion with one or two dials turned, or new settings from a declared space.

Draws are made from the SHA-256 of the topic's id, so that planning a topic again proposes the same, and nothing here
depends on a generator's version. The space holds only settings worth training (a test shows that the kinds accept
them); the evolver turns dials of the training, never of the architecture: its weights have to fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts
from mesh.messages.models import ModelFormat


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """Settings for one task, and in words what is different about them."""

    settings: Facts
    changed: str


@dataclasses.dataclass(frozen=True, slots=True)
class Dial:
    """A number of the training that the evolver may turn. New value = old * factor, kept within the bounds."""

    default: float
    """The kind's default: where a champion's settings do not name the dial."""
    factors: tuple[float, ...]
    low: float
    high: float

    def turned(self, old: float, factor: float) -> float:
        """The new value; from zero a factor leads nowhere, so zero becomes the lowest positive step."""
        new = old * factor if old > 0 else self.default * factor
        return float(f"{min(self.high, max(self.low, new)):.4g}")


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What may be tried for one modality."""

    dials: Mapping[str, Dial]
    """What the evolver may turn; only what can change on trained weights."""
    always: str
    """The dial that is turned every time; one of the others may follow."""
    drawn: Mapping[str, Sequence[Any]]
    """Setting to the values from which the reinventor draws."""


SPACES: dict[str, dict[str, Space]] = {
    "classify": {
        "text": Space(
            always="learning_rate",
            dials={
                "learning_rate": Dial(0.004, (0.2, 0.3, 0.5, 2.0), 1e-4, 2e-3),
                "weight_decay": Dial(0.05, (0.3, 3.0), 1e-4, 0.3),
                "dropout": Dial(0.5, (0.6, 1.3), 0.05, 0.7),
                "feature_dropout": Dial(0.2, (0.5, 2.0), 0.01, 0.4),
            },
            drawn={
                "architecture": ("wide-deep", "wide-deep", "deep"),
                "hidden": ([128], [192], [256]),
                "learning_rate": (0.003, 0.004, 0.006),
                "weight_decay": (0.01, 0.05, 0.1),
                "dropout": (0.4, 0.5),
                "feature_dropout": (0.1, 0.2, 0.3),
                "label_smoothing": (0.0, 0.05),
                "features_max": (60_000, 100_000),
            },
        ),
        "tabular": Space(
            always="learning_rate",
            dials={
                "learning_rate": Dial(0.003, (0.2, 0.3, 0.5, 2.0), 1e-4, 1.5e-3),
                "weight_decay": Dial(0.05, (0.3, 2.0), 1e-3, 0.3),
                "dropout": Dial(0.3, (0.5, 1.5), 0.05, 0.6),
                "feature_dropout": Dial(0.05, (0.5, 2.0), 0.01, 0.3),
            },
            drawn={
                "hidden": ([128], [128, 64], [256, 128], [512, 256]),
                "learning_rate": (0.002, 0.003, 0.005),
                "weight_decay": (0.02, 0.05, 0.1),
                "dropout": (0.1, 0.2, 0.3),
                "feature_dropout": (0.0, 0.05, 0.1),
                "label_smoothing": (0.0, 0.05),
            },
        ),
    }
}
"""Executor kind and modality to what may be tried. A kind that is not named here can not be trained by the lines.

The values lie around the kind's measured defaults. A continued network gets a lower rate than a new one: at the full
rate it forgets more than it learns, so the rate is the dial that is always turned.
"""

STARTS_FROM: dict[str, frozenset[ModelFormat]] = {"classify": frozenset({ModelFormat.RAMIFY})}
"""Executor kind to the forms of base models that it goes on training. A kind that is not named starts from zero or from
its own champions only."""


def space_for(executor: str, modality: str) -> Space:
    """The declared space; an unknown modality gets an empty one (the kind's defaults are proposed)."""
    return SPACES.get(executor, {}).get(modality, Space(dials={}, always="", drawn={}))


def evolver(topic: str, executor: str, modality: str, champion: Facts | None) -> Proposal:
    """champion: the champion's settings, None when there is no champion yet."""
    if champion is None:
        return Proposal({}, "lays the first champion with the kind's defaults")
    space = space_for(executor, modality)
    settings, words = dict(champion), []
    for name in _turned(topic, space):
        dial = space.dials[name]
        old = _number(champion.get(name), dial.default)
        factor = dial.factors[_draw(f"{topic}/{name}", len(dial.factors))]
        new = dial.turned(old, factor)
        if new == old:
            continue
        settings[name] = new
        words.append(f"{name} {new:g} instead of {old:g}")
    return Proposal(settings, "; ".join(words) or "continues the champion with its own settings")


def reinventor(topic: str, executor: str, modality: str) -> Proposal:
    """Settings drawn from the space, from zero."""
    space = space_for(executor, modality)
    settings = {name: values[_draw(f"{topic}/{name}", len(values))] for name, values in sorted(space.drawn.items())}
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    return Proposal(settings, f"from zero with {words}" if words else "from zero with the kind's defaults")


def _turned(topic: str, space: Space) -> list[str]:
    """One or two dials: the one that is always turned, and by the toss of a coin one of the others."""
    others = sorted(name for name in space.dials if name != space.always)
    second = [others[_draw(f"{topic}/second", len(others))]] if others and _draw(f"{topic}/count", 2) else []
    return [name for name in (space.always, *second) if name]


def _draw(seed: str, count: int) -> int:
    """0 to count - 1, from the seed alone."""
    return int.from_bytes(_digest(seed)[:8]) % count


def _digest(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
