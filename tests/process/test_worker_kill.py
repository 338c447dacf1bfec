"""kill -9 at a real worker on a real nats-server: its task goes on from the last checkpoint, in the next life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from agents.together import with_checkout
from mesh import broker as mesh_broker
from mesh import codec
from mesh.bus import Broker
from mesh.errors import NotFound
from mesh.messages.base import Facts
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded, TaskMoved
from mesh.messages.tasks import Needs, OnDisconnect, TaskSpec, TaskState
from mesh.packed import Each
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server]

SUBJECTS = Subjects()


class Mesh:
    """A server, a scheduler process, a supervised worker process, and a hand that submits and looks."""

    def __init__(self, server: NatsServer, home: Path, broker: Broker) -> None:
        self.server, self.home, self.broker = server, home, broker
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, role: str) -> None:
        """Start a role's process, its output into a file."""
        environ = with_checkout(os.environ) | {
            "RAMIFY_HOME": str(self.home),
            "NATS_URL": self.server.url,
            "RAMIFY_WORKER_CORES": "1",
            "RAMIFY_WORKER_NAME": "w1",
            "RAMIFY_WORKER_MEMORY_BYTES": str(1 << 30),
            "RAMIFY_SCHEDULER_BEAT_S": "0.2",
            "OMP_NUM_THREADS": "1",
        }
        with (self.home / f"{role}.log").open("ab") as log:
            self.processes[role] = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "agents", role, env=environ, stdout=log, stderr=log
            )

    async def stop(self) -> None:
        """Stop in order, the worker first."""
        for role in reversed(list(self.processes)):
            process = self.processes[role]
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 60)

    async def submit(self, name: str, settings: Facts, **fields: object) -> None:
        given = {"needs": Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0), **fields}
        spec = TaskSpec(id=name, topic="topic", executor="noop", settings=settings, **given)  # type: ignore[arg-type]
        submit = Submit(id=f"submit-{name}", topic="topic", tasks=(spec,))
        await self.broker.append(SUBJECTS.command("test", "submit", submit.id), codec.encode(submit), subject_seq=0)

    async def wait_for(self, condition: Callable[[TaskEnded | TaskMoved], bool]) -> TaskEnded | TaskMoved:
        """The first record of a task that meets the condition."""
        wanted: tuple[type[TaskEnded | TaskMoved], ...] = (TaskEnded, TaskMoved)
        async with asyncio.timeout(60), self.broker.tail("MESH_RESULTS", SUBJECTS.results()) as records:
            async for stored in Each(records):
                if stored.subject.split(".")[3] in ("task-ended", "task-moved"):
                    record = codec.decode(stored.data, *wanted)
                    if condition(record):
                        return record
        raise AssertionError("the results ended")

    async def ended(self, name: str) -> TaskEnded:
        record = await self.wait_for(lambda one: isinstance(one, TaskEnded) and one.task.id == name)
        assert isinstance(record, TaskEnded)
        return record

    def worker_pid(self) -> int:
        """The worker proper, below its supervisor."""
        (worker,) = psutil.Process(self.processes["worker"].pid).children()
        return int(worker.pid)


async def _is_there(broker: Broker, stream: str) -> bool:
    with contextlib.suppress(NotFound):
        await broker.state(stream)
        return True
    return False


@pytest_asyncio.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    server = NatsServer(tmp_path / "nats").start()
    broker = await mesh_broker.connect(server.options, SUBJECTS, name="test")
    found = Mesh(server, tmp_path, broker)
    try:
        await found.start("scheduler")
        async with asyncio.timeout(30):
            while not await _is_there(broker, "MESH_RESULTS"):  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
        await found.start("worker")
        yield found
        await found.stop()
    finally:
        for process in found.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
        await broker.close()
        server.stop()


async def test_a_killed_worker_comes_back_and_its_task_continues(mesh: Mesh) -> None:
    await mesh.submit("long", {"seconds": 4.0, "checkpoint_s": 0.5})
    await mesh.wait_for(lambda one: isinstance(one, TaskMoved) and one.checkpoint_step is not None)
    first = mesh.worker_pid()
    children = psutil.Process(first).children(recursive=True)
    assert children
    os.kill(first, signal.SIGKILL)
    gone = await mesh.wait_for(lambda one: isinstance(one, TaskMoved) and "process ended" in one.reason)
    assert gone.state is not TaskState.LEASED
    ended = await mesh.ended("long")
    assert ended.state is TaskState.SUCCEEDED
    assert ended.outcome is not None
    assert ended.outcome.kpis["attempts"] == 2.0
    assert mesh.worker_pid() != first
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


async def test_a_stopped_worker_gives_back_and_both_processes_end_with_0(mesh: Mesh) -> None:
    await mesh.submit("long", {"seconds": 60.0}, on_disconnect=OnDisconnect.WAIT)
    await mesh.wait_for(lambda one: isinstance(one, TaskMoved) and one.state is TaskState.LEASED)
    mesh.processes["worker"].terminate()
    await mesh.wait_for(lambda one: isinstance(one, TaskMoved) and one.reason == "the worker stops")
    assert await asyncio.wait_for(mesh.processes["worker"].wait(), 30) == 0


async def test_a_worker_outlives_its_server(mesh: Mesh) -> None:
    await mesh.submit("long", {"seconds": 3.0, "payload_bytes": 100_000}, on_disconnect=OnDisconnect.WAIT)
    await mesh.wait_for(lambda one: isinstance(one, TaskMoved) and one.state is TaskState.LEASED)
    await mesh.server.restart(kill=True)
    async with asyncio.timeout(30):
        while not mesh.broker.connected:  # noqa: ASYNC110 - the client reconnects by itself
            await asyncio.sleep(0.05)
    ended = await mesh.ended("long")
    assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
