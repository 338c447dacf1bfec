"""The real server goes away, comes back, is killed: what a connection to it promises meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh import broker as real
from mesh import limits
from mesh.broker import NatsBroker
from mesh.bus import Broker, Delivery, Message, Stored
from mesh.errors import BusUnavailable, Conflict
from mesh.subjects import Subjects
from tests.contract.conftest import DEADLINE_S, World, until
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server


async def _next_message(messages: AsyncIterator[Stored]) -> Stored:
    return await asyncio.wait_for(anext(messages), DEADLINE_S)


async def _next_delivery(deliveries: AsyncIterator[Delivery]) -> Delivery:
    return await asyncio.wait_for(anext(deliveries), DEADLINE_S)


async def _insist(broker: Broker, subject: str, data: bytes) -> int:
    """Write once the broker is back; put-if-absent, so that trying again is safe."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await broker.append(subject, data, subject_seq=0, timeout_s=1)
            except BusUnavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "stop"])
async def test_everything_goes_on_after_a_restart(own_world: World, own_server: NatsServer, kill: bool) -> None:
    writer, reader = await own_world.connect("a"), await own_world.connect("b")
    spec, heard, states = own_world.spec(), list[bytes](), list[bool]()
    await writer.ensure(spec)
    reader.on_state(states.append)

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await reader.subscribe(own_world.name("x"), hear)
    every = own_world.name("s.>")
    async with (
        reader.tail(spec.name, every) as messages,
        reader.consume(spec.name, every, durable="d", ack_wait_s=1.0) as deliveries,
    ):
        await writer.append(own_world.name("s.0"), b"before")
        assert (await _next_message(messages)).seq == 1
        await (await _next_delivery(deliveries)).ack()
        for _ in range(2):
            states.clear()
            await own_server.restart(kill=kill)
            await until(lambda: states == [False, True] and writer.connected)
        for number in range(2, 6):
            await _insist(writer, own_world.name(f"s.{number}"), b"after")
        assert [(await _next_message(messages)).seq for _ in range(4)] == [2, 3, 4, 5]
        seen: set[int] = set()
        while not seen >= {2, 3, 4, 5}:  # the first one may come again: a killed server forgets recent acks
            delivery = await _next_delivery(deliveries)
            seen.add(delivery.message.seq)
            await delivery.ack()
        await writer.publish(own_world.name("x"), b"live again")
        await until(lambda: heard == [b"live again"])
    assert await _consumers(writer, spec.name) == {"d"}


async def test_a_tail_loses_and_repeats_nothing_over_restarts(own_world: World, own_server: NatsServer) -> None:
    writer, reader = await own_world.connect("a"), await own_world.connect("b")
    spec, count = own_world.spec(), 400
    await writer.ensure(spec)

    async def write() -> None:
        for number in range(count):
            try:
                await _insist(writer, own_world.name(f"s.{number}"), b"%d" % number)
            except Conflict:  # it was stored when its answer was lost
                continue

    async def disturb() -> None:
        for part in (count // 4, count // 2):
            await until(functools.partial(lambda part: len(got) > part, part))
            await own_server.restart(kill=True)

    got: list[Stored] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(disturb())
        async with reader.tail(spec.name, own_world.name("s.>")) as messages:
            while len(got) < count:
                got.append(await _next_message(messages))
    assert [message.seq for message in got] == list(range(1, count + 1))
    assert [message.data for message in got] == [b"%d" % number for number in range(count)]


async def test_nothing_is_buffered_while_the_broker_is_away(own_world: World, own_server: NatsServer) -> None:
    broker, heard = await own_world.connect(), list[bytes]()

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await broker.subscribe(own_world.name("x"), hear)
    await asyncio.to_thread(own_server.kill)
    await until(lambda: not broker.connected)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for call in (
        broker.publish(own_world.name("x"), b"lost"),
        broker.request(own_world.name("x"), b"lost", timeout_s=3_600),
        broker.append(own_world.name("s.a"), b"lost", timeout_s=3_600),
        broker.subscribe(own_world.name("y"), hear),
    ):
        with pytest.raises(BusUnavailable, match="is away"):
            await call
    assert loop.time() - began < DEADLINE_S
    await asyncio.to_thread(own_server.start)
    await until(lambda: broker.connected)
    await broker.publish(own_world.name("x"), b"heard")
    await until(lambda: heard)
    assert heard == [b"heard"]


async def test_what_is_under_way_when_the_server_dies_fails_at_once(own_world: World, own_server: NatsServer) -> None:
    broker = await own_world.connect()
    await broker.ensure(own_world.spec())

    async def mute(message: Message) -> None:
        arrived.set()

    arrived = asyncio.Event()
    await broker.subscribe(own_world.name("mute"), mute)
    asking = asyncio.ensure_future(broker.request(own_world.name("mute"), b"", timeout_s=3_600))
    await asyncio.wait_for(arrived.wait(), DEADLINE_S)
    own_server.send(signal.SIGSTOP)  # from here on it takes bytes and answers nothing
    writing = asyncio.ensure_future(broker.append(own_world.name("s.a"), b"", timeout_s=3_600))
    await asyncio.sleep(0.05)
    assert not writing.done()
    await asyncio.to_thread(own_server.kill)
    for task in (asking, writing):
        with pytest.raises(BusUnavailable, match="was lost"):
            await asyncio.wait_for(task, DEADLINE_S)


async def test_what_was_not_yet_sent_is_not_sent_later(own_world: World, own_server: NatsServer) -> None:
    """The library keeps unsent commands over a reconnection; a request that failed must not arrive afterwards."""
    broker, other, heard = await own_world.connect("a"), await own_world.connect("b"), list[bytes]()

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await other.subscribe(own_world.name("x"), hear)
    await asyncio.to_thread(own_server.kill)
    assert isinstance(broker, NatsBroker)
    while broker.connected:  # the socket is dead, and the library does not know it yet
        await broker.publish(own_world.name("x"), b"late")
        await asyncio.sleep(0)
    await asyncio.to_thread(own_server.start)
    await until(lambda: broker.connected and other.connected)
    await broker.publish(own_world.name("x"), b"new")
    await until(lambda: heard)
    assert heard == [b"new"]


async def test_an_older_store_is_noticed_by_its_readers(
    own_world: World, own_server: NatsServer, tmp_path: Path
) -> None:
    broker = await own_world.connect()
    spec = own_world.spec()
    await broker.ensure(spec)
    await broker.append(own_world.name("s.a"), b"1")
    await asyncio.to_thread(own_server.stop)
    await asyncio.to_thread(shutil.copytree, tmp_path / "store", tmp_path / "copy")
    await asyncio.to_thread(own_server.start)
    await until(lambda: broker.connected)
    await _insist(broker, own_world.name("s.b"), b"2")
    async with broker.tail(spec.name, own_world.name("s.>")) as messages:
        assert [(await _next_message(messages)).data for _ in range(2)] == [b"1", b"2"]
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(shutil.rmtree, tmp_path / "store")
        await asyncio.to_thread(shutil.move, tmp_path / "copy", tmp_path / "store")
        await asyncio.to_thread(own_server.start)
        with pytest.raises(Conflict, match="it ends at 1 now"):
            await _next_message(messages)


async def test_a_client_that_closed_for_good_is_replaced(own_world: World, own_server: NatsServer) -> None:
    """As after an expired credential or a protocol error: the library never comes back by itself."""
    broker, heard, states = await own_world.connect(), list[bytes](), list[bool]()
    assert isinstance(broker, NatsBroker)
    spec = own_world.spec()
    await broker.ensure(spec)
    broker.on_state(states.append)

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await broker.subscribe(own_world.name("x"), hear)
    async with broker.tail(spec.name, own_world.name("s.>")) as messages:
        await broker._link.client.publish(own_world.name("x"), bytes(1024 * 1024), headers={"A": "1"})
        await until(lambda: states == [False, True])
        await broker.append(own_world.name("s.a"), b"")
        assert (await _next_message(messages)).seq == 1
    await broker.publish(own_world.name("x"), b"live again")
    await until(lambda: heard == [b"live again"])


async def test_a_client_that_went_deaf_is_woken(own_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the library's reader ends it silently, and `is_connected` stays true."""
    monkeypatch.setattr(limits, "WATCH_S", 0.1)
    monkeypatch.setattr(limits, "PONG_S", 0.2)
    broker, states, heard = await own_world.connect(), list[bool](), list[bytes]()
    assert isinstance(broker, NatsBroker)
    broker.on_state(states.append)

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await broker.subscribe(own_world.name("x"), hear)
    client = broker._link.client
    assert client._reading_task is not None
    client._reading_task.cancel()
    assert client.is_connected
    await until(lambda: states == [False, True])
    await broker.publish(own_world.name("x"), b"live again")
    await until(lambda: heard == [b"live again"])


async def test_a_silent_server_is_asked_anew(
    own_world: World, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "PULL_HEARTBEAT_S", 0.1)
    broker, spec = await own_world.connect(), own_world.spec()
    await broker.ensure(spec)
    with caplog.at_level(logging.DEBUG, logger="mesh.broker_readers"):
        async with broker.tail(spec.name, own_world.name("s.>")) as messages:
            waiting = asyncio.ensure_future(anext(messages))
            own_server.send(signal.SIGSTOP)
            await until(lambda: "no sign of life" in caplog.text)
            own_server.send(signal.SIGCONT)
            await broker.append(own_world.name("s.a"), b"")
            assert (await asyncio.wait_for(waiting, DEADLINE_S)).seq == 1
    assert await _consumers(broker, spec.name) == set()


async def test_a_deleted_consumer_is_made_anew(own_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PULL_HEARTBEAT_S", 0.1)
    broker, other = await own_world.connect("a"), await own_world.connect("b")
    spec = own_world.spec()
    await broker.ensure(spec)
    assert isinstance(other, NatsBroker)
    async with broker.tail(spec.name, own_world.name("s.>")) as messages:
        await other.append(own_world.name("s.a"), b"")
        assert (await _next_message(messages)).seq == 1
        (consumer,) = await _consumers(other, spec.name)
        waiting = asyncio.ensure_future(anext(messages))
        await other._api.call(f"CONSUMER.DELETE.{spec.name}.{consumer}")
        await _until_another(other, spec.name, consumer)
        await other.append(own_world.name("s.a"), b"")
        assert (await asyncio.wait_for(waiting, DEADLINE_S)).seq == 2
    assert await _consumers(other, spec.name) == set()


async def _until_another(broker: Broker, stream: str, consumer: str) -> None:
    """Wait until another consumer has taken the place of this one."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await _consumers(broker, stream)) - {consumer}:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)


async def _consumers(broker: Broker, stream: str) -> set[str]:
    assert isinstance(broker, NatsBroker)
    return set((await broker._api.call(f"CONSUMER.NAMES.{stream}")).get("consumers") or ())


async def test_readers_leave_no_consumer_behind(own_world: World) -> None:
    broker, spec = await own_world.connect(), own_world.spec()
    await broker.ensure(spec)
    began = asyncio.Event()

    async def read_for_ever() -> None:
        async with broker.tail(spec.name, own_world.name("s.>")) as messages:
            began.set()
            async for _ in messages:
                pass

    task = asyncio.create_task(read_for_ever())
    await began.wait()
    assert len(await _consumers(broker, spec.name)) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await _consumers(broker, spec.name) == set()


async def test_streams_and_consumers_are_made_as_declared(own_world: World) -> None:
    broker, spec = await own_world.connect(), own_world.spec()
    await broker.ensure(spec)
    assert isinstance(broker, NatsBroker)
    async with broker.consume(spec.name, own_world.name("s.>"), durable="d"):
        config = (await broker._api.call(f"CONSUMER.INFO.{spec.name}.d"))["config"]
    assert config["max_waiting"] == limits.WAITING_PULLS_MAX
    assert config["max_ack_pending"] == limits.IN_FLIGHT_MAX
    stream = (await broker._api.stream(spec.name))["config"]
    assert (stream["max_consumers"], stream["allow_direct"], stream["storage"]) == (1_000, True, "file")


async def test_the_new_form_of_acknowledgements_is_understood(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, extra="feature_flags { js_ack_fc_v2: true }").start()
    try:
        world = World(lambda subjects, name: real.connect(server.options, subjects, name=name), is_real=True)
        broker, spec = await world.connect(), world.spec()
        await broker.ensure(spec)
        for _ in range(3):
            await broker.append(world.name("s.a"), b"")
        async with broker.tail(spec.name, world.name("s.>")) as messages:
            assert [(await _next_message(messages)).seq for _ in range(3)] == [1, 2, 3]
        async with broker.consume(spec.name, world.name("s.>"), durable="d") as deliveries:
            delivery = await _next_delivery(deliveries)
            assert (delivery.message.seq, delivery.attempt) == (1, 1)
            await delivery.ack()
        await world.close()
    finally:
        server.stop()


@pytest.mark.server
@pytest.mark.parametrize("turns", range(6))
async def test_a_close_that_is_canceled_leaves_nothing_behind(shared_server: NatsServer, turns: int) -> None:
    broker = await real.connect(shared_server.options, Subjects("canceled"), name="a")

    async def hear(_: Message) -> None:
        """Nothing is sent."""

    await broker.subscribe("canceled.x", hear)
    closing = asyncio.create_task(broker.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert not broker.connected or turns == 0  # before its first turn nothing had begun
    await broker.close()
