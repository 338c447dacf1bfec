"""Each role as a process of its own on a real nats-server: quick to start, small, answering, and leaving in order.

What one can not go on with is one sentence and an exit code of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh import broker as mesh_broker
from mesh import codec, streams
from mesh.broker import NatsBroker
from mesh.bus import Broker, Message
from mesh.errors import NotFound
from mesh.messages.leases import Gone
from mesh.messages.services import Welcome
from mesh.subjects import Subjects
from tests.support.agent_process import DEADLINE_S, AgentProcess
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server]

SUBJECTS = Subjects()
ROLES = ("planner", "scheduler", "consensus", "gate", "worker")
START_CPU_S_MAX = 1.0
"""Processor seconds until an agent answers on /health: no heavy library can hide in it."""

RESIDENT_BYTES_MAX = 80 << 20
HEAVY = ("torch", "numpy", "sklearn", "scipy", "pyarrow", "pandas")

Start = Callable[..., Awaitable[AgentProcess]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    found = NatsServer(tmp_path / "nats").start()
    yield found
    found.stop()


@pytest.fixture
async def broker(server: NatsServer) -> AsyncIterator[NatsBroker]:
    """A hand of the test in the mesh."""
    async with mesh_broker.connection(server.options, SUBJECTS, name="test") as found:
        yield found


@pytest.fixture
async def start(server: NatsServer, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts agents on the server; none of them outlives the test."""
    started: list[AgentProcess] = []

    async def begin(role: str, *arguments: str, **settings: str) -> AgentProcess:
        alone = ("--alone",) if role == "worker" and "--supervised" not in arguments else ()
        given = [argument for argument in arguments if argument != "--supervised"]
        found = await AgentProcess.start(
            role, tmp_path / "home", *given, *alone, **{"NATS_URL": server.url, **settings}
        )
        started.append(found)
        return found

    yield begin
    for process in reversed(started):
        await process.kill()


async def make_streams(broker: Broker) -> None:
    await streams.ensure_all(broker, streams.table(SUBJECTS, artifact_bytes_max=1 << 30))


async def ask(broker: Broker, subject: str) -> dict[str, Any]:
    """A question of the service protocol, asked until somebody listens."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(NotFound):
                found: dict[str, Any] = json.loads((await broker.request(subject, b"", timeout_s=5)).data)
                return found
            await asyncio.sleep(0.02)


# -- alone -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_alone_starts_answers_and_leaves(role: str, start: Start, broker: NatsBroker) -> None:
    await make_streams(broker)
    agent = await start(role)
    document = await agent.until_health(200)
    assert agent.cpu_s() < START_CPU_S_MAX
    assert document["role"] == role
    assert document["problems"] == {}
    check_small(agent)
    name = "w1" if role == "worker" else role
    await check_service(broker, f"ramify-{role}", name, document["incarnation"])
    await check_metrics(agent, name)
    assert await agent.stop() == 0
    assert agent.sentences() == []
    assert not agent.note.exists()
    with pytest.raises(NotFound):
        await broker.request(f"$SRV.PING.ramify-{role}", b"", timeout_s=5)


def check_small(agent: AgentProcess) -> None:
    """No heavy library was loaded, in whatever way: each of them brings shared objects."""
    if sys.platform == "linux":
        found = {name for name in HEAVY if f"/site-packages/{name}/" in agent.mapped()}
        assert not found
    if agent.role != "worker":
        assert psutil.Process(agent.pid).memory_info().rss < RESIDENT_BYTES_MAX


async def check_service(broker: Broker, service: str, name: str, incarnation: str) -> None:
    """The fields of ADR-32, on the subject of everybody, of the service and of the instance."""
    ping = await ask(broker, f"$SRV.PING.{service}")
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    info = await ask(broker, f"$SRV.INFO.{service}.{ping['id']}")
    stats = await ask(broker, f"$SRV.STATS.{service}")
    for found, verb in ((ping, "ping"), (info, "info"), (stats, "stats")):
        assert found["type"] == f"io.nats.micro.v1.{verb}_response"
        assert found["name"] == service
        assert re.fullmatch(r"[A-Za-z0-9_-]+", found["name"])
        assert re.fullmatch(r"[A-Za-z0-9_-]+", found["id"])
        assert re.fullmatch(r"\d+\.\d+\.\d+([-+].+)?", found["version"])
        assert found["metadata"] == {"mesh": "mesh", "name": name, "incarnation": incarnation}
        assert all(isinstance(value, str) for value in found["metadata"].values())
    assert info["description"]
    for endpoint in info["endpoints"]:
        assert set(endpoint) == {"name", "subject", "queue_group", "metadata"}
    assert dt.datetime.fromisoformat(stats["started"].replace("Z", "+00:00")).tzinfo is not None
    for endpoint in stats["endpoints"]:
        numbers = ("num_requests", "num_errors", "processing_time", "average_processing_time")
        assert {"name", "subject", "queue_group", "last_error", *numbers} <= set(endpoint)
        assert all(isinstance(endpoint[name], int) for name in numbers)
    everybody = {json.loads(answer.data)["name"] for answer in await answers(broker, "$SRV.PING")}
    assert service in everybody


async def answers(broker: Broker, subject: str) -> list[Message]:
    """The first answers to a question to everybody."""
    heard, reply = list[Message](), SUBJECTS.inbox("test") + ".all"

    async def hear(message: Message) -> None:
        heard.append(message)

    subscription = await broker.subscribe(reply, hear)
    await broker.publish(subject, b"", reply=reply)
    async with asyncio.timeout(DEADLINE_S):
        while not heard:  # noqa: ASYNC110 - other processes answer
            await asyncio.sleep(0.01)
    await subscription.close()
    return heard


async def check_metrics(agent: AgentProcess, name: str) -> None:
    """The text format of Prometheus: every line is a comment or a sample."""
    status, text = await agent.get("/metrics")
    assert status == 200
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="[^"]*",?)*\})? [-+0-9.eInfNa]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines() if line)
    if shutil.which("promtool"):
        checked = await asyncio.to_thread(
            subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert await agent.metric(f'mesh_agent_info{{name="{name}",role="{agent.role}",version="') == 1
    assert await agent.metric("mesh_broker_connected") == 1


async def test_the_scheduler_tells_of_its_endpoint_and_counts_what_it_is_asked(
    start: Start, broker: NatsBroker
) -> None:
    agent = await start("scheduler")
    await agent.until_health(200)
    gate = await start("gate")  # its hello is a question
    await gate.until_health(200)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            (endpoint,) = (await ask(broker, "$SRV.STATS.ramify-scheduler"))["endpoints"]
            if endpoint["num_requests"]:
                break
            await asyncio.sleep(0.02)
    assert (endpoint["name"], endpoint["subject"]) == ("ask", SUBJECTS.asked("scheduler"))
    assert endpoint["processing_time"] >= endpoint["average_processing_time"] > 0


# -- streams and broker away -------------------------------------------------------------------------------------------


async def test_an_agent_is_unwell_until_the_streams_are_there(start: Start, broker: NatsBroker) -> None:
    agent = await start("consensus")
    document = await agent.until_health(503, "streams")
    assert document["status"] == "unwell"
    await make_streams(broker)
    await agent.until_health(200)
    assert await agent.stop() == 0


async def test_an_agent_is_unwell_while_the_broker_is_away_and_well_again_by_itself(
    start: Start, server: NatsServer, broker: NatsBroker
) -> None:
    await make_streams(broker)
    agent = await start("planner")
    await agent.until_health(200)
    for times in (1, 2):
        await asyncio.to_thread(server.kill)
        await agent.until_health(503, "broker")
        assert await agent.metric("mesh_broker_connected") == 0
        await asyncio.to_thread(server.start)
        await agent.until_health(200)
        assert await agent.metric("mesh_bus_reconnects_total") == times
    assert await agent.stop() == 0


async def test_an_agent_leaves_in_order_while_the_broker_is_away(
    start: Start, server: NatsServer, broker: NatsBroker
) -> None:
    await make_streams(broker)
    agent = await start("gate")
    await agent.until_health(200)
    await asyncio.to_thread(server.kill)
    await agent.until_health(503, "broker")
    assert await agent.stop() == 0
    assert agent.sentences() == []


async def test_an_agent_may_be_started_before_the_broker(start: Start, server: NatsServer) -> None:
    await asyncio.to_thread(server.stop)
    agent = await start("scheduler", "--timeout", "60s")
    await asyncio.sleep(0.5)  # it tries in vain meanwhile; nothing depends on how often
    await asyncio.to_thread(server.start)
    await agent.until_health(200)
    assert await agent.stop() == 0


# -- one sentence ------------------------------------------------------------------------------------------------------


async def check_sentence(agent: AgentProcess, code: int, *parts: str) -> None:
    """It ends with this code, says one sentence with these parts, and no traceback."""
    assert await agent.ended() == code, agent.output()
    (sentence,) = agent.sentences()
    assert all(part in sentence for part in parts), sentence
    assert "Traceback" not in agent.output()
    assert not agent.note.exists()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("role", ROLES)
async def test_a_broker_that_is_not_there_is_one_sentence(role: str, start: Start) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    agent = await start(role, "--timeout", "0.5s", NATS_URL=url)
    await check_sentence(agent, 4, url, "no broker answers", "check")


async def test_wrong_credentials_are_one_sentence(start: Start, tmp_path: Path) -> None:
    closed = NatsServer(tmp_path / "closed", extra='authorization { user: "u", password: "right" }').start()
    try:
        agent = await start("gate", NATS_URL=closed.url, NATS_USER="u", NATS_PASSWORD="wrong")
        await check_sentence(agent, 9, "refuses these credentials", "check ")
        assert "wrong" not in agent.output()
        agent = await start("consensus", NATS_URL=closed.url)
        await check_sentence(agent, 9, "refuses these credentials")
    finally:
        closed.stop()


async def test_a_server_without_jetstream_is_one_sentence(start: Start, tmp_path: Path) -> None:
    plain = NatsServer(tmp_path / "plain", jetstream=False).start()
    try:
        await check_sentence(await start("gate", NATS_URL=plain.url), 9, "without JetStream", "-js")
    finally:
        plain.stop()


async def test_a_port_that_is_taken_is_one_sentence(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        await check_sentence(await start("gate", "--http-port", str(port)), 3, f"Port {port}", "--http-port")


async def test_another_protocol_is_one_sentence(start: Start, broker: NatsBroker) -> None:
    await make_streams(broker)
    refusal = Welcome(accepted=False, reason="The mesh speaks protocol 7, this program 1: update the older side.")

    async def refuse(message: Message) -> None:
        await broker.publish(message.reply, codec.encode(refusal))

    await broker.subscribe(SUBJECTS.asked("scheduler"), refuse)
    for role in ("gate", "worker"):
        await check_sentence(await start(role), 3, "protocol 7", "update the older side")


async def until_alive(worker: AgentProcess) -> None:
    """Wait until a worker has written which life this is: from then on it holds its folder."""
    async with asyncio.timeout(DEADLINE_S):
        while not (worker.note.parents[1] / "workers" / "w1" / "incarnation").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_second_worker_of_one_name_is_one_sentence(start: Start, broker: NatsBroker) -> None:
    await make_streams(broker)
    first = await start("worker")
    await first.until_health(200)
    await until_alive(first)
    second = await start("worker")
    assert await second.ended() == 3
    assert "--name" in second.output()
    assert await first.stop() == 0


# -- the worker's supervisor -------------------------------------------------------------------------------------------


async def test_a_killed_worker_is_reported_and_lives_again_and_both_leave_with_0(
    start: Start, broker: NatsBroker
) -> None:
    await make_streams(broker)
    reports: list[Gone] = []

    async def hear(message: Message) -> None:
        reports.append(codec.decode(message.data, Gone))

    await broker.subscribe(SUBJECTS.all_gone(), hear)
    supervisor = await start("worker", "--supervised")
    first = await ask(broker, "$SRV.PING.ramify-worker")
    await until_alive(supervisor)
    (worker,) = psutil.Process(supervisor.pid).children()
    worker.kill()
    async with asyncio.timeout(DEADLINE_S):
        while not reports:  # noqa: ASYNC110 - another process reports
            await asyncio.sleep(0.02)
    second = await ask(broker, "$SRV.PING.ramify-worker")
    assert second["id"] != first["id"]
    assert await supervisor.stop() == 0
    assert not psutil.pid_exists(worker.pid)
    report = reports[0]
    assert (report.worker, report.exit_code) == ("w1", -9)
    assert report.incarnation == first["metadata"]["incarnation"]


# -- together ----------------------------------------------------------------------------------------------------------


async def test_all_together_start_answer_and_leave_on_sigterm(start: Start, broker: NatsBroker) -> None:
    together = await start("up")
    found = {role: await ask(broker, f"$SRV.PING.ramify-{role}") for role in ROLES}
    assert len({answer["id"] for answer in found.values()}) == len(ROLES)
    children = psutil.Process(together.pid).children(recursive=True)
    assert len(children) >= len(ROLES)
    assert await together.stop() == 0
    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert not alive
    assert together.sentences() == []


async def test_all_together_without_a_broker_is_one_sentence(start: Start) -> None:
    agent = await start("up", "--timeout", "0.5s", NATS_URL=f"nats://127.0.0.1:{free_port()}")
    await check_sentence(agent, 4, "no broker answers")
