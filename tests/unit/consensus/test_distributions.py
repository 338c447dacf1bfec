"""The distributions against tables and against slow, obvious sums."""

from __future__ import annotations

import math

import pytest

from consensus.distributions import normal_quantile, sign_p_value, t_p_value, t_quantile


@pytest.mark.parametrize(
    ("alpha", "degrees", "wanted"),
    [
        (0.05, 1, 12.7062047),
        (0.05, 2, 4.30265273),
        (0.05, 9, 2.26215716),
        (0.01, 30, 2.74999565),
        (0.10, 5, 2.01504837),
    ],
)
def test_the_quantile_of_t_is_that_of_the_tables(alpha: float, degrees: int, wanted: float) -> None:
    assert t_quantile(alpha, degrees) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("degrees", [1, 2, 3, 17, 400, 9_999, 10_000, 1_000_000])
def test_quantile_and_p_value_of_t_are_inverse(degrees: int) -> None:
    for alpha in (0.5, 0.05, 3e-4):
        assert t_p_value(t_quantile(alpha, degrees), degrees) == pytest.approx(alpha, rel=1e-6)


def test_the_p_value_of_t_is_the_area_under_its_density() -> None:
    def density(x: float, degrees: int) -> float:
        front = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
        return front * math.pow(1 + x * x / degrees, -(degrees + 1) / 2)

    step = 1e-3
    inside = sum(density((i + 0.5) * step, 7) * step for i in range(1_800))
    assert t_p_value(1.8, 7) == pytest.approx(1 - 2 * inside, abs=1e-6)
    assert t_p_value(-1.8, 7) == t_p_value(1.8, 7)


def test_many_degrees_of_freedom_are_normal() -> None:
    assert t_quantile(0.05, 50_000) == pytest.approx(normal_quantile(0.975), abs=1e-9)
    assert t_quantile(0.05, 9_999) == pytest.approx(normal_quantile(0.975), abs=1e-3)


def test_the_sign_test_is_the_sum_of_binomial_terms() -> None:
    for a in range(26):
        for b in range(26):
            n, k = a + b, min(a, b)
            tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
            assert sign_p_value(a, b) == pytest.approx(min(1.0, 2 * tail), rel=1e-9), (a, b)


def test_known_sign_tests() -> None:
    assert sign_p_value(0, 0) == 1.0
    assert sign_p_value(4, 0) == pytest.approx(0.125)
    assert sign_p_value(10, 20) == pytest.approx(0.0987371, abs=1e-6)


def test_the_sign_test_of_many_items_is_nearly_normal() -> None:
    z = (5_200 - 5_000 - 1) / math.sqrt(10_200)
    assert sign_p_value(5_000, 5_200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
