"""The leading scheduler is killed, or stands still, on a real server: the standby leads, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mesh import broker as mesh_broker
from mesh import codec
from mesh.bus import Broker
from mesh.errors import BusUnavailable, NotFound
from mesh.messages.commands import Submit
from mesh.messages.ledger import AnyEvent, Entry, LeaderChosen, LeaseEnded, TaskLeased, TaskSucceeded
from mesh.messages.services import Ask, Status
from mesh.messages.tasks import Needs, TaskSpec
from mesh.subjects import Subjects
from tests.support.agent_process import DEADLINE_S, AgentProcess
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server]

SUBJECTS = Subjects()


class Mesh:
    """A server, two schedulers, a worker, and a hand that submits and looks."""

    def __init__(self, server: NatsServer, home: Path, broker: Broker) -> None:
        self.server, self.home, self.broker = server, home, broker
        self.agents: dict[str, AgentProcess] = {}

    async def start(self, role: str, name: str) -> AgentProcess:
        said = [] if role == "worker" else ["--name", name]
        self.agents[name] = await AgentProcess.start(
            role, self.home / name, *said, NATS_URL=self.server.url, RAMIFY_WORKER_NAME=name,
            RAMIFY_WORKER_MEMORY_BYTES=str(1 << 30),
        )  # fmt: skip
        return self.agents[name]

    async def status(self, timeout_s: float = 0.3) -> Status | None:
        with contextlib.suppress(BusUnavailable, NotFound):
            question = codec.encode(Ask(what="status"))
            subject = SUBJECTS.ask("scheduler", self.broker.name)
            asked = await self.broker.request(subject, question, timeout_s=timeout_s)
            return codec.decode(asked.data, Status)
        return None

    async def led_by(self, name: str) -> float:
        """Seconds until the scheduler of this name leads."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(DEADLINE_S):
            while (status := await self.status()) is None or status.leader != name:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        return loop.time() - began

    async def submit(self, name: str, seconds: float) -> None:
        spec = TaskSpec(
            id=name, topic="topic", executor="noop", settings={"seconds": seconds},
            needs=Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0),
        )  # fmt: skip
        submit = Submit(id=f"submit-{name}", topic="topic", tasks=(spec,))
        await self.broker.append(SUBJECTS.command("test", "submit", submit.id), codec.encode(submit), subject_seq=0)

    async def events(self) -> list[AnyEvent]:
        stored = await self.broker.read("MESH_LEDGER", SUBJECTS.ledger())
        return [event for one in stored for event in codec.decode(one.data, Entry).events]

    async def until(self, kind: type[TaskLeased | TaskSucceeded], task: str) -> None:
        """Until the ledger says so of the task."""
        async with asyncio.timeout(DEADLINE_S):
            while not any(  # noqa: ASYNC110 - another process
                isinstance(event, kind) and event.task == task for event in await self.events()
            ):
                await asyncio.sleep(0.1)

    async def check(self, terms: int) -> None:
        """What must hold at the end of each story."""
        events = await self.events()
        assert [event.term for event in events if isinstance(event, LeaderChosen)] == list(range(1, terms + 1))
        given = [(event.task, event.epoch) for event in events if isinstance(event, TaskLeased)]
        assert len(given) == len(set(given))
        assert [event.reason for event in events if isinstance(event, LeaseEnded)] == []


@pytest_asyncio.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    server = NatsServer(tmp_path / "nats").start()
    broker = await mesh_broker.connect(server.options, SUBJECTS, name="test")
    found = Mesh(server, tmp_path, broker)
    try:
        await found.start("scheduler", "s1")
        await found.led_by("s1")
        await found.start("scheduler", "s2")
        await found.start("worker", "w1")
        async with asyncio.timeout(DEADLINE_S):
            while (await found.agents["s2"].health())[0] != 200:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        yield found
    finally:
        for agent in found.agents.values():
            if agent.process.returncode is None:
                agent.process.send_signal(signal.SIGCONT)
                agent.process.kill()
                await agent.process.wait()
        await broker.close()
        server.stop()


async def test_the_leader_is_killed_and_the_lease_goes_on(mesh: Mesh) -> None:
    await mesh.submit("long", 8.0)
    await mesh.until(TaskLeased, "long")
    os.kill(mesh.agents["s1"].pid, signal.SIGKILL)
    await mesh.submit("next", 0.1)
    assert 1.0 < await mesh.led_by("s2") < 10.0
    await mesh.until(TaskSucceeded, "long")
    await mesh.until(TaskSucceeded, "next")
    await mesh.check(terms=2)


async def test_a_leader_that_stood_still_becomes_the_standby_and_refuses_nothing(mesh: Mesh) -> None:
    await mesh.submit("long", 8.0)
    await mesh.until(TaskLeased, "long")
    s1 = mesh.agents["s1"]
    os.kill(s1.pid, signal.SIGSTOP)
    await mesh.led_by("s2")
    # s1 is still subscribed: no question may be left to it alone.
    assert {found and found.leader for found in [await mesh.status(3.0) for _ in range(8)]} == {"s2"}
    await mesh.submit("next", 0.1)
    await mesh.until(TaskSucceeded, "next")
    os.kill(s1.pid, signal.SIGCONT)
    await mesh.until(TaskSucceeded, "long")
    status = await mesh.status()
    assert status is not None
    assert status.leader == "s2"
    assert status.stale_writes == 0
    assert s1.process.returncode is None
    async with asyncio.timeout(DEADLINE_S):
        while "steps down" not in s1.output():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    assert not [path for path in (mesh.home / "w1").rglob("refused/*") if path.is_file()]
    # In order, the lead goes back at once.
    mesh.agents["s2"].process.terminate()
    await mesh.led_by("s1")
    await mesh.check(terms=3)
