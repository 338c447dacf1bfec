"""Comparison: is model a better than model b on the same items, and how sure can one be?

Aim: an answer that fifty equal challengers in a row can not talk into a promotion, and that sees a real gain as early
as the items allow.

How it proceeds: the difference of each item (right or wrong, or loss; positive is better for a), so that hard items
cancel; its mean is the effect. Items of one cluster (one source file, one input seen twice) are not independent, so
the standard error sums the deviations within clusters before squaring them (Liang and Zeger 1986; Miller,
arXiv:2411.00640). The interval is Student's t over clusters, or, where resampling is asked for, the hull of that and
the percentile bootstrap over clusters. For right/wrong items that are their own clusters the p-value is McNemar's
exact test, else the t test's.

    better(a, b)  =  lower end of the interval above 0  and  p-value at most alpha

Both are wanted because each alone is too bold somewhere: four items against none give an interval above 0 (p = 0.125).

The k-th challenger of one holdout gets alpha_k = alpha * 6 / (pi^2 k^2), which sums to alpha over all challengers
there will ever be: alpha spending by a union bound (see Foster and Stine 2008). `betting` may look after every
cluster and stop whenever it likes: its wealth exceeds 1/alpha with chance alpha at most if a is not better (Ville
1939; Waudby-Smith and Ramdas 2024).

Promises: pure functions, the same answer for the same input (the generator is seeded), work bounded by WORK_MAX drawn
clusters per bootstrap. Not covered: a holdout that training has seen, and clusters that depend on each other.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Sequence

from consensus.bootstrap import Cluster, affordable, percentiles
from consensus.distributions import normal_quantile, sign_p_value, t_p_value, t_quantile
from consensus.evidence import Items
from mesh.messages.judgement import Comparison

ALPHA = 0.05
RESAMPLES = 2_000
"""Fewer blur the ends of a 95 % interval by more than a twentieth of its width."""

TAIL_RESAMPLES_MIN = 10
"""Resamples that must lie beyond an end of the interval for the bootstrap to know where the end is."""

BET_MAX = 0.5
"""Largest share of the wealth on one cluster: at 1 a single loss could end the test for ever."""

BET_NATS_MAX = 1.0
"""Gains and losses in nats are clipped to this for the bet, which needs a bound that is known before it is made: what
is tested is the clipped mean. Smaller differences are bet on in full."""

POWER = 0.80

ACCURACY, LOSS = "accuracy", "loss"


@dataclasses.dataclass(frozen=True, slots=True)
class Differences:
    """Per-item a minus b (positive: a is better), and what of it each cluster holds."""

    metric: str
    values: array[float]
    clusters: tuple[Cluster, ...]
    """(sum, items) per cluster, in order of first appearance."""
    span: float
    """Largest difference that an item can show: 1 for accuracy; for losses the largest that was seen."""

    @property
    def effect(self) -> float:
        """Mean difference per item."""
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of the per-item differences; 0.0 for a single item."""
        if len(self.values) < 2:
            return 0.0
        centre = self.effect
        return math.sqrt(math.fsum((value - centre) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def single(self) -> bool:
        """True when every cluster is one item."""
        return len(self.clusters) == len(self.values)

    @property
    def signs(self) -> tuple[int, int]:
        """Items on which a is better, and items on which b is."""
        return sum(1 for value in self.values if value > 0), sum(1 for value in self.values if value < 0)


def accuracy_differences(a: Items, b: Items) -> Differences:
    """1 where only a is right, -1 where only b is, 0 elsewhere. The items must be the same (evidence.mismatch_of)."""
    rows = zip(a.label, a.predicted, b.predicted, strict=True)
    values = array("d", ((mine == label) - (theirs == label) for label, mine, theirs in rows))
    return _differences(ACCURACY, values, a.clusters, 1.0)


def loss_differences(a: Items, b: Items) -> Differences:
    """Loss of b minus loss of a per item, in nats. The items must be the same (evidence.mismatch_of)."""
    values = array("d", (theirs - mine for mine, theirs in zip(a.loss, b.loss, strict=True)))
    return _differences(LOSS, values, a.clusters, max(map(abs, values), default=0.0))


def compare(
    a: tuple[str, Items], b: tuple[str, Items], metric: str, *, alpha: float = ALPHA, resamples: int = 0, seed: int = 0
) -> Comparison:
    """Paired comparison of two named outcomes on the same items.

    metric: 'accuracy' or 'loss'; alpha: the interval covers 1 - alpha; resamples: of the bootstrap, 0 for none.
    """
    build = accuracy_differences if metric == ACCURACY else loss_differences
    differences = build(a[1], b[1])
    low, high = interval(differences, alpha)
    method = f"cluster-robust t over {len(differences.clusters)} clusters"
    if affordable(differences.clusters, resamples) * alpha / 2.0 >= TAIL_RESAMPLES_MIN:
        drawn = percentiles(differences.clusters, alpha, resamples=resamples, seed=seed)
        low, high = min(low, drawn.low), max(high, drawn.high)
        method += f", bootstrap of {drawn.resamples} resamples"
    if metric == ACCURACY:
        wins, losses = differences.signs
        exact = ", McNemar's exact test" if differences.single else ""
        method += f"{exact} ({wins} items only {a[0]} right, {losses} only {b[0]})"
    method += f"; {_bet_told(differences, alpha)}"
    return Comparison(
        a=a[0],
        b=b[0],
        metric=metric,
        effect=differences.effect,
        low=low,
        high=high,
        p_value=p_value(differences),
        items=len(differences.values),
        alpha=alpha,
        method=method,
    )


def _bet_told(differences: Differences, alpha: float) -> str:
    bound = 1.0 if differences.metric == ACCURACY else BET_NATS_MAX
    bet = betting(cluster_means(differences), alpha=alpha, bound=bound)
    if bet.stopped_after is None:
        return f"betting e-value {bet.peak:.3g}"
    return f"betting e-value {bet.peak:.3g}, enough after {bet.stopped_after} of {len(differences.clusters)} clusters"


def better(comparison: Comparison) -> bool:
    """Has a shown to be better than b at the comparison's alpha?"""
    return comparison.low > 0.0 and comparison.p_value <= comparison.alpha


def standard_error(differences: Differences) -> float:
    """Cluster-robust standard error of the effect, with the small-sample factor G / (G - 1); infinite for one cluster.

    SE^2 = G / (G - 1) / n^2 * sum over clusters of (sum of the cluster's deviations)^2
    """
    clusters, n = len(differences.clusters), len(differences.values)
    if clusters < 2:
        return math.inf
    centre = differences.effect
    squares = math.fsum((total - centre * items) ** 2 for total, items in differences.clusters)
    return math.sqrt(squares * clusters / (clusters - 1)) / n


def interval(differences: Differences, alpha: float = ALPHA) -> tuple[float, float]:
    """The 1 - alpha interval of the effect: Student's t with clusters - 1 degrees of freedom, within the span.

    When no cluster deviates, none of so many did: fewer than 1 - alpha^(1 / clusters) of all would, in whatever
    direction (the "rule of three"), each by the span at most.
    """
    span, effect, clusters = differences.span, differences.effect, len(differences.clusters)
    error = standard_error(differences)
    if math.isinf(error):
        return -span, span
    if error > 1e-12 * span:
        half = t_quantile(alpha, clusters - 1) * error
    else:
        half = span * (1.0 - alpha ** (1.0 / clusters))
    return max(-span, effect - half), min(span, effect + half)


def p_value(differences: Differences) -> float:
    """Two-sided: McNemar's exact test for right/wrong items that are their own clusters, else the cluster-robust t
    test."""
    if differences.metric == ACCURACY and differences.single:
        return sign_p_value(*differences.signs)
    error, effect = standard_error(differences), differences.effect
    if math.isinf(error) or effect == 0.0:
        return 1.0
    clusters = len(differences.clusters)
    if error <= 1e-12 * differences.span:
        return float(min(1.0, 2.0 * 0.5**clusters))
    return t_p_value(effect / error, clusters - 1)


def spent_alpha(challenger: int, alpha: float = ALPHA) -> float:
    """Share of `alpha` for the challenger-th comparison (from 1) on one holdout; all shares together give `alpha`."""
    return alpha * 6.0 / (math.pi * max(1, challenger)) ** 2


def spent_share(challengers: int) -> float:
    """What so many comparisons on one holdout have spent of its alpha, 0 to 1."""
    return sum(spent_alpha(number, 1.0) for number in range(1, challengers + 1))


def items_needed(deviation: float, effect: float, alpha: float = 2.0 * ALPHA) -> int:
    """Items with which an effect of this size would be seen with 80 % power; 0 when there is no effect.

    n = (z_alpha + z_power)^2 s^2 / d^2, which is 6.18 s^2 / d^2 for a two-sided alpha of 0.10 (one-sided 0.05).
    """
    if effect == 0.0:
        return 0
    constant = (normal_quantile(1.0 - alpha / 2.0) + normal_quantile(POWER)) ** 2
    return math.ceil(constant * deviation**2 / effect**2)


@dataclasses.dataclass(frozen=True, slots=True)
class Bet:
    """How a bettor fared who put money on a being better, cluster after cluster."""

    wealth: float
    """At the end, from 1: the e-value of the whole sequence."""
    peak: float
    """Highest wealth; 1 / peak is a p-value that allows stopping at any time."""
    stopped_after: int | None
    """Clusters after which the wealth reached 1 / alpha; None when it never did."""


def betting(gains: Sequence[float], *, alpha: float = ALPHA, margin: float = 0.0, bound: float = 1.0) -> Bet:
    """Sequential test that the mean gain exceeds `margin`, valid at any stopping time.

    gains: one number per cluster, clipped to margin +- bound (so what is tested is the clipped mean). Bet t is the
    mean over the mean square of the gains before it, between 0 and BET_MAX: known before the gain is seen, which is
    what makes the wealth a supermartingale when a is not better.
    """
    wealth = peak = 1.0
    total = squares = 0.0
    stopped: int | None = None
    for count, gain in enumerate(gains, start=1):
        share = min(BET_MAX, max(0.0, total / squares)) if squares > 0.0 else 0.0
        scaled = max(-1.0, min(1.0, (gain - margin) / bound))
        wealth *= 1.0 + share * scaled
        peak = max(peak, wealth)
        if stopped is None and wealth >= 1.0 / alpha:
            stopped = count
        total += scaled
        squares += scaled * scaled
    return Bet(wealth, peak, stopped)


def cluster_means(differences: Differences) -> list[float]:
    """Mean difference of each cluster, in order: what `betting` takes."""
    return [total / items for total, items in differences.clusters]


def _differences(metric: str, values: array[float], clusters: array[int], span: float) -> Differences:
    totals: dict[int, float] = {}
    counts: dict[int, int] = {}
    for value, cluster in zip(values, clusters, strict=True):
        totals[cluster] = totals.get(cluster, 0.0) + value
        counts[cluster] = counts.get(cluster, 0) + 1
    return Differences(metric, values, tuple((total, counts[key]) for key, total in totals.items()), span)
