"""What a topic becomes: first a profile of its data, then two lines and a yardstick.

    topic ──> profile ──ended──> evolver     (from the champion, one or two dials turned; without one the defaults)
                                 reinventor  (from zero, settings drawn from the declared space)
                                 baseline    (a tuned linear model: measured beside them, never a candidate)

Every id is derived from the topic's id, so planning the same topic twice submits the same tasks. Training tasks receive
train and validation only; holdout and audit stand in the plan's facts, for consensus.

Not here: who runs a task and when (planner/scheduling.py), evaluation (consensus), branches and lines of descent.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from mesh import limits
from mesh.messages.base import Facts
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.tasks import Line, Needs, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner import graph, proposals
from planner.graph import Source

SALT = "ramify-1"
"""Fixed salt of the split: the same example falls into the same split in every topic. Part of the protocol."""

SPLITS = ("train", "validation", "holdout", "audit")

PROFILE_BUDGET_S = 600.0
"""A profile stops by itself long before; the kill comes with wall_s_max."""

BASELINE_BUDGET_S_MAX = 600.0
"""The yardstick is a linear model: more time makes it no better."""

MIB = 1024 * 1024

WALL_S_OVERHEAD = 600.0
"""Start, download, evaluation and upload beside the training budget, generously; beyond it the child is killed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The training tasks of a topic and what has to be written to the graph before they are submitted."""

    submit: Submit
    placement: graph.Placement


def derived_id(topic: str, purpose: str) -> str:
    """`<topic>-<purpose>`; a topic's id that leaves no room is cut and keeps eight hex digits of itself."""
    id_ = f"{topic}-{purpose}"
    if len(id_) <= limits.NAME_CHARS_MAX:
        return id_
    tail = hashlib.sha256(topic.encode()).hexdigest()[:8]
    return f"{topic[: limits.NAME_CHARS_MAX - len(purpose) - 10]}-{tail}-{purpose}"


# -- the profile ------------------------------------------------------------------------------------------------------


def source_of(topic: Topic, nodes: Mapping[str, Specialization]) -> Source | Refuse:
    """The topic's own data, or that of the node it names; a refusal in one sentence when there is none."""
    if topic.data is not None:
        return Source(topic.data, topic.text_column, topic.label_column)
    node = graph.data_for(nodes, topic)
    if node is None:
        return Refuse(topic=topic.id, reason=_no_data(topic, nodes))
    return Source(
        DataRef(source=node.data, name=node.data_name),
        topic.text_column if topic.text_column is not None else node.text_column,
        topic.label_column if topic.label_column is not None else node.label_column,
    )


def profiled_source(topic: Topic, task: TaskSpec) -> Source:
    """What the profile task was given: the data that the topic names may stand in a node that has changed since."""
    data = DataRef(
        source=task.inputs.get("data", ""),
        name=str(task.settings.get("name", "")),
        size_bytes=topic.data.size_bytes if topic.data is not None else 0,
    )
    return Source(data, task.settings.get("text_column"), task.settings.get("label_column"))


def _no_data(topic: Topic, nodes: Mapping[str, Specialization]) -> str:
    have = graph.with_data(nodes.values())
    known = f" (these have: {', '.join(have[:5])}{' …' if len(have) > 5 else ''})" if have else ""
    where = f"the node {topic.node!r} has none" if topic.node else "no node of the same text has some"
    return (
        f"The topic {topic.id} was published without data, and {where}: publish it with --data FILE, "
        f"or under a node that has data with --specialization NODE{known}."
    )


def profile_submit(topic: Topic, source: Source) -> Submit | Refuse:
    """The first task of a topic: look at the data and split it."""
    if topic.task is not None and topic.task not in proposals.SPACES:
        kinds = ", ".join(sorted(proposals.SPACES))
        reason = f"The topic {topic.id} asks for the task kind {topic.task!r}; the lines can train: {kinds}."
        return Refuse(topic=topic.id, reason=reason)
    id_ = derived_id(topic.id, "profile")
    settings: Facts = {"name": source.data.name or source.data.source, "salt": SALT}
    chosen = {"text_column": source.text_column, "label_column": source.label_column, "task": topic.task}
    settings.update({name: value for name, value in chosen.items() if value is not None})
    task = TaskSpec(
        id=id_,
        topic=topic.id,
        executor="profile",
        purpose="profile",
        settings=settings,
        inputs={"data": source.data.source},
        needs=_profile_needs(source.data.size_bytes),
        priority=topic.priority,
        budget_s=PROFILE_BUDGET_S,
        on_disconnect=topic.on_disconnect,
    )
    return Submit(id=id_, topic=topic.id, tasks=(task,), facts={"stage": "profile"})


def _profile_needs(size_bytes: int) -> Needs:
    """Tables grow about sixfold when they are read; the splits are about as large as the data, twice for safety."""
    return Needs(cores=1.0, memory_bytes=512 * MIB + 6 * size_bytes, disk_bytes=256 * MIB + 3 * size_bytes)


# -- the lines --------------------------------------------------------------------------------------------------------


def refusal_of(topic: str, reason: str) -> Refuse:
    """A profile was set aside: the topic ends with the same sentence."""
    sentence = reason.strip() or "The profile of the data was set aside without a reason."
    return Refuse(topic=topic, reason=sentence[: limits.TEXT_CHARS_MAX])


def plan(
    topic: Topic,
    source: Source,
    profile: Outcome,
    nodes: Mapping[str, Specialization],
    champion: Champion | None,
    champion_revision: int,
) -> Plan | Refuse:
    """The training plan of a profiled topic.

    profile: the outcome of its profile task; champion: the record of the topic's specialization as read, with its
    revision (0: none). See `specialization_id` for what to read.
    """
    missing = [name for name in SPLITS if not profile.outputs.get(name)]
    profiled = profiled_of(profile.facts)
    if missing or profiled is None:
        what = f"without the split {missing[0]!r}" if missing else "without task, labels or examples"
        return refusal_of(topic.id, f"The profile of {topic.id} ended {what}: update the worker, publish again.")
    if profiled.task not in proposals.SPACES:
        return refusal_of(topic.id, f"The data of {topic.id} asks for {profiled.task!r}, which no line can train.")
    placement = graph.place(nodes, topic, source, profiled)
    shaped = _Shaped(topic, placement.node, profile, profiled, champion)
    tasks = (shaped.evolver(), shaped.reinventor(), shaped.baseline())
    submit = Submit(
        id=derived_id(topic.id, "plan"),
        topic=topic.id,
        specialization=placement.node.id,
        tasks=tasks,
        facts=shaped.facts(placement, champion_revision if champion is not None else 0),
    )
    return Plan(submit, placement)


def specialization_id(topic: Topic, profile: Outcome) -> str:
    """Id of the specialization that a profiled topic belongs to; '' when the profile does not say enough."""
    profiled = profiled_of(profile.facts)
    return graph.node_id(topic.text, profiled.task, profiled.label_digest) if profiled is not None else ""


def profiled_of(facts: Facts) -> graph.Profiled | None:
    """What placing needs from a profile's facts; None when the necessary ones are missing or of another type."""
    task, digest, labels = facts.get("task"), facts.get("label_digest"), facts.get("labels")
    examples = facts.get("examples", facts.get("rows"))
    if not (isinstance(task, str) and isinstance(digest, str)):
        return None
    if not (isinstance(labels, int) and isinstance(examples, int)):
        return None
    keywords = facts.get("keywords") or ()
    return graph.Profiled(task, digest, labels, examples, tuple(str(word) for word in keywords))


@dataclasses.dataclass(frozen=True, slots=True)
class _Shaped:
    """The three tasks of one topic, built from the same few things."""

    topic: Topic
    node: Specialization
    profile: Outcome
    profiled: graph.Profiled
    champion: Champion | None

    def evolver(self) -> TaskSpec:
        """Continues the champion; lays the first one with the kind's defaults when there is none."""
        inputs = self._inputs()
        if self.champion is not None:
            inputs["champion"] = self.champion.model
        return self._task(Line.EVOLVER, self.profiled.task, self._evolved().settings, inputs, self.topic.budget_s)

    def reinventor(self) -> TaskSpec:
        """Starts from zero with drawn settings."""
        return self._task(
            Line.REINVENTOR, self.profiled.task, self._reinvented().settings, self._inputs(), self.topic.budget_s
        )

    def baseline(self) -> TaskSpec:
        """The yardstick."""
        budget_s = min(self.topic.budget_s, BASELINE_BUDGET_S_MAX)
        return self._task(Line.BASELINE, "baseline", {}, self._inputs(), budget_s)

    def facts(self, placement: graph.Placement, champion_revision: int) -> Facts:
        """What consensus, gate and subscribers should know about the plan (docs/protocol.md)."""
        topic, splits = self.topic, self.profile.outputs
        return {
            "stage": "lines",
            "parent": self.node.parent,
            "name": self.node.name,
            "why": placement.why,
            "examples": self.profiled.examples,
            "lines": {line.value: self._id(line) for line in (Line.EVOLVER, Line.REINVENTOR)},
            "baseline": self._id(Line.BASELINE),
            "splits": {name: splits[name] for name in SPLITS},
            "kpis": [[kpi.metric, kpi.minimum, kpi.maximum] for kpi in topic.kpis],
            "champion": self.champion.model if self.champion is not None else "",
            "champion_revision": champion_revision,
            "independent": topic.independent.value,
            "needs": self.profile.facts.get("needs", {}),
            "budget_s": topic.budget_s,
            "changed": {
                Line.EVOLVER.value: self._evolved().changed,
                Line.REINVENTOR.value: self._reinvented().changed,
            },
            "profile": short_profile(self.profile.facts),
        }

    def _evolved(self) -> proposals.Proposal:
        champion_settings = self.champion.settings if self.champion is not None else None
        return proposals.evolver(self.topic.id, self.profiled.task, self._modality(), champion_settings)

    def _reinvented(self) -> proposals.Proposal:
        return proposals.reinventor(self.topic.id, self.profiled.task, self._modality())

    def _modality(self) -> str:
        return str(self.profile.facts.get("modality", ""))

    def _id(self, line: Line) -> str:
        return derived_id(self.topic.id, line.value)

    def _inputs(self) -> dict[str, str]:
        return {name: self.profile.outputs[name] for name in ("train", "validation")}

    def _task(self, line: Line, executor: str, settings: Facts, inputs: dict[str, str], budget_s: float) -> TaskSpec:
        return TaskSpec(
            id=self._id(line),
            topic=self.topic.id,
            specialization=self.node.id,
            executor=executor,
            line=line,
            purpose="baseline" if line is Line.BASELINE else "train",
            settings=settings,
            inputs=inputs,
            needs=needs_of(self.profile.facts, executor),
            priority=self.topic.priority,
            budget_s=budget_s,
            wall_s_max=max(3_600.0, 2.0 * self.topic.budget_s + WALL_S_OVERHEAD),
            on_disconnect=self.topic.on_disconnect,
        )


def needs_of(facts: Facts, executor: str) -> Needs:
    """What the profile says that a kind takes on this data; the defaults where it says nothing usable."""
    stated: Any = facts.get("needs")
    stated = stated.get(executor) if isinstance(stated, dict) else None
    if not isinstance(stated, dict):
        return Needs()
    default = Needs()
    return Needs(
        cores=_positive(stated.get("cores"), default.cores),
        memory_bytes=int(_positive(stated.get("memory_bytes"), default.memory_bytes)),
        disk_bytes=int(_positive(stated.get("disk_bytes"), default.disk_bytes)),
    )


def _positive(value: object, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else default


SHORT_PROFILE = (
    "task", "modality", "rows", "examples", "labels", "features", "splits", "duplicates", "dropped", "imbalance",
    "text_columns", "label_column", "warnings", "bytes",
)  # fmt: skip
"""Facts of a profile that subscribers see in the plan; label names stay in the splits."""

WARNINGS_MAX = 20


def short_profile(facts: Facts) -> Facts:
    """The part of a profile's facts that every subscriber gets, bounded."""
    short = {name: facts[name] for name in SHORT_PROFILE if name in facts}
    if isinstance(short.get("warnings"), list | tuple):
        short["warnings"] = [str(warning)[:300] for warning in short["warnings"][:WARNINGS_MAX]]
    return short
