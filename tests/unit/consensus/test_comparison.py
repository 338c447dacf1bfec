"""Paired comparison: known values, slow second implementations, and how often it is wrong when nothing is better."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from consensus.comparison import (
    ACCURACY,
    ALPHA,
    LOSS,
    RESAMPLES,
    Differences,
    accuracy_differences,
    better,
    betting,
    cluster_means,
    compare,
    interval,
    items_needed,
    loss_differences,
    p_value,
    spent_alpha,
    spent_share,
    standard_error,
)
from tests.support.outcomes import first, items


def stupid_error(values: list[float], clusters: list[int]) -> float:
    """The cluster-robust standard error, as the formula is written."""
    n, centre, kinds = len(values), sum(values) / len(values), sorted(set(clusters))
    total = 0.0
    for kind in kinds:
        deviation = sum(value - centre for value, cluster in zip(values, clusters, strict=True) if cluster == kind)
        total += deviation * deviation
    return math.sqrt(len(kinds) / (len(kinds) - 1) * total) / n


def test_differences_are_paired_and_positive_when_a_is_better() -> None:
    a, b = items([True, True, False, False]), items([True, False, True, False])
    assert list(accuracy_differences(a, b).values) == [0.0, 1.0, -1.0, 0.0]
    assert list(loss_differences(a, b).values) == pytest.approx([0.0, 1.3, -1.3, 0.0])
    assert accuracy_differences(a, b).signs == (1, 1)


def test_the_standard_error_is_that_of_the_formula() -> None:
    generator = random.Random(2)
    for _ in range(50):
        n = generator.randint(5, 60)
        clusters = [generator.randrange(max(2, n // 3)) for _ in range(n)]
        clusters[:2] = [0, 1]
        mine = items([generator.random() < 0.8 for _ in range(n)], clusters=clusters)
        theirs = items([generator.random() < 0.7 for _ in range(n)], clusters=clusters)
        differences = accuracy_differences(mine, theirs)
        assert standard_error(differences) == pytest.approx(stupid_error(list(differences.values), clusters))


def test_items_of_their_own_give_the_ordinary_paired_error() -> None:
    losses = [0.1 * i * (-1) ** i for i in range(20)]
    differences = loss_differences(items([True] * 20, loss=losses), items([True] * 20, loss=[0.0] * 20))
    ordinary = statistics.stdev(differences.values) / math.sqrt(20)
    assert standard_error(differences) == pytest.approx(ordinary)
    low, high = interval(differences)
    assert (high - low) / 2 == pytest.approx(2.0930241 * ordinary, rel=1e-6), "Student's t with 19 degrees of freedom"


def test_repeating_every_item_within_its_cluster_proves_nothing_more() -> None:
    mine, theirs = [i % 4 != 0 for i in range(40)], [i % 3 != 0 for i in range(40)]
    once = accuracy_differences(items(mine), items(theirs))
    clusters = [i for i in range(40) for _ in range(5)]
    five = accuracy_differences(
        items([ok for ok in mine for _ in range(5)], clusters=clusters, label=[0] * 200),
        items([ok for ok in theirs for _ in range(5)], clusters=clusters, label=[0] * 200),
    )
    assert interval(five) == pytest.approx(interval(once))
    naive = accuracy_differences(
        items([ok for ok in mine for _ in range(5)], label=[0] * 200),
        items([ok for ok in theirs for _ in range(5)], label=[0] * 200),
    )
    assert standard_error(naive) < 0.5 * standard_error(once)


def test_one_cluster_says_nothing() -> None:
    one = compare(("a", items([True] * 9, clusters=[7] * 9)), ("b", items([False] * 9, clusters=[7] * 9)), ACCURACY)
    assert (one.low, one.high, one.p_value) == (-1.0, 1.0, 1.0)
    assert not better(one)


def test_equal_outcomes_are_not_certainly_equal_models() -> None:
    low, high = interval(accuracy_differences(items(first(80, 100)), items(first(80, 100))))
    assert high == -low == pytest.approx(1 - 0.05 ** (1 / 100))
    assert (1 - high) ** 100 == pytest.approx(0.05), "were more items to differ, none among so many had less chance"


def test_the_exact_test_vetoes_what_the_interval_is_too_sure_of() -> None:
    four = compare(("a", items(first(904, 1_000))), ("b", items(first(900, 1_000))), ACCURACY)
    assert four.low > 0.0
    assert four.p_value == pytest.approx(0.125)
    assert not better(four)
    assert better(compare(("a", items(first(912, 1_000))), ("b", items(first(900, 1_000))), ACCURACY))


def test_the_comparison_says_how_it_came_about() -> None:
    found = compare(
        ("evolver", items(first(96, 100))), ("champion", items(first(80, 100))), ACCURACY, resamples=RESAMPLES
    )
    assert found.method.startswith(
        "cluster-robust t over 100 clusters, bootstrap of 2000 resamples, McNemar's exact test"
    )
    assert "16 items only evolver right, 0 only champion" in found.method
    assert "betting e-value" in found.method
    assert (found.a, found.b, found.items) == ("evolver", "champion", 100)
    assert found.effect == pytest.approx(0.16)


def test_the_interval_is_the_hull_with_the_bootstrap_where_that_can_see_the_tail() -> None:
    losses = [0.0] * 95 + [30.0] * 5
    a, b = items([True] * 100, loss=[0.0] * 100), items([True] * 100, loss=losses)
    plain, drawn = (compare(("a", a), ("b", b), LOSS, resamples=resamples) for resamples in (0, 2_000))
    assert drawn.low <= plain.low
    assert drawn.high > plain.high, "a heavy tail reaches further than a symmetric interval"
    rare = compare(("a", a), ("b", b), LOSS, alpha=0.001, resamples=2_000)
    assert "bootstrap" not in rare.method


def test_alpha_is_spent_and_never_overspent() -> None:
    shares = [spent_alpha(k) for k in range(1, 10_001)]
    assert spent_share(0) == 0.0
    assert spent_share(50) == pytest.approx(sum(shares[:50]) / ALPHA)
    assert 0.98 < spent_share(50) < 1.0
    assert shares[0] == pytest.approx(0.05 * 6 / math.pi**2)
    assert all(later < earlier for earlier, later in itertools.pairwise(shares))
    assert 0.0499 < sum(shares) < 0.05


def test_the_items_needed_follow_the_rule_of_thumb() -> None:
    assert items_needed(0.10, 0.02) == pytest.approx(6.18 * 0.1**2 / 0.02**2, abs=1)
    assert items_needed(0.03, 0.01) == 56
    assert items_needed(0.3, 0.0) == 0
    assert items_needed(0.1, 0.02, alpha=0.01) > items_needed(0.1, 0.02)


# -- calibration ------------------------------------------------------------------------------------------------------


def equal_challengers(generator: random.Random, n: int, count: int) -> list[list[bool]]:
    """Models that are right on each item with the item's own chance, all the same: none is better than another."""
    chances = [generator.choice((0.5, 0.8, 0.95, 1.0)) for _ in range(n)]
    return [[generator.random() < chance for chance in chances] for _ in range(count)]


def test_fifty_equal_challengers_promote_none() -> None:
    """With a plain 95 % interval four in ten series of fifty promote somebody; with spent alpha hardly one does."""
    generator, series, promoted, naive = random.Random(20), 20, 0, 0
    for _ in range(series):
        champion, *challengers = (items(right) for right in equal_challengers(generator, 100, 51))
        for number, challenger in enumerate(challengers, start=1):
            if better(compare(("a", challenger), ("b", champion), ACCURACY, alpha=spent_alpha(number))):
                promoted += 1
                break
        naive += any(interval(accuracy_differences(challenger, champion))[0] > 0 for challenger in challengers)
    assert promoted <= 1
    assert naive >= series // 4


def test_a_real_gain_is_seen() -> None:
    generator, seen = random.Random(4), 0
    for _ in range(40):
        champion = [generator.random() < 0.80 for _ in range(600)]
        challenger = [ok or generator.random() < 0.35 for ok in champion]
        found = compare(
            ("a", items(challenger)), ("b", items(champion)), ACCURACY, alpha=spent_alpha(20), resamples=200
        )
        seen += better(found)
    assert seen == 40


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    generator, covered, rounds = random.Random(9), 0, 400
    for _ in range(rounds):
        mine = [generator.random() < 0.85 for _ in range(120)]
        theirs = [generator.random() < 0.80 for _ in range(120)]
        low, high = interval(accuracy_differences(items(mine), items(theirs)))
        covered += low <= 0.05 <= high
    assert 0.92 <= covered / rounds <= 0.98


def test_clusters_that_stick_together_are_not_taken_for_many_items() -> None:
    """Each cluster's ten items fall the same way: as 400 items, noise would look like a gain in every third round."""
    generator, robust, naive = random.Random(6), 0, 0
    for _ in range(200):
        tilt = [generator.gauss(0.0, 1.0) for _ in range(40)]
        losses = [tilt[i // 10] + generator.gauss(0.0, 0.3) for i in range(400)]
        zeros = items([True] * 400, loss=[0.0] * 400, clusters=[i // 10 for i in range(400)])
        robust += (
            p_value(loss_differences(zeros, items([True] * 400, loss=losses, clusters=list(zeros.clusters)))) < 0.05
        )
        naive += (
            p_value(loss_differences(items([True] * 400, loss=[0.0] * 400), items([True] * 400, loss=losses))) < 0.05
        )
    assert robust / 200 <= 0.09
    assert naive / 200 >= 0.3


# -- betting ----------------------------------------------------------------------------------------------------------


def test_a_bettor_may_look_after_every_item_and_is_hardly_ever_fooled() -> None:
    generator, fooled, peeked = random.Random(12), 0, 0
    for _ in range(300):
        gains = [generator.choice((-1.0, 0.0, 0.0, 1.0)) for _ in range(240)]
        fooled += betting(gains).stopped_after is not None
        peeked += any(
            statistics.mean(gains[:n]) > 1.96 * statistics.pstdev(gains[:n]) / math.sqrt(n) for n in range(20, 241, 10)
        )
    assert fooled / 300 <= 0.05
    assert peeked / 300 > 0.08


def test_a_bettor_stops_early_when_the_gain_is_real() -> None:
    generator = random.Random(13)
    bets = [betting([generator.choice((-1.0, 0.0, 1.0, 1.0, 1.0)) for _ in range(300)]) for _ in range(50)]
    assert all(bet.stopped_after is not None for bet in bets)
    assert statistics.median(bet.stopped_after or 0 for bet in bets) < 60


def test_the_first_bet_is_nothing_and_the_wealth_multiplies_as_the_formula_says() -> None:
    bet = betting([1.0, 1.0, -1.0])
    assert bet.wealth == pytest.approx(1.0 * 1.5 * 0.5), "shares 0, 1 clipped to 0.5, 1 clipped to 0.5"
    assert bet.peak == pytest.approx(1.5)
    assert bet.stopped_after is None
    assert betting([]).wealth == 1.0
    assert betting([0.3] * 60, margin=0.3).wealth == 1.0
    assert betting([5.0] * 8, alpha=0.5).stopped_after == 3, "a gain beyond the bound counts as the bound"


def test_cluster_means_are_what_is_bet_on() -> None:
    clusters = [0, 0, 1, 2]
    differences = accuracy_differences(
        items([True, True, False, True], clusters=clusters), items([False, True, True, False], clusters=clusters)
    )
    assert cluster_means(differences) == [0.5, -1.0, 1.0]
    assert isinstance(differences, Differences)
    assert not differences.single
