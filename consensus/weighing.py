"""Weighing: what both ways to a recommendation share: the choice, the comparison that it reports, and the faults."""

from __future__ import annotations

import dataclasses

from consensus.candidates import Judged
from consensus.comparison import RESAMPLES, compare
from consensus.evidence import Items
from consensus.rounds import line_of
from mesh.messages.judgement import Choice, Comparison

SEED = 0
"""Of every bootstrap: a recommendation can be computed again from its digests."""


@dataclasses.dataclass(frozen=True, slots=True)
class Weighed:
    """The choice, and the comparison that it reports."""

    choice: Choice
    why: str
    would_change: str
    taken: str = ""
    """Name of the candidate that is taken; '' when the champion is kept."""
    effect: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    comparisons: tuple[Comparison, ...] = ()


def choice_of(name: str) -> Choice:
    """What it means to take the candidate of this name."""
    line = line_of(name)
    if line is None:
        raise ValueError(f"no line is called {name!r}")
    return Choice(line.value)


def compared(line: Judged, name: str, items: Items, metric: str, alpha: float) -> Comparison:
    """The candidate against named outcomes of the same items, with the bootstrap."""
    assert line.items is not None
    return compare((line.name, line.items), (name, items), metric, alpha=alpha, resamples=RESAMPLES, seed=SEED)


def faults(judged: list[Judged]) -> str:
    """Who can not be chosen, and why."""
    return "; ".join(f"the {line.name} can not be chosen: {line.fault.rstrip('.')}" for line in judged if line.fault)
