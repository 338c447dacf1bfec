"""The port to the broker: what the mesh asks of it, and nothing else.

Two implementations pass one contract suite (tests/contract/): `mesh/broker.py` over a real nats-server and
`mesh/memory.py` in memory, with hooks for faults. Agents and the artifact store know only this file.

    Bus   core messages: at most once, no memory           publish, subscribe, request, on_state, close
    Log   streams: stored, ordered, compare-and-set        append, last, read, subjects, tail, consume, purge, state,
                                                           ensure, differences

Errors of both: BusUnavailable (not reachable, or no answer in time; a write may or may not have happened), Conflict
(compare-and-set lost), BrokerRefused (credentials, rights), DiskFull (the stream or the store is full), NotFound (no
such stream). Nothing else of the broker's client gets through.

What is sent or stored inside a span (mesh/tracing.py) carries the headers of W3C trace context, and the handler of a
subscription runs in the span that its message names; a reader of a stream finds them in `Stored.headers`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mesh.errors import BrokerRefused


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A core message. `reply` is '' when nobody waits for an answer."""

    subject: str
    data: bytes
    reply: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream."""

    subject: str
    data: bytes
    seq: int
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Delivery(Protocol):
    """A stored message that was handed to a durable consumer; exactly one of ack, again and drop ends it."""

    @property
    def message(self) -> Stored: ...

    @property
    def attempt(self) -> int:
        """1 for the first delivery."""
        ...

    async def ack(self) -> None:
        """Handled: do not deliver again."""

    async def again(self, delay_s: float) -> None:
        """Deliver once more after `delay_s` seconds."""

    async def drop(self, reason: str) -> None:
        """Never deliver again; the reason is visible to operators."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds. An empty stream has first_seq = last_seq + 1."""

    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int
    created: str
    """The server's creation time, as it says it: another value means another stream."""
    limit_bytes: int = -1
    """Most bytes that it may hold; -1: no limit of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamSpec:
    """Declared form of a stream; `mesh/streams.py` holds the table."""

    name: str
    subjects: tuple[str, ...]
    why: str
    max_age_s: float = 0.0
    """0 keeps for ever."""
    max_bytes: int = -1
    max_per_subject: int = -1
    max_message_bytes: int = -1
    discard_new: bool = False
    """Full: refuse the new message (True) or drop the oldest (False)."""
    max_consumers: int = 1_000
    replicas: int = 0
    """How many servers of a cluster keep a copy; 0: as many as do now."""
    schema: int = 1
    """Version of this declaration, kept with the stream: an older program does not undo what a newer one declared."""


class Subscription(Protocol):
    """A live subscription."""

    async def close(self) -> None:
        """No handler call begins after this returns."""


Handler = Callable[[Message], Awaitable[None]]


class Bus(Protocol):
    """Core messages: at most once."""

    @property
    def name(self) -> str:
        """Under which name this connection writes and asks: it stands in subjects."""
        ...

    @property
    def connected(self) -> bool:
        """False while the broker is away."""
        ...

    @property
    def refusal(self) -> BrokerRefused | None:
        """Why the broker will not be back for us: it takes our key no more. `on_state` calls back when this is set."""
        ...

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send and forget. BusUnavailable when not connected (nothing is buffered)."""

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call `handler` for every message, one at a time and in order, until closed. Active when this returns.

        At most a bounded number of messages waits (the oldest is dropped and counted). An exception in a handler is
        logged with the subject and does not end the subscription. Survives a restart of the broker.
        """
        ...

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """The first answer. NotFound when nobody listens, BusUnavailable when nobody answers in time."""
        ...

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each (re)connection and False after each loss, in the event loop."""

    async def close(self) -> None:
        """End all subscriptions and the connection; what was published before is flushed, within a deadline."""


class Log(Protocol):
    """Streams: stored and ordered."""

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        stream_seq: int | None = None,
        subject_seq: int | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """Store a message; its sequence when it is on the server's disk.

        stream_seq: only if this is the stream's last sequence; subject_seq: only if this is the last sequence of the
        subject (0: put if absent). Conflict when it is not, BusUnavailable when the answer did not come: the message
        may still have been stored, read before you repeat a write that is not idempotent.
        """
        ...

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of a subject (no wildcard), or None. An erased key reads as None."""
        ...

    async def read(self, stream: str, subject: str, *, from_seq: int = 1, messages_max: int = 1_000) -> list[Stored]:
        """Messages of a subject (wildcards allowed) in order, from a sequence on; what is there now."""
        ...

    def tail(
        self, stream: str, subject: str, *, from_seq: int = 1
    ) -> AbstractAsyncContextManager[AsyncIterator[Stored]]:
        """All messages of a subject (wildcards allowed) in order, without gaps or repeats, as they come.

        Goes on after the broker's restart from where it was. Leaves no consumer behind.
        """
        ...

    def consume(
        self, stream: str, subject: str, *, durable: str, ack_wait_s: float = 30.0, in_flight_max: int = 64
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Messages of a durable consumer (made when missing): each is delivered until it is acked or dropped."""
        ...

    async def purge(self, stream: str, *, subject: str = "", below_seq: int = 0) -> int:
        """Remove messages of a subject and/or below a sequence; how many."""
        ...

    def subjects(self, stream: str, subject: str) -> AsyncIterator[list[str]]:
        """Subjects (of a pattern) under which the stream holds something now: pages in ascending order, none empty.

        What is there from beginning to end is told once; what comes or goes meanwhile may be told or not.
        """
        ...

    async def state(self, stream: str) -> StreamState:
        """What the stream holds now."""
        ...

    async def ensure(self, spec: StreamSpec) -> list[str]:
        """Make the stream as declared, or bring an existing one to it; the differences that were found, in words."""
        ...

    async def differences(self, spec: StreamSpec) -> list[str]:
        """What `ensure` would change; changes nothing."""
        ...


class Broker(Bus, Log, Protocol):
    """Both halves on one connection."""


class Disconnects(Protocol):
    """Whose connection has closed, as a hint: it comes within milliseconds or not at all.

    `mesh.disconnects.ServerDisconnects`, and `mesh.memory.MemoryDisconnects` in memory.
    """

    @property
    def available(self) -> bool:
        """Would a disconnection be told now?"""
        ...

    def follow(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Names of connections as they close, from now on; it never ends by itself, and never fails."""
        ...
