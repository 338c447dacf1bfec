"""Into how many branches? What is tried, which of it is taken, and the sentence that says why.

Tried: 2, 3, 4, 6, 8 … while there are `per_branch` examples for each (documents: BYTES_PER_BRANCH bytes and
DOCUMENTS_PER_BRANCH documents).
Taken: of the divisions whose specialists are at least SCREEN standard errors better than the better yardstick
(executors/branching/proxies.py), the one with the fewest branches that is no more than one standard error below the
best (each branch costs two lines). None: the topic stays whole. A number that was asked for is taken as it is; what the
proxy says is told only.

It is a screen, not a proof: it keeps out what clearly loses. Of divisions that are worth nothing three in ten pass, and
pay with their training only, because the gate tests what was trained. Demanding 95 % here would turn down most that are
worth half a percent: 1,500 validation texts can not show that. The interval is told with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from executors.branching.proxies import Measured

TRIED = (2, 3, 4, 6, 8, 12, 16, 24, 32)

BYTES_PER_BRANCH = 1_000_000
"""Of documents: ten bytes per parameter of the smallest language models that learn anything (100,000)."""

DOCUMENTS_PER_BRANCH = 400
"""Of the usual 2,048 bytes: fewer leave 40 in the holdout of a branch."""

LEAST_SHARE = 4
"""A branch may have a quarter of the examples that a branch should have on average: fitting is balanced, assigning is
not."""

SCREEN = 0.5
"""Standard errors above zero from which specialists count as worth trying."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One division: what was measured, or why it can not be used."""

    k: int
    measured: Measured | None
    fault: str = ""

    @property
    def passes(self) -> bool:
        """Is it worth trying?"""
        found = self.measured
        return found is not None and found.effect > 0.0 and found.effect >= SCREEN * found.error

    def facts(self) -> dict[str, Any]:
        """For the task's result."""
        if self.measured is None:
            return {"k": self.k, "fault": self.fault[:300]}
        told = dataclasses.asdict(self.measured)
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in told.items()}


def candidates(examples: int, per_branch: int, most: int, size_bytes: int = 0) -> tuple[int, ...]:
    """The numbers of branches that so much data is enough for. size_bytes: of documents; 0: labelled texts."""
    room = min(most, examples // per_branch)
    if size_bytes:
        room = min(room, size_bytes // BYTES_PER_BRANCH)
    return tuple(k for k in TRIED if k <= room)


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """The division to take; None: the topic stays whole."""
    passing = [(trial, trial.measured) for trial in trials if trial.measured is not None and trial.passes]
    if not passing:
        return None
    best = max((found for _, found in passing), key=lambda found: found.effect)
    return next(trial for trial, found in passing if found.effect >= best.effect - best.error)


def sentence(trials: Sequence[Trial], taken: Trial | None, metric: str, why_few: str = "") -> str:
    """Why it is divided so, or stays whole; why_few: what kept everything from being tried."""
    measured = [trial.measured for trial in trials if trial.measured is not None]
    if taken is not None and taken.measured is not None:
        ways = f", the fewest of those that do as well ({_listed(trials)})" if len(measured) > 1 else ""
        return f"{taken.k} branches: on validation specialists are {_told(taken.measured, metric)}{ways}"
    if not trials:
        return why_few
    if not measured:
        return f"no division can be used: {trials[0].fault}"
    best = max(measured, key=lambda found: found.effect)
    return (
        f"no division into {_numbers([found.k for found in measured])} branches helps: the best, {best.k}, has "
        f"specialists {_told(best, metric)} on validation"
    )


def told(found: Measured, metric: str) -> str:
    """What was measured of a number of branches that somebody asked for."""
    return f"on validation specialists are {_told(found, metric)}"


def _told(found: Measured, metric: str) -> str:
    yardstick = "one flat model" if found.against == "flat" else "those of a random split"
    if metric == "accuracy":
        values = [f"{100 * value:+.2f}" for value in (found.effect, found.low, found.high)]
        return f"{values[0]} points of accuracy [{values[1]}, {values[2]}] against {yardstick}"
    values = [f"{value:.4f}" for value in (abs(found.effect), found.low, found.high)]
    word = "better" if found.effect >= 0.0 else "worse"
    return f"{values[0]} {metric} {word} [{values[1]}, {values[2]}] than {yardstick}"


def _listed(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{trial.k}: {trial.measured.effect:+.4f}" for trial in trials if trial.measured is not None)


def _numbers(values: Sequence[int]) -> str:
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
