"""Learning curves: the fit against a slow obvious one, what noise and outliers do, and when going on is worth it."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from planner import curves
from planner.curves import Point, fit, worth_continuing


def power(a: float, b: float, c: float, steps: int = 20, until: float = 100.0) -> list[Point]:
    return [(t, a + b * t**-c) for t in (until * (number + 1) / steps for number in range(steps))]


def noisy(curve: list[Point], sigma: float, seed: int) -> list[Point]:
    generator = random.Random(seed)
    return [(t, loss + generator.gauss(0.0, sigma)) for t, loss in curve]


@pytest.mark.parametrize(("a", "b", "c"), [(0.3, 2.0, 0.5), (1.2, 0.7, 0.25), (0.0, 5.0, 1.0), (2.0, 1.0, 1.6)])
def test_a_power_law_is_found_again_and_goes_on_as_it_was(a: float, b: float, c: float) -> None:
    found = fit(power(a, b, c))
    assert found is not None
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), abs=1e-6)
    for t in (200.0, 1_000.0):
        assert found.at(t) == pytest.approx(a + b * t**-c, abs=1e-6)
        assert found.error(t) < 1e-3


def slow_fit(curve: list[Point], scale: float) -> tuple[float, tuple[float, float, float]]:
    """The least Huber loss over a fine grid of a, b and c, refined around its best."""
    centre, half = (min(loss for _, loss in curve) - 0.2, 1.5, 0.75), (0.5, 1.5, 0.7)
    best = (math.inf, centre)
    for _ in range(9):
        axes = [[middle + wide * step / 6 for step in range(-6, 7)] for middle, wide in zip(centre, half, strict=True)]
        for a, b, c in itertools.product(*axes):
            if b < 0.0 or not curves.EXPONENTS[0] <= c <= curves.EXPONENTS[-1]:
                continue
            best = min(best, (curves.huber_sum(curve, (a, b, c), scale), (a, b, c)))
        centre, half = best[1], tuple(wide / 2.5 for wide in half)  # type: ignore[assignment]
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_as_good_as_a_slow_search_over_all_three_numbers(seed: int) -> None:
    curve = noisy(power(0.5, 1.5, 0.5, steps=12), 0.01, seed)
    curve[seed + 3] = (curve[seed + 3][0], curve[seed + 3][1] + 0.3)  # one validation went wrong
    found = fit(curve)
    assert found is not None
    least, _ = slow_fit(curve, found.scatter)
    ours = curves.huber_sum(curve, (found.a, found.b, found.c), found.scatter)
    assert ours <= 1.05 * least + 0.05


def test_the_error_covers_what_comes_nineteen_times_in_twenty() -> None:
    inside = 0
    for seed in range(60):
        found = fit(noisy(power(0.4, 2.0, 0.5, steps=24), 0.01, seed))
        assert found is not None
        truth = 0.4 + 2.0 * 400.0**-0.5
        inside += abs(found.at(400.0) - truth) <= 2.0 * found.error(400.0)
    assert inside >= 54  # of 60: 57 are expected of an exact error, 55 of this one


def test_one_bad_validation_bends_nothing() -> None:
    curve = power(0.3, 2.0, 0.5)
    straight = fit(curve)
    curve[7] = (curve[7][0], 40.0)
    bent = fit(curve)
    assert straight is not None
    assert bent is not None
    assert bent.at(500.0) == pytest.approx(straight.at(500.0), abs=0.01)


def test_the_further_the_less_sure() -> None:
    found = fit(noisy(power(0.4, 2.0, 0.4), 0.02, 1))
    assert found is not None
    assert found.error(110.0) < found.error(1_000.0) < found.error(100_000.0)


def test_a_curve_that_rises_is_flat_to_the_fit() -> None:
    found = fit([(float(t), 1.0 + 0.01 * t) for t in range(1, 20)])
    assert found is not None
    assert found.b == 0.0
    assert found.at(1e6) == pytest.approx(found.at(1.0))


def test_points_that_are_none_are_passed_over_and_too_few_fit_nothing() -> None:
    assert fit([(0.0, 9.0), (1.0, math.nan), *power(0.3, 2.0, 0.5, steps=4)]) is None
    assert fit([(0.0, 9.0), (1.0, math.nan), *power(0.3, 2.0, 0.5, steps=5)]) is not None


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    long = power(0.3, 2.0, 0.5, steps=1_000)
    kept = curves.thinned(long)
    assert (len(kept), kept[0], kept[-1]) == (curves.POINTS_MAX, long[0], long[-1])
    assert curves.thinned(long[:10]) == long[:10]


def test_what_will_pass_the_rival_goes_on_and_what_will_not_is_given_up() -> None:
    curve = power(0.3, 2.0, 0.5)  # 0.5 at 100, 0.4 at 400
    worth, why = worth_continuing(curve, 0.45, 400.0)
    assert worth
    assert why.startswith("worth going on")
    assert "the rival has 0.45" in why
    worth, why = worth_continuing(curve, 0.35, 400.0)
    assert not worth
    assert why.startswith("given up")


def test_what_is_not_sure_gets_the_benefit_of_the_doubt() -> None:
    curve = noisy(power(0.3, 2.0, 0.5, steps=8), 0.05, 3)
    found = fit(curve)
    assert found is not None
    expected, error = found.at(400.0), found.error(400.0)
    assert worth_continuing(curve, expected - error, 400.0)[0]
    assert not worth_continuing(curve, expected - 3.0 * error, 400.0)[0]


def test_a_curve_that_has_flattened_is_given_up_even_below_its_rival() -> None:
    worth, why = worth_continuing(power(0.25, 0.5, 1.5), 0.3, 200.0)
    assert not worth
    assert why.startswith("it has learned what it will")


def test_without_a_curve_a_rival_or_compute_nothing_goes_on() -> None:
    curve = power(0.3, 2.0, 0.5)
    assert worth_continuing(curve[:3], 9.0, 400.0) == (False, "a curve of 3 points tells nothing yet: 5 are needed")
    assert "no rival's loss" in worth_continuing(curve, math.nan, 400.0)[1]
    worth, why = worth_continuing(curve, 9.0, 100.0)
    assert not worth
    assert why == "it has had its compute: 100 of 100"
