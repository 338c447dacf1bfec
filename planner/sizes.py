"""Experts shaped by how hard their branch is (HDEE): three sizes, three budgets, one fixed total.

The flat model's loss on a branch says how hard it is. The easy third of the branches gets networks of 0.8 of the usual
width and a shorter budget, the hard third 1.2 and a longer one, the middle the usual. Budgets are scaled so that they
add up to the total whatever the losses are. Only a network from zero can have another size: the evolver of a branch
goes on from the flat model's weights.

Ties, unknown losses and fewer than three branches get the usual size. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts

SMALL, USUAL, LARGE = 0.8, 1.0, 1.2

BRANCHES_LEAST = 3
"""Fewer have no thirds."""

WIDTH_STEP = 16
"""Widths are multiples of it: matrix products run in such blocks."""

WIDTHS: Mapping[str, tuple[str, ...]] = {"classify": ("hidden",), "language-model": ("width",)}
"""Settings of a kind that say how wide its network is."""

USUAL_WIDTH: Mapping[str, Facts] = {"language-model": {"width": 256, "heads": 4}}
"""What is scaled where settings leave the width to the kind; a width needs its number of heads then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What a branch's lines get."""

    size: float
    budget_s: float
    why: str


def shaped(losses: Sequence[float | None], total_s: float) -> tuple[Shape, ...]:
    """Size and budget per line of every branch. losses: the flat model's on each, None where it is not known; total_s:
    what the branches' lines may spend in all."""
    sizes, why = _sizes(losses)
    whole = sum(sizes)
    return tuple(
        Shape(size, total_s * size / whole if whole else 0.0, reason) for size, reason in zip(sizes, why, strict=True)
    )


def stretched(budgets: Sequence[float], losses: Sequence[float | None]) -> tuple[float, ...]:
    """The same total, with more of it for branches that are hard and less for those that are easy."""
    longer = [budget * size for budget, size in zip(budgets, _sizes(losses)[0], strict=True)]
    whole = sum(longer)
    return tuple(budget * sum(budgets) / whole for budget in longer) if whole else tuple(budgets)


def _sizes(losses: Sequence[float | None]) -> tuple[list[float], list[str]]:
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    if len(known) < len(losses) or len(losses) < BRANCHES_LEAST:
        reason = "usual size: the flat model's loss is not known on every branch"
        if len(known) == len(losses):
            reason = f"usual size: {len(losses)} branches have no thirds"
        return [USUAL] * len(losses), [reason] * len(losses)
    third = len(known) // 3
    ordered = sorted(known)
    easy, hard = ordered[third - 1], ordered[-third]
    found, reasons = [], []
    for loss in known:
        below, above = sum(one < loss for one in known), sum(one > loss for one in known)
        size = USUAL
        if loss <= easy and above >= len(known) - third:
            size = SMALL
        elif loss >= hard and below >= len(known) - third:
            size = LARGE
        found.append(size)
        place = {SMALL: "the easy third", USUAL: "the middle", LARGE: "the hard third"}[size]
        reasons.append(f"size {size:g}: the flat model's loss here is {loss:.4g}, in {place} of {len(known)} branches")
    return found, reasons


def scaled(executor: str, settings: Mapping[str, Any], size: float) -> Facts:
    """The same settings for a network of another width."""
    if size == USUAL or executor not in WIDTHS:
        return dict(settings)
    full = {**USUAL_WIDTH.get(executor, {}), **settings}
    found = dict(full)
    for name in WIDTHS[executor]:
        value = full.get(name)
        if isinstance(value, list | tuple):
            found[name] = [_step(width * size, WIDTH_STEP) for width in value]
        elif isinstance(value, int | float) and value:
            heads = full.get("heads") or 1
            found[name] = _step(value * size, 2 * int(heads))
    return found


def _step(width: float, step: int) -> int:
    return max(step, step * round(width / step))
