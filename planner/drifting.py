"""Has the tree that is champion become worse on one of its branches?

    holdout evaluation, when it became champion ──┐
                                                  ├── per branch: mean, deviation, items ──> the branches that got worse
    holdout evaluation, on this topic's holdout ──┘

Both are of the same model, so its branches are the same; and neither holdout has chosen anything, so the two figures
can be compared as they are (what the tree's own task says of validation is flattered by the choice of its mixture).
A rise counts when it is larger than chance explains (NOISE standard errors) and large enough to matter (LOSS_RISE).
Other examples make another holdout: the first topic that brings them has the tree asked about it in its round. A later
topic on the same data finds the tree measured there already, so what was said then is read again (`measured_on`). On
the data by which the tree became champion nothing has become worse.

Pure. Not here: whether texts have moved between the branches (executors/branching/drift.py, on a worker).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mesh import limits
from mesh.messages.base import Record
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import TaskState

KIND = "evaluate"

LOSS_RISE = 0.10
"""Rise of a branch's mean loss, relative to before, that asks for new branches."""

NOISE = 3.0
"""Standard errors that a rise has to exceed: at three, one of some hundred looks errs."""

TOLD_MAX = 3
"""Branches that a reason names; more say no more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """A branch's losses: their mean, standard deviation and number."""

    mean: float
    deviation: float
    items: int
    name: str = ""


def evaluated(records: Sequence[Record], model: str) -> TaskEnded | None:
    """The newest evaluation of this model on the holdout of the topic whose records these are. A champion's own record
    does not name the holdout by which it became champion, but the one that it was last compared on."""
    return _newest(records, model, holdouts(records))


def measured_on(records: Sequence[Record], model: str, splits: Collection[str]) -> TaskEnded | None:
    """The newest evaluation of this model on one of these splits, in the records of another topic."""
    return _newest(records, model, splits)


def holdouts(records: Sequence[Record]) -> frozenset[str]:
    """Digests of the holdout of a topic."""
    return frozenset(_holdout(one) for one in records if isinstance(one, Planned)) - {""}


def _newest(records: Sequence[Record], model: str, splits: Collection[str]) -> TaskEnded | None:
    found = None
    for one in records:
        if isinstance(one, TaskEnded) and one.task.executor == KIND and one.state is TaskState.SUCCEEDED:
            inputs = one.task.inputs
            if inputs.get("model") == model and inputs.get("split") in splits:
                found = one
    return found


def _holdout(plan: Planned) -> str:
    splits = plan.facts.get("splits")
    return str(splits.get("holdout") or "") if isinstance(splits, dict) else ""


def worse(before: TaskEnded | None, now: TaskEnded | None) -> str:
    """Which branches became worse between two evaluations of one tree; '' when none did, or nobody can tell."""
    then, told = _losses(before), _losses(now)
    if not then or len(then) != len(told):
        return ""
    found = losses_drifted(then, told)
    more = f"; so did {len(found) - TOLD_MAX} more" if len(found) > TOLD_MAX else ""
    return "; ".join(found[:TOLD_MAX]) + more


def losses_drifted(then: Sequence[Loss], now: Sequence[Loss]) -> tuple[str, ...]:
    """For each branch whose mean loss rose by more than LOSS_RISE and more than chance: what to say of it."""
    found = []
    for index, (before, after) in enumerate(zip(then, now, strict=True)):
        if min(before.items, after.items) < 2:
            continue
        error = math.sqrt(before.deviation**2 / before.items + after.deviation**2 / after.items)
        rise = after.mean - before.mean
        if rise > LOSS_RISE * abs(before.mean) and rise > NOISE * error:
            name = after.name or f"branch {index + 1}"
            found.append(f"the loss of {name!r} rose from {before.mean:.3f} to {after.mean:.3f}")
    return tuple(found)


def _losses(ended: TaskEnded | None) -> list[Loss]:
    """What an evaluation says of each branch; none where it says nothing usable."""
    rows = ended.outcome.facts.get("by_branch") if ended is not None and ended.outcome is not None else None
    if not isinstance(rows, list | tuple) or len(rows) > limits.BRANCHES_MAX:
        return []
    return [_loss(row if isinstance(row, dict) else {}) for row in rows]


def _loss(row: Mapping[str, Any]) -> Loss:
    """A branch's; one without items where a number is missing or none."""
    mean, deviation, items = (row.get(name) for name in ("loss", "deviation", "items"))
    numbers = [one for one in (mean, deviation, items) if isinstance(one, int | float) and math.isfinite(one)]
    name = str(row.get("name") or "")[:80]
    if len(numbers) < 3 or min(numbers[1:]) < 0:
        return Loss(0.0, 0.0, 0, name)
    return Loss(float(numbers[0]), float(numbers[1]), int(numbers[2]), name)
