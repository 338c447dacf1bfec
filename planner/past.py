"""What the planner knows of a specialization's past when it plans its lines: records in, a few facts out.

    verdicts of its last topics ──> lessons (planner/lessons.py)
    its champions' records ───────> what the champion's model has cost, settings of every champion
    the reinventor's last result ─> its model, its learning curve, what it has cost so far
    the parent topic of a branch ─> what the flat model has cost, how hard the branch is

Everything may be missing: a fresh mesh, records that are no longer kept, programs that said less. Then it counts as
not known, and the lines are planned as for the first time. Pure; who reads the records is agents/planner_past.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from mesh.messages.base import Facts
from mesh.messages.judgement import Candidate, Champion, Choice, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line
from mesh.messages.topics import Topic
from planner import accounts, branches, lessons, rounding, sizes
from planner.accounts import Inherited
from planner.curves import Point
from planner.lessons import Lesson
from planner.sizes import Shape

TOPICS_READ = 8
"""Newest topics of a node whose verdicts are read: each a round trip, and older ones hardly count."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidacy:
    """The reinventor's newest candidate that did not become champion, and could be trained on."""

    topic: str
    task: str
    model: str
    settings: Mapping[str, Any]
    curve: tuple[Point, ...]
    """(core seconds of its own lineage, validation loss)."""
    cost: Inherited
    """What was spent on it in all."""
    validation: str
    """Digest of the split that the curve was measured on."""
    size_bytes: int = 0
    base: str = ""
    """Digest of the model that it adapts; '' for a whole model."""


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What is known when the lines of a topic are planned."""

    lessons: tuple[Lesson, ...] = ()
    withstood: int = 0
    """Newest verdicts in a row that left the champion where it was."""
    champion: Inherited = accounts.NOTHING
    """What the champion's model has cost; of a tree, the flat model in it."""
    base: Inherited = accounts.NOTHING
    """What the base model of a branch has cost: the flat model of its parent topic."""
    candidacy: Candidacy | None = None
    rival_loss: float = math.nan
    """The champion's validation loss."""
    rival_validation: str = ""
    """Digest of the split on which it was measured."""
    offered: frozenset[str] = frozenset()
    """Kinds that workers offer now."""
    shape: Shape | None = None
    """Of a branch, by how hard it is."""
    rounded: frozenset[tuple[str, str]] = frozenset()
    """Models whose rounded form was judged, and how that ended (planner/rounding.py)."""
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The gate's, as the newest verdict kept them."""


UNKNOWN = Past()


def past_of(
    verdicts: Sequence[Verdict],
    champions: Sequence[Champion],
    plans: Mapping[str, Planned],
    ended: Mapping[str, TaskEnded],
) -> Past:
    """From the records of one specialization: its verdicts, oldest first; its champions' records, oldest first; the
    plans with lines and the ended trainings of these topics, by topic and by task."""
    champion = champions[-1] if champions else None
    settings = {one.model: _settings(one) for one in champions}
    found = lessons.lessons_of(verdicts, settings)
    if champion is None:
        return Past(lessons=found)
    replaced = [one.accepted and one.choice is not Choice.KEEP for one in verdicts]
    plan = plans.get(champion.topic)
    return Past(
        lessons=found,
        withstood=accounts.withstood(replaced),
        champion=accounts.inherited_by(champions, champion.trainable),
        candidacy=_candidacy(verdicts, champions, plans, ended),
        rival_loss=champion.kpis.get("validation_loss", math.nan),
        rival_validation=_split(plan, "validation"),
        rounded=rounding.tried_of(verdicts),
        bounds=rounding.bounds_of(verdicts),
    )


def _settings(champion: Champion) -> Facts:
    """A champion's settings, and whether its weights are rounded."""
    return {**champion.settings, lessons.QUANTISATION: rounding.SCHEME} if champion.full else champion.settings


def offering(past: Past, offered: frozenset[str]) -> Past:
    """The same with the kinds that workers offer now."""
    return dataclasses.replace(past, offered=offered)


def topics_needed(champions: Sequence[Champion], verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Topics whose plans and results `past_of` looks at: the champion's, and that of the newest reinventor."""
    judged = _newest_reinventor(verdicts)
    return (*(one.topic for one in champions[-1:]), *((judged[0].topic,) if judged is not None else ()))


def with_parent(past: Past, base: Inherited, topic: Topic, branched: TaskEnded | None) -> Past:
    """The same for a branch: what its base model has cost, shared by all branches; and its shape among them.

    branched: the end of the parent topic's `branch` task."""
    losses = branch_losses(branched)
    base = accounts.from_parent(base, max(1, len(losses)))
    own = [index for index in range(len(losses)) if branches.child_id(topic.parent, index) == topic.id]
    if not own or all(loss is None for loss in losses):
        return dataclasses.replace(past, base=base)
    return dataclasses.replace(past, base=base, shape=sizes.shaped(losses, 1.0)[own[0]])


def branch_losses(branched: TaskEnded | None) -> tuple[float | None, ...]:
    """The flat model's loss on each branch, as the `branch` task tells (`losses`); None where it does not."""
    return tuple(one.loss for one in branches.found_by(branched).branches) if branched is not None else ()


def _candidacy(
    verdicts: Sequence[Verdict],
    champions: Sequence[Champion],
    plans: Mapping[str, Planned],
    ended: Mapping[str, TaskEnded],
) -> Candidacy | None:
    """The newest reinventor that was judged, unless it is a champion."""
    judged = _newest_reinventor(verdicts)
    if judged is None or judged[1].model in {one.model for one in champions}:
        return None
    newest, candidate = judged
    done = ended.get(candidate.task)
    if done is None or done.outcome is None or done.outcome.outputs.get("model") != candidate.model:
        return None
    plan = plans.get(newest.topic)
    before = _before(plan)
    own = candidate.kpis.get(accounts.KPI, done.outcome.kpis.get(accounts.KPI, 0.0))
    curve = _as_claimed(curve_of(done), candidate.kpis.get("validation_loss", math.nan))
    if not curve:
        return None
    return Candidacy(
        topic=newest.topic,
        task=candidate.task,
        model=candidate.model,
        settings=candidate.settings,
        curve=_continued_curve(plan, before) + tuple((before + t, loss) for t, loss in curve),
        cost=Inherited(core_s=before + own, steps=1),
        validation=_split(plan, "validation"),
        size_bytes=_size(candidate),
        base=candidate.base,
    )


def _newest_reinventor(verdicts: Sequence[Verdict]) -> tuple[Verdict, Candidate] | None:
    """The newest verdict in which a reinventor was judged, and that candidate."""
    for verdict in reversed(verdicts):
        for one in verdict.recommendation.candidates:
            if one.line is Line.REINVENTOR:
                return verdict, one
    return None


def curve_of(done: TaskEnded) -> tuple[Point, ...]:
    """(core seconds, validation loss) of a training, as its result tells; empty when it does not."""
    if done.outcome is None:
        return ()
    facts = done.outcome.facts
    rows, steps, spent = facts.get("history"), facts.get("steps"), done.outcome.kpis.get(accounts.KPI)
    if not isinstance(rows, list) or not isinstance(steps, int) or steps < 1 or spent is None:
        return ()
    found = []
    for row in rows:
        if isinstance(row, list | tuple) and len(row) >= 2 and all(_finite(value) for value in row[:2]) and row[0] > 0:
            found.append((spent * float(row[0]) / steps, float(row[1])))
    return tuple(found)


def _as_claimed(curve: tuple[Point, ...], claimed: float) -> tuple[Point, ...]:
    """A curve is the network's own; what is claimed (and compared) may be calibrated, or blended with a linear path:
    the curve is moved so that its best point is the claim."""
    if not curve or not math.isfinite(claimed):
        return curve
    moved = claimed - min(loss for _, loss in curve)
    return tuple((t, loss + moved) for t, loss in curve)


def _continued_curve(plan: Planned | None, before: float) -> tuple[Point, ...]:
    """The points of earlier trainings of the same network, as its plan carried them."""
    rows = _map(_facts(plan), "continued").get("curve")
    if not isinstance(rows, list):
        return ()
    return tuple(
        (float(row[0]), float(row[1]))
        for row in rows
        if isinstance(row, list | tuple) and len(row) == 2 and all(_finite(value) for value in row) and row[0] <= before
    )


def _before(plan: Planned | None) -> float:
    """Core seconds that were in the reinventor's network before this topic's training: 0 from zero."""
    value = _map(_map(_facts(plan), "account"), Line.REINVENTOR.value).get("inherited")
    return float(value) if _finite(value) else 0.0


def _facts(plan: Planned | None) -> Mapping[str, Any]:
    return plan.facts if plan is not None else {}


def _split(plan: Planned | None, name: str) -> str:
    return str(_map(_facts(plan), "splits").get(name) or "")


def _map(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(candidate: Candidate) -> int:
    return int(candidate.kpis.get("size_bytes", 0))
