"""Learning curves: where a loss would be with more compute, and whether going on is worth it.

    loss(t) = a + b t^-c        a: what is left for ever, b >= 0: what training takes away, c: how fast

For each c of a fixed grid, a and b follow from weighted least squares in closed form; weights are Huber's, renewed a
few times, so that one bad validation does not bend the curve. The c with the least sum of Huber's losses is taken. The
error of a prediction has two parts: the scatter of the points, and how far the predictions of all those c differ that
fit the points nearly as well, which grows with the distance that is extrapolated.

Promises: pure, deterministic, no numpy; units of t and of the loss are the caller's. Not covered: curves that rise for
good (over-fitting), schedules that decay (their last third falls faster than any power law: the answer is then too
cautious); a curve that ends within the first points is refused with a sentence.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

Point = tuple[float, float]
"""(compute, loss): compute above zero in any unit."""

EXPONENTS = tuple(round(0.05 * number, 2) for number in range(1, 41))
"""0.05 to 2: measured curves of losses lie between 0.1 and 1."""

POINTS_LEAST = 5
"""Three numbers are fitted; with fewer points than that and two more the error means nothing."""

POINTS_MAX = 64

HUBER = 1.345
"""In robust standard deviations: beyond it a point pulls no harder. 95 % efficient where errors are normal."""

REWEIGHTED = 6
"""Rounds of new weights; they settle after three or four."""

CAPPED = 2.5
"""In robust standard deviations: residuals beyond count as this in the scatter."""

NEARLY = 6.0
"""Twice the log likelihood that another c may be worse by to count as nearly as good. Two standard errors would be 4;
by simulation it takes 6 for two of our errors to cover 92 to 94 % of what comes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """A power law through a learning curve."""

    a: float
    b: float
    c: float
    scatter: float
    """Robust standard deviation of the points about it."""
    others: tuple[tuple[float, float, float], ...]
    """(a, b, c) of the curves that fit nearly as well."""
    powers: tuple[int, float, float]
    """Of t^-c at the points: how many, mean, sum of squares about it."""

    def at(self, t: float) -> float:
        """Expected loss after compute t."""
        return self.a + self.b * math.pow(t, -self.c)

    def error(self, t: float) -> float:
        """Standard error of that: of a line at a distance from its points, and of not knowing c."""
        spread = [a + b * math.pow(t, -c) for a, b, c in self.others]
        half = max((abs(value - self.at(t)) for value in spread), default=0.0)
        count, mean, squares = self.powers
        reach = (math.pow(t, -self.c) - mean) ** 2 / squares if squares > 0.0 else 0.0
        return math.hypot(half / 2.0, self.scatter * math.sqrt(1.0 / count + reach))


def fit(curve: Sequence[Point]) -> Fit | None:
    """The power law through a curve; None when it has too few points."""
    points = thinned([(t, loss) for t, loss in curve if t > 0.0 and math.isfinite(t) and math.isfinite(loss)])
    if len(points) < POINTS_LEAST:
        return None
    fits = [_with_exponent(points, c) for c in EXPONENTS]
    scatter = min(_scale(points, one) for one in fits)
    unit = max(scatter, 1e-9 * max(abs(loss) for _, loss in points) + 1e-12)
    losses = [huber_sum(points, one, unit) for one in fits]
    least = min(losses)
    a, b, c = fits[losses.index(least)]
    near = tuple(one for one, loss in zip(fits, losses, strict=True) if loss - least <= NEARLY / 2.0)
    powers = [math.pow(t, -c) for t, _ in points]
    mean = statistics.fmean(powers)
    return Fit(a, b, c, scatter, near, (len(powers), mean, sum((x - mean) ** 2 for x in powers)))


def thinned(points: Sequence[Point], points_max: int = POINTS_MAX) -> list[Point]:
    """At most `points_max` of the points, evenly among them, the first and the last one kept."""
    if len(points) <= points_max:
        return list(points)
    step = (len(points) - 1) / (points_max - 1)
    return [points[round(number * step)] for number in range(points_max)]


_Curve = tuple[float, float, float]
"""(a, b, c)."""


def _with_exponent(points: Sequence[Point], c: float) -> _Curve:
    """The best a and b for this exponent, with Huber's weights."""
    powers = [(t**-c, loss) for t, loss in points]
    weights = [1.0] * len(points)
    a, b = _line(powers, weights)
    for _ in range(REWEIGHTED):
        residuals = [abs(loss - a - b * x) for x, loss in powers]
        scale = _mad(residuals)
        if scale <= 0.0:
            break
        weights = [1.0 if r <= HUBER * scale else HUBER * scale / r for r in residuals]
        a, b = _line(powers, weights)
    return a, b, c


def _line(powers: Sequence[tuple[float, float]], weights: Sequence[float]) -> tuple[float, float]:
    """Weighted least squares of loss = a + b x with b >= 0."""
    total = sum(weights)
    x_mean = sum(w * x for w, (x, _) in zip(weights, powers, strict=True)) / total
    y_mean = sum(w * y for w, (_, y) in zip(weights, powers, strict=True)) / total
    xx = sum(w * (x - x_mean) ** 2 for w, (x, _) in zip(weights, powers, strict=True))
    xy = sum(w * (x - x_mean) * (y - y_mean) for w, (x, y) in zip(weights, powers, strict=True))
    b = max(0.0, xy / xx) if xx > 0.0 else 0.0
    return y_mean - b * x_mean, b


def _mad(residuals: Sequence[float]) -> float:
    """Robust standard deviation from absolute residuals."""
    return 1.4826 * statistics.median(residuals)


def _scale(points: Sequence[Point], curve: _Curve) -> float:
    """Scatter about a curve, corrected for its three numbers: the larger of two estimates, as few points of either
    kind understate it."""
    a, b, c = curve
    residuals = [abs(loss - a - b * t**-c) for t, loss in points]
    free = max(1, len(points) - 3)
    robust = _mad(residuals) * math.sqrt(len(points) / free)
    capped = sum(min(r, CAPPED * robust) ** 2 for r in residuals)
    return max(robust, math.sqrt(capped / free))


def huber_sum(points: Sequence[Point], curve: _Curve, scale: float) -> float:
    """Huber's loss of all points in units of `scale`: half the square where near, linear beyond."""
    a, b, c = curve
    total = 0.0
    for t, loss in points:
        r = abs(loss - a - b * t**-c) / scale
        total += 0.5 * r * r if r <= HUBER else HUBER * (r - 0.5 * HUBER)
    return total


# -- is it worth it? --------------------------------------------------------------------------------------------------

SURE = 1.645
"""Standard errors: who can not reach the rival within them is given up (one chance in twenty that it would have)."""


GAIN_LEAST = 0.01
"""Part of its loss that a line must be expected to lose still: with less it would be trained on for ever, a little
below its rival on validation and never better on the holdout."""


def worth_continuing(curve: Sequence[Point], rival: float, budget: float) -> tuple[bool, str]:
    """May training on reach the rival's loss once `budget` compute is spent in all? With the reason.

    curve: (compute, validation loss) so far; rival: the loss to beat, on the same validation; budget: total compute at
    which the two are judged, in the curve's unit.
    """
    found = fit(curve)
    if found is None:
        return False, f"a curve of {len(curve)} points tells nothing yet: {POINTS_LEAST} are needed"
    if not math.isfinite(rival) or budget <= 0.0:
        return False, "there is no rival's loss to compare with"
    spent = max(t for t, _ in curve)
    if budget <= spent:
        return False, f"it has had its compute: {spent:.4g} of {budget:.4g}"
    expected, error = found.at(budget), found.error(budget)
    if found.at(spent) - expected < GAIN_LEAST * abs(found.at(spent)):
        return False, f"it has learned what it will: {expected:.4g} at {budget:.4g} after {found.at(spent):.4g} now"
    told = (
        f"its curve {found.a:.4g} + {found.b:.4g} t^-{found.c:g} leads to {expected:.4g} "
        f"(standard error {error:.2g}) at {budget:.4g}, the rival has {rival:.4g}"
    )
    if expected - SURE * error < rival:
        return True, f"worth going on: {told}"
    return False, f"given up: {told}"
