"""The way of every kind that trains, from its settings to the trained network.

    place = training.begin(job, context)                        device, threads, generators
    ... the kind reads its data and makes its model on place.torch ...
    recipe = training.recipe_of(job)                            settings to numbers; overrides by name
    finished = training.train(job, context, trainable, recipe, place)

`train` resumes from the job's checkpoint where there is one, runs the loop (executors/trainer.py) and leaves the best
weights in the trainable's network. `facts_of` is what a result says about its training, `made` the result of a kind
whose outputs are a model and what it claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from executors import checkpoint, kinds
from executors import device as devices
from executors.device import Device
from executors.port import Context, Job, Made
from executors.recipe import Recipe
from executors.team import Team
from executors.trainable import Trainable
from executors.trainer import Finished, Trainer

CURVE_POINTS = 32
"""Validations that a result tells of: enough to see whether a curve has flattened, some 500 bytes."""


INSTEAD: ContextVar[Callable[[Job, Context, Trainable, Recipe, Device], None] | None] = ContextVar(
    "instead", default=None
)
"""What is done in place of a training that was set up; it raises what ends the kind's run (executors/replaying.py)."""


def name_of(job: Job) -> str:
    """Kind and version of whose training it is, as checkpoints name it."""
    return f"{job.kind} {kinds.load(job.kind).version}"


def begin(job: Job, context: Context) -> Device:
    """The place to compute for this job, said in the log; every generator starts from the job's seed."""
    place = devices.choose(job.allotment, job.settings.precision)
    context.log(f"computes on {place.name} in {place.precision} with {place.threads} threads: {place.reason}")
    checkpoint.seed_generators(job.seed)
    return place


def recipe_of(job: Job, **chosen: Any) -> Recipe:
    """The recipe that a job's settings (a `TrainingSettings`) ask for. chosen: what the kind decides in their stead, by
    the recipe's names. Every time that memory ran out halves what is computed at once."""
    settings = job.settings
    batch = chosen.pop("batch", settings.batch)
    told = chosen.pop("micro_batch", settings.micro_batch) or batch
    named = {name: getattr(settings, name) for name in _SAME_NAMES if name not in chosen}
    given: dict[str, Any] = {
        "budget_s": job.budget_s,
        "seed": job.seed,
        "overhead": settings.checkpoint_overhead,
        **named,
        **chosen,
    }
    return Recipe(batch=batch, micro_batch=devices.micro_batch(min(told, batch), job.memory_attempts), **given)


_SAME_NAMES = (
    "learning_rate", "weight_decay", "warmup_steps", "epochs_max", "steps_max", "evaluate_every", "patience", "clip",
    "schedule", "accumulate_float64", "compile", "checkpoint_s", "checkpoint_steps",
)  # fmt: skip


def train(job: Job, context: Context, trainable: Trainable, recipe: Recipe, place: Device) -> Finished:
    """Train, or train on from the job's checkpoint. Stopped, NonFinite, OutOfMemory, ArtifactCorrupt as the loop
    says. In a process that only helps another one to train (executors/parallel.py) it never returns."""
    if (instead := INSTEAD.get()) is not None:
        instead(job, context, trainable, recipe, place)
    if job.allotment.processes == 1:
        return _trained(job, context, trainable, recipe, place, Team())
    from executors import parallel

    with parallel.together(job, trainable, place) as team:
        return _trained(job, context, trainable, recipe, place, team)


def _trained(job: Job, context: Context, trainable: Trainable, recipe: Recipe, place: Device, team: Team) -> Finished:
    trainer = Trainer(
        trainable,
        recipe,
        place,
        context,
        job.scratch / "checkpoints",
        number=job.checkpoint_number,
        kind=name_of(job),
        team=team,
    )
    if job.resume is not None:
        trainer.resume(job.resume, job.trained_s)
    return trainer.run()


def facts_of(job: Job, recipe: Recipe, place: Device, finished: Finished) -> dict[str, Any]:
    """What a result says about how it was trained."""
    state = finished.state
    facts: dict[str, Any] = {
        "device": {"name": place.name, "precision": place.precision, "threads": place.threads, "reason": place.reason},
        "steps": state.step,
        "best_step": state.best_step,
        "trained_s": round(state.trained_s, 3),
        "train_loss": round(state.loss_mean, 6),
        "cost": dict(finished.cost),
        "compile": {"on": finished.compiled.on, "reason": finished.compiled.reason},
        "checkpoints": dict(finished.checkpoints),
        "trace": state.trace.hex(),
        "state": finished.digest,
        "history": curve(state.history),
    }
    if job.memory_attempts:
        facts["micro_batch"] = recipe.micro_batch
    if state.differed:
        facts["fingerprint"] = state.differed
    return facts


def curve(history: Sequence[Sequence[float]]) -> list[list[float]]:
    """At most CURVE_POINTS of a training's validations as [step, loss], evenly among them, first and last kept."""
    last = len(history) - 1
    rows = range(len(history)) if last < CURVE_POINTS else (i * last // (CURVE_POINTS - 1) for i in range(CURVE_POINTS))
    return [[history[row][0], round(history[row][2], 6)] for row in rows]


def made(
    job: Job, model: Path, claims: Path, architecture: str, kpis: dict[str, float], facts: dict[str, Any],
    finished: Finished,
) -> Made:  # fmt: skip
    """The result of a training: a model, its outcomes on validation, and what it spent."""
    cores = job.allotment.threads * job.allotment.processes
    kpis = {**kpis, "train_core_s": round(finished.state.trained_s * cores, 3)}
    return Made(
        outputs={"model": model, "claims": claims},
        media={"model": "model", "claims": "outcomes"},
        facts_of={"model": {"kind": job.kind, "architecture": architecture}},
        kpis=kpis,
        stopped_by=finished.stopped_by,
        facts=facts,
        exact=finished.state.exact,
    )
