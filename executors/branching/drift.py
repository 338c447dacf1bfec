"""Does a router still fit? New texts against what was seen when it was fitted.

    undecided   the mean routing entropy rose: new texts lie between the branches
    unknown     fewer of their words are in the vocabulary
    elsewhere   the branches' shares moved: population stability index, sum of (now - then) * ln(now / then)

"Then" are the validation texts of the fit, which the router was not fitted on. A measure counts only when it is larger
than chance explains (NOISE standard errors) *and* large enough to matter. Pure functions of numbers.

Not covered: a shift inside a branch that moves no share and no entropy; whether a branch is answered worse than before
is seen by the planner, from evaluations (planner/drifting.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from executors.routing import Fitted, Floats, Router, Tick, nothing

ENTROPY_SHARE = 0.10
"""Rise of the mean entropy, as a share of the largest possible (ln k), that asks for new branches."""

KNOWN_DROP = 0.15
"""Drop of the share of known words that does."""

STABILITY = 0.25
"""Population stability index above which a distribution counts as another one; 0.1 to 0.25 is a moderate shift (the
usual convention of credit scoring)."""

NOISE = 3.0
"""Standard errors that a change has to exceed: at three, one of some hundred looks errs."""

TEXTS_LEAST = 50
"""Fewer new texts say nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """New texts against those of the fit."""

    texts: int
    entropy: float
    entropy_then: float
    known: float
    known_then: float
    stability: float
    shares: tuple[float, ...]
    reasons: tuple[str, ...]
    """One sentence's part for each measure that asks for new branches; () when the router fits."""

    @property
    def advised(self) -> bool:
        """Should the topic be divided anew?"""
        return bool(self.reasons)

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        if self.texts < TEXTS_LEAST:
            return f"{self.texts} new texts are too few to tell whether the branches still fit"
        if self.reasons:
            return "the branches should be found anew: " + "; ".join(self.reasons)
        return (
            f"the branches still fit: routing entropy {self.entropy:.3f} nats (then {self.entropy_then:.3f}), "
            f"stability index {self.stability:.3f}"
        )

    def facts(self) -> dict[str, Any]:
        """For the task's result."""
        return {
            "texts": self.texts,
            "entropy": round(self.entropy, 6),
            "entropy_then": round(self.entropy_then, 6),
            "known": round(self.known, 6),
            "known_then": round(self.known_then, 6),
            "stability": round(self.stability, 6),
            "shares": [round(share, 6) for share in self.shares],
            "advised": self.advised,
            "sentence": self.sentence,
        }


def seen(router: Router, texts: Sequence[str], placed: Floats, examples: int) -> Fitted:
    """What drift is measured against: `placed` are the router's places of `texts`, which it was not fitted on."""
    entropy = router.entropy_at(placed).astype(np.float64)
    return Fitted(
        examples=examples,
        seen=len(texts),
        entropy=float(entropy.mean()) if len(texts) else 0.0,
        entropy_deviation=float(entropy.std(ddof=1)) if len(texts) > 1 else 0.0,
        known=float(router.known(texts).mean()) if len(texts) else 0.0,
        shares=_shares(router, placed),
    )


def measured(router: Router, texts: Sequence[str], placed: Floats | None = None, tick: Tick = nothing) -> Drift:
    """`texts` (new to the router) against its fit; placed: their places, if they are known."""
    at = router.embed(texts, tick) if placed is None else placed
    now, then = seen(router, texts, at, 0), router.card.fitted
    stability = _stability(then.shares, now.shares)
    reasons = _reasons(now, then, router.k, stability) if min(now.seen, then.seen) >= TEXTS_LEAST else ()
    return Drift(now.seen, now.entropy, then.entropy, now.known, then.known, stability, now.shares, reasons)


def _reasons(now: Fitted, then: Fitted, k: int, stability: float) -> tuple[str, ...]:
    found = []
    error = math.sqrt(now.entropy_deviation**2 / now.seen + then.entropy_deviation**2 / then.seen)
    rise = now.entropy - then.entropy
    if rise > ENTROPY_SHARE * math.log(max(2, k)) and rise > NOISE * error:
        found.append(f"routing entropy rose from {then.entropy:.3f} to {now.entropy:.3f} nats")
    if then.known - now.known > KNOWN_DROP:
        found.append(f"the share of known words fell from {then.known:.2f} to {now.known:.2f}")
    # The index of two samples of one distribution is about (k - 1) (1/n + 1/m) times a chi-squared mean of 1.
    chance = (k - 1 + NOISE * math.sqrt(2.0 * max(1, k - 1))) * (1.0 / now.seen + 1.0 / then.seen)
    if stability > max(STABILITY, chance):
        found.append(f"the branches' shares moved (stability index {stability:.2f}, {STABILITY} is much)")
    return tuple(found)


def _shares(router: Router, placed: Floats) -> tuple[float, ...]:
    if not len(placed):
        return (1.0 / router.k,) * router.k
    counts = np.bincount(router.nearest_at(placed), minlength=router.k)
    return tuple(float(share) for share in counts / len(placed))


def _stability(then: Sequence[float], now: Sequence[float]) -> float:
    """Population stability index; shares of 0 count as a thousandth."""
    if len(then) != len(now):
        return math.inf
    pairs = [(max(a, 1e-3), max(b, 1e-3)) for a, b in zip(then, now, strict=True)]
    return math.fsum((b - a) * math.log(b / a) for a, b in pairs)
