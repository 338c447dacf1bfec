"""Rounding: a challenger in few bits, of the champion or of the evolver's new model; made, measured and judged as any.

    the plan says `rounding`: which scheme, of what, why (planner/rounding.py)
            │
            ├── of the champion: at once              ├── of the evolver: when its training has ended
            v                                         v
    quantize (weights rounded, nothing trained) ──> claims, check, holdout ──> challenges under the evolver's line

It comes last among the lines, so it spends its share of alpha after them. Who has fewer bits is hardly ever better; it
wins where it is not worse, which the holdout has to show, and clearly smaller or faster, as was asked for:

    accuracy    the lower end of its interval above -ACCURACY_MARGIN (where the items have labels)
    loss        the lower end of its interval above -LOSS_MARGIN
    gain        at most GAIN_SHARE of the champion's bytes, or of its time, whichever the plan names

Promises: a function of the plan and of ended tasks. A task that fails leaves the round without this challenger. Not
covered: what is rounded twice; adapters and trees (the planner asks for none).
"""

from __future__ import annotations

from collections.abc import Mapping

from consensus.evaluations import PRIORITY_MAX, map_of, needs_of, priority_of, split_of
from mesh.messages.base import Facts, derived_id
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, TaskSpec, TaskState

NAME = "evolver-int8"
"""Of the candidate."""

KIND, FACT, SETTING = "quantize", "rounding", "quantisation"
"""The executor kind; the fact of a plan that asks for it; what it changes in a model's settings."""

ACCURACY_MARGIN, LOSS_MARGIN = 0.01, 0.01
"""One answer of a hundred; nats per item, what the kind itself calls no loss. The gate's own margins hold beside."""

GAIN_SHARE = 0.8
"""What saves less than a fifth of the bytes or of the time is not worth another champion."""

BUDGET_S, WALL_S_MAX = 120.0, 900.0
"""It trains nothing: it asks both models about the validation items, and takes the time of some batches."""


def wanted(plan: Planned, tag: str, ended: Mapping[str, TaskEnded]) -> TaskSpec | None:
    """The task that makes the challenger; None where none is asked for, or while there is nothing to round. tag: of the
    round; ended: its ended tasks by id."""
    stated = map_of(plan.facts, FACT)
    model = str(stated.get("model") or "") or _trained(plan, ended)
    if not stated or not model:
        return None
    settings: Facts = {"scheme": str(stated.get("scheme") or "dynamic-int8")}
    return TaskSpec(
        id=derived_id(plan.topic, f"{tag}{NAME}"),
        topic=plan.topic,
        specialization=plan.specialization,
        executor=KIND,
        line=Line.EVOLVER,
        purpose="round to int8",
        settings=settings,
        inputs={"model": model, "split": split_of(plan, "validation")},
        needs=needs_of(plan.facts, KIND),
        priority=min(PRIORITY_MAX, priority_of(plan) + 1),
        budget_s=BUDGET_S,
        wall_s_max=WALL_S_MAX,
        on_disconnect=plan.tasks[0].on_disconnect,
    )


def _trained(plan: Planned, ended: Mapping[str, TaskEnded]) -> str:
    """Digest of the evolver's new model; '' where there is none."""
    done = ended.get(str(map_of(plan.facts, "lines").get(Line.EVOLVER.value) or ""))
    if done is None or done.state is not TaskState.SUCCEEDED or done.outcome is None:
        return ""
    return done.outcome.outputs.get("model", "")


def rounded_from(ended: TaskEnded) -> str:
    """Digest of the model whose weights an ended task has rounded; '' for any other task."""
    return ended.task.inputs.get("model", "") if ended.task.executor == KIND else ""


def settings_of(plan: Planned, ended: Mapping[str, TaskEnded], scheme: object) -> Facts:
    """Settings of the challenger: those of the model that is rounded, and how."""
    stated = map_of(plan.facts, FACT)
    line = ended.get(str(map_of(plan.facts, "lines").get(Line.EVOLVER.value) or ""))
    trained = line.task.settings if line is not None else {}
    known = dict(map_of(stated, "settings")) if stated.get("model") else dict(trained)
    return {**known, SETTING: str(scheme)}


def told(ended: TaskEnded) -> str:
    """What it brought beside the original, as its task measured it; '' for any other task."""
    if ended.task.executor != KIND or ended.outcome is None:
        return ""
    kpis = ended.outcome.kpis
    times = [f"{kpis[name]:.2f} of its time in batches of {name.rpartition('_')[2]}" for name in sorted(kpis)
             if name.startswith("time_share_")]  # fmt: skip
    share = [f"{kpis['size_share']:.2f} of its size"] if "size_share" in kpis else []
    of = ended.task.inputs.get("model", "")[:12]
    scheme = ended.task.settings.get("scheme", "int8")
    return f"{SETTING} {scheme} instead of none of {of}, not trained: {', '.join([*share, *times]) or 'not measured'}"


def gains(kpis: Mapping[str, float], before: Mapping[str, float], asked: tuple[str, ...]) -> str:
    """What it saves of what was asked for, in words; '' where that is not enough."""
    for metric in asked:
        new, old = kpis.get(metric), before.get(metric)
        if new is not None and old and new <= GAIN_SHARE * old:
            return f"{metric} {new / old:.2f} of the champion's"
    return ""
