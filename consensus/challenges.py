"""Challenges: is a candidate better than the champion, at its own share of alpha?

Each good candidate challenges the champion on the same items, in the fixed order of the plan; the k-th challenger of a
holdout gets the k-th share of alpha, whoever was champion then. It wins when it is better in accuracy, or in loss with
an accuracy that is not lower; where items have no labels, in loss. A challenger in fewer bits wins, too, where it is
shown not to be worse and saves what was asked for (rounding.py). The best winner is taken, of those that meet the
topic's own KPIs where any does; else the champion stays.

Both ways to win are one-sided at half of the challenger's alpha (the lower end of a two-sided interval), so together
they spend one share. Every candidate that is compared uses the holdout once, whatever comes out.
"""

from __future__ import annotations

import dataclasses
import math

from consensus.candidates import Judged, fitting
from consensus.comparison import ACCURACY, LOSS, better, items_needed, spent_alpha
from consensus.evidence import Items
from consensus.measure import Measure
from consensus.rounding import ACCURACY_MARGIN, LOSS_MARGIN, gains
from consensus.rounds import Round
from consensus.weighing import Weighed, choice_of, compared, faults
from consensus.wording import interval_told, loss_told, signed
from mesh.messages.judgement import Choice, Comparison


@dataclasses.dataclass(frozen=True, slots=True)
class Challenge:
    """One candidate against the champion."""

    line: Judged
    accuracy: Comparison | None
    """None where the items have no labels."""
    loss: Comparison
    number: int
    """Which challenger of this holdout it is, from 1."""
    saves: str = ""
    """Of a challenger in fewer bits: what it saves, where that is enough."""

    @property
    def main(self) -> Comparison:
        """The comparison that is reported."""
        return self.accuracy or self.loss

    @property
    def wins(self) -> bool:
        """Is it shown to be better, or in fewer bits not to be worse?"""
        return self.better or (bool(self.saves) and self.not_worse)

    @property
    def better(self) -> bool:
        """Is it shown to be better?"""
        if self.accuracy is None:
            return better(self.loss)
        return better(self.accuracy) or (self.accuracy.effect >= 0.0 and better(self.loss))

    @property
    def not_worse(self) -> bool:
        """Is it shown not to be worse than by the margins of who has fewer bits?"""
        if self.accuracy is not None and self.accuracy.low < -ACCURACY_MARGIN:
            return False
        return self.loss.low >= -LOSS_MARGIN

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better."""
        return (self.main.effect, self.loss.effect)


def challenge(round_: Round, judged: list[Judged], champion: Items, measure: Measure) -> Weighed:
    """The choice against a champion that was measured on the same items. One candidate at least can be chosen."""
    found = []
    for number, line in enumerate(challengers(round_, judged, champion), start=uses_before(round_) + 1):
        alpha = spent_alpha(number)
        accuracy = compared(line, "champion", champion, ACCURACY, alpha) if measure.name == ACCURACY else None
        loss = compared(line, "champion", champion, LOSS, alpha)
        found.append(Challenge(line, accuracy, loss, number, _saved(round_, line)))
    winners = fitting([one for one in found if one.wins], lambda one: one.line, round_)
    best = max(winners or found, key=lambda one: one.rank)
    return Weighed(
        choice=choice_of(best.line.name) if winners else Choice.KEEP,
        why=_why(found, best, bool(winners), judged),
        would_change=_would_change(best, champion, bool(winners), measure),
        taken=best.line.name if winners else "",
        effect=best.main.effect,
        interval=(best.main.low, best.main.high),
        comparisons=tuple(part for one in found for part in (one.accuracy, one.loss) if part is not None),
    )


def challengers(round_: Round, judged: list[Judged], champion: Items | None) -> list[Judged]:
    """Candidates that are compared with the champion, in the fixed order of the lines."""
    if round_.champion is None or champion is None:
        return []
    return [line for line in judged if not line.fault]


def _saved(round_: Round, line: Judged) -> str:
    """What a challenger in fewer bits saves; '' of any other."""
    candidate = line.candidate
    if candidate is None or not candidate.full:
        return ""
    return gains(candidate.kpis, round_.champion_run.kpis, round_.rounding)


def uses_before(round_: Round) -> int:
    """Challengers that were compared with a champion of this specialization on this holdout before this round."""
    return round_.champion.uses_of(round_.holdout) if round_.champion is not None else 0


def _why(found: list[Challenge], best: Challenge, won: bool, judged: list[Judged]) -> str:
    told = "; ".join(_told(one) for one in found)
    lacking = faults(judged)
    told += f"; {lacking}" if lacking else ""
    if not won:
        return f"No candidate is shown to be better than the champion, so it stays: {told}."
    if not best.better:
        return f"The {best.line.name} is not worse than the champion, and {best.saves}: {told}."
    if best.accuracy is None:
        how = "in loss, on items without labels"
    else:
        how = "in accuracy" if better(best.accuracy) else "in loss, with an accuracy that is not lower"
    return f"The {best.line.name} is better than the champion {how}: {told}."


def _told(one: Challenge) -> str:
    parts = []
    if one.accuracy is not None:
        parts.append(f"accuracy {signed(one.accuracy.effect)} {interval_told(one.accuracy)}")
        parts.append(f"p = {one.accuracy.p_value:.2g}")
    parts.append(loss_told(one.loss))
    if one.accuracy is None:
        parts.append(f"p = {one.loss.p_value:.2g}")
    alpha = f"at alpha = {one.loss.alpha:.3g} as challenger {one.number} of this holdout"
    return f"{one.line.name}: {', '.join(parts)}, {alpha}"


def _would_change(best: Challenge, champion: Items, won: bool, measure: Measure) -> str:
    assert best.line.items is not None
    deviation = measure.differences(best.line.items, champion).deviation
    effect, items, alpha = best.main.effect, best.main.items, best.main.alpha
    if won:
        return (
            "A holdout on which the difference is gone: it was drawn once, and the interval says how far off it may be."
        )
    if effect > 0.0:
        needed, spent = items_needed(deviation, effect), items_needed(deviation, effect, alpha)
        return (
            f"A gain of {effect:.4f} would show with about {needed} holdout items (6.18 s^2/d^2 with "
            f"s = {deviation:.3f}), with {spent} at this alpha; there are {items}."
        )
    if deviation == 0.0:
        which = "that only one of the two answers right" if measure.name == ACCURACY else "on which the losses differ"
        return f"Any of the {items} items {which}: the {best.line.name} and the champion agree on all of them."
    visible = math.sqrt(6.18 * deviation**2 / items)
    which = "answers clearly more items right" if measure.name == ACCURACY else "loses clearly less"
    return (
        f"A candidate that {which} than the champion: with {items} items "
        f"and s = {deviation:.3f} a gain of about {visible:.4f} can be seen."
    )
