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
from typing import Any

from mesh.messages.judgement import Candidate, Champion, Choice, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line
from planner import accounts, lessons, sizes
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


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What is known when the lines of a topic are planned."""

    lessons: tuple[Lesson, ...] = ()
    withstood: int = 0
    """Newest verdicts in a row that left the champion where it was."""
    champion: Inherited = accounts.NOTHING
    """What the champion's model has cost."""
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
    settings = {one.model: one.settings for one in champions}
    found = lessons.lessons_of(verdicts, settings)
    if champion is None:
        return Past(lessons=found)
    replaced = [one.accepted and one.choice is not Choice.KEEP for one in verdicts]
    plan = plans.get(champion.topic)
    return Past(
        lessons=found,
        withstood=accounts.withstood(replaced),
        champion=accounts.inherited_by(champions, champion.model),
        candidacy=_candidacy(verdicts, champions, plans, ended),
        rival_loss=champion.kpis.get("validation_loss", math.nan),
        rival_validation=_split(plan, "validation"),
    )


def with_parent(past: Past, base: Inherited, branch: int, losses: Sequence[float | None], total_s: float) -> Past:
    """The same for a branch: what its base model has cost, shared by all branches; and its shape among them."""
    shapes = sizes.shaped(losses, total_s)
    shape = shapes[branch] if 0 <= branch < len(shapes) else None
    return dataclasses.replace(past, base=accounts.from_parent(base, max(1, len(losses))), shape=shape)


def _candidacy(
    verdicts: Sequence[Verdict],
    champions: Sequence[Champion],
    plans: Mapping[str, Planned],
    ended: Mapping[str, TaskEnded],
) -> Candidacy | None:
    """The newest verdict's reinventor, unless it is a champion."""
    if not verdicts:
        return None
    newest = verdicts[-1]
    candidate = next((one for one in newest.recommendation.candidates if one.line is Line.REINVENTOR), None)
    if candidate is None or candidate.model in {one.model for one in champions}:
        return None
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
    )


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
    return float(value) if isinstance(value, int | float) and _finite(value) else 0.0


def _facts(plan: Planned | None) -> Mapping[str, Any]:
    return plan.facts if plan is not None else {}


def _split(plan: Planned | None, name: str) -> str:
    return str(_map(_facts(plan), "splits").get(name) or "")


def _map(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(candidate: Candidate) -> int:
    return int(candidate.kpis.get("size_bytes", 0))
