"""Audits: what the split that nobody has looked at says of a promotion, after it.

    accepted verdict over a champion ──> submit: the promoted model and the one before, on the audit split
                                          both ended ──> compared at 95 % ──> one record; nothing is decided by it

Aim: to notice when promotions feed on their holdout. Lines, consensus and gate see train, validation and holdout; the
audit split is read once for each promotion over a champion, by two evaluations submitted after the verdict, and
each look stands in the champion's record, counted when it was written. What comes out is published and changes nothing:
a split that decided would be a second holdout.

Promises: a function of a topic's records; ids derived from the verdict's round, so that any number of us submit and
publish the same. An evaluation that failed is a reason, not an obstacle. Not covered: the first champion of a
specialization, which has nobody to be compared with; its audit outcomes are read when it is challenged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from consensus import evidence
from consensus.comparison import ACCURACY, LOSS, compare
from consensus.evaluations import evaluation, outcomes_of
from consensus.evidence import Items
from consensus.gate import chosen
from consensus.measure import measure_of
from consensus.rounds import recommendation_id, rounds_of
from consensus.weighing import SEED
from consensus.wording import interval_told, loss_told, signed
from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Submit
from mesh.messages.judgement import Audit, Comparison, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import TaskSpec

AFTER, BEFORE = "after", "before"
"""The promoted model, and the champion before it."""

RESAMPLES = 2_000


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A look whose evaluations have ended."""

    verdict: Verdict
    tag: str
    after: str
    before: str
    """Digests of the outcomes; '' where there are none."""
    missing: str = ""
    """Why there are none."""

    @property
    def id(self) -> str:
        """Of the record."""
        return audit_id(self.verdict.topic, self.tag)

    @property
    def digests(self) -> tuple[str, ...]:
        """What has to be read."""
        return tuple(digest for digest in (self.after, self.before) if digest)


@dataclasses.dataclass(frozen=True, slots=True)
class Looks:
    """What is to be submitted now, and which looks have ended and are not published yet."""

    submits: tuple[Submit, ...] = ()
    due: tuple[Due, ...] = ()
    why: str = ""
    """What is awaited; '' when nothing is."""


def audit_id(topic: str, tag: str = "") -> str:
    """Of the look after the round with this tag."""
    return derived_id(topic, f"{tag}audit")


def looks_of(records: Sequence[Record]) -> Looks:
    """What a topic's records, in order, ask for."""
    ended = {record.task.id: record for record in records if isinstance(record, TaskEnded)}
    known = {task.id for record in records if isinstance(record, Planned) for task in record.tasks}
    said = {record.recommendation.id: record for record in records if isinstance(record, Verdict)}
    published = {record.id for record in records if isinstance(record, Audit)}
    submits, due, awaited = [], [], []
    for tag, plan in rounds_of(records):
        verdict = said.get(recommendation_id(plan.topic, tag))
        if verdict is None or not verdict.looked_at or audit_id(plan.topic, tag) in published:
            continue
        tasks = {which: _task(plan, tag, which, verdict) for which in (AFTER, BEFORE)}
        if any(task.id not in ended and task.id not in known for task in tasks.values()):
            submits.append(_submit(plan, tag, tuple(tasks.values())))
        if open_ := [task.id for task in tasks.values() if task.id not in ended]:
            awaited += open_
        else:
            due.append(_due(verdict, tag, {which: ended[task.id] for which, task in tasks.items()}))
    why = f"the audit awaits {', '.join(awaited)}" if awaited else ""
    return Looks(tuple(submits), tuple(due), why)


def audited(due: Due, read: Mapping[str, Items | str], looks: int) -> Audit:
    """The record of a look. read: the outcomes of `due.digests`, or why one could not be read; looks: how often this
    split was looked at for this specialization."""
    recommendation = due.verdict.recommendation
    after, before = chosen(recommendation).model, recommendation.champion_before
    one, fault = _items(due.after, after, recommendation.audit, read)
    other, other_fault = _items(due.before, before, recommendation.audit, read)
    fault = due.missing or fault or other_fault
    if not fault and one is not None and other is not None:
        fault = evidence.mismatch_of(one, other)
    found: tuple[Comparison, ...] = ()
    if not fault and one is not None and other is not None:
        found = _compared(one, other)
    worse = bool(found) and found[0].high < 0.0 and found[0].p_value <= found[0].alpha
    return Audit(
        id=due.id,
        topic=due.verdict.topic,
        specialization=due.verdict.specialization,
        verdict=due.verdict.id,
        audit=recommendation.audit,
        looks=looks,
        before=before,
        after=after,
        comparisons=found,
        worse=worse,
        why=_why(found, worse, fault),
        items=len(one) if one is not None else 0,
    )


def _compared(after: Items, before: Items) -> tuple[Comparison, ...]:
    """By what decides about these items first; by the loss in any case."""
    metrics = dict.fromkeys((measure_of(after, before).name, LOSS))
    pair = (AFTER, after), (BEFORE, before)
    return tuple(compare(*pair, metric, resamples=RESAMPLES, seed=SEED) for metric in metrics)


def _why(found: tuple[Comparison, ...], worse: bool, fault: str) -> str:
    if not found:
        return f"The audit split says nothing about this promotion: {fault or 'there are no outcomes'}."
    main = found[0]
    parts = [f"accuracy {signed(main.effect)} {interval_told(main)}"] if main.metric == ACCURACY else []
    told = f"{', '.join([*parts, loss_told(found[-1])])}, on {main.items} items"
    if worse:
        return f"The promoted model is significantly worse on the audit split: {told}."
    return f"No harm is seen on the audit split: {told}."


def _items(digest: str, model: str, split: str, read: Mapping[str, Items | str]) -> tuple[Items | None, str]:
    found = read.get(digest, "there are no outcomes") if digest else "there are no outcomes"
    if isinstance(found, str):
        return None, found
    fault = evidence.fault_of(found, model=model, split=split)
    return (None, fault) if fault else (found, "")


def _due(verdict: Verdict, tag: str, ended: Mapping[str, TaskEnded]) -> Due:
    (after, fault), (before, other_fault) = (outcomes_of(ended[which]) for which in (AFTER, BEFORE))
    return Due(verdict, tag, after, before, fault or other_fault)


def _task(plan: Planned, tag: str, which: str, verdict: Verdict) -> TaskSpec:
    recommendation = verdict.recommendation
    promoted = chosen(recommendation)
    model = promoted.model if which == AFTER else recommendation.champion_before
    base = promoted.base if which == AFTER else recommendation.champion_base
    id_, split = f"{tag}audit-{which}", recommendation.audit
    return evaluation(plan, id_, f"audit {which}", model=model, split=split, base=base, sooner=0)


def _submit(plan: Planned, tag: str, tasks: tuple[TaskSpec, ...]) -> Submit:
    facts: Facts = {"stage": "audit"}
    return Submit(
        id=audit_id(plan.topic, tag),
        topic=plan.topic,
        specialization=plan.specialization,
        tasks=tasks,
        facts=facts,
    )
