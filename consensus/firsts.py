"""Firsts: which candidate becomes the first champion of a specialization.

    several good ones    the best on the holdout; where chance explains the difference to the next one and it is at most
                         the measure's tie, the smaller model of the two
    one                  that one; effect and interval are then against the linear baseline, or of an adapter to a
                         language model against that model as it is

Nobody is challenged here, so no alpha is spent: the gate still asks whether the first champion knows anything.
"""

from __future__ import annotations

import math

from consensus.candidates import Judged
from consensus.comparison import ACCURACY, ALPHA, items_needed
from consensus.evidence import Items
from consensus.measure import Measure
from consensus.weighing import Weighed, choice_of, compared, faults
from consensus.wording import interval_told, megabytes, signed
from mesh.messages.judgement import Comparison

SAME_SIZE = 0.01
"""Share of the larger model's size below which two sizes count as equal: descriptions differ by some bytes."""


def first(eligible: list[Judged], judged: list[Judged], baseline: Items | None, measure: Measure) -> Weighed:
    """The choice among candidates of which each could be chosen."""
    if len(eligible) == 1:
        return _only(eligible[0], judged, baseline, measure)
    one, other = _leading_two(eligible, measure)
    assert one.items is not None
    assert other.items is not None
    comparison = compared(one, other.name, other.items, measure.name, ALPHA)
    chosen, why = _better_line(one, other, comparison, measure)
    sign = 1.0 if chosen is one else -1.0
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    needed = items_needed(measure.differences(one.items, other.items).deviation, comparison.effect)
    return Weighed(
        choice=choice_of(chosen.name),
        why=f"There is no champion yet. {why}",
        would_change=_line_would_change(comparison, needed, measure),
        taken=chosen.name,
        effect=sign * comparison.effect + 0.0,
        interval=(low, high),
        comparisons=(comparison,),
    )


def _leading_two(eligible: list[Judged], measure: Measure) -> tuple[Judged, Judged]:
    """The two best, in the order of the plan."""
    sign = 1.0 if measure.name == ACCURACY else -1.0

    def worth(line: Judged) -> float:
        return sign * measure.of(line.items) if line.items is not None else -math.inf

    two = sorted(eligible, key=worth, reverse=True)[:2]
    one, other = (line for line in eligible if line in two)
    return one, other


def _better_line(one: Judged, other: Judged, comparison: Comparison, measure: Measure) -> tuple[Judged, str]:
    """Which of two eligible lines is taken, and why."""
    assert one.items is not None
    assert other.items is not None
    better_one, worse = (one, other) if comparison.effect >= 0.0 else (other, one)
    numbers = (
        f"{_capital(measure.told(one.name, one.items))}, {measure.told(other.name, other.items, again=True)} "
        f"({signed(comparison.effect)}, 95 % interval {interval_told(comparison)}, p = {comparison.p_value:.2g})"
    )
    close = abs(comparison.effect) <= measure.tie and comparison.p_value > comparison.alpha
    if not close:
        return better_one, f"{numbers}: the {better_one.name} is taken."
    small, large = sorted((one, other), key=lambda line: line.size_bytes)
    if small.size_bytes < (1.0 - SAME_SIZE) * large.size_bytes:
        sizes = f"{megabytes(small.size_bytes)} against {megabytes(large.size_bytes)}"
        return small, f"{numbers}: a tie, so the smaller model is taken, the {small.name} ({sizes})."
    if comparison.effect == 0.0:
        better_one, worse = sorted((one, other), key=_loss)
    return (
        better_one,
        f"{numbers}: a tie between equally large models; the {better_one.name} is taken before the {worse.name}.",
    )


def _line_would_change(comparison: Comparison, needed: int, measure: Measure) -> str:
    if needed == 0:
        alike = "answer equally many right" if measure.name == ACCURACY else "lose equally much on all"
        return f"More holdout items: of these the lines {alike}."
    difference = (
        f"A difference of {abs(comparison.effect):.4f} is seen with about {needed} holdout items (6.18 s^2/d^2)"
    )
    if comparison.items >= needed:
        return f"{difference}, and there are {comparison.items}: only a holdout that was drawn unluckily."
    return f"{difference}, and there are {comparison.items}: with more items the other line may turn out better."


def _only(line: Judged, judged: list[Judged], baseline: Items | None, measure: Measure) -> Weighed:
    assert line.items is not None
    others = faults([other for other in judged if other is not line])
    unfit = any(not other.fault for other in judged if other is not line)
    of = " that meets the topic's own conditions" if unfit else ""
    why = f"There is no champion yet, and the {line.name} is the only candidate{of}"
    why += f" ({others})." if others else "."
    change = "A second line that ends with a model whose claims can be reproduced, and that answers "
    change += "more items right." if measure.name == ACCURACY else "the items with less loss."
    choice = choice_of(line.name)
    if baseline is None:
        return Weighed(choice, why, change, line.name)
    comparison = compared(line, "baseline", baseline, measure.name, ALPHA)
    alone = measure.name != ACCURACY and line.candidate is not None and line.candidate.base
    yardstick = "the model that it adapts, as it is" if alone else "the linear baseline"
    why = f"{why} Effect and interval are against {yardstick}."
    return Weighed(choice, why, change, line.name, comparison.effect, (comparison.low, comparison.high))


def _loss(line: Judged) -> float:
    return line.items.mean_loss if line.items is not None else math.inf


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
