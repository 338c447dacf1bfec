"""Faults of the broker in memory, on virtual time. What both brokers promise stands in tests/contract/."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from mesh import virtual_time
from mesh.bus import Message, StreamSpec
from mesh.errors import BusUnavailable, Conflict, NotFound
from mesh.memory import Fate, Faults, MemoryBroker, MemoryServer

SPEC = StreamSpec(name="S", subjects=("s.>",), why="test")


async def _server(faults: Faults | None = None) -> tuple[MemoryServer, MemoryBroker]:
    server = MemoryServer(faults=faults)
    broker = server.connect("a")
    await broker.ensure(SPEC)
    return server, broker


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Scripted(Faults):
    def __init__(self, copies: Sequence[float] = (0.0,), fate: Fate = Fate.STORED, latency_s: float = 0.0) -> None:
        self._copies, self.fate, self._latency_s = copies, fate, latency_s

    def copies(self, sender: str, receiver: str, message: Message) -> Sequence[float]:
        return self._copies

    def append(self, writer: str, subject: str) -> Fate:
        return self.fate

    def latency_s(self, caller: str, what: str) -> float:
        return self._latency_s if what == "read" else 0.0


@pytest.mark.parametrize(
    ("copies", "heard"), [((), []), ((0.0,), [0.0]), ((0.0, 2.0), [0.0, 2.0]), ((3.0, 1.0), [1.0, 3.0])]
)
def test_messages_are_dropped_repeated_and_delayed(copies: Sequence[float], heard: list[float]) -> None:
    async def case() -> list[float]:
        times: list[float] = []

        async def hear(message: Message) -> None:
            times.append(_now())

        _, broker = await _server(_Scripted(copies))
        await broker.subscribe("x", hear)
        await broker.publish("x", b"")
        await asyncio.sleep(10)
        await broker.close()
        return times

    assert virtual_time.run(case()) == heard


@pytest.mark.parametrize(("fate", "stored"), [(Fate.LOST, 0), (Fate.REPLY_LOST, 1)])
def test_a_write_without_an_answer_may_have_happened(fate: Fate, stored: int) -> None:
    async def case() -> tuple[int, float]:
        faults = _Scripted(fate=fate)
        _, broker = await _server(faults)
        with pytest.raises(BusUnavailable, match="may or may not"):
            await broker.append("s.a", b"1", timeout_s=3)
        return (await broker.state("S")).messages, _now()

    assert virtual_time.run(case()) == (stored, 3.0)


@pytest.mark.parametrize("crashes", [False, True])
def test_a_late_write_is_stored_when_nobody_waits_for_it_any_more(crashes: bool) -> None:
    async def case() -> tuple[int, int]:
        server, broker = await _server(_Scripted(fate=Fate.LATE))
        with pytest.raises(BusUnavailable, match="may or may not"):
            await broker.append("s.a", b"1", timeout_s=0.5)
        before = (await broker.state("S")).messages
        if crashes:
            server.crash()
            server.restart()
        await asyncio.sleep(1.0)
        return before, (await broker.state("S")).messages

    assert virtual_time.run(case()) == (0, 0 if crashes else 1)


def test_a_call_that_is_on_its_way_when_the_server_stops_is_lost_although_it_comes_back_first() -> None:
    async def case() -> float:
        server, broker = await _server(_Scripted(latency_s=2.0))
        reading = asyncio.create_task(broker.read("S", "s.>"))
        await asyncio.sleep(1.0)
        server.crash()
        server.restart()
        with pytest.raises(BusUnavailable, match="on its way"):
            await reading
        return _now()

    assert virtual_time.run(case()) == 2.0


def test_a_late_write_is_held_to_its_condition() -> None:
    async def case() -> list[bytes]:
        faults = _Scripted(fate=Fate.LATE)
        _, broker = await _server(faults)
        with pytest.raises(BusUnavailable):
            await broker.append("s.a", b"late", stream_seq=0, timeout_s=0.5)
        faults.fate = Fate.STORED
        await broker.append("s.a", b"first", stream_seq=0)
        await asyncio.sleep(1.0)
        return [stored.data for stored in await broker.read("S", "s.>")]

    assert virtual_time.run(case()) == [b"first"]


def test_calls_take_time_or_are_in_vain() -> None:
    async def case() -> float:
        _, broker = await _server(_Scripted(latency_s=2.0))
        await broker.read("S", "s.>")
        lost, other = await _server(_Scripted(latency_s=math.inf))
        with pytest.raises(BusUnavailable):
            await other.read("S", "s.>")
        assert lost.up
        return _now()

    assert virtual_time.run(case()) == 7.0


def test_a_crash_is_noticed_and_everything_comes_back() -> None:
    async def case() -> None:
        server, broker = await _server()
        states: list[bool] = []
        heard: list[bytes] = []

        async def hear(message: Message) -> None:
            heard.append(message.data)

        broker.on_state(states.append)
        await broker.subscribe("x", hear)
        async with broker.tail("S", "s.>") as messages:
            await broker.append("s.a", b"1")
            assert (await anext(messages)).data == b"1"
            server.crash()
            assert not broker.connected
            for call in (broker.publish("x", b""), broker.append("s.a", b"2"), broker.read("S", "s.>")):
                with pytest.raises(BusUnavailable):
                    await call
            with pytest.raises(BusUnavailable):
                server.connect("b")
            waiting = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(5)
            server.restart()
            await broker.append("s.a", b"3")
            assert (await waiting).data == b"3"
        await broker.publish("x", b"again")
        await asyncio.sleep(1)
        assert states == [False, True]
        assert heard == [b"again"]
        await broker.close()

    virtual_time.run(case())


def test_an_older_store_is_noticed_by_its_readers() -> None:
    async def case() -> None:
        server, broker = await _server()
        await broker.append("s.a", b"1")
        older = server.copy()
        await broker.append("s.a", b"2")
        async with broker.tail("S", "s.>") as messages:
            assert [(await anext(messages)).data for _ in range(2)] == [b"1", b"2"]
            server.crash()
            server.restart(older)
            with pytest.raises(Conflict, match="it ends at 1 now"):
                await anext(messages)
        assert await broker.append("s.a", b"other", stream_seq=1) == 2
        assert older["S"].last_seq == 1

    virtual_time.run(case())


def test_a_cut_connection_is_alone_until_it_heals() -> None:
    async def case() -> None:
        server, one = await _server()
        other = server.connect("b")
        heard: list[bytes] = []

        async def hear(message: Message) -> None:
            heard.append(message.data)

        await other.subscribe("x", hear)
        server.cut("b")
        assert one.connected
        assert not other.connected
        await one.publish("x", b"lost")
        with pytest.raises(NotFound):
            await one.request("x", b"", timeout_s=1)
        server.heal("b")
        await one.publish("x", b"heard")
        await asyncio.sleep(0)
        await other.close()
        assert heard == [b"heard"]

    virtual_time.run(case())


def test_a_silent_cut_looks_like_a_slow_broker() -> None:
    async def case() -> None:
        server, one = await _server()
        states: list[bool] = []
        one.on_state(states.append)
        server.cut("a", silently=True)
        assert one.connected
        await one.publish("x", b"into the void")
        began = _now()
        with pytest.raises(BusUnavailable):
            await one.append("s.a", b"1", timeout_s=2)
        with pytest.raises(BusUnavailable):
            await one.request("x", b"", timeout_s=3)
        assert _now() - began == 5.0
        server.heal("a")
        assert await one.append("s.a", b"1") == 1
        assert states == []

    virtual_time.run(case())
