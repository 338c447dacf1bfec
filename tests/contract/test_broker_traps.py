"""The traps of the client library, one test each: ours does not fall into them.

Where it is cheap the test first shows that the trap is still there, so that a newer library which mends it is noticed.
Traps that are tested elsewhere: acknowledgements in their second form, unsent commands that are sent after the return,
a client that closed itself for good (test_outages.py); values of headers (test_bus.py); erased keys (test_log.py); keys
behind a leaf node (test_domain.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import signal
from pathlib import Path

import pytest
from nats.aio.client import Client

from mesh import broker as real
from mesh import limits
from mesh.broker import NatsBroker
from mesh.broker_dial import _next_of, next_server
from mesh.bus import Message
from mesh.errors import BusUnavailable, Conflict, Malformed, NotFound
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects
from tests.contract.conftest import DEADLINE_S, World, until, within
from tests.support.nats_credentials import Mint
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server


@pytest.fixture
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_S", 0.1)
    monkeypatch.setattr(limits, "PONG_S", 0.3)


@pytest.fixture
async def a(own_world: World) -> NatsBroker:
    return await connect(own_world, "a")


@pytest.fixture
async def b(own_world: World) -> NatsBroker:
    return await connect(own_world, "b")


async def connect(world: World, name: str) -> NatsBroker:
    found = await world.connect(name)
    assert isinstance(found, NatsBroker)
    return found


class Heard:
    """A handler that keeps what it hears."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        self.data.append(message.data)


# -- 1: flush() writes its ping ahead of what is buffered --------------------------------------------------------------


async def test_the_library_s_flush_is_still_no_barrier(a: NatsBroker, own_world: World) -> None:
    """If this fails the library was mended, and the second round trip of our barrier can go."""
    client, written = a._link.client, list[bytes]()
    transport = client._transport
    write, writelines = transport.write, transport.writelines

    def on_write(data: bytes) -> None:
        written.append(data)
        write(data)

    def on_writelines(lines: list[bytes]) -> None:
        written.extend(lines)
        writelines(lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_flush_pending", functools.partial(Client._flush_pending, client))  # when it is full
        patch.setattr(transport, "write", on_write)
        patch.setattr(transport, "writelines", on_writelines)
        await client.publish(own_world.name("x"), b"")
        await client.flush()
    assert [line[:4] for line in written if line[:4] in (b"PING", b"PUB ")] == [b"PING", b"PUB "]


async def test_a_subscription_is_there_when_subscribe_returns_every_time(
    a: NatsBroker, b: NatsBroker, own_world: World
) -> None:
    async def answer(message: Message) -> None:
        await a.publish(message.reply, b"here")

    for number in range(100):
        subject = own_world.name(f"q{number}")
        subscription = await a.subscribe(subject, answer)
        assert (await b.request(subject, b"", timeout_s=DEADLINE_S)).data == b"here"
        await subscription.close()
        with pytest.raises(NotFound):
            await b.request(subject, b"", timeout_s=DEADLINE_S)


# -- 2: an exception while a message is processed ends the reader, and nobody is told ----------------------------------


@pytest.mark.usefixtures("_quick_looks")
async def test_an_exception_inside_the_library_s_reader_is_found_and_mended(
    a: NatsBroker, b: NatsBroker, own_world: World
) -> None:
    heard, states, client = Heard(), list[bool](), a._link.client
    await a.subscribe(own_world.name("x"), heard)
    a.on_state(states.append)

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_process_msg", fail)
        await b.publish(own_world.name("x"), b"the last one that it hears")
        reader = client._reading_task
        assert reader is not None
        await until(reader.done)
    assert client.is_connected
    await until(lambda: states == [False, True])
    await b.publish(own_world.name("x"), b"again")
    await until(lambda: heard.data == [b"again"])


async def test_handlers_and_callbacks_that_raise_harm_nobody(
    a: NatsBroker, own_world: World, own_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    states, heard = list[bool](), Heard()

    def fail(up: bool) -> None:
        raise ZeroDivisionError

    async def fail_too(message: Message) -> None:
        raise ZeroDivisionError

    a.on_state(fail)
    a.on_state(states.append)
    await a.subscribe(own_world.name("x"), fail_too)
    await a.subscribe(own_world.name("x"), heard)
    with caplog.at_level(logging.CRITICAL + 1):
        await a.publish(own_world.name("x"), b"1")
        await until(lambda: heard.data == [b"1"])
        await own_server.restart(kill=True)
        await until(lambda: states == [False, True])
        await a.publish(own_world.name("x"), b"2")
        await until(lambda: heard.data == [b"1", b"2"])


@pytest.mark.usefixtures("_quick_looks")
async def test_an_answer_to_a_ping_that_nobody_waits_for_any_more_kills_nothing(
    a: NatsBroker, own_server: NatsServer
) -> None:
    """The library's own `rtt` cancels its future, and the late answer then ends its reader."""
    reader = a._link.client._reading_task
    assert reader is not None
    own_server.send(signal.SIGSTOP)
    asking = asyncio.ensure_future(a._link.barrier(DEADLINE_S))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    own_server.send(signal.SIGCONT)
    await a._link.barrier()
    assert not reader.done()


# -- 4: a publisher that waits for the socket can not be cancelled -----------------------------------------------------


async def test_a_publisher_that_waits_for_a_full_socket_can_be_cancelled(
    a: NatsBroker, own_world: World, own_server: NatsServer
) -> None:
    sent = 0

    async def publish_for_ever() -> None:
        nonlocal sent
        while True:
            await a.publish(own_world.name("x"), bytes(500_000))
            sent += 1
            await asyncio.sleep(0)

    own_server.send(signal.SIGSTOP)
    publishing = asyncio.create_task(publish_for_ever())
    seen = -1
    while seen != sent:  # until it does not get on any more
        seen = sent
        await asyncio.sleep(0.2)
    assert not publishing.done()
    publishing.cancel()
    await asyncio.wait({publishing}, timeout=1.0)
    own_server.send(signal.SIGCONT)
    assert publishing.cancelled()


# -- 5: a payload of exactly the limit, and a header -------------------------------------------------------------------


@pytest.mark.parametrize("limit", [64 * 1024, 1024 * 1024])
async def test_a_message_at_the_server_s_limit_does_not_end_the_connection(tmp_path: Path, limit: int) -> None:
    server = NatsServer(tmp_path, extra=f"max_payload: {limit}").start()
    try:
        async with real.connection(server.options, Subjects("t"), name="a") as broker:
            states, heard = list[bool](), Heard()
            broker.on_state(states.append)
            await broker.subscribe("t.x", heard)
            for size in (limit, limit - 1, limit + 1):
                with pytest.raises(Malformed):
                    await broker.publish("t.x", bytes(size), headers={"A": "1"})
            await broker.publish("t.x", bytes(limit - limits.PAYLOAD_HEADROOM_BYTES - 6), headers={"A": "1"})
            await until(lambda: heard.data)
            assert states == []
    finally:
        server.stop()


# -- 6: close() raises, or waits, when the peer is dead ----------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_closing_ends_in_time_whatever_has_become_of_the_server(
    a: NatsBroker, own_world: World, own_server: NatsServer, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLOSE_S", 0.2)
    spec = own_world.spec()
    await a.ensure(spec)
    await a.subscribe(own_world.name("x"), Heard())
    own_server.send(how)
    for _ in range(40):  # more than the socket takes
        with contextlib.suppress(BusUnavailable):
            await a.publish(own_world.name("x"), bytes(500_000))
    await within(a.close())
    assert not a.connected
    own_server.send(signal.SIGCONT)


# -- 8: publish_async: answers that never come, places that are never free again; drain: waits for ever ----------------


async def test_writes_under_way_at_a_kill_end_and_leave_their_places(
    a: NatsBroker, own_world: World, own_server: NatsServer
) -> None:
    await a.ensure(own_world.spec())
    writes = [
        asyncio.ensure_future(a.append(own_world.name(f"s.{number}"), bytes(1_000), subject_seq=0, timeout_s=3_600))
        for number in range(500)
    ]
    await until(lambda: any(write.done() for write in writes))
    await own_server.restart(kill=True)
    ends = await within(asyncio.gather(*writes, return_exceptions=True))
    assert isinstance(ends, list)
    assert {type(end) for end in ends} <= {int, BusUnavailable}
    assert not a._link._routes
    await until(lambda: a.connected)
    for number in range(500):
        with contextlib.suppress(Conflict):  # it was stored, and only its answer was lost
            await a.append(own_world.name(f"s.{number}"), b"", subject_seq=0)
    assert (await a.state(own_world.spec().name)).messages == 500


async def test_closing_does_not_wait_for_readers_that_nobody_reads(
    a: NatsBroker, b: NatsBroker, own_world: World
) -> None:
    spec = own_world.spec()
    await a.ensure(spec)
    every = own_world.name("s.>")
    async with a.tail(spec.name, every), a.consume(spec.name, every, durable="d"):
        for number in range(300):
            await b.append(own_world.name(f"s.{number}"), b"")
        began = asyncio.get_running_loop().time()
        await within(a.close())
        assert asyncio.get_running_loop().time() - began < limits.CALL_TIMEOUT_S


# -- pulls: a cancelled one keeps the next message; one that waits over a restart is not sent again --------------------


async def test_a_cancelled_reader_takes_no_message_with_it(a: NatsBroker, b: NatsBroker, own_world: World) -> None:
    spec = own_world.spec()
    await a.ensure(spec)

    async def wait_in_vain() -> None:
        async with a.consume(spec.name, own_world.name("s.>"), durable="d", ack_wait_s=3_600) as deliveries:
            waiting.set()
            await anext(deliveries)

    waiting = asyncio.Event()
    task = asyncio.create_task(wait_in_vain())
    await waiting.wait()
    await a._link.barrier()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await b.append(own_world.name("s.a"), b"1")
    async with b.consume(spec.name, own_world.name("s.>"), durable="d", ack_wait_s=3_600) as deliveries:
        async with asyncio.timeout(DEADLINE_S):
            assert (await anext(deliveries)).attempt == 1


async def test_readers_of_a_stream_that_was_made_anew_say_so_and_can_begin_again(
    a: NatsBroker, b: NatsBroker, own_world: World
) -> None:
    spec, every = own_world.spec(), own_world.name("s.>")
    await a.ensure(spec)
    async with a.tail(spec.name, every) as messages, a.consume(spec.name, every, durable="d") as deliveries:
        reading, taking = asyncio.ensure_future(anext(messages)), asyncio.ensure_future(anext(deliveries))
        await b._api.call(f"STREAM.DELETE.{spec.name}")
        await b.ensure(spec)
        await b.append(own_world.name("s.a"), b"of the new one")
        with pytest.raises((Conflict, NotFound)):
            await within(reading)
        try:
            delivery = await asyncio.wait_for(taking, DEADLINE_S)
        except NotFound:
            delivery = None  # it looked between the two
    if delivery is None:
        async with a.consume(spec.name, every, durable="d") as deliveries:
            delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_S)
    assert delivery.message.data == b"of the new one"
    async with a.tail(spec.name, every) as messages:
        assert (await asyncio.wait_for(anext(messages), DEADLINE_S)).data == b"of the new one"


# -- 8: to the library a marker of an expired key is an entry without a value ------------------------------------------


async def test_an_expired_key_reads_as_none_and_is_written_again_behind_its_marker(
    a: NatsBroker, own_world: World
) -> None:
    spec, key = own_world.spec(max_age_s=1.0), own_world.name("s.key")
    await a.ensure(spec)
    config = (await a._api.stream(spec.name))["config"]
    markers = {"allow_msg_ttl": True, "subject_delete_marker_ttl": 60 * 10**9}
    await a._api.call(f"STREAM.UPDATE.{spec.name}", config | markers)
    first = await a.append(key, b"value")
    async with asyncio.timeout(DEADLINE_S):
        while (await a.state(spec.name)).last_seq == first:  # noqa: ASYNC110 - the server expires it
            await asyncio.sleep(0.05)
    (marker,) = await a.read(spec.name, key)
    assert (marker.seq, marker.data) == (first + 1, b"")
    assert await a.last(spec.name, key) is None
    await a.append(key, b"again", subject_seq=marker.seq)
    found = await a.last(spec.name, key)
    assert found is not None
    assert found.data == b"again"


# -- 9, 10: the library's models of a configuration drop what they do not know -----------------------------------------


async def test_settings_of_a_stream_that_we_do_not_know_stay(a: NatsBroker, own_world: World) -> None:
    spec = own_world.spec(max_age_s=60.0)
    await a.ensure(spec)
    config = (await a._api.stream(spec.name))["config"]
    theirs = {"republish": {"src": ">", "dest": own_world.name("copy.>")}, "allow_atomic": True}
    await a._api.call(f"STREAM.UPDATE.{spec.name}", config | theirs)
    assert await a.ensure(own_world.spec(max_age_s=120.0))
    found = (await a._api.stream(spec.name))["config"]
    assert {name: found[name] for name in theirs} == theirs
    assert found["max_age"] == 120 * 10**9


# -- reconnecting ------------------------------------------------------------------------------------------------------


class Relay:
    """Stands between a client and the server; frozen connections are as those to a machine that vanished."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._flowing.set()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    @property
    def options(self) -> NatsOptions:
        """How to connect through it."""
        assert self._server is not None
        return NatsOptions(servers=(f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}",))

    def freeze(self) -> None:
        """Nothing passes any more on the connections of now; new ones are served."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._pumps.add(asyncio.create_task(_pump(source, sink, self._flowing)))

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    try:
        while data := await source.read(65_536):
            await flowing.wait()
            sink.write(data)
            await sink.drain()
    finally:
        sink.transport.abort()


@pytest.mark.usefixtures("_quick_looks")
async def test_a_half_open_connection_is_given_up_though_bytes_are_stuck_in_it(own_server: NatsServer) -> None:
    """The peer vanished without a word in the middle of an upload: the library would wait until its bytes are taken."""
    async with Relay(own_server.port) as relay:
        broker = await real.connect(relay.options, Subjects("t"), name="a")
        states, heard = list[bool](), Heard()
        await broker.subscribe("t.x", heard)
        broker.on_state(states.append)
        relay.freeze()
        for _ in range(14):
            await broker.publish("t.y", bytes(500_000))
            await asyncio.sleep(0)
        assert broker._link.client._transport._io_writer.transport.get_write_buffer_size() > 0
        asking = asyncio.ensure_future(broker.request("t.y", b"", timeout_s=3_600))
        with pytest.raises(BusUnavailable, match="was lost"):
            await within(asking)
        await until(lambda: states == [False, True])
        await broker.publish("t.x", b"live again")
        await until(lambda: heard.data == [b"live again"])
        await broker.close()


async def test_an_expired_credential_is_read_again_from_its_file(tmp_path: Path) -> None:
    """The library closes itself for good when the server says "user authentication expired"."""
    mint = Mint()
    server = NatsServer(tmp_path, extra=mint.server_lines()).start()
    creds, heard, states = tmp_path / "a.creds", Heard(), list[bool]()
    creds.write_text(mint.credentials(life_s=2))
    try:
        options = NatsOptions(servers=(server.url,), creds=str(creds))
        async with real.connection(options, Subjects("t"), name="a") as broker:
            broker.on_state(states.append)
            await broker.subscribe("t.x", heard)
            await until(lambda: states == [False])  # closed for good, or in vain attempts with what has expired
            creds.write_text(mint.credentials(life_s=3_600))
            await until(lambda: states[-1])
            await broker.publish("t.x", b"live again")
            await until(lambda: heard.data == [b"live again"])
    finally:
        server.stop()


class Mute:
    """Stands on the server's port and takes connections; it greets, and then says nothing more."""

    def __init__(self, port: int) -> None:
        self.port, self.taken = port, 0
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Mute:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        return self

    async def _take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self._writers.append(writer)
        writer.write(b'INFO {"version":"2.12.0","max_payload":1048576,"headers":true,"jetstream":true}\r\n')

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()


@pytest.mark.usefixtures("_quick_looks")
async def test_an_attempt_that_hangs_in_its_handshake_is_replaced(
    a: NatsBroker, own_world: World, own_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECONNECT_SILENCE_S_MAX", 0.3)
    heard = Heard()
    await a.subscribe(own_world.name("x"), heard)
    first = a._link.client
    await asyncio.to_thread(own_server.kill)
    async with Mute(own_server.port) as mute:
        await until(lambda: mute.taken and a._link.client is not first)
    await asyncio.to_thread(own_server.start)
    await until(lambda: a.connected)
    await a.publish(own_world.name("x"), b"once")
    await a._link.barrier()
    await until(lambda: heard.data)
    assert heard.data == [b"once"]


async def test_a_renewal_that_fails_half_way_leaves_no_second_client(
    a: NatsBroker, b: NatsBroker, own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients with the same subscriptions would hand every message out twice."""
    heard, link, failed = Heard(), a._link, list[str]()
    await a.subscribe(own_world.name("x"), heard)
    subscribe = link._subscribe

    async def fail_once(ear: object) -> object:
        if not failed and len(link._ears) > 1 and ear is list(link._ears)[-1]:
            failed.append("in the middle of it")
            raise ConnectionResetError
        return await subscribe(ear)  # type: ignore[arg-type]  # an Ear, as `_renew` hands it over

    monkeypatch.setattr(link, "_subscribe", fail_once)
    states: list[bool] = []
    a.on_state(states.append)
    await link.client.close()
    await until(lambda: states == [False, True])
    assert failed
    await a._link.barrier()  # the broker has taken in what the new client asked it for
    await b.publish(own_world.name("x"), b"1")
    await b.publish(own_world.name("x"), b"2")
    await b._link.barrier()
    await until(lambda: len(heard.data) >= 2)
    await a._link.barrier()
    assert heard.data == [b"1", b"2"]


@dataclasses.dataclass
class Tried:
    """An address, as the library counts its failures."""

    reconnects: int


def test_attempts_to_reconnect_are_spread_and_bounded() -> None:
    for reconnects, most_s in ((0, 0.1), (1, 0.2), (3, 0.8), (10, limits.RECONNECT_PAUSE_S_MAX), (10**6, 2.0)):
        pauses = [next_server([Tried(reconnects)], None)[1] for _ in range(200)]
        assert max(pauses) <= most_s
        assert min(pauses) >= most_s / 5
        assert len(set(pauses)) > 100
    servers = [Tried(3), Tried(1), Tried(2)]
    assert next_server(servers, None)[0] is servers[1]


async def test_an_attempt_that_swallowed_its_end_goes_no_further() -> None:
    """The library cancels an attempt to reconnect when it begins another, and does not look whether it ended."""

    class Reconnecting:
        is_closed = False
        _reconnection_task: asyncio.Task[object] | None = None

    async def attempt() -> object:
        return _next_of(client, [Tried(0)], None)[0]  # type: ignore[arg-type]

    client = Reconnecting()
    present, replaced = asyncio.create_task(attempt()), asyncio.create_task(attempt())
    client._reconnection_task = present
    assert isinstance(await present, Tried)
    with pytest.raises(asyncio.CancelledError):
        await replaced
    client._reconnection_task = late = asyncio.create_task(attempt())
    client.is_closed = True
    with pytest.raises(asyncio.CancelledError):
        await late
