"""Merging: may the models of a round become one, and which merge of them challenges the champion?

    two lines, one ancestor      a topic whose lines both went on from the same model
    the members of a tree        as far as they went on from the flat model: the plan's fact `family` names them
            │
            v
    greedy soup ──> took more than one in: the middle between them is no worse than its ends (the midpoint test)
            │
            v
    task arithmetic, TIES ──> the best on the items of validation that chose nothing, if it beats its best member

A merge of weights is a hypothesis like any other, and a holdout is not asked about hopeless ones: what is no better
than its own best member on validation ends here. So a round has one challenger of this kind at most, and spends one
share of alpha on it.

Promises: a function of the plan and of ended tasks; without a common ancestor nothing is merged, because the mean of
two networks that were trained apart is no network. Not covered: adapters, which need their base beside them; the
routing ensemble, which is the plan's own candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from consensus.evaluations import PRIORITY_MAX, map_of, priority_of, split_of
from mesh.messages.base import Facts, derived_id
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, Needs, TaskSpec, TaskState

NAME = "merge-soup"
"""Of the candidate, whichever method made it."""

KINDS = ("classify", "language-model")
"""Executor kinds whose models can be merged by themselves."""

METHODS_FIRST, METHODS_THEN = ("greedy",), ("arithmetic", "ties")
"""What is tried at once, and what only after the first has passed the midpoint test."""

MODELS_MAX = 16
"""What the kind `merge` takes."""

BUDGET_S_MAX = 120.0
"""A merge trains nothing: it asks each model once or twice about the validation items."""

WALL_S_MAX = 900.0

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """Models that went on from one and the same."""

    ancestor: str
    models: tuple[str, ...]
    size_bytes: float = 0.0
    """Of the largest of them, as far as it was measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be merged now, and the task whose model challenges: '' while that is open, or when none does."""

    tasks: tuple[TaskSpec, ...] = ()
    best: str = ""
    why: str = ""


def wanted(plan: Planned, tag: str, ended: Mapping[str, TaskEnded]) -> Wanted:
    """What merging asks for in a round whose lines have ended. tag: of the round; ended: its ended tasks by id."""
    family, why = family_of(plan, ended)
    if family is None:
        return Wanted(why=why)
    first = tuple(_task(plan, tag, method, family) for method in METHODS_FIRST)
    if any(task.id not in ended for task in first):
        return Wanted(first, why="the midpoint test comes first")
    if not all(_passed(ended[task.id]) for task in first):
        return Wanted(first, why="the middle between the models is worse than their best")
    tasks = first + tuple(_task(plan, tag, method, family) for method in METHODS_THEN)
    if any(task.id not in ended for task in tasks):
        return Wanted(tasks, why="the methods that need the ancestor run")
    better = [task.id for task in tasks if _gain(ended[task.id]) > 0.0]
    if not better:
        return Wanted(tasks, why="no merge is better than its best member on validation")
    return Wanted(tasks, max(better, key=lambda id_: _worth(ended[id_])), "one merge is worth the holdout")


def family_of(plan: Planned, ended: Mapping[str, TaskEnded]) -> tuple[Family | None, str]:
    """(the models that may be merged, or None; why)."""
    stated = map_of(plan.facts, "family")
    if stated:
        models = tuple(dict.fromkeys(str(model) for model in stated.get("models") or () if model))[:MODELS_MAX]
        family = Family(str(stated.get("ancestor") or ""), models, _largest(ended.values()))
    else:
        family = _of_lines(plan, ended)
    if not family.ancestor or len(family.models) < 2:
        return None, "no two models of this round come from one ancestor"
    return family, f"{len(family.models)} models come from {family.ancestor[:12]}"


def told(ended: TaskEnded) -> str:
    """What a merge changed, for people; '' for any other task."""
    if ended.task.executor != "merge" or ended.outcome is None:
        return ""
    members = ended.outcome.facts.get("members") or ()
    return f"{ended.task.settings.get('method', 'greedy')} merge of {len(members)} models of one ancestor"


def _of_lines(plan: Planned, ended: Mapping[str, TaskEnded]) -> Family:
    """The models of this plan's own lines that went on from the same model, if all did."""
    lines = [ended[task.id] for task in plan.tasks if task.id in ended and task.line in (Line.EVOLVER, Line.REINVENTOR)]
    good = [line for line in lines if line.outcome is not None and line.outcome.outputs.get("model")]
    origins = {line.task.inputs.get("champion") or line.task.inputs.get("base", "") for line in good}
    kinds = {line.task.executor for line in good}
    if len(origins) != 1 or len(kinds) != 1 or not kinds <= set(KINDS):
        return Family("", ())
    models = (line.outcome.outputs["model"] for line in good if line.outcome is not None)
    return Family(origins.pop(), tuple(dict.fromkeys(models)), _largest(good))


def _largest(ended: Iterable[TaskEnded]) -> float:
    return max((one.outcome.kpis.get("size_bytes", 0.0) for one in ended if one.outcome is not None), default=0.0)


def _task(plan: Planned, tag: str, method: str, family: Family) -> TaskSpec:
    inputs = {f"candidate-{number}": model for number, model in enumerate(family.models, start=1)}
    inputs["validation"] = split_of(plan, "validation")
    if method not in METHODS_FIRST:
        inputs["ancestor"] = family.ancestor
    settings: Facts = {"method": method}
    budget = plan.facts.get("budget_s")
    budget_s = float(budget) if isinstance(budget, int | float) and budget > 0 else BUDGET_S_MAX
    return TaskSpec(
        id=derived_id(plan.topic, f"{tag}merge-{method}"),
        topic=plan.topic,
        specialization=plan.specialization,
        executor="merge",
        line=Line.MERGE,
        purpose=f"merge by {method}",
        settings=settings,
        inputs=inputs,
        needs=_needs(family),
        priority=min(PRIORITY_MAX, priority_of(plan) + 1),
        budget_s=min(BUDGET_S_MAX, budget_s),
        wall_s_max=WALL_S_MAX,
        on_disconnect=plan.tasks[0].on_disconnect,
    )


def _needs(family: Family) -> Needs:
    """The libraries, and models asked one at a time."""
    size = int(family.size_bytes)
    return Needs(memory_bytes=640 * MIB + 3 * size, disk_bytes=256 * MIB + (3 + len(family.models)) * size)


def _passed(ended: TaskEnded) -> bool:
    """Did the soup take in more than its best member?"""
    if ended.state is not TaskState.SUCCEEDED or ended.outcome is None or not ended.outcome.outputs.get("model"):
        return False
    return len(ended.outcome.facts.get("members") or ()) > 1


def _gain(ended: TaskEnded) -> float:
    """By how much a merge is better than its best member on items that chose nothing; below zero without one."""
    if ended.state is not TaskState.SUCCEEDED or ended.outcome is None or not ended.outcome.outputs.get("model"):
        return -1.0
    return float(ended.outcome.kpis.get("gain", -1.0))


def _worth(ended: TaskEnded) -> tuple[float, float]:
    kpis = ended.outcome.kpis if ended.outcome is not None else {}
    return kpis.get("evidence_accuracy", 0.0), -kpis.get("evidence_loss", 0.0)
