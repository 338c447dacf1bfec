"""Machines: each starts an agent, and starts it again when it has ended, as a supervisor or a person would.

A worker's machine keeps its disk over the lives. Every life is a process of its own, with connections of its own; the
beats are a thread of it with a connection of theirs, as in the real worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from agents import scheduler
from agents.again import Again
from agents.beats import Beats, BeatTask
from agents.holdings import Begin, Capacity, Holdings
from agents.runtime import Agent
from agents.worker import BeatPort, MakeBeats, Worker
from agents.worker_task import Stage, Tools
from benchmarks.simulation.parts import KIND, Disk, DiskOutbox, Nature, Pool
from benchmarks.simulation.process import Process
from benchmarks.simulation.store import Store
from benchmarks.simulation.trace import Trace
from executors.port import Runtime
from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.bus import Bus
from mesh.errors import BusUnavailable, RamifyError
from mesh.memory import MemoryDisconnects, MemoryServer
from mesh.messages.base import Epoch
from mesh.messages.leases import Gone
from mesh.metrics import Metrics
from mesh.outbox import Outbox
from mesh.setting_tree import Settings

GIB = 1 << 30

LOOP_TURN_S = 2.0
"""How often an agent's loop watch turns: as often as a worker beats, who tells of it, and far below the silence after
which a loop is called wedged. The product's four turns a second are a third of all timers; nothing hangs on them."""

Taken = Callable[[str, Epoch, str], None]
"""Told of each lease that a worker takes: task, epoch, incarnation."""


class _Counters(Metrics):
    """Nobody looks at gauges here, and they are set a thousand times a seed."""

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Not kept."""


class Machine:
    """Runs lives of one agent, one after the other, until told that no more shall come."""

    role = ""

    def __init__(
        self, name: str, server: MemoryServer, settings: Settings, chance: random.Random, trace: Trace
    ) -> None:
        self.name, self.wanted = name, True
        self.process: Process | None = None
        self.main: Process | None = None
        """The thread with the agent's event loop."""
        self.pause_s_max = 8.0
        """Longest pause between two lives."""
        self._server, self._settings, self._chance, self._trace = server, settings, chance, trace
        self._metrics: list[Metrics] = []
        self.lives = 0
        """Lives begun."""

    @property
    def alive(self) -> bool:
        """True while a life is there, going on or stopped."""
        return self.process is not None and not self.process.killed

    async def run(self) -> None:
        """Life after life."""
        while True:
            if self.wanted:
                await self._life()
            await asyncio.sleep(self._chance.uniform(0.2, self.pause_s_max))

    async def _life(self) -> None:
        self.lives += 1
        process = self.process = Process(f"{self.name}.{self.lives}")
        main = self.main = Process(process.name, process)
        over = asyncio.Event()
        process.on_kill.append(over.set)
        try:
            agent = self._agent(process)
        except BusUnavailable:
            process.kill()
            return
        self._trace.note(f"{process.name} begins")
        life = main.start(self._live(agent, process, over), f"life of {process.name}")
        await over.wait()
        ended_itself = life.done()
        process.kill()
        self._trace.note(f"{process.name} {'has ended' if ended_itself else 'is dead'}")
        await self._after(process, ended_itself)

    def _agent(self, process: Process) -> Agent:
        agent = Agent(self.role, self.name, self._settings, self._connect(process))
        agent.incarnation = f"{self.name}.{self.lives:08x}"
        agent.metrics, agent.loop_turn_s = _Counters(), LOOP_TURN_S
        return agent

    def _connect(self, process: Process, suffix: str = "") -> Any:
        broker = self._server.connect(self.name + suffix)
        process.on_kill.append(lambda: self._server.forget(broker))
        return broker

    async def _live(self, agent: Agent, process: Process, over: asyncio.Event) -> None:
        try:
            await agent.work(self._body(agent, process))
            agent.raise_failure()
        except RamifyError as error:
            self._trace.note(f"{process.name} stops: {type(error).__name__}: {str(error)[:160]}")
            if type(error).__name__ in ("InvariantBroken", "Malformed"):
                self._trace.defect(f"{process.name}: {error}")
        except Exception as error:
            self._trace.defect(f"{process.name}: {type(error).__name__}: {error}")
        finally:
            over.set()

    def _body(self, agent: Agent, process: Process) -> Callable[[Agent], Awaitable[None]]:
        raise NotImplementedError

    async def _after(self, process: Process, ended_itself: bool) -> None:
        """What others do when a life has ended."""


class SchedulerMachine(Machine):
    """A machine with a scheduler."""

    role = "scheduler"

    @property
    def stale_writes(self) -> int:
        """Stale writes that the lives of this machine refused."""
        return int(sum(metrics.value("mesh_stale_writes_total") for metrics in self._metrics))

    def _body(self, agent: Agent, process: Process) -> Callable[[Agent], Awaitable[None]]:
        self._metrics.append(agent.metrics)

        async def body(agent: Agent) -> None:
            await scheduler.body(agent, MemoryDisconnects(self._server))

        return body


class SimulatedWorker(Worker):
    """The real worker on stand-ins for its machine."""

    def __init__(
        self, agent: Agent, folder: Path, disk: Disk, make: MakeBeats, pool: Pool, cores: float, taken: Taken
    ) -> None:
        super().__init__(agent, folder, cast(Outbox, DiskOutbox(disk)), make)
        self._taken = taken
        self._pool = pool  # type: ignore[assignment]
        store = cast(ArtifactStore, Store(agent.broker, agent.subjects, agent.incarnation, disk.cache))
        self._store = store
        self._again = Again(self._outbox, self._debts, store, self._needed, agent.log)
        self._cores = cores

    async def _get_ready(self) -> None:
        agent = self._agent
        await asyncio.sleep(0.1)
        agent.kinds = {KIND: 1}
        capacity = Capacity(
            cores=self._cores, memory_bytes=8 * GIB, disk_bytes=1 << 40, leases_max=2 + int(self._cores),
            kinds=agent.kinds,
        )  # fmt: skip
        self._holdings = Holdings(agent.incarnation, capacity)
        self._tools = Tools(
            worker=agent.name, incarnation=agent.incarnation, store=self._store, pool=self._pool, packer=self._packer,
            debts=self._debts,
            scratch=self._scratch, runtimes={KIND: Runtime.LIGHT}, gpu_numbers=(), light=asyncio.Semaphore(2),
        )  # fmt: skip

    def _begin(self, begin: Begin) -> None:
        self._taken(begin.lease.task.id, begin.lease.epoch, self._agent.incarnation)
        super()._begin(begin)

    @property
    def holds(self) -> tuple[tuple[str, Any], ...]:
        """The leases that this life holds now."""
        return () if self._holdings is None else self._holdings.held

    @property
    def runs(self) -> set[str]:
        """Tasks that are not yet at their last row: a last upload may take as long as the store lets it wait."""
        last = (Stage.UPLOADING, Stage.OVER)
        return {task for (task, _), running in self._running.items() if running.stage not in last}

    @property
    def generation(self) -> int:
        """Of the ledger, as far as this life has heard; 0 before its first answer."""
        return 0 if self._holdings is None else self._holdings.generation


class _BeatTask(BeatTask):
    """Beats as a thread of a process that can be stopped alone."""

    def __init__(self, make: Callable[[], Beats], bus: Bus, thread: Process) -> None:
        super().__init__(make, bus)
        self._thread = thread

    def start(self) -> None:
        with self._thread.inside():
            super().start()


class WorkerMachine(Machine):
    """A machine with a worker: its disk outlives the worker's lives."""

    role = "worker"

    def __init__(
        self, name: str, server: MemoryServer, settings: Settings, chance: random.Random, trace: Trace, *,
        nature: Nature, cores: float, taken: Taken,
    ) -> None:  # fmt: skip
        super().__init__(name, server, settings, chance, trace)
        self.disk = Disk()
        self.worker: SimulatedWorker | None = None
        self._nature, self._cores, self._taken = nature, cores, taken
        self._reporter = server.connect(f"{name}-supervisor")
        self._agent_now: Agent | None = None

    def ask_to_stop(self) -> None:
        """As SIGTERM does."""
        if self.alive and self._agent_now is not None:
            self._agent_now.stop()

    def _body(self, agent: Agent, process: Process) -> Callable[[Agent], Awaitable[None]]:
        beats = Process(f"{process.name} beats", process)
        beats_bus = self._connect(process, "-beats")
        self._agent_now = agent

        def make_beats(agent: Agent, make: Callable[[], Beats]) -> BeatPort:
            return _BeatTask(make, beats_bus, beats)

        async def body(agent: Agent) -> None:
            folder = self._settings.home / "workers" / self.name
            self.worker = SimulatedWorker(
                agent, folder, self.disk, make_beats, Pool(self._nature, process), self._cores, self._taken
            )
            await self.worker.live()

        return body

    async def _after(self, process: Process, ended_itself: bool) -> None:
        """The supervisor reports the exit, if it can."""
        self.worker = self._agent_now = None
        if ended_itself or self._chance.random() < 0.5:
            return
        incarnation = f"{self.name}.{self.lives:08x}"
        gone = Gone(worker=self.name, incarnation=incarnation, exit_code=-9)
        with contextlib.suppress(BusUnavailable):
            await self._reporter.publish(self._server.subjects.gone(self.name), codec.encode(gone))
