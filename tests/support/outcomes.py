"""Per-item outcomes made to measure: who is right where, and at what loss."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from consensus.evidence import Items, items_of
from mesh.messages.judgement import Outcomes

LABELS = 3


def outcomes(
    right: Sequence[bool],
    *,
    loss: Sequence[float] | None = None,
    clusters: Sequence[int] | None = None,
    label: Sequence[int] | None = None,
    model: str = "",
    split: str = "",
    first_id: int = 1_000,
) -> Outcomes:
    """Outcomes of `right`, item by item: 0.2 nats for a right one, 1.5 for a wrong one, unless `loss` says else."""
    n = len(right)
    true = list(label) if label is not None else [i % LABELS for i in range(n)]
    predicted = [t if ok else (t + 1) % LABELS for t, ok in zip(true, right, strict=True)]
    losses = loss if loss is not None else [0.2 if ok else 1.5 for ok in right]
    return Outcomes(
        model=model,
        split=split,
        items=n,
        ids=array("Q", [first_id + i for i in range(n)]).tobytes(),
        clusters=array("I", clusters if clusters is not None else range(n)).tobytes(),
        label=array("i", true).tobytes(),
        predicted=array("i", predicted).tobytes(),
        loss=array("f", losses).tobytes(),
    )


def items(right: Sequence[bool], **more: object) -> Items:
    """The same as arrays."""
    return items_of(outcomes(right, **more))  # type: ignore[arg-type]


def first(right: int, of: int) -> list[bool]:
    """The first `right` of so many items are right."""
    return [i < right for i in range(of)]
