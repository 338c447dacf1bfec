"""The life of any agent: it says hello, waits for the streams, works, and stops in order, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents import runtime
from agents.runtime import Agent
from mesh import codec, streams, virtual_time
from mesh.bus import Message, Subscription
from mesh.errors import BrokerRefused, BusUnavailable, DiskFull, EnvironmentUnfit, NotFound, RamifyError
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Record
from mesh.messages.services import Hello, Problem, Welcome
from mesh.settings import load
from mesh.subjects import Subjects
from tests.support.agents import make, until

Body = Callable[[Agent], Awaitable[None]]
SUBJECTS = Subjects()


async def idle(agent: Agent) -> None:
    """The body of an agent that has nothing to do."""
    await agent.stopping.wait()


async def make_streams(server: MemoryServer) -> None:
    await streams.ensure_all(server.connect("maker"), streams.table(SUBJECTS, artifact_bytes_max=1 << 30))


class Greeter:
    """A scheduler that only hears hellos; it answers them in turn, the last answer for ever."""

    def __init__(self, server: MemoryServer, *answers: Record | bytes) -> None:
        self.heard: list[tuple[float, Hello]] = []
        self._broker, self._answers = server.connect("scheduler"), answers

    async def begin(self) -> Subscription:
        return await self._broker.subscribe(SUBJECTS.asked("scheduler"), self._hear)

    async def _hear(self, message: Message) -> None:
        self.heard.append((runtime.now_s(), codec.decode(message.data, Hello)))
        answer = self._answers[min(len(self.heard), len(self._answers)) - 1]
        await self._broker.publish(message.reply, answer if isinstance(answer, bytes) else codec.encode(answer))


def lived(tmp_path: Path, body: Body, *answers: Record | bytes, stop_s: float | None = None) -> tuple[Agent, Greeter]:
    """An agent's whole work on virtual time, stopped after so many seconds."""

    async def story() -> tuple[Agent, Greeter]:
        server = MemoryServer()
        greeter = Greeter(server, *answers)
        if answers:
            await greeter.begin()
        agent = make(server, "gate", tmp_path)
        if stop_s is not None:
            asyncio.get_running_loop().call_later(stop_s, agent.stop)
        async with asyncio.timeout(3_600):
            await agent.work(body)
        return agent, greeter

    return virtual_time.run(story())


# -- hello ------------------------------------------------------------------------------------------------------------


def test_a_hello_says_who_this_is_and_is_repeated(tmp_path: Path) -> None:
    agent, greeter = lived(tmp_path, idle, Welcome(accepted=True), stop_s=25.0)
    assert [round(at_s) for at_s, _ in greeter.heard] == [0, 10, 20]
    hello = greeter.heard[0][1]
    assert (hello.role, hello.name, hello.incarnation) == ("gate", "gate", agent.incarnation)
    assert hello.protocol_min <= hello.protocol_max
    assert hello.pid > 0
    agent.raise_failure()


def test_a_refused_hello_ends_the_agent_with_the_reason(tmp_path: Path) -> None:
    ended: list[str] = []

    async def body(agent: Agent) -> None:
        await agent.stopping.wait()
        ended.append("in order")

    agent, _ = lived(tmp_path, body, Welcome(accepted=False, reason="protocol 7 is too new: update the scheduler"))
    with pytest.raises(EnvironmentUnfit, match="protocol 7 is too new"):
        agent.raise_failure()
    assert ended == ["in order"]


def test_a_refusal_may_come_later(tmp_path: Path) -> None:
    answers = Welcome(accepted=True), Welcome(accepted=False, reason="this mesh was updated: update this program")
    agent, greeter = lived(tmp_path, idle, *answers)
    assert len(greeter.heard) == 2
    with pytest.raises(EnvironmentUnfit, match="was updated"):
        agent.raise_failure()


@pytest.mark.parametrize("answer", [b"\x00 no record", Problem(reason="a hello without a role"), Hello])
def test_an_answer_that_makes_no_sense_ends_nothing(tmp_path: Path, answer: Any) -> None:
    if answer is Hello:  # a record, and the wrong one
        answer = Hello(role="x", name="x", incarnation="x.1", protocol_min=1, protocol_max=1, program="1")
    agent, greeter = lived(tmp_path, idle, answer, Welcome(accepted=True), stop_s=15.0)
    assert len(greeter.heard) == 2
    agent.raise_failure()


def test_without_a_scheduler_the_agent_works_and_asks_every_second(tmp_path: Path) -> None:
    async def story() -> list[float]:
        server = MemoryServer()
        greeter = Greeter(server, Welcome(accepted=True))
        agent = make(server, "gate", tmp_path)
        life = asyncio.create_task(agent.work(idle))
        await asyncio.sleep(30)
        await greeter.begin()
        await asyncio.sleep(5)
        agent.stop()
        await life
        return [at_s for at_s, _ in greeter.heard]

    (heard_s,) = virtual_time.run(story())
    assert 30 <= heard_s <= 31


# -- work -------------------------------------------------------------------------------------------------------------


def test_a_body_that_returns_ends_the_agent(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        await asyncio.sleep(3)

    agent, _ = lived(tmp_path, body)
    assert agent.stopping.is_set()
    agent.raise_failure()


def test_a_helper_with_an_error_of_ours_stops_the_agent_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(1)
        raise DiskFull("the disk is full: free some space")

    async def body(agent: Agent) -> None:
        agent.spawn(fail(), "failing helper")
        await agent.stopping.wait()
        await asyncio.sleep(1)  # what is under way may end: nothing is cancelled at once
        ended.append("in order")

    with caplog.at_level(logging.ERROR):
        agent, _ = lived(tmp_path, body)
    with pytest.raises(DiskFull, match="free some space"):
        agent.raise_failure()
    assert ended == ["in order"]
    assert not caplog.records, "the sentence is said once, by the door"


def test_a_helper_with_a_defect_stops_the_agent_and_the_log_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("a defect")

    async def body(agent: Agent) -> None:
        agent.spawn(fail(), "sweeper")
        await agent.stopping.wait()

    with caplog.at_level(logging.ERROR):
        agent, _ = lived(tmp_path, body)
    with pytest.raises(ZeroDivisionError):
        agent.raise_failure()
    (record,) = caplog.records
    assert "'sweeper'" in record.getMessage()
    assert record.exc_info


def test_the_first_failure_is_the_one_that_is_said(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        agent.stop(DiskFull("first"))
        raise EnvironmentUnfit("second, because of the first")

    agent, _ = lived(tmp_path, body)
    with pytest.raises(DiskFull, match="first"):
        agent.raise_failure()


def test_a_body_that_does_not_return_within_the_grace_is_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times: list[float] = []

    async def body(agent: Agent) -> None:
        try:
            await asyncio.sleep(3_000)
        finally:
            times.append(runtime.now_s())

    with caplog.at_level(logging.WARNING):
        agent, _ = lived(tmp_path, body, stop_s=5.0)
    assert times == [5.0 + runtime.GRACE_S]
    assert "is cancelled" in caplog.text
    agent.raise_failure()


def test_helpers_end_after_the_body(tmp_path: Path) -> None:
    """A worker's beats, say, go on while its body gives the leases back."""
    order: list[str] = []

    async def helper() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("helper")

    async def body(agent: Agent) -> None:
        agent.spawn(helper(), "helper")
        await agent.stopping.wait()
        await asyncio.sleep(2)
        order.append("body")

    lived(tmp_path, body, stop_s=1.0)
    assert order == ["body", "helper"]


def test_nothing_is_spawned_before_the_agent_runs(tmp_path: Path) -> None:
    async def story() -> None:
        agent = make(MemoryServer(), "gate", tmp_path)
        helper = idle(agent)
        with pytest.raises(EnvironmentUnfit, match="'early'"):
            agent.spawn(helper, "early")
        helper.close()  # type: ignore[attr-defined]  # a coroutine that nobody awaits

    virtual_time.run(story())


# -- until_stopping and pause -----------------------------------------------------------------------------------------


class Items:
    """An iterator that gives some items, then waits, fails or ends; it can not be closed while somebody waits in it."""

    def __init__(self, count: int, then: str) -> None:
        self.closed = False
        self._count, self._then = count, then

    async def give(self) -> AsyncIterator[int]:
        try:
            for number in range(self._count):
                await asyncio.sleep(1)
                yield number
            if self._then == "wait":
                await asyncio.Event().wait()
            if self._then == "fail":
                raise BusUnavailable("it broke")
        finally:
            self.closed = True


async def taken(agent: Agent, items: Items, got: list[int]) -> None:
    given = items.give()
    async with contextlib.aclosing(given):  # type: ignore[type-var]  # an async generator, as the readers are
        async for item in agent.until_stopping(given):
            got.append(item)


@pytest.mark.parametrize(("then", "stop_s", "wanted"), [("end", None, 3), ("wait", 10.0, 3), ("wait", 1.5, 1)])
def test_items_come_until_their_end_or_the_stop(tmp_path: Path, then: str, stop_s: float | None, wanted: int) -> None:
    got, items = list[int](), Items(3, then)
    lived(tmp_path, lambda agent: taken(agent, items, got), stop_s=stop_s)
    assert got == list(range(wanted))
    assert items.closed


def test_an_error_of_the_iterator_reaches_who_reads(tmp_path: Path) -> None:
    got, items = list[int](), Items(1, "fail")
    agent, _ = lived(tmp_path, lambda agent: taken(agent, items, got))
    with pytest.raises(BusUnavailable, match="it broke"):
        agent.raise_failure()
    assert got == [0]


def test_a_cancelled_reader_leaves_nobody_waiting_in_the_iterator(tmp_path: Path) -> None:
    async def story() -> bool:
        agent, got, items = make(MemoryServer(), "gate", tmp_path), list[int](), Items(1, "wait")
        reading = asyncio.create_task(taken(agent, items, got))
        await asyncio.sleep(5)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return items.closed

    assert virtual_time.run(story())


def test_a_pause_ends_with_the_stop_and_can_be_cancelled(tmp_path: Path) -> None:
    async def story() -> list[float]:
        agent, times = make(MemoryServer(), "gate", tmp_path), list[float]()
        await agent.pause(7)
        times.append(runtime.now_s())
        pausing = asyncio.create_task(agent.pause(100))
        await asyncio.sleep(0)
        pausing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pausing
        asyncio.get_running_loop().call_later(3, agent.stop)
        await agent.pause(100)
        times.append(runtime.now_s())
        return times

    assert virtual_time.run(story()) == [7.0, 10.0]


# -- live: health, service, streams ------------------------------------------------------------------------------------


async def health(agent: Agent) -> tuple[int, dict[str, Any]]:
    """GET /health, wherever the note says it is."""
    (note,) = (agent.settings.home / "run").glob(f"{agent.role}-*.json")
    async with aiohttp.ClientSession() as http, http.get(json.loads(note.read_text())["url"] + "/health") as answer:
        return answer.status, await answer.json()


def notes(home: Path) -> list[Path]:
    return list((home / "run").glob("*.json"))


async def test_an_agent_without_streams_says_so_and_begins_when_they_come(tmp_path: Path) -> None:
    server, began = MemoryServer(), asyncio.Event()

    async def body(agent: Agent) -> None:
        began.set()
        await agent.stopping.wait()

    agent = make(server, "gate", tmp_path)
    life = asyncio.create_task(agent.live(body))
    await until(lambda: bool(notes(tmp_path)) and "streams" in agent.problems(), "the wait for the streams")
    status, said = await health(agent)
    assert (status, said["status"]) == (503, "unwell")
    assert said["problems"]["streams"] == "The stream MESH_TOPICS is not there yet."
    assert said["problems"]["start"] == "The agent is not at work yet."
    assert not began.is_set()
    await make_streams(server)
    await asyncio.wait_for(began.wait(), 20)
    assert (await health(agent))[0] == 200
    agent.stop()
    await life
    assert notes(tmp_path) == []


async def test_streams_that_never_come_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "STREAMS_WAIT_S", 0.0)
    agent = make(MemoryServer(), "gate", tmp_path)
    with pytest.raises(EnvironmentUnfit, match=r"MESH_TOPICS .* start a scheduler"):
        await agent.live(idle)
    assert notes(tmp_path) == []


async def test_a_stop_while_waiting_for_the_streams_is_no_failure(tmp_path: Path) -> None:
    agent = make(MemoryServer(), "gate", tmp_path)
    began: list[Agent] = []

    async def body(agent: Agent) -> None:
        began.append(agent)

    asyncio.get_running_loop().call_later(0.05, agent.stop)
    await asyncio.wait_for(agent.live(body), 20)
    assert began == []


async def test_the_broker_may_be_away_while_the_agent_waits_for_the_streams(tmp_path: Path) -> None:
    server, began = MemoryServer(), asyncio.Event()

    async def body(agent: Agent) -> None:
        began.set()
        await agent.stopping.wait()

    await make_streams(server)
    agent = make(server, "gate", tmp_path)
    life = asyncio.create_task(agent.live(body))
    await until(lambda: bool(agent.endpoints) or bool(notes(tmp_path)), "the start")
    server.crash()
    assert "broker" in agent.problems()
    server.restart()
    await asyncio.wait_for(began.wait(), 20)
    agent.stop()
    await life


async def test_the_broker_may_be_away_while_the_agent_subscribes(tmp_path: Path) -> None:
    server, began = MemoryServer(), asyncio.Event()

    async def hear(_: Message) -> None:
        return

    async def body(agent: Agent) -> None:
        server.crash()
        asyncio.get_running_loop().call_later(0.1, server.restart)
        await agent.serve("ask", "mesh.ask.gate", hear, queue="gate")
        began.set()
        await agent.stopping.wait()

    await make_streams(server)
    agent = make(server, "gate", tmp_path)
    life = asyncio.create_task(agent.live(body))
    await asyncio.wait_for(began.wait(), 20)
    agent.stop()
    await life


@pytest.mark.parametrize("when", ["before the service", "in the body"])
async def test_a_stop_in_an_outage_is_no_failure(tmp_path: Path, when: str) -> None:
    server, began = MemoryServer(), asyncio.Event()

    async def body(agent: Agent) -> None:
        server.crash()
        began.set()
        await agent.stopping.wait()
        await agent.broker.publish("mesh.last.word", b"")

    await make_streams(server)
    agent = make(server, "gate", tmp_path)
    if when == "before the service":
        server.crash()
        asyncio.get_running_loop().call_later(0.1, began.set)
    life = asyncio.create_task(agent.live(body))
    await asyncio.wait_for(began.wait(), 20)
    agent.stop()
    await asyncio.wait_for(life, 20)
    agent.raise_failure()


async def test_the_stop_is_in_order_and_the_doors_close_last(tmp_path: Path) -> None:
    server = MemoryServer()
    await make_streams(server)
    asker, order, began = server.connect("asker"), list[str](), asyncio.Event()

    async def body(agent: Agent) -> None:
        began.set()
        await agent.stopping.wait()
        assert (await health(agent))[0] == 200
        answer = await asker.request("$SRV.PING.ramify-gate", b"", timeout_s=5)
        order.append(json.loads(answer.data)["metadata"]["incarnation"])

    agent = make(server, "gate", tmp_path)
    life = asyncio.create_task(agent.live(body))
    await asyncio.wait_for(began.wait(), 20)
    agent.stop()
    await life
    assert order == [agent.incarnation]
    assert notes(tmp_path) == []
    with pytest.raises(NotFound):
        await asker.request("$SRV.PING.ramify-gate", b"", timeout_s=5)


async def test_a_port_that_is_taken_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    other = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    agent = make(MemoryServer(), "gate", tmp_path, **{"http.port": port})
    with pytest.raises(EnvironmentUnfit, match=rf"Port {port} .* --http-port"):
        await agent.live(idle)
    assert notes(tmp_path) == []
    other.close()
    await other.wait_closed()


def test_an_outage_is_unwell_and_counted_once_per_return(tmp_path: Path) -> None:
    async def story() -> None:
        server = MemoryServer()
        agent = make(server, "gate", tmp_path)
        agent.broker.on_state(agent._on_broker)
        agent._on_broker(agent.broker.connected)
        agent.health("cache", lambda: "The cache is full.")
        assert agent.metrics.value("mesh_broker_connected") == 1
        for _ in range(2):
            server.crash()
            assert agent.problems() == {"cache": "The cache is full.", "broker": "The broker is away."}
            assert agent.metrics.value("mesh_broker_connected") == 0
            server.restart()
        assert agent.problems() == {"cache": "The cache is full."}
        assert agent.metrics.value("mesh_bus_reconnects_total") == 2

    virtual_time.run(story())


# -- run: the exit code and the sentence -------------------------------------------------------------------------------


class Dialed:
    """Stands in for the real connection: refuses some times, then gives one in memory with every stream."""

    def __init__(self, *refusals: RamifyError) -> None:
        self.refusals = list(refusals)
        self.tries = 0
        self.broker: MemoryBroker | None = None

    async def connect(self, _nats: object, _subjects: object, *, name: str, client: str) -> MemoryBroker:
        self.tries += 1
        if self.refusals:
            raise self.refusals.pop(0)
        server = MemoryServer()
        await make_streams(server)
        self.broker = server.connect(name, client=client)
        return self.broker


def ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Body, *refusals: RamifyError, **flags: object
) -> tuple[int, Dialed]:
    """`run` with a broker in memory; its exit code."""
    dialed = Dialed(*refusals)
    monkeypatch.setattr(runtime.mesh_broker, "connect", dialed.connect)
    monkeypatch.setattr(runtime, "DIAL_PAUSE_S", 0.01)
    settings = load({"home": str(tmp_path), **flags}, {}, tmp_path)
    return runtime.run("gate", settings, body), dialed


async def _returns(_: Agent) -> None:
    return


async def _full(_: Agent) -> None:
    raise DiskFull("The disk is full: free some space.")


async def _broken(_: Agent) -> None:
    raise ZeroDivisionError("one\nby zero")


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (_returns, 0, ""),
        (_full, DiskFull.exit_code, "bin/agent gate: The disk is full: free some space.\n"),
        (_broken, 70, "stopped by a defect (ZeroDivisionError: one by zero); the log says where.\n"),
    ],
)
def test_the_exit_code_and_the_sentence_are_those_of_what_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    body: Body, code: int, sentence: str,
) -> None:  # fmt: skip
    found, dialed = ran(tmp_path, monkeypatch, body)
    said = [line for line in capfd.readouterr().err.splitlines(keepends=True) if line.startswith("bin/agent")]
    assert found == code
    assert "".join(said).endswith(sentence)
    assert len(said) == bool(sentence)
    assert dialed.broker is not None
    assert not dialed.broker.connected, "the connection is closed, however the agent ended"


def test_the_connection_bears_the_incarnation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def body(agent: Agent) -> None:
        seen.append(agent.incarnation)

    _, dialed = ran(tmp_path, monkeypatch, body)
    assert dialed.broker is not None
    assert seen == [dialed.broker.client]


def test_a_broker_that_is_still_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, dialed = ran(tmp_path, monkeypatch, _returns, BusUnavailable("not yet"), BusUnavailable("not yet"))
    assert (code, dialed.tries) == (0, 3)


def test_a_broker_that_stays_away_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    away = [BusUnavailable("No broker answers: check that it runs.")] * 1_000
    code, dialed = ran(tmp_path, monkeypatch, _returns, *away, **{"nats.connect_timeout_s": 0.1})
    assert code == BusUnavailable.exit_code
    assert 1 < dialed.tries < 1_000
    assert "bin/agent gate: No broker answers: check that it runs.\n" in capfd.readouterr().err


def test_a_refusal_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, dialed = ran(tmp_path, monkeypatch, _returns, BrokerRefused("wrong password"))
    assert (code, dialed.tries) == (BrokerRefused.exit_code, 1)


def test_a_key_that_the_broker_takes_back_ends_the_agent_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def revoked(agent: Agent) -> None:
        assert isinstance(agent.broker, MemoryBroker)
        agent.broker.refusal = BrokerRefused("the broker lets gate in no more")
        agent.broker.notice()
        await agent.stopping.wait()

    code, _ = ran(tmp_path, monkeypatch, revoked)
    assert code == BrokerRefused.exit_code
    assert capfd.readouterr().err.count("bin/agent gate: the broker lets gate in no more\n") == 1


def test_the_home_folder_is_made_or_refused_with_a_sentence(tmp_path: Path) -> None:
    settings = load({"home": str(tmp_path / "home")}, {}, tmp_path)
    assert runtime.home_folder(settings, "a", "b").is_dir()
    (tmp_path / "home" / "file").write_text("")
    with pytest.raises(EnvironmentUnfit, match="--home"):
        runtime.home_folder(settings, "file", "below")
