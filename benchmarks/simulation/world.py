"""One seed from its start to its verdict: broker, schedulers, workers, a publisher, faults, and a judge beside them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.simulation import process as processes
from benchmarks.simulation.chaos import Chaos
from benchmarks.simulation.clocks import NumberedTask, SimulationLoop, WallClock, bent_clocks
from benchmarks.simulation.followup import FollowUps
from benchmarks.simulation.judge import Judge
from benchmarks.simulation.lives import SchedulerMachine, WorkerMachine
from benchmarks.simulation.network import Network
from benchmarks.simulation.operator import Operator
from benchmarks.simulation.parts import Nature
from benchmarks.simulation.trace import TAIL_MAX, Trace
from benchmarks.simulation.work import WRITER, CommandLine, Publisher
from mesh import settings as mesh_settings
from mesh.errors import InvariantBroken, NotFound, RamifyError
from mesh.memory import MemoryServer
from mesh.setting_tree import Settings

SETTLE_S = 700.0
"""Virtual time after the last fault in which everything must have ended: back-offs, waits and pauses fit in twice."""

OLDER = 0.3
"""In how many meshes the broker may come back with an older copy of its store, unless all shall."""

SNAPSHOTS = 0.3
"""In how many meshes schedulers save their state often: the others live too short to see it."""

SNAPSHOT_EVENTS = 10
"""Events between two savings there."""

STANDBY = 0.6
"""How many meshes have a second scheduler from the start."""

LOOK_S = 1.0
"""How often the judge reads the ledger."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed."""

    seed: int
    broken: tuple[str, ...]
    tail: tuple[str, ...]
    """The last events; empty when all promises were kept."""
    virtual_s: float
    events: int
    faults: Counter[str]
    """Faults injected, by kind."""
    counts: Counter[str]
    """What went on: tasks, leases, lives, results, refused writes, …"""
    digest: str
    """The same for the same run."""


class World:
    """The mesh of one seed."""

    def __init__(self, seed: int, settings: Settings, *, older: bool, tail_max: int) -> None:
        self.trace = Trace(tail_max)
        self.wall = WallClock(processes.machine_now)
        self.network = Network(_chance(seed, "network"), self.trace)
        self.server = MemoryServer(faults=self.network)
        self.judge = Judge(self.server)
        chance, nature = _chance(seed, "world"), Nature(self.trace)
        names = [f"w{number}" for number in range(1, chance.randint(2, 3) + 1)]
        self.workers = [
            WorkerMachine(
                name, self.server, settings, _chance(seed, name), self.trace,
                nature=nature, cores=chance.choice((1.0, 2.0)), taken=self.judge.taken,
            )
            for name in names
        ]  # fmt: skip
        self.schedulers = [
            SchedulerMachine(
                name, self.server, dataclasses.replace(settings, home=settings.home / name), _chance(seed, name),
                self.trace,
            )
            for name in ("s1", "s2")
        ]  # fmt: skip
        self.schedulers[1].wanted = chance.random() < STANDBY
        """A standby from the start, or one that somebody starts when there is trouble, or none."""
        self.commands = CommandLine(self.server.connect(WRITER), self.server.subjects, self.trace)
        self.publisher = Publisher(self.commands, _chance(seed, "publisher"))
        self.operator = Operator(self.commands, _chance(seed, "operator"), names, self.judge.parked)
        self.followups = FollowUps(self.commands, self.judge.succeeded, lambda: self.chaos.over)
        self.chaos = Chaos(
            self.server, self.network, self.wall, self.trace, _chance(seed, "chaos"),
            workers=self.workers, schedulers=self.schedulers, older=older, on_older=self._on_older,
            loses=self.judge.loses, leader=lambda: self.judge.leader,
        )  # fmt: skip

        self._tasks: list[asyncio.Task[None]] = []
        """Held here: the loop itself forgets tasks that nobody holds."""

    def _on_older(self) -> None:
        """The judge reads the history that is lost to its end, then another one; who published does so again."""
        self._look()
        self.judge.rewound(self._disks())
        self.followups.rewound()
        self._tasks.append(asyncio.get_running_loop().create_task(self.commands.again(), name="commands again"))

    async def run(self) -> None:
        """Live through the seed; what is wrong stands with the judge."""
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(machine.run(), name=machine.name) for machine in self.schedulers]
        self._tasks += [loop.create_task(machine.run(), name=machine.name) for machine in self.workers]
        self._tasks.append(loop.create_task(self.publisher.run(), name="publisher"))
        self._tasks.append(loop.create_task(self.operator.run(), name="operator"))
        self._tasks.append(loop.create_task(self.followups.run(), name="planner"))
        self._tasks.append(loop.create_task(self.chaos.run(), name="chaos"))
        deadline = SETTLE_S
        while True:
            await asyncio.sleep(LOOK_S)
            self._look()
            if not self.chaos.over:
                deadline = loop.time() + SETTLE_S
                continue
            runs = {machine.name: machine.worker.runs for machine in self.workers if machine.worker is not None}
            self.judge.obedience.watch_leases(loop.time(), runs)
            late = loop.time() > deadline or bool(self.judge.broken)
            if not late and (self._held() or not self.commands.done):  # seen at a glance: nobody needs it in words
                continue
            open_ones = self._unsettled()
            if not open_ones or self.judge.broken:
                break
            if loop.time() > deadline:
                for sentence in open_ones:
                    self.judge.breaks("every task ends", sentence)
                break
        if not self.judge.broken:
            self.judge.conclude(self._disks())

    def counts(self) -> Counter[str]:
        """What went on in this seed."""
        found = self.judge.counts()
        found["worker lives"] = sum(machine.lives for machine in self.workers)
        found["scheduler lives"] = sum(machine.lives for machine in self.schedulers)
        found["stale writes refused"] = sum(machine.stale_writes for machine in self.schedulers)
        found["rows refused"] = sum(len(machine.disk.refused) for machine in self.workers)
        return found

    def _disks(self) -> dict[str, Any]:
        return {worker.name: worker.disk for worker in self.workers}

    def _look(self) -> None:
        with contextlib.suppress(NotFound):  # the scheduler has not made the streams yet
            self.judge.watch()
        for sentence in self.trace.defects:
            self.judge.breaks("no defect", sentence)
        self.trace.defects.clear()

    def _unsettled(self) -> list[str]:
        found = self.judge.unsettled(self.commands, self._disks())
        found += [f"{name} still holds {sorted(held)}" for name, held in self._held().items()]
        found += [f"{submit.id} is not submitted" for submit in self.followups.open()]
        if (generation := self.judge.generation) > 1:  # who has not heard of it does not know what was lost
            found += [
                f"{machine.name} has not heard of generation {generation}"
                for machine in self.workers
                if machine.worker is None or machine.worker.generation < generation
            ]
        return found

    def _held(self) -> dict[str, set[str]]:
        """Tasks that workers hold, by the worker's name."""
        return {
            machine.name: {task for task, _ in machine.worker.holds}
            for machine in self.workers
            if machine.worker is not None and machine.worker.holds
        }


def simulate(seed: int, home: Path, *, older: bool = False, tail_max: int = TAIL_MAX) -> Verdict:
    """Live through one seed, on its own loop. home: an empty folder, best in memory; older: the broker may come back
    with an older store, whatever the seed says; tail_max: events told of a seed that breaks a promise."""
    loop = SimulationLoop()
    NumberedTask.count = 0
    loop.set_task_factory(processes.task_factory)
    asyncio.set_event_loop(loop)
    kind = _chance(seed, "kind")
    older = kind.random() < OLDER or older
    settings = _settings(home, often=kind.random() < SNAPSHOTS)
    for name in ("workers", "s1", "s2"):
        shutil.rmtree(home / name, ignore_errors=True)
    world: World | None = None

    async def live() -> None:
        nonlocal world
        world = World(seed, settings, older=older, tail_max=tail_max)
        loop.set_exception_handler(lambda loop, context: _unforeseen(world, context))
        with _errors_noted(world.trace), bent_clocks(loop, world.wall):
            await world.run()

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    gc.disable()  # what is collected when must not depend on what ran before
    try:
        try:
            loop.run_until_complete(live())
        except InvariantBroken as error:
            if world is None:
                raise
            world.judge.breaks("no defect", str(error))
        assert world is not None
        return _verdict(seed, world, loop.time())
    finally:
        logging.disable(logging.CRITICAL)  # the dead do not complain
        loop.set_exception_handler(lambda loop, context: None)
        processes.bury(loop)
        loop.close()
        logging.disable(before)
        asyncio.set_event_loop(None)
        gc.enable()


def _verdict(seed: int, world: World, virtual_s: float) -> Verdict:
    broken = tuple(world.judge.broken)
    trace = world.trace
    tail = tuple(trace.tail()) if broken else ()
    return Verdict(seed, broken, tail, virtual_s, trace.events, trace.faults, world.counts(), trace.digest())


def _chance(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed} {what}")


_loaded: dict[tuple[Path, bool], Settings] = {}


def _settings(home: Path, *, often: bool) -> Settings:
    """The settings of every agent; read once. often: schedulers save their state often."""
    if (home, often) not in _loaded:
        flags: dict[str, object] = {"home": str(home), "scheduler.back_off_s_max": 8.0, "worker.stop_grace_s": 8.0}
        if often:
            flags["scheduler.snapshot_events"] = SNAPSHOT_EVENTS
        _loaded[home, often] = mesh_settings.load(flags, {}, home)
    return _loaded[home, often]


def _unforeseen(world: World | None, context: dict[str, Any]) -> None:
    assert world is not None
    error = context.get("exception")
    world.trace.defect(f"{context.get('message')}: {error!r}"[:300])


class _Errors(logging.Handler):
    """Notes errors with a traceback that are none of the foreseen ones."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.ERROR)
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (not isinstance(error, RamifyError) or isinstance(error, InvariantBroken)):
            self._trace.defect(f"{record.getMessage()}: {error!r}"[:300])


@contextlib.contextmanager
def _errors_noted(trace: Trace) -> Iterator[None]:
    """Only errors are logged, and only to the trace: a thousand seeds would fill any log."""
    handler, root = _Errors(trace), logging.getLogger()
    before, handlers = logging.root.manager.disable, root.handlers[:]
    logging.disable(logging.WARNING)
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        logging.disable(before)


@contextlib.contextmanager
def home_folder() -> Iterator[Path]:
    """A folder for simulated disks: in memory where the system has such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
