"""Bootstrap over clusters: the interval of a mean when nothing is assumed about the shape of the differences.

How it proceeds: draw as many clusters as there are, with replacement, and take the mean over their items; again and
again; the ends of the interval are percentiles of these means (Efron and Tibshirani 1993, 13.3).

Drawing clusters one by one costs resamples * clusters. Right/wrong items that are their own clusters have three
values only, so what is drawn is *how many* of each: first how many items differ at all, binomial(n, differing / n),
then how many of those are wins, binomial(differing drawn, wins / differing). That is the same distribution, from two
table look-ups.

Promises: the same seed gives the same interval; at most WORK_MAX clusters are drawn (fewer resamples for more
clusters, RESAMPLES_MIN at least), so 10,000 items take a fraction of a second. Not covered: tails that the number of
resamples can not show; the caller looks at `resamples`.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence

Cluster = tuple[float, int]
"""(sum of the differences, number of items) of one cluster."""

WORK_MAX = 4_000_000
"""Clusters drawn in all: some 0.5 s of plain Python."""

RESAMPLES_MIN = 200

_TABLE_SPREAD = 12.0
"""Standard deviations on either side of the mean that a binomial table covers: less than 1e-30 lies beyond."""


@dataclasses.dataclass(frozen=True, slots=True)
class Percentiles:
    """The interval, and from how many resamples it comes."""

    low: float
    high: float
    resamples: int


def percentiles(clusters: Sequence[Cluster], alpha: float, *, resamples: int, seed: int) -> Percentiles:
    """The 1 - alpha percentile interval of the mean over items. `clusters` must not be empty."""
    generator = random.Random(seed)
    resamples = affordable(clusters, resamples)
    signs = _signs(clusters)
    draw = _counting(len(clusters), *signs, generator) if signs is not None else _drawing(clusters, generator)
    means = sorted(draw() for _ in range(resamples))
    return Percentiles(_at(means, alpha / 2.0), _at(means, 1.0 - alpha / 2.0), resamples)


def affordable(clusters: Sequence[Cluster], resamples: int) -> int:
    """How many of so many resamples WORK_MAX allows; all of them where counting replaces drawing."""
    if _signs(clusters) is not None:
        return resamples
    return max(min(RESAMPLES_MIN, resamples), min(resamples, WORK_MAX // len(clusters)))


def _signs(clusters: Sequence[Cluster]) -> tuple[int, int] | None:
    """(wins, losses) when every cluster is one item with a difference of -1, 0 or 1; else None."""
    wins = losses = 0
    for total, items in clusters:
        if items != 1 or total not in (-1.0, 0.0, 1.0):
            return None
        wins += total > 0
        losses += total < 0
    return wins, losses


def _counting(n: int, wins: int, losses: int, generator: random.Random) -> Callable[[], float]:
    differing = wins + losses
    if differing == 0:
        return lambda: 0.0

    def draw() -> float:
        drawn = _binomial(n, differing, n, generator)
        won = _binomial(drawn, wins, differing, generator)
        return (2 * won - drawn) / n

    return draw


def _drawing(clusters: Sequence[Cluster], generator: random.Random) -> Callable[[], float]:
    totals = [total for total, _ in clusters]
    counts = [items for _, items in clusters]
    count = len(clusters)
    if min(counts) == max(counts):
        items = counts[0] * count
        return lambda: math.fsum(generator.choices(totals, k=count)) / items

    def draw() -> float:
        picked = generator.choices(range(count), k=count)
        return math.fsum(map(totals.__getitem__, picked)) / sum(map(counts.__getitem__, picked))

    return draw


def _binomial(n: int, part: int, whole: int, generator: random.Random) -> int:
    """One draw from binomial(n, part / whole)."""
    if n == 0 or part == 0 or part == whole:
        return n if part == whole else 0
    first, table = _binomial_table(n, part, whole)
    return first + min(bisect.bisect_left(table, generator.random() * table[-1]), len(table) - 1)


@functools.lru_cache(maxsize=4_096)
def _binomial_table(n: int, part: int, whole: int) -> tuple[int, list[float]]:
    """The smallest value that the table covers, and the cumulated probabilities from there on."""
    share = part / whole
    spread = _TABLE_SPREAD * math.sqrt(n * share * (1.0 - share)) + _TABLE_SPREAD
    first, last = max(0, math.floor(n * share - spread)), min(n, math.ceil(n * share + spread))
    log_odds = math.log(part) - math.log(whole - part)
    log_term = (
        math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
        + first * math.log(share) + (n - first) * math.log1p(-share)
    )  # fmt: skip
    cumulated, sum_ = [], 0.0
    for value in range(first, last + 1):
        sum_ += math.exp(log_term)
        cumulated.append(sum_)
        if value < n:
            log_term += math.log((n - value) / (value + 1)) + log_odds
    return first, cumulated


def _at(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, interpolated."""
    place = share * (len(ordered) - 1)
    index = min(math.floor(place), len(ordered) - 2) if len(ordered) > 1 else 0
    following = ordered[min(index + 1, len(ordered) - 1)]
    return ordered[index] + (following - ordered[index]) * (place - index)
