"""Recommendation: keep the champion, or take one of the candidates: a line's model, the tree, a merge.

    no champion    the best candidate on the holdout (firsts.py)
    a champion     each candidate challenges it on the same items, at its own share of alpha; the best of those that are
                   better is taken. Else: keep (challenges.py)
    nothing left   keep, and the reasons

What decides is accuracy where the items have labels, and loss where they have none (measure.py).

Promises: a pure function; every answer says why, how sure it is, and what would change it. Not covered: a gain too
small for this holdout (the answer says how many items would show it).
"""

from __future__ import annotations

from consensus.candidates import Judged, Read, aligned, fitting, holdout_items, judge
from consensus.challenges import challenge, challengers, uses_before
from consensus.comparison import compare
from consensus.evidence import Items
from consensus.firsts import first
from consensus.measure import Measure, measure_of
from consensus.rounds import Round
from consensus.weighing import Weighed, faults
from mesh.messages.base import Facts
from mesh.messages.judgement import Choice, Comparison, Recommendation
from mesh.messages.tasks import Line

WHY_CHARS_MAX = 1_500


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
    measure = measure_of(*(items for items in (champion, *(j.items for j in judged), baseline) if items is not None))
    weighed = _weigh(round_, judged, champion, champion_fault, baseline, measure)
    return Recommendation(
        id=round_.id,
        topic=round_.topic,
        specialization=round_.specialization,
        choice=weighed.choice,
        taken=weighed.taken,
        why=weighed.why[:WHY_CHARS_MAX],
        effect=weighed.effect,
        interval=weighed.interval,
        metric=measure.name,
        candidates=tuple(line.candidate for line in judged if line.candidate is not None),
        comparisons=(*weighed.comparisons, *_against_baseline(judged, baseline, measure)),
        champion_before=round_.champion.model if round_.champion is not None else "",
        champion_revision=round_.champion_revision,
        champion_base=round_.champion.base if round_.champion is not None else "",
        champion_outcomes=round_.champion_run.holdout,
        champion_kpis=dict(round_.champion_run.kpis) if champion is not None else {},
        holdout=round_.holdout,
        validation=round_.validation,
        holdout_examples=len(reference) if reference is not None else 0,
        holdout_uses=uses_before(round_) + len(challengers(round_, judged, champion)),
        audit=round_.audit,
        tree={
            **_tree(round_, weighed.taken, judged, champion, baseline, measure),
            "holdout_examples": len(reference) if reference is not None else 0,
        },
        what_would_change_it=weighed.would_change[:WHY_CHARS_MAX],
        independent_required=round_.independent_required,
        kpis=round_.kpis,
        fits=round_.fits,
    )


def _weigh(
    round_: Round,
    judged: list[Judged],
    champion: Items | None,
    champion_fault: str,
    baseline: Items | None,
    measure: Measure,
) -> Weighed:
    eligible = [line for line in judged if not line.fault]
    if not eligible:
        return _nothing(round_, judged)
    if round_.champion is None:
        return first(fitting(eligible, lambda line: line, round_), judged, baseline, measure)
    if champion is None:
        why = f"The champion could not be measured on this holdout, so nothing can replace it: {champion_fault}."
        return Weighed(Choice.KEEP, why, _unmeasured_would_change(round_))
    return challenge(round_, judged, champion, measure)


def _unmeasured_would_change(round_: Round) -> str:
    champion = round_.champion
    if champion is not None and champion.fits and round_.fits and champion.fits != round_.fits:
        return "Data of the champion's form, or another text for the topic: then it is a specialization of its own."
    return "An evaluation of the champion that succeeds; publish the topic again."


def _nothing(round_: Round, judged: list[Judged]) -> Weighed:
    reasons = faults(judged) or "no line was planned"
    keep = "The champion stays" if round_.champion is not None else "There is no champion yet and none can be proposed"
    return Weighed(Choice.KEEP, f"{keep}: {reasons}.", "A line that ends with a model whose claims can be reproduced.")


# -- what everybody reads ---------------------------------------------------------------------------------------------


def _tree(
    round_: Round,
    taken: str,
    judged: list[Judged],
    champion: Items | None,
    baseline: Items | None,
    measure: Measure,
) -> Facts:
    """The result document's `tree`. `value`: of the model that is champion once the choice is carried out; `baseline`:
    of one flat model on the same items. In the round of a tree the interval is of tree minus flat model, in any other
    of `value` minus the linear baseline; positive is better for the first, also where the metric is a loss."""
    after = next((line.items for line in judged if line.name == taken), None) if taken else champion
    grown = next((line for line in judged if line.name == Line.MERGE.value and line.items is not None), None)
    flat, against, interval = _flat(round_, judged, champion, after), "baseline_linear", None
    if grown is not None and grown.items is not None and champion is not None:
        against, interval = "baseline", _interval(grown.items, champion, measure)
    elif after is not None and baseline is not None:
        interval = _interval(after, baseline, measure)
    return {
        "metric": measure.name,
        "value": measure.of(after) if after is not None else None,
        "baseline": measure.of(flat) if flat is not None else None,
        "baseline_linear": measure.of(baseline) if baseline is not None else None,
        "interval": interval,
        "against": against,
    }


def _flat(round_: Round, judged: list[Judged], champion: Items | None, after: Items | None) -> Items | None:
    """Outcomes of one flat model: the champion's, where trees challenge a flat one; the best flat candidate's, where
    the champion is a tree; else those of the model that is champion afterwards."""
    if round_.champion is not None and round_.champion.flat:
        measured = [line.items for line in judged if line.items is not None and _is_flat(line)]
        return max(measured, key=lambda items: (items.accuracy, -items.mean_loss), default=None)
    grown = any(not _is_flat(line) for line in judged)
    return champion if grown else after


def _is_flat(line: Judged) -> bool:
    return line.candidate is None or not line.candidate.flat


def _interval(one: Items, other: Items, measure: Measure) -> list[float]:
    comparison = compare(("one", one), ("other", other), measure.name)
    return [comparison.low, comparison.high]


def _against_baseline(judged: list[Judged], baseline: Items | None, measure: Measure) -> tuple[Comparison, ...]:
    if baseline is None:
        return ()
    return tuple(
        compare((line.name, line.items), ("baseline", baseline), measure.name)
        for line in judged
        if line.items is not None
    )


def _as_judged(items: Items) -> Judged:
    return Judged("baseline", None, items, "")
