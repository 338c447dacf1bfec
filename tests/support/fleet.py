"""A small mesh of real processes for tests: a server, a scheduler, several workers by name, and a hand that looks.

Beats and their deadlines run ten times as fast as usual, so that a second without a worker is as long as ten.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import psutil

from mesh import broker as mesh_broker
from mesh import codec
from mesh.bus import Broker
from mesh.errors import BusUnavailable, NotFound
from mesh.messages.base import Facts
from mesh.messages.commands import Submit
from mesh.messages.ledger import Entry, LeaseEnded
from mesh.messages.results import TaskEnded, TaskMoved
from mesh.messages.services import Ask, Status
from mesh.messages.tasks import Needs, TaskSpec, TaskState
from mesh.packed import Each
from mesh.subjects import Subjects
from tests.support.agent_process import DEADLINE_S, AgentProcess
from tests.support.nats_server import NatsServer

SUBJECTS = Subjects()
FAST = {"RAMIFY_SCHEDULER_BEAT_S": "0.2", "RAMIFY_SCHEDULER_LOST_S": "1.5", "RAMIFY_SCHEDULER_BACK_OFF_S_FIRST": "0.1"}

Record = TaskEnded | TaskMoved


class Fleet:
    """What a test holds in its hand."""

    def __init__(self, server: NatsServer, broker: Broker, folder: Path, settings: Mapping[str, str]) -> None:
        self.server, self.broker, self.folder, self._settings = server, broker, folder, settings
        self.scheduler: AgentProcess
        self.workers: dict[str, AgentProcess] = {}

    async def start_scheduler(self) -> None:
        """Start it, and wait until it answers."""
        self.scheduler = await self._start("scheduler", "scheduler")
        await self.answering()

    async def start_worker(self, name: str, **settings: str) -> AgentProcess:
        """Start a worker (supervised, as people do), and wait until the scheduler hears it."""
        lives = {row.incarnation for row in (await self.ask("workers")).workers}
        self.workers[name] = await self._start("worker", name, RAMIFY_WORKER_NAME=name, **settings)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                rows = (await self.ask("workers")).workers
                if any(row.name == name and row.incarnation not in lives for row in rows):
                    return self.workers[name]
                await asyncio.sleep(0.05)

    async def _start(self, role: str, name: str, **settings: str) -> AgentProcess:
        more = {
            "NATS_URL": self.server.url,
            "RAMIFY_WORKER_MEMORY_BYTES": str(1 << 30),
            **FAST,
            **self._settings,
            **settings,
        }
        return await AgentProcess.start(role, self.folder / name, **more)

    def life(self, name: str) -> psutil.Process:
        """The worker proper, below its supervisor."""
        (worker,) = psutil.Process(self.workers[name].pid).children()
        return worker

    async def submit(
        self, name: str, settings: Facts, *, executor: str = "noop", version: int = 1, **more: object
    ) -> None:
        """One task that takes next to nothing of a machine."""
        fields = {"needs": Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0), **more}
        spec = TaskSpec(
            id=name, topic="topic", executor=executor, executor_version=version, settings=settings,
            **fields,  # type: ignore[arg-type]
        )  # fmt: skip
        submit = Submit(id=f"submit-{name}", topic="topic", tasks=(spec,))
        await self.broker.append(SUBJECTS.command("test", "submit", submit.id), codec.encode(submit), subject_seq=0)

    async def first(self, task: str, condition: Callable[[Record], bool]) -> tuple[Record, float]:
        """The first record of a task that meets the condition, and when it was seen (monotonic seconds)."""
        wanted: tuple[type[Record], ...] = (TaskEnded, TaskMoved)
        async with asyncio.timeout(DEADLINE_S), self.broker.tail("MESH_RESULTS", SUBJECTS.results()) as records:
            async for stored in Each(records):
                if stored.subject.split(".")[3] not in ("task-ended", "task-moved"):
                    continue
                record = codec.decode(stored.data, *wanted)
                if (record.task.id if isinstance(record, TaskEnded) else record.task) == task and condition(record):
                    return record, time.monotonic()
        raise AssertionError("the results ended")

    async def leased(self, task: str, to: str) -> float:
        """Wait until a worker has it; when that was seen."""
        return (
            await self.first(
                task,
                lambda one: (
                    isinstance(one, TaskMoved)
                    and one.state is TaskState.LEASED
                    and one.incarnation.startswith(to + ".")
                ),
            )
        )[1]

    async def checkpointed(self, task: str) -> TaskMoved:
        """Wait for its first recorded checkpoint."""
        record, _ = await self.first(task, lambda one: isinstance(one, TaskMoved) and one.checkpoint_step is not None)
        assert isinstance(record, TaskMoved)
        return record

    async def ended(self, task: str) -> TaskEnded:
        """Wait for its end."""
        record, _ = await self.first(task, lambda one: isinstance(one, TaskEnded))
        assert isinstance(record, TaskEnded)
        return record

    async def ask(self, what: str) -> Status:
        """A question to the leader; one that begins another term is waited for."""
        question = codec.encode(Ask(what=what))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(NotFound, BusUnavailable):
                    subject = SUBJECTS.ask("scheduler", self.broker.name)
                    message = await self.broker.request(subject, question, timeout_s=2.0)
                    return codec.decode(message.data, Status)
                await asyncio.sleep(0.05)

    async def answering(self) -> None:
        """Wait until the scheduler answers over our own connection."""
        await self.ask("leader")

    async def lost_leases(self, task: str) -> list[str]:
        """Why leases of a task ended without a result, in order: from the ledger itself."""
        stored = await self.broker.read("MESH_LEDGER", SUBJECTS.ledger())
        events = [event for one in stored for event in codec.decode(one.data, Entry).events]
        return [str(event.cause) for event in events if isinstance(event, LeaseEnded) and event.task == task]


@contextlib.asynccontextmanager
async def fleet(folder: Path, **settings: str) -> AsyncIterator[Fleet]:
    """A server and a scheduler; at the end nothing of it runs any more. settings: of all its agents, as variables."""
    server = NatsServer(folder / "nats").start()
    broker = await mesh_broker.connect(server.options, SUBJECTS, name="test")
    found = Fleet(server, broker, folder, settings)
    try:
        await found.start_scheduler()
        yield found
        for worker in found.workers.values():
            await worker.stop()
        await found.scheduler.stop()
    finally:
        for process in (*found.workers.values(), found.scheduler):
            for child in _below(process.pid):
                with contextlib.suppress(psutil.Error):
                    child.kill()
            await process.kill()
        await broker.close()
        server.stop()


def _below(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
