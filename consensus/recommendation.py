"""Recommendation: keep the champion, take the evolver, or take the reinventor.

    no champion    the line with the higher accuracy on the holdout; lines that chance can not tell apart and that lie
                   within TIE of each other: the smaller model
    a champion     each candidate challenges it on the same items, the evolver first, at its own share of alpha; the
                   best of those that are better is taken: in accuracy, or in loss with an accuracy that is not
                   lower. Else: keep
    nothing left   keep, and the reasons

Both ways to win are one-sided at half of the challenger's alpha (the lower end of a two-sided interval), so together
they spend one share. Every candidate that is compared uses the holdout once, whatever comes out.

Promises: a pure function; every answer says why, how sure it is, and what would change it. Not covered: merging the two
lines; a gain too small for this holdout (the answer says how many items would show it).
"""

from __future__ import annotations

import dataclasses
import math

from consensus.candidates import Judged, Read, aligned, holdout_items, judge
from consensus.comparison import (
    ACCURACY,
    ALPHA,
    LOSS,
    RESAMPLES,
    accuracy_differences,
    better,
    compare,
    items_needed,
    spent_alpha,
)
from consensus.evidence import Items
from consensus.rounds import Round
from mesh.messages.base import Facts
from mesh.messages.judgement import Choice, Comparison, Recommendation

TIE = 0.005
"""Difference in accuracy below which two lines that chance can not tell apart count as equal: half a point is less than
what a model twice as large should bring."""

SAME_SIZE = 0.01
"""Share of the larger model's size below which two sizes count as equal: descriptions differ by some bytes."""

SEED = 0
"""Of every bootstrap: a recommendation can be computed again from its digests."""

WHY_CHARS_MAX = 1_500


@dataclasses.dataclass(frozen=True, slots=True)
class _Weighed:
    """The choice, and the comparison that it reports."""

    choice: Choice
    why: str
    would_change: str
    effect: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    comparisons: tuple[Comparison, ...] = ()


def recommend(round_: Round, read: Read) -> Recommendation:
    """The recommendation that ends the round. `read`: the outcomes of `round_.digests`, or why one could not be
    read."""
    champion, champion_fault = holdout_items(round_.champion_run, round_, read)
    baseline, _ = holdout_items(round_.baseline, round_, read)
    judged = [judge(run, round_, read) for run in round_.lines]
    reference = next((items for items in (champion, *(j.items for j in judged), baseline) if items is not None), None)
    judged = [aligned(line, reference) for line in judged]
    if baseline is not None and reference is not None and aligned(_as_judged(baseline), reference).items is None:
        baseline = None
    weighed = _weigh(round_, judged, champion, champion_fault, baseline)
    after = _after(weighed.choice, judged, champion)
    return Recommendation(
        id=round_.id,
        topic=round_.topic,
        specialization=round_.specialization,
        choice=weighed.choice,
        why=weighed.why[:WHY_CHARS_MAX],
        effect=weighed.effect,
        interval=weighed.interval,
        candidates=tuple(line.candidate for line in judged if line.candidate is not None),
        comparisons=(*weighed.comparisons, *_against_baseline(judged, baseline)),
        champion_before=round_.champion.model if round_.champion is not None else "",
        champion_revision=round_.champion_revision,
        champion_outcomes=round_.champion_run.holdout,
        holdout=round_.holdout,
        holdout_examples=len(reference) if reference is not None else 0,
        holdout_uses=_uses_before(round_) + len(_challengers(round_, judged, champion)),
        tree=_tree(after, baseline, reference),
        what_would_change_it=weighed.would_change[:WHY_CHARS_MAX],
        independent_required=round_.independent_required,
        kpis=round_.kpis,
        fits=round_.fits,
    )


def _weigh(
    round_: Round, judged: list[Judged], champion: Items | None, champion_fault: str, baseline: Items | None
) -> _Weighed:
    eligible = [line for line in judged if not line.fault]
    if not eligible:
        return _nothing(round_, judged)
    if round_.champion is None:
        return _first(eligible, judged, baseline)
    if champion is None:
        why = f"The champion could not be measured on this holdout, so nothing can replace it: {champion_fault}."
        return _Weighed(Choice.KEEP, why, _unmeasured_would_change(round_))
    return _challenge(round_, judged, champion)


def _unmeasured_would_change(round_: Round) -> str:
    champion = round_.champion
    if champion is not None and champion.fits and round_.fits and champion.fits != round_.fits:
        return "Data of the champion's form, or another text for the topic: then it is a specialization of its own."
    return "An evaluation of the champion that succeeds; publish the topic again."


def _nothing(round_: Round, judged: list[Judged]) -> _Weighed:
    reasons = _faults(judged) or "no line was planned"
    keep = "The champion stays" if round_.champion is not None else "There is no champion yet and none can be proposed"
    return _Weighed(Choice.KEEP, f"{keep}: {reasons}.", "A line that ends with a model whose claims can be reproduced.")


# -- the first champion -----------------------------------------------------------------------------------------------


def _first(eligible: list[Judged], judged: list[Judged], baseline: Items | None) -> _Weighed:
    if len(eligible) == 1:
        return _only(eligible[0], judged, baseline)
    one, other = eligible
    assert one.items is not None
    assert other.items is not None
    comparison = _compare(one, other.name, other.items, ACCURACY, ALPHA)
    chosen, why = _better_line(one, other, comparison)
    sign = 1.0 if chosen is one else -1.0
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    needed = items_needed(accuracy_differences(one.items, other.items).deviation, comparison.effect)
    return _Weighed(
        choice=Choice(chosen.name),
        why=f"There is no champion yet. {why}",
        would_change=_line_would_change(comparison, needed),
        effect=sign * comparison.effect + 0.0,
        interval=(low, high),
        comparisons=(comparison,),
    )


def _better_line(one: Judged, other: Judged, comparison: Comparison) -> tuple[Judged, str]:
    """Which of two eligible lines is taken, and why."""
    better_one, worse = (one, other) if comparison.effect >= 0.0 else (other, one)
    numbers = (
        f"The {one.name} answers {_share(one.items)} of {comparison.items} holdout items right, the {other.name} "
        f"{_share(other.items)} ({_signed(comparison.effect)}, "
        f"95 % interval {_range(comparison)}, p = {comparison.p_value:.2g})"
    )
    close = abs(comparison.effect) <= TIE and comparison.p_value > comparison.alpha
    if not close:
        return better_one, f"{numbers}: the {better_one.name} is taken."
    small, large = sorted((one, other), key=lambda line: line.size_bytes)
    if small.size_bytes < (1.0 - SAME_SIZE) * large.size_bytes:
        sizes = f"{_bytes(small.size_bytes)} against {_bytes(large.size_bytes)}"
        return small, f"{numbers}: a tie, so the smaller model is taken, the {small.name} ({sizes})."
    if comparison.effect == 0.0:
        better_one, worse = sorted((one, other), key=_loss)
    return (
        better_one,
        f"{numbers}: a tie between equally large models; the {better_one.name} is taken before the {worse.name}.",
    )


def _line_would_change(comparison: Comparison, needed: int) -> str:
    if needed == 0:
        return "More holdout items: of these the lines answer equally many right."
    difference = (
        f"A difference of {abs(comparison.effect):.4f} is seen with about {needed} holdout items (6.18 s^2/d^2)"
    )
    if comparison.items >= needed:
        return f"{difference}, and there are {comparison.items}: only a holdout that was drawn unluckily."
    return f"{difference}, and there are {comparison.items}: with more items the other line may turn out better."


def _only(line: Judged, judged: list[Judged], baseline: Items | None) -> _Weighed:
    assert line.items is not None
    others = _faults([other for other in judged if other is not line])
    why = f"There is no champion yet, and the {line.name} is the only candidate"
    why += f" ({others})." if others else "."
    change = "A second line that ends with a model whose claims can be reproduced, and that answers more items right."
    if baseline is None:
        return _Weighed(Choice(line.name), why, change)
    comparison = _compare(line, "baseline", baseline, ACCURACY, ALPHA)
    return _Weighed(
        Choice(line.name),
        f"{why} Effect and interval are against the linear baseline.",
        change,
        comparison.effect,
        (comparison.low, comparison.high),
    )


# -- against a champion -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Challenge:
    line: Judged
    accuracy: Comparison
    loss: Comparison
    number: int
    """Which challenger of this holdout it is, from 1."""

    @property
    def wins(self) -> bool:
        return better(self.accuracy) or (self.accuracy.effect >= 0.0 and better(self.loss))

    @property
    def rank(self) -> tuple[float, float]:
        return (self.accuracy.effect, self.loss.effect)


def _challenge(round_: Round, judged: list[Judged], champion: Items) -> _Weighed:
    first = _uses_before(round_) + 1
    challenges = []
    for number, line in enumerate(_challengers(round_, judged, champion), start=first):
        alpha = spent_alpha(number)
        accuracy = _compare(line, "champion", champion, ACCURACY, alpha)
        challenges.append(_Challenge(line, accuracy, _compare(line, "champion", champion, LOSS, alpha), number))
    winners = [challenge for challenge in challenges if challenge.wins]
    best = max(winners or challenges, key=lambda challenge: challenge.rank)
    return _Weighed(
        choice=Choice(best.line.name) if winners else Choice.KEEP,
        why=_challenge_why(challenges, best, bool(winners), judged),
        would_change=_challenge_would_change(best, champion, bool(winners)),
        effect=best.accuracy.effect,
        interval=(best.accuracy.low, best.accuracy.high),
        comparisons=tuple(part for challenge in challenges for part in (challenge.accuracy, challenge.loss)),
    )


def _challenge_why(challenges: list[_Challenge], best: _Challenge, won: bool, judged: list[Judged]) -> str:
    told = "; ".join(_told(challenge) for challenge in challenges)
    faults = _faults(judged)
    told += f"; {faults}" if faults else ""
    if not won:
        return f"No candidate is shown to be better than the champion, so it stays: {told}."
    how = "in accuracy" if better(best.accuracy) else "in loss, with an accuracy that is not lower"
    return f"The {best.line.name} is better than the champion {how}: {told}."


def _told(challenge: _Challenge) -> str:
    accuracy, loss = challenge.accuracy, challenge.loss
    return (
        f"{challenge.line.name}: accuracy {_signed(accuracy.effect)} {_range(accuracy)}, p = {accuracy.p_value:.2g}, "
        f"{_loss_told(loss)}, at alpha = {accuracy.alpha:.3g} as challenger {challenge.number} of this holdout"
    )


def _loss_told(loss: Comparison) -> str:
    """How much lower or higher the loss is; the interval is of the same quantity."""
    if loss.effect >= 0.0:
        return "the same loss" if loss.effect == 0.0 else f"loss lower by {loss.effect:.4f} nats {_range(loss)}"
    return f"loss higher by {-loss.effect:.4f} nats [{_signed(-loss.high)}, {_signed(-loss.low)}]"


def _challenge_would_change(best: _Challenge, champion: Items, won: bool) -> str:
    assert best.line.items is not None
    deviation = accuracy_differences(best.line.items, champion).deviation
    items, alpha = best.accuracy.items, best.accuracy.alpha
    if won:
        return (
            "A holdout on which the difference is gone: it was drawn once, and the interval says how far off it may be."
        )
    if best.accuracy.effect > 0.0:
        needed, spent = (
            items_needed(deviation, best.accuracy.effect),
            items_needed(deviation, best.accuracy.effect, alpha),
        )
        return (
            f"A gain of {best.accuracy.effect:.4f} would show with about {needed} holdout items (6.18 s^2/d^2 with "
            f"s = {deviation:.3f}), with {spent} at this alpha; there are {items}."
        )
    if deviation == 0.0:
        return (
            f"Any of the {items} items that only one of the two answers right: the {best.line.name} and the champion "
            "agree on all of them."
        )
    visible = math.sqrt(6.18 * deviation**2 / items)
    return (
        f"A candidate that answers clearly more items right than the champion: with {items} items "
        f"and s = {deviation:.3f} a gain of about {visible:.4f} can be seen."
    )


def _challengers(round_: Round, judged: list[Judged], champion: Items | None) -> list[Judged]:
    """Candidates that are compared with the champion, in the fixed order of the lines."""
    if round_.champion is None or champion is None:
        return []
    return [line for line in judged if not line.fault]


def _uses_before(round_: Round) -> int:
    """Challengers that were compared with a champion on this holdout before this round."""
    champion = round_.champion
    return champion.holdout_uses if champion is not None and champion.holdout == round_.holdout else 0


# -- what everybody reads ---------------------------------------------------------------------------------------------


def _tree(after: Items | None, baseline: Items | None, reference: Items | None) -> Facts:
    """The result document's `tree`: the tree is the one specialization, so the one flat model is the champion
    itself."""
    facts: Facts = {
        "metric": ACCURACY,
        "value": after.accuracy if after is not None else None,
        "baseline": after.accuracy if after is not None else None,
        "baseline_linear": baseline.accuracy if baseline is not None else None,
        "interval": None,
        "holdout_examples": len(reference) if reference is not None else 0,
    }
    if after is not None and baseline is not None:
        comparison = compare(("champion", after), ("baseline", baseline), ACCURACY)
        facts["interval"] = [comparison.low, comparison.high]
    return facts


def _against_baseline(judged: list[Judged], baseline: Items | None) -> tuple[Comparison, ...]:
    if baseline is None:
        return ()
    return tuple(
        compare((line.name, line.items), ("baseline", baseline), ACCURACY) for line in judged if line.items is not None
    )


def _after(choice: Choice, judged: list[Judged], champion: Items | None) -> Items | None:
    """Outcomes of the model that is champion once the choice is carried out."""
    if choice is Choice.KEEP:
        return champion
    return next(line.items for line in judged if line.name == choice.value)


def _compare(line: Judged, name: str, items: Items, metric: str, alpha: float) -> Comparison:
    assert line.items is not None
    return compare((line.name, line.items), (name, items), metric, alpha=alpha, resamples=RESAMPLES, seed=SEED)


def _as_judged(items: Items) -> Judged:
    return Judged("baseline", None, items, "")


def _faults(judged: list[Judged]) -> str:
    return "; ".join(f"the {line.name} can not be chosen: {line.fault.rstrip('.')}" for line in judged if line.fault)


def _loss(line: Judged) -> float:
    return line.items.mean_loss if line.items is not None else math.inf


def _share(items: Items | None) -> str:
    return f"{items.accuracy:.4f}" if items is not None else "none"


def _range(comparison: Comparison) -> str:
    return f"[{_signed(comparison.low)}, {_signed(comparison.high)}]"


def _signed(value: float) -> str:
    """Four digits and a sign; what rounds to zero is +0."""
    return f"{round(value, 4) + 0.0:+.4f}"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.2f} MB"
