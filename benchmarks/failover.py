"""A worker dies in the middle of a training: how long until another one takes the next step, and what is done twice.

    holder    trains a network on the digits, a checkpoint every CHECKPOINT_S; the other worker has a warm torch child
    kill -9   machine: supervisor, worker and children at once; process: the worker below its supervisor
    seconds   from the kill to the first progress of the other worker beyond the checkpoint that it resumed from
    redone    the last step that the dead worker reported, minus that checkpoint's step

Progress is told at most every half second by the child and by the worker, so the seconds are up to one too many, and
the steps up to half a second too few. The broker is the embedded one, with its keeper, as `bin/agent up` has it.

Then the opposite, on meshes of their own: nobody dies. A child computes for minutes in C without letting go of the
interpreter; the broker is away for minutes. Under `wait` no lease may end before its task: nothing is redone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil

from agents.commands.reach import Reach, found, reach
from benchmarks import chaos
from benchmarks.chaos_judge import audited
from benchmarks.chaos_stage import Stage
from benchmarks.document import SHARE
from benchmarks.frame import Frame
from benchmarks.parts import Part, nats_server, nats_url, running
from benchmarks.tasks import scheduler, worker
from mesh import settings
from mesh.errors import BusUnavailable, RamifyError
from mesh.keeper import KeeperLease
from mesh.messages.base import Facts
from mesh.messages.tasks import Avoid, Needs, OnDisconnect, TaskSpec, TaskState

NAME = "failover"
WHY = "How soon a training goes on when its worker dies, and that none is disturbed when nobody has died."

RUNS, QUICK_RUNS = 30, 1
SEED = 20_260_102

CHECKPOINT_S = 1.0
CHECKPOINTS_FIRST = 2
"""So many checkpoints of the present holder are recorded before it is killed."""

BUDGET_S = 3_600.0
"""More than a whole series of kills takes."""

TRAIN: Facts = {
    "hidden": [512, 512],
    "epochs_max": 10_000,
    "patience": 10_000,
    "checkpoint_s": CHECKPOINT_S,
    "checkpoint_overhead": 1.0,
    "linear_path": False,
}
"""Whatever a checkpoint costs on a busy machine: what is measured begins with one that is there."""
WARM: Facts = {"hidden": [16], "epochs_max": 1, "linear_path": False}

NEEDS = Needs(cores=1.0, memory_bytes=1024**3, disk_bytes=256 * 1024**2)
LIGHT = Needs(cores=0.0, memory_bytes=64 * 1024**2, disk_bytes=1024**2)

READY_S = 90.0
"""Patience with whatever begins a run: a profile, a first step, a warm child."""

TAKEN_S = 90.0
"""Patience with the other worker: several times the aim."""

CALM_PERCENT, CALM_S = 10.0, 0.5
"""A torch child is warm when it uses less of a core than this, over so long."""

HOLD_S, QUICK_HOLD_S = 600.0, 4.0
AWAY_S, QUICK_AWAY_S = 600.0, 4.0

MACHINE, PROCESS = "machine", "process"
WHO = {
    MACHINE: "the whole machine killed, `replace` (the default)",
    PROCESS: "the worker's process killed, its supervisor stays",
}


@dataclasses.dataclass
class Series:
    """Kills of one kind."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    leased_s: list[float] = dataclasses.field(default_factory=list)
    redone_steps: list[float] = dataclasses.field(default_factory=list)
    redone_s: list[float] = dataclasses.field(default_factory=list)
    trouble: str = ""


def run(frame: Frame) -> None:
    """Kills first, then those whom nobody kills."""
    found_in = {how: Series() for how in WHO}
    for how, series in found_in.items():
        runs = frame.runs(RUNS if how == MACHINE else RUNS // 3, QUICK_RUNS)
        if frame.quick and how == PROCESS:
            frame.skip(WHO[how], TAKES, "s", "a quick run kills one machine only")
            continue
        with frame.home() as home:
            try:
                asyncio.run(kills(frame, home, how, runs, series))
            except RamifyError as error:
                series.trouble = str(error)
        rows(frame, WHO[how], series)
    frame.at_most("median, default settings (`replace`, the connection closes)", 4.0, "s", found_in[MACHINE].seconds)
    worst = [max(found_in[MACHINE].seconds)] if found_in[MACHINE].seconds else []
    frame.at_most("worst, default settings", 15.0, "s", worst)
    with frame.home() as one, frame.home() as other:
        asyncio.run(undisturbed(frame, one, other))


TAKES = "kill to the next step on the other worker"


def rows(frame: Frame, who: str, series: Series) -> None:
    """The median with the best and the worst; what went wrong, if a series broke off."""
    frame.row(who, TAKES, series.seconds, "s", series.trouble)
    if series.seconds:
        frame.row(who, "kill to the lease of the other worker", series.leased_s, "s", "part of the former")
        frame.row(who, "steps taken twice", series.redone_steps, SHARE)
        frame.row(who, "training taken twice", series.redone_s, "s", "steps taken twice, at the pace before the kill")
    if series.trouble and series.seconds:
        frame.fail(who, f"{TAKES}, after {len(series.seconds)} runs", "s", series.trouble)


# -- kills ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def embedded(home: Path) -> AsyncIterator[Reach]:
    """The embedded broker of this home, held."""
    lease = await KeeperLease.acquire(settings.load({"home": str(home)}, {}, home))
    try:
        async with reach(found(settings.load({"home": str(home)}, {}, home)), name="bench") as there:
            yield there
    finally:
        await lease.release()


def agents_of(home: Path) -> tuple[Part, dict[str, Part]]:
    """A scheduler and two workers that find the home's own broker."""

    def part(name: str, *words: str) -> Part:
        return Part(name, [sys.executable, "-P", "-m", "agents", *words, "--name", name], home)

    names = ("w1", "w2")
    return part("scheduler", "scheduler"), {
        name: part(name, "worker", "--cores", "1", "--memory", "4GiB") for name in names
    }


async def kills(frame: Frame, home: Path, how: str, runs: int, series: Series) -> None:
    """One long training that changes hands `runs` times. RamifyError when something does not come in time."""
    draw = random.Random(SEED if frame.seed is None else frame.seed)
    leader, workers = agents_of(home)
    async with embedded(home) as there:
        with running(leader, *workers.values()):
            async with Stage.on(there, "failover") as stage:
                inputs = await splits(stage)
                train = training("train", inputs, TRAIN)
                await stage.submit(train)
                for number in range(runs):
                    await one_kill(frame, stage, workers, train, how, draw, number, series)
                await stage.cancel(train.id)


async def splits(stage: Stage) -> dict[str, str]:
    """The digits as two artifacts, made by the mesh itself."""
    profile = TaskSpec(
        id="profile", topic=stage.topic, executor="profile", inputs={"data": "builtin:digits"}, needs=NEEDS
    )
    await stage.submit(profile)
    outcome = (await stage.success("profile", READY_S)).outcome
    assert outcome is not None
    return {name: outcome.outputs[name] for name in ("train", "validation")}


def training(id_: str, inputs: dict[str, str], given: Facts, avoid: str = "") -> TaskSpec:
    """A training of the digits; avoid: the worker that shall not get it."""
    return TaskSpec(
        id=id_, topic="failover", executor="classify", settings=given, inputs=inputs, needs=NEEDS, budget_s=BUDGET_S,
        wall_s_max=BUDGET_S, avoid=(avoid,) if avoid else (), avoid_mode=Avoid.REQUIRE,
    )  # fmt: skip


async def one_kill(
    frame: Frame, stage: Stage, workers: dict[str, Part], train: TaskSpec, how: str, draw: random.Random,
    number: int, series: Series,
) -> None:  # fmt: skip
    """Kill the holder at a random moment, see the other one go on, bring the dead one back."""
    task, before = train.id, len(stage.progress[train.id])

    def trains() -> bool:
        return any(seen.phase == "training" and seen.step > 0 for seen in stage.progress[task][before:])

    await stage.until("a step of the training", READY_S, trains)
    newest = stage.newest(task)
    assert newest is not None
    holder, epoch = newest.worker, newest.epoch
    (other,) = (name for name in workers if name != holder)
    await warm(stage, train, f"warm-{number}", holder, workers[other])
    has = f"checkpoint {CHECKPOINTS_FIRST} of {holder}"
    await stage.until(has, READY_S, lambda: len(stage.checkpoints(task, epoch)) >= CHECKPOINTS_FIRST)
    await asyncio.sleep(draw.uniform(0, 2 * CHECKPOINT_S))
    pace = steps_per_s(stage, task)
    if task in stage.ended:
        raise BusUnavailable(f"the training ended before it could be disturbed: {stage.ended[task].reason}")

    killed_at = time.monotonic()
    if how == MACHINE:
        chaos.kill_all(workers[holder])
    else:
        workers[holder].kill_inner()

    def goes_on() -> bool:
        resumed = resumed_at(stage, task, other)
        return resumed is not None and any(
            seen.worker == other and seen.epoch > epoch and seen.step > resumed for seen in stage.progress[task]
        )

    await stage.until(f"a step on {other}", TAKEN_S, goes_on)
    resumed = resumed_at(stage, task, other)
    assert resumed is not None
    first = next(
        seen for seen in stage.progress[task] if seen.worker == other and seen.epoch > epoch and seen.step > resumed
    )
    last_step = max(seen.step for seen in stage.progress[task] if seen.worker == holder and seen.epoch == epoch)
    series.seconds.append(first.at - killed_at)
    series.leased_s.append(stage.leased[task][-1][0] - killed_at)
    series.redone_steps.append(float(max(0, last_step - resumed)))
    series.redone_s.append(max(0, last_step - resumed) / pace if pace else 0.0)
    took, leased, steps = series.seconds[-1], series.leased_s[-1], series.redone_steps[-1]
    frame.say(f"run {number + 1}: {took:.2f} s, leased after {leased:.2f} s, {steps:.0f} steps twice")
    if how == MACHINE:
        workers[holder].start()


def resumed_at(stage: Stage, task: str, other: str) -> int | None:
    """Step of the checkpoint from which the present lease of `other` goes on; None while it has none."""
    step, resumed = 0, None
    for move in stage.moves[task]:
        if move.checkpoint_step is not None:
            step = move.checkpoint_step
        elif move.state is TaskState.LEASED:
            resumed = step if move.incarnation.startswith(f"{other}.") else None
    return resumed


def steps_per_s(stage: Stage, task: str) -> float:
    """Pace of the newest epoch, from its first to its last report."""
    newest = stage.newest(task)
    assert newest is not None
    seen = [one for one in stage.progress[task] if one.epoch == newest.epoch and one.phase == "training"]
    span_s = seen[-1].at - seen[0].at if len(seen) > 1 else 0.0
    return (seen[-1].step - seen[0].step) / span_s if span_s else 0.0


async def warm(stage: Stage, train: TaskSpec, id_: str, holder: str, part: Part) -> None:
    """Let the other worker train something short, so that a torch child waits for the next task; until it is calm."""
    await stage.submit(training(id_, train.inputs, WARM, avoid=holder))
    await stage.success(id_, READY_S)
    give_up_at = time.monotonic() + READY_S
    while time.monotonic() < give_up_at:
        children = list(torch_children(part))
        if len(children) == 1 and all(await asyncio.gather(*(calm(child) for child in children))):
            return
        await asyncio.sleep(0.1)
    raise BusUnavailable(f"{part.name} has no warm child after {READY_S:.0f} s")


def torch_children(part: Part) -> Iterator[psutil.Process]:
    """Torch children of a worker."""
    for process in chaos.descendants(part):
        with contextlib.suppress(psutil.Error):
            if {"executors.child", "torch"} <= set(process.cmdline()):
                yield process


async def calm(process: psutil.Process) -> bool:
    """Does it wait for something to do?"""
    with contextlib.suppress(psutil.Error):
        process.cpu_percent()
        await asyncio.sleep(CALM_S)
        return bool(process.cpu_percent() < CALM_PERCENT)
    return False


# -- nobody dies ------------------------------------------------------------------------------------------------------


async def undisturbed(frame: Frame, one: Path, other: Path) -> None:
    """Both trials side by side: each has a mesh of its own and next to nothing to compute but what holds the child."""
    hold_s, away_s = (QUICK_HOLD_S, QUICK_AWAY_S) if frame.quick else (HOLD_S, AWAY_S)
    held = {"hold_gil_s": hold_s}
    trained = {"seconds": away_s + 10.0, "checkpoint_s": 2.0}
    await asyncio.gather(
        trial(frame, one, f"C code holds the interpreter for {hold_s:.0f} s", held, hold_s, 0.0),
        trial(frame, other, f"the broker is away for {away_s:.0f} s, `wait`", trained, away_s, away_s),
    )


async def trial(frame: Frame, home: Path, who: str, given: Facts, long_s: float, away_s: float) -> None:
    """One task to its end with two workers; what the ledger says of its leases."""
    expired = "leases that ended before their task"
    server = nats_server(home, sync_always=True)
    url = nats_url(server)
    try:
        with running(server, scheduler(home, url), worker(home, url, "w1"), worker(home, url, "w2")):
            async with reach(settings.load({"nats.url": url, "home": str(home)}, {}, home), name="bench") as there:
                attempts, early = await one_trial(there, server, given, long_s, away_s)
    except RamifyError as error:
        frame.fail(who, expired, SHARE, str(error))
        return
    frame.row(who, expired, early, SHARE, "false expiries")
    frame.row(who, "attempts beyond the first", attempts - 1, SHARE, "work that was done twice")
    frame.at_most(f"{expired}: {who}", 0, SHARE, [early])
    frame.at_most(f"attempts beyond the first: {who}", 0, SHARE, [attempts - 1])


async def one_trial(there: Reach, server: Part, given: Facts, long_s: float, away_s: float) -> tuple[int, int]:
    """Submit, take the broker away for so long once the task runs, wait for the end: (attempts, leases lost)."""
    async with Stage.on(there, "trial") as stage:
        task = TaskSpec(
            id="trial", topic="trial", executor="noop", settings=given, needs=LIGHT, on_disconnect=OnDisconnect.WAIT,
            wait_s=10 * long_s + 600.0, stall_s=10 * long_s + 600.0, wall_s_max=10 * long_s + 600.0,
        )  # fmt: skip
        await stage.submit(task)
        await stage.until("a lease", READY_S, lambda: bool(stage.moves["trial"]))
        if away_s:
            await stage.until("a first report", READY_S, lambda: bool(stage.progress["trial"]))
            server.kill()
            await asyncio.sleep(away_s)
            server.start()
        attempts = (await stage.success("trial", 2 * long_s + READY_S)).attempts
    books = await audited(there)
    return attempts, books.leases_ended
