"""The counting bootstrap against drawing one by one, and the work that it may do."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from consensus import bootstrap
from consensus.bootstrap import percentiles


def stupid(clusters: list[tuple[float, int]], alpha: float, resamples: int, seed: int) -> tuple[float, float]:
    generator, means = random.Random(seed), []
    for _ in range(resamples):
        drawn = [generator.choice(clusters) for _ in clusters]
        means.append(sum(total for total, _ in drawn) / sum(items for _, items in drawn))
    means.sort()
    return means[round(alpha / 2 * (resamples - 1))], means[round((1 - alpha / 2) * (resamples - 1))]


SIGNS = [(1.0, 1)] * 22 + [(-1.0, 1)] * 9 + [(0.0, 1)] * 69
UNEVEN = [(0.3 * (i % 5) - 0.4, 1 + i % 4) for i in range(60)]
EVEN = [(math.sin(i), 2) for i in range(60)]


@pytest.mark.parametrize("clusters", [SIGNS, UNEVEN, EVEN], ids=["signs", "uneven clusters", "even clusters"])
def test_it_agrees_with_drawing_one_by_one(clusters: list[tuple[float, int]]) -> None:
    found = percentiles(clusters, 0.05, resamples=2_000, seed=3)
    low, high = stupid(clusters, 0.05, 2_000, seed=4)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.08 * width)
    assert found.high == pytest.approx(high, abs=0.08 * width)
    assert found.resamples == 2_000


def test_one_seed_is_one_interval() -> None:
    assert percentiles(UNEVEN, 0.05, resamples=300, seed=7) == percentiles(UNEVEN, 0.05, resamples=300, seed=7)
    assert percentiles(UNEVEN, 0.05, resamples=300, seed=7) != percentiles(UNEVEN, 0.05, resamples=300, seed=8)


def test_a_binomial_table_holds_the_binomial_terms() -> None:
    first, table = bootstrap._binomial_table(20, 3, 10)
    terms = [math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(21)]
    assert first == 0
    assert table == pytest.approx([sum(terms[: k + 1]) for k in range(21)])
    first, table = bootstrap._binomial_table(10_000, 1, 50)
    assert table[-1] == pytest.approx(1.0, abs=1e-9)
    assert first <= 200 <= first + len(table)


def test_binomial_draws_are_distributed_as_they_should() -> None:
    generator = random.Random(11)
    counts = Counter(bootstrap._binomial(4, 1, 4, generator) for _ in range(4_000))
    for k in range(5):
        assert counts[k] / 4_000 == pytest.approx(math.comb(4, k) * 0.25**k * 0.75 ** (4 - k), abs=0.03)
    assert bootstrap._binomial(9, 0, 5, generator) == 0
    assert bootstrap._binomial(9, 5, 5, generator) == 9
    assert bootstrap._binomial(0, 1, 5, generator) == 0


def test_items_that_never_differ_have_an_interval_of_one_point() -> None:
    found = percentiles([(0.0, 1)] * 50, 0.05, resamples=100, seed=0)
    assert (found.low, found.high) == (0.0, 0.0)


def test_many_clusters_get_fewer_resamples_not_more_time() -> None:
    found = percentiles([(0.1 * (i % 7), 1) for i in range(25_000)], 0.05, resamples=2_000, seed=0)
    assert found.resamples == bootstrap.RESAMPLES_MIN
