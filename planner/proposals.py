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
    drawn: Mapping[str, Sequence[Any]]
    """Setting to the values from which the reinventor draws."""


SPACES: dict[str, dict[str, Space]] = {
    "classify": {
        "text": Space(
            dials={
                "learning_rate": Dial(0.02, (0.5, 0.25), 1e-5, 1.0),
                "weight_decay": Dial(1e-6, (0.3, 3.0), 1e-8, 1.0),
            },
            drawn={"learning_rate": (0.01, 0.02, 0.05)},
        ),
        "tabular": Space(
            dials={
                "learning_rate": Dial(3e-3, (0.5, 0.25), 1e-5, 1.0),
                "weight_decay": Dial(1e-4, (0.3, 3.0), 1e-8, 1.0),
            },
            drawn={"learning_rate": (1e-3, 2e-3, 5e-3)},
        ),
    }
}


def space_for(executor: str, modality: str) -> Space:
    """The declared space; an unknown modality gets an empty one (the kind's defaults are proposed)."""
    return SPACES.get(executor, {}).get(modality, Space({}, {}))


def evolver(topic: str, executor: str, modality: str, champion: Facts | None) -> Proposal:
    """champion: the champion's settings, None when there is no champion yet."""
    if champion is None:
        return Proposal({}, "lays the first champion with the kind's defaults")
    space = space_for(executor, modality)
    names = _several(f"{topic}/dials", sorted(space.dials), 1 + _draw(f"{topic}/count", 2))
    settings, words = dict(champion), []
    for name in names:
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


def _several(seed: str, names: Sequence[str], count: int) -> list[str]:
    """`count` different names, in the order of their digests."""
    return sorted(names, key=lambda name: _digest(f"{seed}/{name}"))[:count]


def _draw(seed: str, count: int) -> int:
    """0 to count - 1, from the seed alone."""
    return int.from_bytes(_digest(seed)[:8]) % count


def _digest(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
