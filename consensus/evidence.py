"""Evidence: did somebody else get what the worker claims, item by item?

Aim: a line's result counts only as far as another worker can reproduce it. The claim is the training task's per-item
outcomes on the validation split; the check is what the same model, loaded elsewhere, answers for the same items.

How it proceeds: first structure (the same items in the same order, finite losses, the model and split that were asked
for); a fault there ends the check, and nothing counts as reproduced. Then item by item: reproduced when the predicted
label is equal and the losses differ by at most LOSS_TOLERANCE * max(1, |claimed loss|). The evidence rate is the
share of reproduced items, judged by the lower end of its Wilson interval, because few items prove little: 10 of 10
prove 0.72, 35 of 35 prove 0.90 (Wilson, JASA 1927).

Promises: a pure function of two outcomes. Not covered: a claim and a check that were made up by the same hand; that is
why the check goes to another incarnation, and the evidence says whether it did.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from array import array
from collections import Counter
from typing import TypeVar

from consensus.distributions import normal_quantile
from mesh.messages.judgement import Evidence, Outcomes

N = TypeVar("N", int, float)

LOSS_TOLERANCE = 1e-2
"""Difference of two losses of one item, in nats (relative above 1), that numerical noise explains: other thread counts
give 1e-4, bf16 against fp32 some 1e-3; another model gives more on most items."""

RATE_WANTED = 0.90
"""Evidence rate that must be proved. Above 0.95 even 70 reproduced claims would not do."""

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Items:
    """Per-item outcomes of one model on one split, as arrays of equal length in the split's order."""

    model: str
    split: str
    ids: array[int]
    clusters: array[int]
    label: array[int]
    predicted: array[int]
    loss: array[float]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def right(self) -> int:
        """Items whose predicted label is the true one."""
        return sum(1 for label, predicted in zip(self.label, self.predicted, strict=True) if label == predicted)

    @property
    def accuracy(self) -> float:
        """Share of right items."""
        return self.right / len(self)

    @property
    def mean_loss(self) -> float:
        """Mean negative log likelihood of the true label, in nats."""
        return math.fsum(self.loss) / len(self)

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of always answering the label that is most frequent among these items."""
        return max(Counter(self.label).values()) / len(self)

    @property
    def chance_loss(self) -> float:
        """Loss, in nats, of answering every item with the label frequencies of these items: their entropy."""
        shares = [count / len(self) for count in Counter(self.label).values()]
        return -math.fsum(share * math.log(share) for share in shares)


def items_of(outcomes: Outcomes) -> Items:
    """The arrays of `outcomes`, which is little-endian on the wire."""
    return Items(
        model=outcomes.model,
        split=outcomes.split,
        ids=_filled(array("Q"), outcomes.ids),
        clusters=_filled(array("I"), outcomes.clusters),
        label=_filled(array("i"), outcomes.label),
        predicted=_filled(array("i"), outcomes.predicted),
        loss=_filled(array("f"), outcomes.loss),
    )


def fault_of(items: Items, *, model: str = "", split: str = "") -> str:
    """Why these outcomes can not be used at all, or ''. Empty digests, here or there, are not compared."""
    if model and items.model and items.model != model:
        return f"expected outcomes of model {model[:12]}, got those of {items.model[:12]}"
    if split and items.split and items.split != split:
        return f"expected outcomes on split {split[:12]}, got those on {items.split[:12]}"
    if not math.isfinite(math.fsum(items.loss)):
        bad = next((i for i, loss in enumerate(items.loss) if not math.isfinite(loss)), None)
        if bad is not None:
            return f"expected finite losses, got {items.loss[bad]} for item {bad} of {len(items)}"
    return ""


def mismatch_of(a: Items, b: Items) -> str:
    """Why two outcomes are not of the same items in the same order, or ''."""
    if len(a) != len(b):
        return f"expected outcomes of the same items, got {len(a)} and {len(b)} items"
    for what, one, other in (("ids", a.ids, b.ids), ("true labels", a.label, b.label)):
        if one != other:
            index = next(i for i in range(len(a)) if one[i] != other[i])
            return f"expected the same {what} in the same order, got another one at item {index} of {len(a)}"
    return ""


def check(
    claim: Items, again: Items, *, model: str = "", split: str = "", independent: bool, checked_by: str = ""
) -> tuple[Evidence, str]:
    """What `again` reproduces of `claim`, and the structural fault ('' when there is none).

    With a fault no claim counts as reproduced. `independent` says whether another incarnation did the check.
    """
    fault = _fault("claim", fault_of(claim, split=split)) or _fault("check", fault_of(again, model=model, split=split))
    fault = fault or mismatch_of(claim, again)
    reproduced = 0 if fault else _reproduced(claim, again)
    claims = len(claim)
    evidence = Evidence(
        claims=claims,
        reproduced=reproduced,
        rate=reproduced / claims,
        lower=wilson_lower(reproduced, claims),
        independent=independent,
        checked_by=checked_by,
    )
    return evidence, fault


def nothing_reproduced(claim: Items, *, independent: bool, checked_by: str = "") -> Evidence:
    """The evidence of a model that no claim was compared of, because it is not what its task asked for."""
    return Evidence(
        claims=len(claim), reproduced=0, rate=0.0, lower=0.0, independent=independent, checked_by=checked_by
    )


def wilson_lower(successes: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Lower end of the two-sided Wilson interval of a share; 0.0 for no trials."""
    if trials < 1:
        return 0.0
    z2 = normal_quantile(0.5 + confidence / 2.0) ** 2
    rate = successes / trials
    centre = rate + z2 / (2.0 * trials)
    spread = math.sqrt(z2 * (rate * (1.0 - rate) + z2 / (4.0 * trials)) / trials)
    return max(0.0, (centre - spread) / (1.0 + z2 / trials))


def lower_wanted(claims: int, rate_wanted: float = RATE_WANTED) -> float:
    """The bound that the Wilson lower end must reach: `rate_wanted`, or, where so few claims can not prove it even when
    all of them are reproduced (below 35 for 0.90), what they can prove at best."""
    return min(rate_wanted, wilson_lower(claims, claims))


def sufficient(evidence: Evidence | None, *, independent_required: bool) -> str:
    """Why this evidence does not carry a candidate, or ''."""
    if evidence is None:
        return "nobody has checked its claims"
    if independent_required and not evidence.independent:
        return "its claims were checked by the worker that made them, and the topic requires another one"
    wanted = lower_wanted(evidence.claims)
    if evidence.claims < 1 or evidence.lower < wanted:
        return (
            f"{evidence.reproduced} of {evidence.claims} claims were reproduced, which proves a rate of "
            f"{evidence.lower:.3f} where {wanted:.3f} is wanted"
        )
    return ""


def _reproduced(claim: Items, again: Items) -> int:
    rows = zip(claim.predicted, again.predicted, claim.loss, again.loss, strict=True)
    return sum(
        1
        for mine, theirs, loss, loss_again in rows
        if mine == theirs and abs(loss - loss_again) <= LOSS_TOLERANCE * max(1.0, abs(loss))
    )


def _filled(values: array[N], data: bytes) -> array[N]:
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _fault(whose: str, fault: str) -> str:
    return f"{whose}: {fault}" if fault else ""
