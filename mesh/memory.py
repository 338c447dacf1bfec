"""The broker in memory: the port of `mesh/bus.py` without a server, for tests and for the simulation of a whole mesh.

    server = MemoryServer()                     one "nats-server": streams, subscriptions, a clock
    broker = server.connect("worker-1")         one connection; several of them talk to each other

It keeps every promise that the real one keeps, with the same errors, and passes the same contract suite. It uses no
thread, no socket and no real time, so under `mesh/virtual_time.py` a day of outages takes milliseconds.

Faults. `Faults` decides about each message and call (drop, repeat, delay, "stored but the answer was lost"); the server
can be crashed, restarted with an older copy of its streams, and single connections can be cut, noticed or silently.

Not covered: permissions, several servers, and the loss of a part of a batch of bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from mesh import limits, streams, wire
from mesh.bus import Delivery, Handler, Message, Stored, StreamSpec, StreamState
from mesh.errors import BrokerRefused, BusUnavailable, NotFound
from mesh.listening import Listener, Names
from mesh.memory_server import Fate, Faults, Interest, ServerCore
from mesh.memory_store import MemoryConsumer

__all__ = ["Fate", "Faults", "MemoryBroker", "MemoryDelivery", "MemoryServer", "MemorySubscription"]

log = logging.getLogger(__name__)

SUBJECTS_AT_ONCE = 10_000
"""Subjects in one page of a list; the real server tells ten times as many."""


class MemoryServer(ServerCore):
    """The server, and the way to it."""

    def connect(self, name: str, *, client: str = "") -> MemoryBroker:
        """A new connection; client: the name that it bears at the server. BusUnavailable while the server is down."""
        if not self.up:
            raise BusUnavailable("expected a broker in memory, but it is down: restart it")
        broker = MemoryBroker(self, name, client or name)
        self.brokers[broker] = None
        return broker


class MemoryDisconnects:
    """`mesh.bus.Disconnects` in memory: closed and noticeably cut connections; nothing of a server's crash."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    @property
    def available(self) -> bool:
        """Would a disconnection be told now?"""
        return self._server.up

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncIterator[str]]:
        """Names of connections as they close, from now on."""
        names = Names()
        self._server.on_disconnect[names.put] = None
        try:
            async with contextlib.aclosing(names.follow()) as found:
                yield found
        finally:
            del self._server.on_disconnect[names.put]


class MemorySubscription:
    """A live subscription in memory."""

    def __init__(self, broker: MemoryBroker, server: MemoryServer, interest: Interest, listener: Listener) -> None:
        self._broker, self._server, self._interest, self.listener = broker, server, interest, listener

    async def close(self) -> None:
        """No handler call begins after this returns."""
        self._server.unlisten(self._interest)
        self._broker.subscriptions.pop(self, None)
        await self.listener.close()


class MemoryBroker:
    """One connection to a `MemoryServer`: `mesh.bus.Broker` in memory."""

    def __init__(self, server: MemoryServer, name: str, client: str) -> None:
        self.name, self.client = name, client
        self.cut = False
        self.cut_silently = False
        self.subscriptions: dict[MemorySubscription, None] = {}
        self._server = server
        self._inbox = server.subjects.inbox(name)
        self._requests = 0
        self._open = True
        self._was_connected = True
        self.refusal: BrokerRefused | None = None
        """A test may take the key back: set it, then `notice`."""
        self._callbacks: list[Callable[[bool], None]] = []

    # -- the connection -----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """False while the broker is away."""
        up = self._open and self._server.up and self.refusal is None
        return up and (not self.cut or self.cut_silently)

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each (re)connection and False after each loss."""
        self._callbacks.append(callback)

    def notice(self) -> None:
        """The server's or the partition's state may have changed: tell the callbacks, once per change."""
        if self.connected == self._was_connected:
            return
        self._was_connected = self.connected
        for callback in self._callbacks:
            try:
                callback(self._was_connected)
            except Exception:
                log.exception("a callback on the connection's state failed")

    async def close(self) -> None:
        """End all subscriptions and the connection."""
        if not self._open:
            return
        await asyncio.gather(*(subscription.close() for subscription in list(self.subscriptions)))
        self._open = False
        self._server.forget(self)

    def _check_connected(self) -> None:
        if not self.connected:
            raise BusUnavailable(f"the broker in memory is away from {self.name}: try again later")

    async def _call(self, what: str, timeout_s: float = limits.CALL_TIMEOUT_S) -> None:
        """The way to the server: others may run meanwhile, and it may take long or for ever."""
        self._check_connected()
        latency_s = math.inf if self.cut_silently else self._server.faults.latency_s(self.name, what)
        if latency_s > timeout_s:
            await self._in_vain(what, timeout_s)
        life = self._server.crashes
        await asyncio.sleep(latency_s)
        self._check_connected()
        if self._server.crashes != life:
            raise BusUnavailable(f"the broker in memory was away while {what} was on its way: try again")

    async def _in_vain(self, what: str, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)
        raise BusUnavailable(f"no answer to {what} within {timeout_s:g} s: it may or may not have happened")

    # -- Bus ----------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send and forget."""
        wire.check_subject(subject)
        headers = wire.outgoing(data, headers)
        self._check_connected()
        if not self.cut:
            self._server.route(self, Message(subject, data, reply, dict(headers or {})))

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> MemorySubscription:
        """Call `handler` for every message, one at a time and in order, until closed."""
        wire.check_subject(subject, pattern=True)
        self._check_connected()
        listener = Listener(subject, handler)
        interest = Interest(self, subject, queue, listener.put)
        subscription = MemorySubscription(self, self._server, interest, listener)
        self._server.listen(interest)
        self.subscriptions[subscription] = None
        return subscription

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """The first answer."""
        wire.check_subject(subject)
        headers = wire.outgoing(data, headers)
        self._check_connected()
        self._requests += 1
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        reply = f"{self._inbox}.{self._requests}"
        interest = Interest(self, reply, "", lambda message: None if answer.done() else answer.set_result(message))
        self._server.listen(interest)
        try:
            if not self.cut and not self._server.route(self, Message(subject, data, reply, dict(headers or {}))):
                raise NotFound(f"nobody listens on {subject}")
            await asyncio.wait({answer}, timeout=timeout_s)
            if not answer.done():
                raise BusUnavailable(f"nobody answered on {subject} within {timeout_s:g} s")
            return answer.result()
        finally:
            self._server.unlisten(interest)

    # -- Log: writing -------------------------------------------------------------------------------------------------

    async def append(
        self, subject: str, data: bytes, *, stream_seq: int | None = None, subject_seq: int | None = None,
        headers: dict[str, str] | None = None, timeout_s: float = 5.0,
    ) -> int:  # fmt: skip
        """Store a message; its sequence."""
        wire.check_subject(subject)
        headers = wire.outgoing(data, headers)
        fate = self._server.faults.append(self.name, subject)
        await self._call("append", timeout_s)
        seq, server = 0, self._server

        def store() -> int:
            stream = server.stream_of(subject)
            return stream.append(subject, data, dict(headers or {}), stream_seq, subject_seq, server.now())

        if fate is Fate.LATE:
            server.write_late(server.faults.late_s(), store)
        elif fate is not Fate.LOST:
            seq = store()
            server.bell.ring()
        if fate is not Fate.STORED:
            await self._in_vain("append", timeout_s)
        return seq

    async def purge(self, stream: str, *, subject: str = "", below_seq: int = 0) -> int:
        """Remove messages; how many."""
        await self._call("purge")
        return self._server.stream(stream).purge(subject, below_seq)

    async def ensure(self, spec: StreamSpec) -> list[str]:
        """Make the stream as declared; the differences that were found."""
        await self._call("ensure")
        found = streams.compare(spec, self._server.spec(spec.name))
        if found:
            self._server.declare(spec)
        return found

    async def differences(self, spec: StreamSpec) -> list[str]:
        """What `ensure` would change."""
        await self._call("differences")
        return streams.compare(spec, self._server.spec(spec.name))

    # -- Log: reading -------------------------------------------------------------------------------------------------

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of a subject, or None."""
        wire.check_subject(subject)
        await self._call("last")
        return self._server.stream(stream).last(subject)

    async def state(self, stream: str) -> StreamState:
        """What the stream holds now."""
        await self._call("state")
        return self._server.stream(stream).state()

    async def subjects(self, stream: str, subject: str) -> AsyncIterator[list[str]]:
        """Subjects under which the stream holds something now, in pages."""
        wire.check_subject(subject, pattern=True)
        last = ""
        while True:
            await self._call("subjects")
            rest = sorted(one for one in self._server.stream(stream).subjects(subject) if one > last)
            if rest:
                yield rest[:SUBJECTS_AT_ONCE]
            if len(rest) <= SUBJECTS_AT_ONCE:
                return
            last = rest[SUBJECTS_AT_ONCE - 1]

    async def read(self, stream: str, subject: str, *, from_seq: int = 1, messages_max: int = 1_000) -> list[Stored]:
        """Messages of a subject in order, from a sequence on."""
        wire.check_subject(subject, pattern=True)
        await self._call("read")
        source, found = self._server.stream(stream), list[Stored]()
        while len(found) < messages_max and (stored := source.following(subject, from_seq)):
            found.append(stored)
            from_seq = stored.seq + 1
        return found

    @contextlib.asynccontextmanager
    async def tail(self, stream: str, subject: str, *, from_seq: int = 1) -> AsyncIterator[AsyncIterator[Stored]]:
        """All messages of a subject in order, without gaps or repeats, as they come."""
        wire.check_subject(subject, pattern=True)
        await self._call("tail")
        created = self._server.stream(stream).created
        async with contextlib.aclosing(self._follow(stream, created, subject, from_seq)) as messages:
            yield messages

    async def _follow(self, name: str, created: str, subject: str, next_seq: int) -> AsyncGenerator[Stored, None]:
        seen = next_seq - 1
        while self._open:
            stored = None
            if self.connected and not self.cut:
                source = self._server.stream(name)
                if source.created != created or (source.last_seq < seen and seen >= next_seq):
                    raise streams.other_history(name, seen, source.last_seq)
                stored = source.following(subject, seen + 1)
            if stored is None:
                await self._server.bell.wait()
                continue
            seen = stored.seq
            yield stored
            await asyncio.sleep(0)
        raise closed(name)

    def consume(
        self, stream: str, subject: str, *, durable: str, ack_wait_s: float = 30.0, in_flight_max: int = 64
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Messages of a durable consumer: each is delivered until it is acked or dropped."""
        return self._consume(stream, subject, durable, ack_wait_s, in_flight_max)

    @contextlib.asynccontextmanager
    async def _consume(
        self, stream: str, subject: str, durable: str, ack_wait_s: float, in_flight_max: int
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        wire.check_subject(subject, pattern=True)
        await self._call("consume")
        consumers = self._server.stream(stream).consumers
        consumer = consumers.setdefault(durable, MemoryConsumer(subject, ack_wait_s))
        consumer.pattern, consumer.ack_wait_s = subject, ack_wait_s
        async with contextlib.aclosing(
            self._deliver(stream, subject, durable, ack_wait_s, in_flight_max)
        ) as deliveries:
            yield deliveries

    async def _deliver(
        self, stream: str, pattern: str, durable: str, ack_wait_s: float, in_flight_max: int
    ) -> AsyncGenerator[Delivery, None]:
        open_ones: dict[int, float] = {}  # until when: what is never ended frees its place when it is delivered again
        while self._open:
            wait_s, taken, now = None, None, self._server.now()
            if self.connected and not self.cut:
                source = self._server.stream(stream)
                consumer = source.consumers.get(durable)
                if consumer is None:  # the server came back with an older copy
                    consumer = source.consumers[durable] = MemoryConsumer(pattern, ack_wait_s)
                if sum(until > now for until in open_ones.values()) < in_flight_max:
                    taken = consumer.take(source, now)
                due = consumer.due()
                wait_s = None if due is None else max(0.0, due - now)
            if taken is None:
                await self._server.bell.wait(wait_s)
                continue
            open_ones[taken[0].seq] = now + ack_wait_s
            yield MemoryDelivery(self, stream, durable, open_ones, *taken)
            await asyncio.sleep(0)
        raise closed(stream)

    async def settle(self, stream: str, durable: str, seq: int, again_s: float | None) -> None:
        """End a delivery (None), or put it back for `again_s` seconds."""
        await self._call("ack")
        consumer = self._server.stream(stream).consumers.get(durable)
        if consumer is None:
            return
        if again_s is None:
            consumer.finish(seq)
        else:
            consumer.again(seq, self._server.now() + again_s)
        self._server.bell.ring()


class MemoryDelivery:
    """A stored message that was handed to a durable consumer."""

    def __init__(
        self,
        broker: MemoryBroker,
        stream: str,
        durable: str,
        open_ones: dict[int, float],
        message: Stored,
        attempt: int,
    ) -> None:
        self.message, self.attempt = message, attempt
        self._broker, self._stream, self._durable, self._open_ones = broker, stream, durable, open_ones

    async def ack(self) -> None:
        """Handled: do not deliver again."""
        await self._settle(None)

    async def again(self, delay_s: float) -> None:
        """Deliver once more after `delay_s` seconds."""
        await self._settle(delay_s)

    async def drop(self, reason: str) -> None:
        """Never deliver again; the reason goes to the log."""
        log.warning("%s drops message %d of %s: %s", self._durable, self.message.seq, self._stream, reason)
        await self._settle(None)

    async def _settle(self, again_s: float | None) -> None:
        self._open_ones.pop(self.message.seq, None)
        await self._broker.settle(self._stream, self._durable, self.message.seq, again_s)


def closed(name: str) -> BusUnavailable:
    """The error of a reader whose connection was closed by its owner."""
    return BusUnavailable(f"the connection was closed while {name} was read")
