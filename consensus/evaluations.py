"""Evaluations: the tasks by which consensus has a model measured, and what ended tasks say of them.

    model + split  ->  one task of the kind `evaluate`, passed over by whoever trained the model
    ended task     ->  (digest of its outcomes, or why there are none)

Promises: the same plan, model and split give the same task under the same id. What an evaluation takes of a machine is
what the plan says it does; the defaults where it says nothing usable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.messages.base import Facts, derived_id
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Avoid, Line, Needs, TaskSpec, TaskState
from mesh.messages.topics import Independent

EVALUATE_WALL_S_MAX = 1_800.0
"""Life of an evaluation: some minutes even for a slow model on a large split; beyond half an hour it is stuck."""

PRIORITY_MAX = 9


def evaluation(
    plan: Planned,
    id_: str,
    purpose: str,
    *,
    model: str,
    split: str,
    base: str = "",
    line: Line | None = None,
    incarnation: str = "",
    sooner: int = 1,
) -> TaskSpec:
    """One evaluate task of the plan's topic.

    base: of an adapter, the model that it adapts; incarnation: who trained the model and is passed over: who claims
    does not also check; sooner: how much more urgent than the plan's own tasks.
    """
    avoid = dict.fromkeys(name for name in (incarnation, incarnation.rpartition(".")[0]) if name)
    never = independent_required(plan) and line not in (None, Line.BASELINE)
    return TaskSpec(
        id=derived_id(plan.topic, id_),
        topic=plan.topic,
        specialization=plan.specialization,
        executor="evaluate",
        line=line,
        purpose=purpose,
        inputs=inputs_of(model, split, base),
        needs=needs_of(plan.facts, "evaluate"),
        priority=min(PRIORITY_MAX, priority_of(plan) + sooner),
        wall_s_max=EVALUATE_WALL_S_MAX,
        avoid=tuple(avoid),
        avoid_mode=Avoid.REQUIRE if never else Avoid.PREFER,
        on_disconnect=plan.tasks[0].on_disconnect,
    )


def inputs_of(model: str, split: str, base: str = "") -> dict[str, str]:
    """Of an evaluation: an adapter is asked together with the model that it adapts."""
    return {"model": model, "split": split} | ({"base": base} if base else {})


def independent_required(plan: Planned) -> bool:
    """Does the topic require that another incarnation checks?"""
    return plan.facts.get("independent") == Independent.REQUIRE.value


def priority_of(plan: Planned) -> int:
    """That of its most urgent task."""
    return max(task.priority for task in plan.tasks)


def split_of(plan: Planned, name: str) -> str:
    """Digest of a split of the plan's data; '' when the plan does not say."""
    return str(map_of(plan.facts, "splits").get(name) or "")


def outcomes_of(ended: TaskEnded | None) -> tuple[str, str]:
    """(digest of an evaluation's outcomes, why there are none). Both empty while it has not ended."""
    if ended is None:
        return "", ""
    digest = ended.outcome.outputs.get("outcomes", "") if ended.outcome is not None else ""
    if ended.state is not TaskState.SUCCEEDED or not digest:
        return "", how_ended(ended)
    return digest, ""


def how_ended(ended: TaskEnded) -> str:
    """One sentence about a task that brought nothing."""
    what = f"its task {ended.task.id} ({ended.task.purpose or ended.task.executor})"
    if ended.state is TaskState.SUCCEEDED:
        return f"{what} ended without outcomes"
    return f"{what} was {ended.state.value}: {ended.reason.strip() or 'no reason was given'}"[:600]


def map_of(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A map among the facts; an empty one where there is none."""
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def needs_of(facts: Facts, kind: str) -> Needs:
    """What the plan says that a task of this kind takes; the defaults where it says nothing usable."""
    stated, default = map_of(map_of(facts, "needs"), kind), Needs()
    return Needs(
        cores=_positive(stated.get("cores"), default.cores),
        memory_bytes=int(_positive(stated.get("memory_bytes"), default.memory_bytes)),
        disk_bytes=int(_positive(stated.get("disk_bytes"), default.disk_bytes)),
    )


def _positive(value: object, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else default
