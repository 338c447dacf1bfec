"""Readers of a stream on a real server: `tail` (a log, in order, to its end and beyond), `consume` (a shared queue).

Both stand on one loop of requests for messages, because the client library's own waits blindly through a restart,
leaves requests behind when it is cancelled, and is slower:

      ask for n ──────────>  server ── messages ──> queue ──> the reader
         ^                      |── heartbeat ──> the request is alive
         └── room again  <──────|── "timeout", "no bytes left": that many of the n will not come
                                └── "deleted", "no responders", three heartbeats missing, connection lost: session over

A session is one consumer (tail) or one binding to the durable one (consume). When it is over the reader begins a new
one by itself: `tail` from the sequence after the last that it handed out, checked to be the same stream.

Not covered: a store that came back older *and* was written past the old end before the reader returned looks unchanged;
and a server that is killed forgets acknowledgements of its last moments, so that acked messages are delivered again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

from mesh import limits, wire
from mesh.broker_api import JetStream
from mesh.broker_link import Ear, Link, unheard
from mesh.broker_log import check_same
from mesh.bus import Delivery, Message, Stored
from mesh.errors import BusUnavailable, NotFound

log = logging.getLogger(__name__)

_NANO = 1_000_000_000
_SILENT_TICKS_MAX = 3
_PART_DONE = ("message size exceeds maxbytes", "batch completed", "exceeded maxwaiting", "exceeded max")


class SessionOver(Exception):
    """This consumer or binding will give nothing any more; begin a new one."""


class Pull:
    """Keeps messages coming from one consumer into a bounded queue."""

    def __init__(self, link: Link, api: JetStream, stream: str, consumer: str, room: Callable[[], int]) -> None:
        """room: how many messages the reader can hold now, the queued ones included."""
        self._link, self._room = link, room
        self._subject = api.subject(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")
        self._inbox = f"{link.inbox}.{secrets.token_hex(6)}"
        self._queue: collections.deque[Message] = collections.deque()
        self._arrived = asyncio.Event()
        self._over = ""
        self._asked: dict[str, int] = {}
        self._outstanding = 0
        self._number = 0
        self._silent_ticks = 0
        self._ear: Ear | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ignore: Callable[[], Any] = lambda: None

    async def start(self) -> None:
        """Subscribe the inbox and ask for the first messages."""
        self._ignore = self._link.watch_state(lambda up: None if up else self._end("the connection was lost"))
        self._ear = await self._link.listen(f"{self._inbox}.*", "", self._take)
        self._tick()
        await self._ask()

    async def stop(self) -> list[Message]:
        """Ask for nothing more; what had arrived and was not taken. First the inbox goes: with it go our requests."""
        self._end("stopped")
        self._ignore()
        if self._timer is not None:
            self._timer.cancel()
        if self._ear is not None:
            await self._ear.stop()
        left = list(self._queue)
        self._queue.clear()
        return left

    async def get(self) -> Message:
        """The next message, in the order of the server. SessionOver when there will be none."""
        if self._outstanding <= limits.PULL_MESSAGES_MAX // 2:
            await self._ask()
        while not self._queue:
            if self._over:
                raise SessionOver(self._over)
            self._arrived.clear()
            await self._arrived.wait()
            await self._ask()
        return self._queue.popleft()

    async def _ask(self) -> None:
        """Ask for as many messages as there is room for, if that is worth a request."""
        room = self._room() - len(self._queue) - self._outstanding
        if self._over or room <= 0 or (self._outstanding and room < self._outstanding):
            return
        self._number += 1
        self._outstanding += room
        reply = f"{self._inbox}.{self._number}"
        self._asked[reply] = room
        if len(self._asked) > 64:
            del self._asked[next(iter(self._asked))]
        body = {
            "batch": room,
            "max_bytes": max(limits.PULL_BYTES_MAX, self._link.payload_max),
            "expires": round(limits.PULL_EXPIRES_S * _NANO),
            "idle_heartbeat": round(limits.PULL_HEARTBEAT_S * _NANO),
        }
        try:
            await self._link.send(self._subject, json.dumps(body).encode(), reply)
        except BusUnavailable as error:
            self._end(str(error))

    def _take(self, message: Message) -> None:
        """Called for everything that arrives in the inbox: a message of the stream, or a word about a request."""
        self._silent_ticks = 0
        status = message.headers.get("Status", "")
        if message.data or not status:
            self._outstanding -= 1
            self._queue.append(message)
        elif status == "100":
            return
        else:
            self._settle(status, message)
        self._arrived.set()

    def _settle(self, status: str, message: Message) -> None:
        text = message.headers.get("Description", "")
        if unheard(message):
            self._end("the consumer is gone")
        elif status == "408" or (status == "409" and text.lower().startswith(_PART_DONE)):
            left = message.headers.get("Nats-Pending-Messages") or self._asked.get(message.subject, 0)
            self._outstanding = max(0, self._outstanding - int(left))
        else:
            self._end(f"{status} {text}")

    def _tick(self) -> None:
        """Once per heartbeat: notice silence, and give the reader a turn to ask again when places became free."""
        self._timer = asyncio.get_running_loop().call_later(limits.PULL_HEARTBEAT_S, self._tick)
        if self._outstanding > 0:
            self._silent_ticks += 1
            if self._silent_ticks > _SILENT_TICKS_MAX:
                self._end("no sign of life from the consumer")
        self._arrived.set()

    def wake(self) -> None:
        """The reader may have room again."""
        self._arrived.set()

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._arrived.set()


class _Pause:
    """Ever longer pauses while nothing comes, with jitter."""

    def __init__(self) -> None:
        self._pause_s = 0.0

    def reset(self) -> None:
        self._pause_s = 0.0

    async def wait(self) -> None:
        if self._pause_s:
            await asyncio.sleep(random.uniform(self._pause_s / 2, self._pause_s))
        self._pause_s = min(max(0.05, 2 * self._pause_s), 1.0)


class Tail:
    """Reads a log in order through a consumer of its own, as often anew as it takes."""

    def __init__(self, link: Link, api: JetStream, stream: str, subject: str, from_seq: int) -> None:
        self._link, self._api, self._stream, self._subject = link, api, stream, subject
        self._next_seq = max(1, from_seq)
        self._seen = 0
        self._created = ""
        self._consumer = ""
        self._delivered = 0
        self._pull: Pull | None = None
        self._old: list[str] = []

    async def begin(self) -> None:
        """Make a consumer that starts where we are. NotFound without the stream, Conflict when it is another one."""
        info = await self._api.stream(self._stream)
        self._created = self._created or str(info["created"])
        check_same(self._stream, self._created, self._seen, info)
        await self._remove_old()
        self._consumer, self._delivered = f"tail-{secrets.token_hex(6)}", 0
        self._old.append(self._consumer)
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next_seq,
            "ack_policy": "none",
            "filter_subject": self._subject,
            "replay_policy": "instant",
            "inactive_threshold": round(limits.TAIL_CONSUMER_IDLE_S * _NANO),
            "mem_storage": True,
            "num_replicas": 1,
        }
        await create_consumer(self._api, self._stream, self._consumer, self._subject, config)
        self._pull = Pull(self._link, self._api, self._stream, self._consumer, lambda: limits.PULL_MESSAGES_MAX)
        await self._pull.start()

    async def end(self) -> None:
        """Leave nothing behind."""
        if self._pull is not None:
            await self._pull.stop()
            self._pull = None
        await self._remove_old()

    async def _remove_old(self) -> None:
        while self._old and self._link.connected:
            with contextlib.suppress(BusUnavailable, NotFound):
                await self._api.call(f"CONSUMER.DELETE.{self._stream}.{self._old[0]}")
            del self._old[0]

    async def follow(self) -> AsyncGenerator[Stored, None]:
        """Every message once, in order. Ends only with an error: Conflict, NotFound, or a closed connection."""
        pause = _Pause()
        while True:
            try:
                if self._pull is None:
                    await self._link.until_connected()
                    await self.begin()
                stored = await self._next()
            except (SessionOver, BusUnavailable) as over:
                log.debug("a session on %s is over: %s", self._stream, over)
                await self.end()
                self._link.check_open()
                await pause.wait()
                continue
            pause.reset()
            yield stored

    async def _next(self) -> Stored:
        assert self._pull is not None
        message = await self._pull.get()
        stored, _, delivered = parse(message)
        self._delivered += 1
        if delivered != self._delivered:
            raise SessionOver(f"message {self._delivered} of this session was lost")
        self._next_seq, self._seen = stored.seq + 1, stored.seq
        return stored


class Consumption:
    """Takes messages from a durable consumer that others may share."""

    def __init__(
        self, link: Link, api: JetStream, stream: str, subject: str, durable: str, ack_wait_s: float, in_flight_max: int
    ) -> None:
        self._link, self._api, self._stream, self._subject, self._durable = link, api, stream, subject, durable
        self._ack_wait_s, self._in_flight_max = ack_wait_s, in_flight_max
        self._open: dict[int, float] = {}  # until when: what is never ended frees its place when it is delivered again
        self._pull: Pull | None = None

    async def begin(self) -> None:
        """Make the consumer when it is missing, and bind to it."""
        config = {
            "name": self._durable,
            "durable_name": self._durable,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": round(self._ack_wait_s * _NANO),
            "filter_subject": self._subject,
            "replay_policy": "instant",
            "max_ack_pending": limits.IN_FLIGHT_MAX,
            "max_waiting": limits.WAITING_PULLS_MAX,
        }
        await create_consumer(self._api, self._stream, self._durable, self._subject, config)
        self._pull = Pull(self._link, self._api, self._stream, self._durable, self._room)
        await self._pull.start()

    async def end(self) -> None:
        """Give back what was queued and not taken: others get it at once."""
        if self._pull is None:
            return
        left = await self._pull.stop()
        self._pull = None
        with contextlib.suppress(BusUnavailable):
            for message in left:
                await self._link.send(message.reply, b"-NAK")
            if left:
                await self._link.barrier()

    def _room(self) -> int:
        now = asyncio.get_running_loop().time()
        for seq in [seq for seq, until in self._open.items() if until <= now]:
            del self._open[seq]
        return self._in_flight_max - len(self._open)

    def settled(self, seq: int) -> None:
        """A delivery has ended: there is room for another one."""
        self._open.pop(seq, None)
        if self._pull is not None:
            self._pull.wake()

    async def follow(self) -> AsyncGenerator[Delivery, None]:
        """Deliveries, for ever. Ends only with an error: NotFound, or a closed connection."""
        pause = _Pause()
        while True:
            try:
                if self._pull is None:
                    await self._link.until_connected()
                    await self.begin()
                assert self._pull is not None
                message = await self._pull.get()
            except (SessionOver, BusUnavailable) as over:
                log.debug("a session on %s is over: %s", self._stream, over)
                await self.end()
                self._link.check_open()
                await pause.wait()
                continue
            pause.reset()
            stored, attempt, _ = parse(message)
            self._open[stored.seq] = asyncio.get_running_loop().time() + self._ack_wait_s
            yield NatsDelivery(self._link, self, stored, attempt, message.reply)


class NatsDelivery:
    """A stored message that was handed to a durable consumer. Each word is answered: so it is known to be heard."""

    def __init__(self, link: Link, consumption: Consumption, message: Stored, attempt: int, reply: str) -> None:
        self.message, self.attempt = message, attempt
        self._link, self._consumption, self._reply = link, consumption, reply

    async def ack(self) -> None:
        """Handled: do not deliver again."""
        await self._say(b"+ACK")

    async def again(self, delay_s: float) -> None:
        """Deliver once more after `delay_s` seconds."""
        await self._say(b"-NAK " + json.dumps({"delay": round(delay_s * _NANO)}).encode())

    async def drop(self, reason: str) -> None:
        """Never deliver again; the reason is in the server's advisory."""
        await self._say(b"+TERM " + reason[: limits.TEXT_CHARS_MAX].encode())

    async def _say(self, word: bytes) -> None:
        self._consumption.settled(self.message.seq)
        answer = await self._link.ask(self._reply, word, timeout_s=limits.CALL_TIMEOUT_S)
        if unheard(answer):
            raise BusUnavailable("the consumer of this message is gone: the message will be delivered again")


async def create_consumer(api: JetStream, stream: str, name: str, subject: str, config: dict[str, Any]) -> None:
    """Make a consumer, or bring an existing one to this form. The subject names all of it, so rights can be narrow."""
    body = {"stream_name": stream, "config": config, "action": ""}
    await api.call(f"CONSUMER.CREATE.{stream}.{name}.{subject}", body)


def parse(message: Message) -> tuple[Stored, int, int]:
    """The stored message, its attempt and its number within the consumer, from the subject for its acknowledgement.

        $JS.ACK.<stream>.<consumer>.<attempt>.<stream seq>.<consumer seq>.<time>.<pending>
        $JS.ACK.<domain>.<account>.<stream>.<consumer>.<attempt>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]

    The second form is what servers may switch to (feature flag js_ack_fc_v2).
    """
    tokens = message.reply.split(".")
    at = 4 if len(tokens) < 11 else 6
    attempt, seq, delivered = (int(token) for token in tokens[at : at + 3])
    return Stored(message.subject, message.data, seq, wire.own_headers(message.headers)), attempt, delivered
