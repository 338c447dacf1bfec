"""One training that is killed again and again ends with the same bits as one that nobody disturbed.

    reference    a training of the digits, on a mesh of its own, from its first step to its last
    killed       the same task on another mesh with two workers; at random steps, drawn from the seed:
                   child     kill -9 for the training process
                   process   kill -9 for the worker below its supervisor
                   machine   kill -9 for supervisor, worker and children at once; the machine comes back a moment later

Compared are the trace (a hash chain over every step's loss, gradient norm and rate), the digest of weights, moments and
generators after the last step, and the objects of model.safetensors as they lie in the store. Both trainings run under
one fingerprint: one core each, on this machine.

A kill waits for a step of the present life, and every other one for a recorded checkpoint of it, so that the training
gets on; the rest hit before the first checkpoint, in the middle of one, or on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil

from agents.commands.reach import Reach
from benchmarks import chaos
from benchmarks.chaos_stage import Seen, Stage
from benchmarks.document import SHARE
from benchmarks.failover import BUDGET_S, NEEDS, READY_S, embedded, splits, torch_children
from benchmarks.frame import Frame
from benchmarks.parts import Part, running
from mesh.errors import ChildBroke, RamifyError
from mesh.messages.base import Epoch, Facts
from mesh.messages.tasks import Outcome, TaskSpec

NAME = "resume"
WHY = "Whether a training that is killed at random steps ends with the bits of one that nobody disturbed."

KILLS, QUICK_KILLS = 50, 3
SEED = 20_261_121

TASK = "train"
"""One name for both: a training's seed is derived from its task."""

EPOCHS, QUICK_EPOCHS = 4_000, 150
"""Of some 20 steps each: longer than all lives together, so that every kill hits a training."""

TRAIN: Facts = {
    "hidden": [256, 256],
    "patience": 10_000,
    "checkpoint_s": 0.3,
    "checkpoint_overhead": 1.0,
    "linear_path": False,
}

LATER_S, QUICK_LATER_S = 1.5, 0.4
"""Latest moment of a kill after the step, or the checkpoint, that it waited for."""

AGAIN_S = 0.5
"""How long a machine stays dead."""

CHILD, PROCESS, MACHINE = "child", "process", "machine"
HOWS = (CHILD, PROCESS, MACHINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """What a training came to."""

    state: str
    """Digest of weights, moments and generators after the last step."""
    trace: str
    weights: tuple[str, ...]
    """Objects of model.safetensors."""
    exact: bool
    steps: int
    attempts: int
    seconds: float


@dataclasses.dataclass
class Killed:
    """Kills of one training."""

    by: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(HOWS, 0))

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.by.values())


def run(frame: Frame) -> None:
    """Both trainings, then the comparison."""
    epochs = QUICK_EPOCHS if frame.quick else EPOCHS
    seed = SEED if frame.seed is None else frame.seed
    killed = Killed()
    try:
        with frame.home() as home:
            whole = asyncio.run(undisturbed(home, epochs))
        with frame.home() as home:
            ended = asyncio.run(disturbed(home, epochs, frame.runs(KILLS, QUICK_KILLS), seed, killed, frame))
    except RamifyError as error:
        frame.fail("a training that is killed", "its end", SHARE, f"after {killed.count} kills: {error}")
        return
    rows(frame, whole, ended, killed)


def rows(frame: Frame, whole: Ended, ended: Ended, killed: Killed) -> None:
    """How often it was killed, and what that changed."""
    who = "a training that is killed"
    for how, count in killed.by.items():
        frame.row(who, f"kill -9, {how}", count, SHARE)
    frame.row(who, "leases", ended.attempts, SHARE)
    frame.row(who, "steps", ended.steps, SHARE)
    frame.row(who, "from its submission to its end", ended.seconds, "s")
    frame.row("the undisturbed one", "from its submission to its end", whole.seconds, "s")
    differ = differences(whole, ended)
    frame.row(who, "what differs at the end", len(differ), SHARE, ", ".join(differ))
    frame.at_least("kills in one training", killed.count if frame.quick else KILLS, SHARE, [killed.count])
    frame.at_most("of state, trace and weights differ from the undisturbed training's", 0, SHARE, [len(differ)])


def differences(whole: Ended, ended: Ended) -> list[str]:
    """Names of what is not equal to the last bit."""
    same = {
        "state": whole.state == ended.state,
        "trace": whole.trace == ended.trace,
        "weights": whole.weights == ended.weights,
        "exact": whole.exact and ended.exact,
    }
    return [name for name, is_same in same.items() if not is_same]


# -- the two trainings ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def mesh(home: Path, *names: str) -> AsyncIterator[tuple[Reach, Stage, dict[str, Part]]]:
    """A scheduler that tries again at once, and workers of one core each."""

    def part(name: str, *words: str) -> Part:
        env = {"RAMIFY_SCHEDULER_BACK_OFF_S_FIRST": "0.05", "RAMIFY_SCHEDULER_BACK_OFF_S_MAX": "0.2"}
        return Part(name, [sys.executable, "-P", "-m", "agents", *words, "--name", name], home, env=env)

    workers = {name: part(name, "worker", "--cores", "1", "--memory", "4GiB") for name in names}
    async with embedded(home) as there:
        with running(part("scheduler", "scheduler"), *workers.values()):
            async with Stage.on(there, "resume") as stage:
                yield there, stage, workers


async def undisturbed(home: Path, epochs: int) -> Ended:
    """The training, left alone."""
    async with mesh(home, "w1") as (there, stage, _):
        began = time.monotonic()
        await stage.submit(training(await splits(stage), epochs))
        return await ended_as(there, stage, began)


async def disturbed(home: Path, epochs: int, kills: int, seed: int, killed: Killed, frame: Frame) -> Ended:
    """The training, killed so many times. ChildBroke when it ended before that."""
    draw = random.Random(seed)
    async with mesh(home, "w1", "w2") as (there, stage, workers):
        began = time.monotonic()
        await stage.submit(training(await splits(stage), epochs))
        over: Epoch | None = None
        for number in range(kills):
            how = HOWS[number % len(HOWS)] if kills <= len(HOWS) else draw.choice(HOWS)
            later_s = draw.uniform(0.0, QUICK_LATER_S if frame.quick else LATER_S)
            last = await one_kill(stage, workers, how, later_s, over, patient=number % 2 == 0)
            over = last.epoch
            killed.by[how] += 1
            frame.say(f"kill {number + 1}: {how}, near step {last.step}")
        return await ended_as(there, stage, began)


def training(inputs: dict[str, str], epochs: int) -> TaskSpec:
    """The task of both."""
    return TaskSpec(
        id=TASK, topic="resume", executor="classify", settings={**TRAIN, "epochs_max": epochs}, inputs=inputs,
        needs=NEEDS, budget_s=BUDGET_S, wall_s_max=BUDGET_S, attempts_max=1_000,
    )  # fmt: skip


async def one_kill(
    stage: Stage, workers: dict[str, Part], how: str, later_s: float, over: Epoch | None, *, patient: bool
) -> Seen:
    """Kill whoever trains, later_s after his first step; what he reported last. over: the epoch of the life before;
    patient: after a checkpoint of this one."""

    def newest() -> Seen | None:
        seen = stage.newest(TASK, "training")
        return seen if seen is not None and seen.step > 0 and (over is None or seen.epoch > over) else None

    await lives(stage, "a step of the training", lambda: newest() is not None)
    if patient:
        await lives(stage, "a checkpoint of it", lambda: bool((now := newest()) and stage.checkpoints(TASK, now.epoch)))
    await asyncio.sleep(later_s)
    if TASK in stage.ended:
        raise ChildBroke(f"the training ended before it could be killed: {stage.ended[TASK].reason}")
    last = newest()
    assert last is not None
    holder = workers[last.worker]
    if how == CHILD:
        for process in list(torch_children(holder)):
            with contextlib.suppress(psutil.Error):
                process.kill()
    elif how == PROCESS:
        holder.kill_inner()
    else:
        chaos.kill_all(holder)
        await asyncio.sleep(AGAIN_S)
        holder.start()
    return last


async def lives(stage: Stage, what: str, condition: Callable[[], bool]) -> None:
    """Wait for something of the present life. ChildBroke when the training is over before it."""
    await stage.until(what, READY_S, lambda: TASK in stage.ended or condition())
    if TASK in stage.ended and not condition():
        raise ChildBroke(f"the training ended before it could be killed: {stage.ended[TASK].reason}")


async def ended_as(there: Reach, stage: Stage, began: float) -> Ended:
    """What it came to, from its result and its model's manifest."""
    record = await stage.success(TASK, BUDGET_S)
    outcome = record.outcome
    assert outcome is not None
    return Ended(
        state=str(outcome.facts["state"]),
        trace=str(outcome.facts["trace"]),
        weights=await weights(there, outcome),
        exact=outcome.exact,
        steps=int(outcome.facts["steps"]),
        attempts=record.attempts,
        seconds=time.monotonic() - began,
    )


async def weights(there: Reach, outcome: Outcome) -> tuple[str, ...]:
    """Digests of the model's tensors, as the store holds them."""
    manifest = await there.store().manifest(outcome.outputs["model"])
    (tensors,) = (entry for entry in manifest.files if entry.path == "model.safetensors")
    return tensors.objects
