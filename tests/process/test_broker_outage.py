"""A whole mesh of real processes while its broker restarts, is killed, or stays away: nobody has to be started again.

The worker's task runs on through it under `wait` and is recorded once, in its first attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh import broker as mesh_broker
from mesh import codec
from mesh.bus import Broker
from mesh.disconnects import ServerDisconnects
from mesh.errors import BusUnavailable, Conflict
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded, TaskMoved
from mesh.messages.tasks import Needs, OnDisconnect, TaskSpec, TaskState
from mesh.packed import Each
from mesh.server import Server
from mesh.setting_tree import BrokerSettings
from mesh.subjects import Subjects
from tests.support.agent_process import DEADLINE_S, AgentProcess
from tests.support.agents import until
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server]

SUBJECTS = Subjects()
ROLES = ("scheduler", "planner", "consensus", "gate", "worker")
BEATS = {
    "RAMIFY_SCHEDULER_BEAT_S": "0.2",
    "RAMIFY_SCHEDULER_LOST_S": "1.0",
    "RAMIFY_SCHEDULER_LEADER_BEAT_S": "0.2",
    "RAMIFY_SCHEDULER_LEADER_LOST_S": "1.0",
}
"""A tenth of the usual times: seconds without a broker are then as long as minutes."""


Wanted = Callable[[TaskEnded | TaskMoved], bool]


class Mesh:
    """One of each agent on a server of its own, and a hand in it."""

    def __init__(self, server: NatsServer, broker: Broker, agents: dict[str, AgentProcess]) -> None:
        self.server, self.broker, self.agents = server, broker, agents

    async def well(self) -> dict[str, str]:
        """Wait until every agent is; their incarnations."""
        return {role: (await agent.until_health(200))["incarnation"] for role, agent in self.agents.items()}

    async def unwell(self) -> None:
        """Wait until every agent has noticed that the broker is away."""
        for agent in self.agents.values():
            await agent.until_health(503, "broker")

    async def submit(self, name: str, seconds: float) -> None:
        """A task that only takes its time; put again until the broker has it."""
        spec = TaskSpec(
            id=name, topic="topic", executor="noop", settings={"seconds": seconds},
            needs=Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0), on_disconnect=OnDisconnect.WAIT,
        )  # fmt: skip
        submit = Submit(id=f"submit-{name}", topic="topic", tasks=(spec,))
        subject = SUBJECTS.command("test", "submit", submit.id)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(BusUnavailable):
                    with contextlib.suppress(Conflict):  # it was stored when its answer was lost
                        await self.broker.append(subject, codec.encode(submit), subject_seq=0)
                    return
                await asyncio.sleep(0.05)

    async def leased(self, name: str) -> None:
        """Wait until a worker has it."""
        await self._first(lambda one: isinstance(one, TaskMoved) and one.task == name and one.state is TaskState.LEASED)

    async def ended(self, name: str) -> TaskEnded:
        """Wait for its end."""
        record = await self._first(lambda one: isinstance(one, TaskEnded) and one.task.id == name)
        assert isinstance(record, TaskEnded)
        return record

    async def _first(self, wanted: Wanted) -> TaskEnded | TaskMoved:
        kinds: tuple[type[TaskEnded | TaskMoved], ...] = (TaskEnded, TaskMoved)
        await until(lambda: self.broker.connected, "the test's own connection")
        async with asyncio.timeout(DEADLINE_S), self.broker.tail("MESH_RESULTS", SUBJECTS.results()) as records:
            async for stored in Each(records):
                if stored.subject.split(".")[3] in ("task-ended", "task-moved"):
                    record = codec.decode(stored.data, *kinds)
                    if wanted(record):
                        return record
        raise AssertionError("the results ended")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    server = NatsServer(tmp_path / "nats").start()
    agents: dict[str, AgentProcess] = {}
    async with contextlib.AsyncExitStack() as ending:
        ending.callback(server.stop)
        broker = await ending.enter_async_context(mesh_broker.connection(server.options, SUBJECTS, name="test"))
        for role in ROLES:
            alone = ("--alone",) if role == "worker" else ()
            agents[role] = await AgentProcess.start(role, tmp_path / "home", *alone, NATS_URL=server.url, **BEATS)
            ending.push_async_callback(agents[role].kill)
        yield Mesh(server, broker, agents)


async def check_alive(mesh: Mesh, before: dict[str, str], reconnects: int) -> None:
    """Everybody is well again without having been started anew."""
    assert await mesh.well() == before
    for role, agent in mesh.agents.items():
        assert agent.process.returncode is None
        assert await agent.metric("mesh_bus_reconnects_total") == reconnects, role
        assert agent.sentences() == []


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "restart"])
async def test_everybody_outlives_a_restart_of_the_broker(mesh: Mesh, kill: bool) -> None:
    before = await mesh.well()
    await mesh.submit("during", 2.0)
    await mesh.leased("during")
    await mesh.server.restart(kill=kill)
    ended = await mesh.ended("during")
    assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
    await check_alive(mesh, before, reconnects=1)
    await mesh.submit("after", 0.0)
    assert (await mesh.ended("after")).state is TaskState.SUCCEEDED


async def test_everybody_outlives_a_broker_that_stays_away_and_the_work_done_meanwhile_counts(mesh: Mesh) -> None:
    before = await mesh.well()
    await mesh.submit("during", 3.0)
    await mesh.leased("during")
    await asyncio.to_thread(mesh.server.kill)
    await mesh.unwell()
    await asyncio.sleep(6.0)  # six times the silence after which a lease ends, twice the task: it is over by now
    await asyncio.to_thread(mesh.server.start)
    ended = await mesh.ended("during")
    assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 1)
    await check_alive(mesh, before, reconnects=1)
    await mesh.submit("after", 0.0)
    assert (await mesh.ended("after")).state is TaskState.SUCCEEDED


async def test_everybody_leaves_in_order_while_the_broker_is_away(mesh: Mesh) -> None:
    await mesh.well()
    await asyncio.to_thread(mesh.server.kill)
    await mesh.unwell()
    assert [await mesh.agents[role].stop() for role in reversed(ROLES)] == [0] * len(ROLES)
    assert [agent.sentences() for agent in mesh.agents.values()] == [[]] * len(ROLES)


async def test_an_agent_that_starts_in_an_outage_joins_when_it_ends(mesh: Mesh, tmp_path: Path) -> None:
    await mesh.well()
    await asyncio.to_thread(mesh.server.stop)
    late = await AgentProcess.start(
        "gate", tmp_path / "late", "--name", "gate-2", "--timeout", "60s", NATS_URL=mesh.server.url
    )
    try:
        await mesh.unwell()
        await asyncio.to_thread(mesh.server.start)
        await late.until_health(200)
        await mesh.well()
        assert await late.stop() == 0
    finally:
        await late.kill()


async def test_the_embedded_broker_names_a_killed_agent(tmp_path: Path) -> None:
    """By its incarnation, without waiting for a missed beat."""
    server = Server(tmp_path / "home" / "broker", BrokerSettings(), tmp_path / "server.log")
    await server.start()
    agent = await AgentProcess.start("scheduler", tmp_path / "home", NATS_URL=server.url)
    try:
        incarnation = (await agent.until_health(200))["incarnation"]
        who = ServerDisconnects(server.folder, server.url, name="test")
        async with who.follow() as names:
            await until(lambda: who.available, "the system account")
            agent.process.kill()
            async with asyncio.timeout(DEADLINE_S):
                while await anext(names) != incarnation:  # also the test's own commands may come and go
                    continue
    finally:
        await agent.kill()
        await server.stop()
        server.release()
