"""Both lines' proposals for a topic, before it is published or after it was planned: the answer to `think`.

    a topic's id, planned      ──> what its plan says
    a topic's id, not planned  ──> what would be planned now, with this id's draws
    a node's id                ──> the same for its next topic
    a text                     ──> its node by name; else the node that it is nearest to, and a new one there

An answer is made of the very lines of which plans are made (planner/lines.py). Pure: records in, one record out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mesh.errors import NotFound
from mesh.messages.base import Facts
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.results import Planned
from mesh.messages.services import Proposed, Standing, Think, Thought
from mesh.messages.tasks import Line, TaskSpec
from mesh.messages.topics import Topic
from planner import bases, graph, placing, proposals, studies
from planner.lines import Lines, Wanted, lines_of
from planner.past import Past

BRANCHES_MAX = 64
LINES = (Line.EVOLVER, Line.REINVENTOR)
TOLD = ("account", "shares", "study", "continued", "extrapolated", "size", "lineage")
"""Facts of a plan that an answer repeats."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What a question is about."""

    node: Specialization | None
    """None: a specialization that is not there yet."""
    parent: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """All that an answer rests on."""

    nodes: Mapping[str, Specialization]
    topic: Topic | None
    plan: Planned | None
    """Of this topic."""
    last_plan: Planned | None
    """The newest of the node: it tells kind and form of its data."""
    champion: Champion | None
    champions: Mapping[str, Champion]
    """Of the nodes right below."""
    past: Past


def subject_of(question: Think, nodes: Mapping[str, Specialization], topic: Topic | None, node: str) -> Subject:
    """The node that is meant. topic: the one of that id; node: where its plan put it. NotFound for an id of nothing."""
    if node in nodes:
        return Subject(nodes[node], nodes[node].parent, f"the topic {question.about} was placed there")
    if topic is None and question.about in nodes:
        found = nodes[question.about]
        return Subject(found, found.parent, "the node of that id")
    text = topic.text if topic is not None else question.about
    named = [one for one in nodes.values() if one.task and not one.is_over and _called(one, text)]
    if named:
        newest = max(named, key=lambda one: (one.changed_at_ms, one.id))
        return Subject(newest, newest.parent, f"the specialization {newest.id} has this text")
    near = placing.Places([one for one in nodes.values() if not one.is_over], nodes).nearest(text)
    found_near = placing.place(near, lambda one: bool(nodes[one].task))
    if found_near is None:
        return Subject(None, graph.ROOT, "it would be a new specialization under the root: nothing is near")
    holder = nodes[found_near.id]
    parent = holder.id if not holder.task else holder.parent or graph.ROOT
    return Subject(None, parent, f"it would be a new specialization under {parent}: {holder.id} is nearest")


def _called(node: Specialization, text: str) -> bool:
    return graph.normalised(text) in {graph.normalised(name) for name in (node.name, *node.names.values())}


def answer(question: Think, subject: Subject, known: Known) -> Thought:
    """Both proposals, and why."""
    node, topic = subject.node, known.topic
    said = Thought(
        about=question.about,
        topic=topic.id if topic is not None else "",
        specialization=node.id if node is not None else "",
        name=node.name if node is not None else question.about,
        parent=subject.parent,
        why=subject.why,
        champion=known.champion.model if known.champion is not None else "",
        branches=_standing(node, known),
    )
    if known.plan is not None:
        return _planned(said, known.plan)
    return _proposed(question, said, subject, known)


def _standing(node: Specialization | None, known: Known) -> tuple[Standing, ...]:
    below = [one for one in known.nodes.values() if node is not None and one.parent == node.id and not one.is_over]
    return tuple(
        Standing(
            id=one.id,
            name=one.name,
            state=one.state.value,
            examples=one.examples,
            champion=known.champions[one.id].model if one.id in known.champions else "",
            why=one.reason or one.why,
        )
        for one in sorted(below, key=lambda one: one.id)[:BRANCHES_MAX]
    )


# -- what was planned -------------------------------------------------------------------------------------------------


def _planned(said: Thought, plan: Planned) -> Thought:
    """What the plan says."""
    facts, profile = plan.facts, _map(plan.facts, "profile")
    tasks = {task.line: task for task in plan.tasks if task.line in LINES}
    trials = sum(task.budget_s for task in plan.tasks if task.purpose == "trial")
    return said.evolve(
        planned=True,
        task=str(profile.get("task") or ""),
        modality=str(profile.get("modality") or ""),
        champion=str(facts.get("champion") or ""),
        proposals=tuple(_of_task(line, tasks[line], facts, trials) for line in LINES if line in tasks),
        facts={name: facts[name] for name in TOLD if name in facts},
    )


def _of_task(line: Line, task: TaskSpec, facts: Facts, trials_s: float) -> Proposed:
    searches = task.executor == studies.KIND
    return Proposed(
        line=line,
        executor=task.executor,
        settings=dict(_map(task.settings, "otherwise")) if searches else task.settings,
        base=task.inputs.get("champion") or task.inputs.get("base") or "",
        budget_s=task.budget_s + (trials_s if searches else 0.0),
        charged=dict(_map(_map(facts, "account"), line.value)),
        why=str(_map(facts, "changed").get(line.value) or ""),
    )


# -- what would be planned --------------------------------------------------------------------------------------------


def _proposed(question: Think, said: Thought, subject: Subject, known: Known) -> Thought:
    """What the lines would try now."""
    topic, champion, node = known.topic, known.champion, subject.node
    task, modality, assumed = _kind_of(question, node, known)
    if task not in proposals.SPACES:
        raise NotFound(f"nothing is known of lines of the kind {task!r}: they train {', '.join(proposals.SPACES)}.")
    adapted = bases.adapted(topic) if topic is not None else None
    base = topic.base if topic is not None and adapted is None else None
    before = base.settings if base is not None else champion.settings if champion is not None else None
    wanted = Wanted(
        topic=topic.id if topic is not None else graph.node_id(question.about, task, ""),
        node=node.id if node is not None else graph.node_id(question.about, task, ""),
        executor=task,
        modality=modality,
        budget_s=topic.budget_s if topic is not None else question.budget_s,
        at_ms=topic.published_at_ms if topic is not None else 0,
        before=before,
        from_base=base is not None,
        adapted=adapted.model if adapted is not None else champion.base if champion is not None else "",
        fixed=bases.fixed(task, modality),
    )
    lines = lines_of(wanted, known.past)
    from_model = base.model if base is not None else champion.trainable if champion is not None else ""
    return said.evolve(
        task=task,
        modality=modality,
        why=f"{said.why}{assumed}",
        proposals=(_evolver(lines, task, from_model), _reinventor(lines, task)),
        facts=lines.facts,
    )


def _evolver(lines: Lines, task: str, from_model: str) -> Proposed:
    return Proposed(
        line=Line.EVOLVER,
        executor=task,
        settings=lines.evolver.settings,
        base=from_model,
        budget_s=lines.shares.budget_s(Line.EVOLVER),
        charged=lines.account.evolver.facts(lines.account.rule),
        why=lines.evolver.changed,
    )


def _reinventor(lines: Lines, task: str) -> Proposed:
    return Proposed(
        line=Line.REINVENTOR,
        executor=studies.KIND if lines.study is not None else task,
        settings=lines.reinventor.settings,
        base=lines.last.model if lines.last is not None else "",
        budget_s=lines.shares.budget_s(Line.REINVENTOR),
        charged=lines.account.reinventor.facts(lines.account.rule),
        why=lines.reinventor.changed,
    )


def _kind_of(question: Think, node: Specialization | None, known: Known) -> tuple[str, str, str]:
    """(kind, modality, what had to be assumed)."""
    profile = _map(known.last_plan.facts, "profile") if known.last_plan is not None else {}
    fits = known.champion.fits.partition(",")[0] if known.champion is not None else ""
    task = question.task or str(profile.get("task") or "") or (node.task if node is not None else "")
    if known.topic is not None and known.topic.task:
        task = known.topic.task
    modality = question.modality or str(profile.get("modality") or "") or fits
    if known.topic is not None and known.topic.encoder is not None:
        modality = "encoder"
    assumed = ""
    if not task:
        task = "language-model" if modality == "corpus" else next(iter(proposals.SPACES))
        assumed = f"; nothing is known of its data: taken for {task}"
    if not modality:
        modality = "corpus" if task == "language-model" else "text"
        assumed = assumed or "; nothing is known of its data"
        assumed += f", {modality}"
    return task, modality, assumed


def _map(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}
