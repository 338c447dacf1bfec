"""Checks: the tasks that hold a candidate against what its worker says of it, and what ended ones say.

    check    the claims, answered again elsewhere; before that the model is held against its task (kind, settings, the
             examples that its steps took), and beside it its loss on a sample of the data that it was given
    replay   a segment of its training, trained again between two recorded checkpoints

Whether a check is made at once, or drawn, or kept in reserve for who would become champion says checking.py. `wanted`
is asked when a round has been weighed as if everybody had told the truth: who is taken then is checked before it is
said, and perhaps replayed; when that goes wrong the round is weighed again, and the next best is looked at.

Promises: the same records give the same tasks under the same ids. A copy of another candidate's model, byte for byte,
is a fault of whoever came second; outcomes that are another's, bit by bit, are a suspicion, because two lines may have
come to the same linear model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from consensus import checking
from consensus.checking import Known
from consensus.evaluations import independent_required, inputs_of, map_of, priority_of
from consensus.evidence import Items
from mesh.messages.base import Facts, derived_id
from mesh.messages.commands import Submit
from mesh.messages.judgement import Candidate, Recommendation
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Avoid, Line, Needs, TaskSpec, TaskState
from mesh.messages.trust import Unchecked

if TYPE_CHECKING:
    from consensus.rounds import Round, Run

HELD = frozenset({"classify", "contrastive", "language-model", "lora"})
"""Kinds whose models name kind and settings as their task did, and whose trainings can be trained again."""

ADAPTING = frozenset({"lora"})
"""Kinds whose models are adapters to their task's input `base`."""

SEARCHED = "search-step"
"""Trains another kind: which one, and with what, its settings and its result say."""

DATA = {
    "classify": (("train",), ()),
    "contrastive": (("pairs",), ("held_out",)),
    "language-model": (("train", "validation"), ()),
    "lora": (("train",), ()),
}
"""Kinds that say which rows their steps took, and the inputs by which a check can come to the same: those without which
it is not asked, and those that it may have. The validation split is the one that a check is asked about."""

COPIED = 0.95
"""Share of losses that are another's, bit by bit, from which on a model may be a copy."""

PRIORITY_MAX = 9


def kind_of(trained: TaskEnded) -> tuple[str, Facts]:
    """(kind that trained, its settings) of an ended training; '' where its model can not be held against them."""
    spec, facts = trained.task, trained.outcome.facts if trained.outcome is not None else {}
    if spec.executor == SEARCHED:
        kind = spec.settings.get("kind")
        return (kind, dict(map_of(facts, "settings"))) if isinstance(kind, str) and kind in HELD else ("", {})
    return (spec.executor, dict(spec.settings)) if spec.executor in HELD else ("", {})


def adapted_by(trained: TaskEnded) -> str:
    """Digest of the model that the model of an ended training adapts; '' where that is a whole one."""
    spec = trained.task
    kind = spec.settings.get("kind") if spec.executor == SEARCHED else spec.executor
    return spec.inputs.get("base", "") if kind in ADAPTING else ""


def check_of(evaluation: TaskSpec, trained: TaskEnded) -> TaskSpec:
    """The check of a candidate's claims. evaluation: of its model on validation."""
    kind, settings = kind_of(trained)
    if not kind:
        return evaluation
    facts = trained.outcome.facts if trained.outcome is not None else {}
    about: Facts = {"task": trained.task.id, "kind": kind, "settings": settings, "data": dict(map_of(facts, "data"))}
    return evaluation.evolve(inputs={**_data(kind, trained.task), **evaluation.inputs}, settings={"trained": about})


def _data(kind: str, task: TaskSpec) -> dict[str, str]:
    """What a check reads of the data that this training was given."""
    wanted, more = DATA[kind]
    if not all(task.inputs.get(name) for name in wanted):
        return {}
    found = {name: task.inputs.get(name, "") for name in (*wanted, *more) if name != "validation"}
    return {name: digest for name, digest in found.items() if digest}


def replay_of(plan: Planned, id_: str, name: str, line: Line | None, trained: TaskEnded) -> TaskSpec | None:
    """The replay of a candidate's training. None where its kind can not be replayed, or nothing of it is recorded."""
    kind, settings = kind_of(trained)
    if not kind or not trained.checkpoints or trained.outcome is None:
        return None
    spec, facts = trained.task, trained.outcome.facts
    inputs = {f"checkpoint-{place}": one.manifest.hex() for place, one in enumerate(trained.checkpoints, start=1)}
    kept = map_of(facts, "continued").get("improved") is False
    if not kept:  # else its weights are those that it started from
        inputs["model"] = trained.outcome.outputs.get("model", "")
    avoid = dict.fromkeys(one for one in (trained.incarnation, trained.incarnation.rpartition(".")[0]) if one)
    steps = facts.get("steps")
    return TaskSpec(
        id=id_,
        topic=plan.topic,
        specialization=plan.specialization,
        executor="replay",
        line=line,
        purpose=f"replay {name}",
        inputs={**{name: digest for name, digest in spec.inputs.items() if name != "model"}, **inputs},
        settings={
            "kind": kind,
            "settings": settings,
            "task": spec.id,
            "draw": trained.outcome.outputs.get("claims", ""),
            "steps": steps if isinstance(steps, int) and steps > 0 else 0,
        },
        needs=_with_states(spec.needs, trained.outcome.kpis.get("size_bytes", 0.0)),
        priority=min(PRIORITY_MAX, priority_of(plan) + 1),
        budget_s=spec.budget_s,
        wall_s_max=spec.wall_s_max,
        avoid=tuple(avoid),
        avoid_mode=Avoid.REQUIRE if independent_required(plan) else Avoid.PREFER,
        on_disconnect=spec.on_disconnect,
    )


def _with_states(needs: Needs, model_bytes: float) -> Needs:
    """What the training took, and two checkpoints: each has the weights, the best ones, and two moments of them."""
    states = int(8 * model_bytes)
    return needs.evolve(memory_bytes=needs.memory_bytes + states, disk_bytes=needs.disk_bytes + states)


def structure_of(check: TaskEnded | None) -> str:
    """The fault of the model that a check has found, or ''."""
    found = check.outcome.facts.get("structure") if check is not None and check.outcome is not None else ""
    return f"structure: {found}"[:300] if isinstance(found, str) and found else ""


def gain_of(check: TaskEnded | None) -> tuple[float | None, float]:
    """How much lower its loss is on its own data, and the standard error of that; None where it was not measured."""
    kpis = check.outcome.kpis if check is not None and check.outcome is not None else {}
    return kpis.get("own_gain"), kpis.get("own_gain_error", 0.0)


def replay_fault(replay: TaskEnded | None) -> str:
    """What the replay of its training says against it, or ''. One that ended otherwise says nothing."""
    if replay is None or replay.state is not TaskState.SUCCEEDED or replay.outcome is None:
        return ""
    facts = replay.outcome.facts
    return f"replay: {facts.get('why', '')}"[:300] if facts.get("ok") is False else ""


def replay_distance(replay: TaskEnded | None) -> float | None:
    """The largest distance of a segment that was trained again; None when none was."""
    if replay is None or replay.outcome is None:
        return None
    distance = replay.outcome.kpis.get("distance", -1.0)
    return distance if distance >= 0.0 else None


def without_copies(runs: Sequence[Run], champion: str, recorded: Mapping[str, int]) -> tuple[Run, ...]:
    """The runs, each that is a copy with its fault. champion: digest of the champion's model; recorded: when each
    training's result was recorded."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: recorded.get(run.task, 0)):
        if run.model:
            first.setdefault(run.model, run)

    def told(run: Run) -> str:
        if not run.model or run.name.partition("-")[0] == Line.MERGE.value:
            return ""
        if run.model == champion:
            return "structure: its model is the champion's, byte for byte"
        if first[run.model].task != run.task:
            return f"structure: its model is that of {first[run.model].task}, byte for byte"
        return ""

    return tuple(dataclasses.replace(run, fault=told(run) or run.fault) for run in runs)


def wanted(
    round_: Round, made: Recommendation, trust: Known, read: Mapping[str, Items | str],
    share: float = checking.REPLAY_SHARE,
) -> tuple[Submit, ...]:  # fmt: skip
    """What has to be asked for before this recommendation may be said; nothing when it may. share: of would-be
    champions that are replayed without any reason."""
    run = next((one for one in round_.lines if one.name == made.taken), None)
    candidate = next((one for one in made.candidates if one.name == made.taken), None)
    if not made.taken or run is None or candidate is None:
        return ()
    if run.unchecked:
        return (run.check_in_reserve,) if run.check_in_reserve is not None else ()
    if run.replay_in_reserve is None:
        return ()
    key = (checking.worker_of(run.incarnation), run.executor, run.executor_version)
    alone = candidate.evidence is not None and not candidate.evidence.independent
    why = checking.replay_due(
        trust.get(key, checking.NEW),
        made.id,
        run.holdout,
        suspicion=_suspicion(candidate, run, round_, read),
        required=round_.independent_required,
        share=0.0 if alone else share,  # who is alone would replay himself: that proves nothing
    )
    return (run.replay_in_reserve,) if why else ()


def look_back(result: Unchecked) -> Submit:
    """The check of a result that was let through, after its worker has failed another one."""
    worker = checking.worker_of(result.incarnation)
    task = TaskSpec(
        id=look_back_id(result),
        topic=result.topic,
        specialization=result.specialization,
        executor="evaluate",
        line=result.line,
        purpose=f"check {result.line} again",
        inputs=inputs_of(result.model, result.split, result.base),
        avoid=tuple(dict.fromkeys((result.incarnation, worker))),
    )
    facts: Facts = {"stage": "look back", "line": result.line.value}
    return Submit(id=task.id, topic=result.topic, specialization=result.specialization, tasks=(task,), facts=facts)


def look_back_id(result: Unchecked) -> str:
    """Of the task that checks it."""
    return derived_id(result.topic, f"back-{result.line}-{result.model[:8]}")


def copied(one: Items, other: Items) -> float:
    """Share of the items on which both lose exactly the same."""
    if one.ids != other.ids:
        return 0.0
    return sum(a == b for a, b in zip(one.loss, other.loss, strict=True)) / len(one)


def _suspicion(candidate: Candidate, run: Run, round_: Round, read: Mapping[str, Items | str]) -> str:
    found = candidate.evidence
    if found is not None and (why := checking.suspicion_of(found)):
        return why
    own = read.get(run.holdout)
    for other in round_.lines:
        theirs = read.get(other.holdout)
        if other.name == run.name or isinstance(own, str | None) or isinstance(theirs, str | None):
            continue
        if (share := copied(own, theirs)) >= COPIED:
            return f"{share:.0%} of its losses on the holdout are those of the {other.name}, bit by bit"
    return ""
