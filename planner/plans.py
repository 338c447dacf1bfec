"""What a topic becomes: first a profile of its data, then two lines and a yardstick.

    topic ──> profile ──ended──> evolver     (from the topic's base model, else from the champion, one or two dials
                                              turned; without either the defaults)
                                 reinventor  (from zero, its settings found by a short study or drawn; planner/lines.py)
                                 baseline    (a tuned linear model: measured beside them, never a candidate; plain text
                                              has none)

A topic that asks for an adapter (`lora`) names the model that it is put on: every line and every evaluation gets it
beside what else it reads, the evolver goes on from the champion's adapter where that is put on the same model, and
where the data has no labels the model itself, without any adapter, is the yardstick.

With a sentence encoder one task stands between (planner/encoders.py).

Every id is derived from the topic's id, so planning the same topic twice submits the same tasks. Training tasks receive
train and validation only; holdout and audit stand in the plan's facts, for consensus.

A topic that is a branch of another one belongs to the node that it names. Where the champion is a tree, the evolver
goes on from the flat model in it.

Not here: who runs a task and when (planner/scheduling.py), evaluation (consensus), branches (planner/trees.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mesh import limits
from mesh.errors import Malformed
from mesh.messages.base import Facts, derived_id
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel
from mesh.messages.tasks import Line, Needs, Outcome, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner import bases, decomposing, encoders, graph, past, proposals, rounding, studies
from planner.decomposing import Decomposed
from planner.graph import Source
from planner.lines import Lines, Wanted, lines_of
from planner.past import Past
from planner.profile import CORPUS, SPLITS, Profile
from planner.rounding import Rounding

SALT = "ramify"
"""Fixed salt of the split: the same example falls into the same split in every topic. Part of the protocol."""

PROFILE_BUDGET_S = 600.0
"""A profile stops by itself long before; the kill comes with wall_s_max."""

BASELINE_BUDGET_S_MAX = 600.0
"""The yardstick is a linear model: more time makes it no better."""

MIB = 1024 * 1024

Estimate = Callable[[str, Facts, Mapping[str, Any]], Needs | None]
"""What a task of this executor kind takes with these settings on data of which a profile said these facts. None when
the kind is not known here, or would refuse the settings."""


class NeedsWith(Protocol):
    """What a task of a kind takes with these settings on a topic's data; input_bytes: sizes of more of its inputs."""

    def __call__(self, executor: str, settings: Facts, input_bytes: Mapping[str, int] | None = None) -> Needs:
        """The estimate."""


WALL_S_OVERHEAD = 600.0
"""Start, download, evaluation and upload beside the training budget, generously; beyond it the child is killed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The training tasks of a topic and what has to be written to the graph before they are submitted."""

    submit: Submit
    placement: graph.Placement


# -- the profile ------------------------------------------------------------------------------------------------------


def source_of(topic: Topic, nodes: Mapping[str, Specialization]) -> Source | Refuse:
    """The topic's own data, or that of the node it names; a refusal in one sentence when there is none."""
    if topic.data is not None:
        return Source(topic.data, topic.text_column, topic.label_column)
    return source_from(topic, nodes, decomposing.decompose(nodes, topic))


def source_from(topic: Topic, nodes: Mapping[str, Specialization], found: Decomposed) -> Source | Refuse:
    """The data that a topic without its own uses, as the graph says; a refusal that names what is near."""
    node = found.uses
    if node is None:
        reason = decomposing.refusal(topic, found, graph.with_data(nodes.values()))
        return Refuse(topic=topic.id, reason=reason[: limits.TEXT_CHARS_MAX])
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


def profile_submit(topic: Topic, source: Source) -> Submit | Refuse:
    """The first task of a topic: look at the data and split it."""
    if topic.task is not None and topic.task not in proposals.SPACES:
        kinds = ", ".join(sorted(proposals.SPACES))
        reason = f"The topic {topic.id} asks for the task kind {topic.task!r}; the lines can train: {kinds}."
        return Refuse(topic=topic.id, reason=reason)
    if why := bases.missing(topic):
        return Refuse(topic=topic.id, reason=f"The topic {topic.id} can not be planned: {why}")
    if topic.base is not None and (why := bases.why_never(topic.base, topic.task)):
        return Refuse(
            topic=topic.id, reason=f"The topic {topic.id} can not start from {bases.words(topic.base)}: {why}"
        )
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
        wait_s=topic.wait_s,
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
    outcome: Outcome,
    nodes: Mapping[str, Specialization],
    champion: Champion | None,
    champion_revision: int,
    estimate: Estimate,
    vectors: Mapping[str, str] | None = None,
    known: Past = past.UNKNOWN,
) -> Plan | Refuse:
    """The training plan of a profiled topic.

    outcome: that of its profile task; champion: the record of the topic's specialization as read, with its revision
    (0: none). See `specialization_id` for what to read. estimate: asked for each line with the settings that it gets;
    where it does not know, the profile's own estimate, made for a kind's defaults, stands. vectors: what a topic's
    encoder made of the splits (planner/encoders.py). known: of the specialization's past (planner/past.py).
    """
    missing = [name for name in SPLITS if not outcome.outputs.get(name)]
    if missing:
        return refusal_of(topic.id, f"The profile of {topic.id} made no split {missing[0]!r}: publish the topic again.")
    try:
        profile = Profile.of(outcome.facts)
    except Malformed as error:
        return refusal_of(topic.id, f"The profile of {topic.id} can not be used ({error}): publish the topic again.")
    if profile.task not in proposals.SPACES:
        return refusal_of(topic.id, f"The data of {topic.id} asks for {profile.task!r}, which no line can train.")
    if topic.base is not None and (why := bases.why_not(topic.base, profile)):
        return refusal_of(topic.id, f"The topic {topic.id} can not start from {bases.words(topic.base)}: {why}")
    if topic.encoder is not None and (why := encoders.why_not(profile)):
        return encoders.refused(topic, why)
    placement = graph.place(nodes, topic, source, profile)
    needs = _needs_with(estimate, _with_sizes(outcome.facts, topic), profile)
    shaped = _Shaped(topic, placement.node, outcome.outputs, profile, champion, needs, vectors or {}, known)
    tasks = (shaped.evolver(), *shaped.trials(), shaped.reinventor(), *shaped.baseline())
    submit = Submit(
        id=derived_id(topic.id, "plan"),
        topic=topic.id,
        specialization=placement.node.id,
        tasks=tasks,
        facts=shaped.facts(placement, champion_revision if champion is not None else 0),
    )
    return Plan(submit, placement)


def _with_sizes(facts: Facts, topic: Topic) -> Facts:
    """A profile's facts for an estimate, with the sizes of the models that the lines read."""
    base = bases.adapted(topic)
    found = encoders.with_encoder(facts, topic.encoder)
    return {**found, "input_bytes": {"base": base.size_bytes}} if base is not None and base.size_bytes else found


def _needs_with(estimate: Estimate, facts: Mapping[str, Any], profile: Profile) -> NeedsWith:
    """Executor kind, settings and sizes of inputs to what such a task takes on the profiled data."""

    def needs(executor: str, settings: Facts, input_bytes: Mapping[str, int] | None = None) -> Needs:
        sized = {**facts, "input_bytes": {**(facts.get("input_bytes") or {}), **input_bytes}} if input_bytes else facts
        usual = profile.needs_of(profile.task if executor == studies.KIND else executor)
        return estimate(executor, settings, sized) or usual

    return needs


def specialization_id(topic: Topic, outcome: Outcome) -> str:
    """Id of the specialization that a profiled topic belongs to; '' when its profile can not be used."""
    profile = profile_of(outcome)
    return graph.identity(topic, profile) if profile is not None else ""


def profile_of(outcome: Outcome) -> Profile | None:
    """What a profile task found; None when it can not be used."""
    if any(not outcome.outputs.get(name) for name in SPLITS):
        return None
    try:
        return Profile.of(outcome.facts)
    except Malformed:
        return None


@dataclasses.dataclass(frozen=True)
class _Shaped:
    """The tasks of one topic, built from the same few things."""

    topic: Topic
    node: Specialization
    splits: Mapping[str, str]
    profile: Profile
    champion: Champion | None
    needs_with: NeedsWith
    vectors: Mapping[str, str]
    past: Past

    @functools.cached_property
    def lines(self) -> Lines:
        """What the two lines try, with how much, and why."""
        return lines_of(self.wanted(), self.past)

    @property
    def base(self) -> BaseModel | None:
        """The base model to go on from, unless it is the champion itself: then this is a topic like any other."""
        base = self.topic.base
        if base is None or self.adapted is not None:
            return None
        return None if self.champion is not None and self.champion.model == base.model else base

    @property
    def adapted(self) -> BaseModel | None:
        """The model that every line puts its adapter on."""
        return bases.adapted(self.topic)

    @property
    def continued(self) -> Champion | None:
        """The champion, if there is one that reads data of this form, and of adapters one that is put on the same
        model."""
        if self.champion is None or self.champion.fits not in ("", self.profile.fits):
            return None
        if self.adapted is not None and self.champion.base != self.adapted.model:
            return None
        return self.champion

    def evolver(self) -> TaskSpec:
        """Goes on from the base model or the champion; starts from zero with the kind's defaults when there is neither,
        or the champion does not fit the data."""
        inputs = self._seen()
        if self.base is not None:
            inputs["base"] = self.base.model
        elif self.continued is not None:
            inputs["champion"] = self.continued.trainable
        budget_s = self.lines.budget_s(Line.EVOLVER)
        task = self._task(Line.EVOLVER, self.profile.task, self._evolved().settings, inputs, budget_s)
        if self.adapted is not None:
            return task
        if self.base is None and self.topic.encoder is None:
            return task.evolve(needs=encoders.going_on(task.needs, self.continued))
        return task.evolve(needs=bases.needs(self.base, task.needs, "train"))

    def trials(self) -> tuple[TaskSpec, ...]:
        """What the reinventor searches with, where it does."""
        study = self.lines.study
        if study is None:
            return ()
        inputs = self._from_zero()
        one = self._task(Line.REINVENTOR, studies.KIND, study.trial, inputs, study.trial_s)
        return tuple(one.evolve(id=id_, line=None, purpose="trial") for id_ in study.trials)

    def reinventor(self) -> TaskSpec:
        """Starts from zero with the settings that its trials found, or with drawn ones; or goes on with its own last
        candidate, where that may still win."""
        inputs, lines = self._seen(), self.lines
        executor, settings, budget_s = self.profile.task, lines.reinventor.settings, lines.budget_s(Line.REINVENTOR)
        if lines.last is not None:
            inputs["champion"] = lines.last.model
            task = self._task(Line.REINVENTOR, executor, settings, inputs, budget_s)
            return task.evolve(needs=encoders.going_on_from(task.needs, lines.last.size_bytes))
        inputs = self._from_zero()
        if lines.study is None:
            return self._task(Line.REINVENTOR, executor, settings, inputs, budget_s)
        task = self._task(Line.REINVENTOR, studies.KIND, lines.study.last(settings), inputs, budget_s)
        return task.evolve(after=lines.study.trials, regardless=True)

    def baseline(self) -> tuple[TaskSpec, ...]:
        """The yardstick; a corpus has no labels that a linear model could name (of an adapter the yardstick is then the
        model that it is put on)."""
        if self.profile.modality == CORPUS:
            return ()
        budget_s = min(self.topic.budget_s, BASELINE_BUDGET_S_MAX)
        return (self._task(Line.BASELINE, "baseline", {}, self._inputs(), budget_s),)

    def facts(self, placement: graph.Placement, champion_revision: int) -> Facts:
        """What consensus, gate and subscribers should know about the plan (docs/protocol.md)."""
        topic = self.topic
        return {
            "stage": "lines",
            "parent": self.node.parent,
            "name": self.node.name,
            "why": placement.why,
            "placed": [[id_, score] for id_, score in placement.placed],
            "examples": self.profile.examples,
            "lines": {line.value: self._id(line) for line in (Line.EVOLVER, Line.REINVENTOR)},
            "baseline": self._id(Line.BASELINE) if self.profile.modality != CORPUS else "",
            "yardstick": self.adapted.model if self.adapted is not None and self.profile.modality == CORPUS else "",
            "splits": {name: self.splits[name] for name in SPLITS},
            "kpis": [[kpi.metric, kpi.minimum, kpi.maximum] for kpi in topic.kpis],
            "champion": self.champion.model if self.champion is not None else "",
            "base": self.topic.base.model if self.topic.base is not None else "",
            "encoder": self.topic.encoder.source if self.topic.encoder is not None else "",
            "fits": self.profile.fits,
            "champion_revision": champion_revision,
            "independent": topic.independent.value,
            "needs": {kind: plain_needs(self._needs(kind)) for kind in self.profile.needs} | self._rounding_needs(),
            "budget_s": topic.budget_s,
            "changed": {
                Line.EVOLVER.value: self._evolved().changed,
                Line.REINVENTOR.value: self.lines.reinventor.changed,
                **({rounding.NAME: rounding.changed(self.rounding)} if self.rounding is not None else {}),
            },
            **({rounding.FACT: self.rounding.facts} if self.rounding is not None else {}),
            "profile": short_profile(self.profile),
            **self.lines.facts,
        }

    @functools.cached_property
    def rounding(self) -> Rounding | None:
        """What consensus has rounded to few bits, where that may be worth a challenge."""
        if self.topic.encoder is not None:
            return None  # the encoder in its models stays as it is, and is nearly all of them
        past = self.past
        return rounding.rounding_of(
            self.profile.task, self.topic.kpis, self.champion, past.rounded, past.bounds, past.offered
        )[0]  # fmt: skip

    def _rounding_needs(self) -> Facts:
        if self.rounding is None:
            return {}
        size = int(self.champion.kpis.get("size_bytes", 0)) if self.champion is not None else 0
        settings: Facts = {"scheme": rounding.SCHEME}
        return {rounding.KIND: plain_needs(self.needs_with(rounding.KIND, settings, {"model": size} if size else {}))}

    def wanted(self) -> Wanted:
        """What the lines are planned for."""
        topic, before = self.topic, self.base.settings if self.base is not None else None
        if self.base is None and self.continued is not None:
            before = self.continued.settings
        return Wanted(
            topic=topic.id,
            node=self.node.id,
            executor=self.profile.task,
            modality="encoder" if topic.encoder is not None else self.profile.modality,
            budget_s=topic.budget_s,
            at_ms=topic.published_at_ms,
            before=before,
            from_base=self.base is not None,
            validation=self.splits.get("validation", ""),
            adapted=self.adapted.model if self.adapted is not None else "",
            fixed=bases.fixed(self.profile.task, self.profile.modality),
        )

    def _evolved(self) -> proposals.Proposal:
        proposal = self.lines.evolver
        if self.base is not None:
            return dataclasses.replace(proposal, changed=f"starts from {bases.words(self.base)}; {proposal.changed}")
        if self.adapted is not None:
            return dataclasses.replace(proposal, changed=f"{self._adapts(self.adapted)}; {proposal.changed}")
        if self.champion is None or self.continued is not None:
            return proposal
        changed = (
            f"starts from zero with the kind's defaults: the champion reads other data ({self.champion.fits}) "
            f"than this topic's ({self.profile.fits})"
        )
        return dataclasses.replace(proposal, changed=changed)

    def _adapts(self, base: BaseModel) -> str:
        """What the evolver's adapter is put on, and why it does not go on from the champion where it does not."""
        on = f"an adapter to {bases.words(base)}"
        if self.champion is None or self.continued is not None:
            return on
        if self.champion.fits not in ("", self.profile.fits):
            return f"{on}, from zero: the champion reads other data ({self.champion.fits})"
        return f"{on}, from zero: the champion is an adapter to another one ({self.champion.base[:12]})"

    def _id(self, line: Line) -> str:
        return derived_id(self.topic.id, line.value)

    def _needs(self, kind: str) -> Needs:
        """What a task of this kind takes after the lines have ended."""
        needs = self.profile.needs_of(kind)
        if kind == "evaluate" and self.adapted is not None:
            return bases.needs(self.adapted, encoders.going_on_from(needs, encoders.ENCODER_LEAST), "evaluate")
        if kind == "evaluate":
            needs = encoders.evaluating(needs, self.topic.encoder, self.continued)
        return bases.needs(self.base, needs, kind) if kind in bases.PER_BYTE else needs

    def _from_zero(self) -> dict[str, str]:
        """What a line reads that goes on from nothing. A language model cuts texts as those before it do: models with
        one tokenizer can answer together."""
        inputs = self._seen()
        if self.adapted is not None:
            return inputs
        before = self.base.model if self.base is not None else ""
        if not before and self.continued is not None:
            before = self.continued.trainable
        return inputs | {"tokenizer": before} if before and self.profile.modality == CORPUS else inputs

    def _seen(self) -> dict[str, str]:
        """What every line reads: two splits, and what an encoder made of them; of adapters the model below."""
        below = {"base": self.adapted.model} if self.adapted is not None else {}
        return self._inputs() | below | encoders.inputs(self.topic.encoder, self.vectors)

    def _inputs(self) -> dict[str, str]:
        return {name: self.splits[name] for name in ("train", "validation")}

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
            needs=self.needs_with(executor, settings),
            priority=self.topic.priority,
            budget_s=budget_s,
            wall_s_max=max(3_600.0, 2.0 * self.topic.budget_s + WALL_S_OVERHEAD),
            on_disconnect=self.topic.on_disconnect,
            wait_s=self.topic.wait_s,
        )


def plain_needs(needs: Needs) -> Facts:
    """Needs as the facts of a plan say them."""
    return {"cores": needs.cores, "memory_bytes": needs.memory_bytes, "disk_bytes": needs.disk_bytes}


SHORT_PROFILE = (
    "task", "modality", "rows", "examples", "labels", "features", "splits", "duplicates", "conflicting", "dropped",
    "imbalance", "text_columns", "label_column", "bytes",
)  # fmt: skip
"""Facts of a profile that subscribers see in the plan; label names stay in the splits."""

WARNINGS_MAX, WARNING_CHARS_MAX = 20, 300
"""Most warnings in a plan's facts, and their length."""


def short_profile(profile: Profile) -> Facts:
    """The part of a profile that every subscriber gets, bounded."""
    warnings = [warning[:WARNING_CHARS_MAX] for warning in profile.warnings[:WARNINGS_MAX]]
    return {**{name: getattr(profile, name) for name in SHORT_PROFILE}, "warnings": warnings}
