"""The few probability distributions that judging needs, in plain Python.

Normal quantiles come from the standard library; Student's t from the regularised incomplete beta function, evaluated by
its continued fraction (Lentz's method; Press et al., Numerical Recipes, 6.4); the binomial's tails by summing from the
largest term until the rest can not matter. All are exact to about ten digits, far more than any verdict uses.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_TURNS_MAX = 500
"""Turns of the continued fraction: it needs O(sqrt(max(a, b))), and where that is more than this, t is normal."""

_TINY = 1e-300
_NORMAL = NormalDist()
_DEGREES_NORMAL = 10_000
"""From this many degrees of freedom on, Student's t differs from the normal by less than 1e-4 of a quantile."""


def normal_quantile(probability: float) -> float:
    """Where the standard normal distribution function reaches `probability`, which lies strictly between 0 and 1."""
    return _NORMAL.inv_cdf(probability)


def t_p_value(t: float, degrees: int) -> float:
    """Chance of a Student t with `degrees` of freedom being at least as far from 0 as `t`, on either side."""
    if degrees >= _DEGREES_NORMAL:
        return 2.0 * _NORMAL.cdf(-abs(t))
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5)


def t_quantile(alpha: float, degrees: int) -> float:
    """The t > 0 with `t_p_value(t, degrees) == alpha`: half the width of a 1 - alpha interval in standard errors."""
    if degrees >= _DEGREES_NORMAL:
        return normal_quantile(1.0 - alpha / 2.0)
    low, high = 0.0, 1.0
    while t_p_value(high, degrees) > alpha and high < 1e12:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if t_p_value(middle, degrees) > alpha else (low, middle)
    return (low + high) / 2.0


def sign_p_value(a: int, b: int) -> float:
    """Two-sided exact binomial test of `a` against `b` when both sides are equally likely; 1.0 when there is nothing.

    McNemar's exact test, with `a` and `b` the items on which only one of two models is right (McNemar 1947).
    """
    total, fewer = a + b, min(a, b)
    if total == 0:
        return 1.0
    log_term = math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2.0)
    return min(1.0, 2.0 * math.exp(log_term) * _falling_sum(total, fewer))


def _falling_sum(total: int, fewer: int) -> float:
    """Sum of C(total, i) / C(total, fewer) for i = fewer, fewer - 1, … 0, as far as it can be seen in a double."""
    sum_, ratio = 1.0, 1.0
    for i in range(fewer, 0, -1):
        ratio *= i / (total - i + 1)
        sum_ += ratio
        if ratio < 1e-17 * sum_:
            break
    return sum_


def _incomplete_beta(x: float, a: float, b: float) -> float:
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    product = d
    for m in range(1, _TURNS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _nonzero(1.0 + term * d)
            c = _nonzero(1.0 + term / c)
            product *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return product


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
