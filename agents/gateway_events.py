"""Results as server-sent events: many watchers share one reader of the result stream.

    RESULTS ── one tail ──> each record made into an event, once ──> a ring of the newest ──> watcher, watcher, …
                                                                          ^
    a watcher that comes back with Last-Event-ID from before the ring ── pages ──┘ then from the ring like the others

The tail runs while somebody watches, so a hundred watchers cost the mesh what one does. Events go out at most every
TURN_S, all that came meanwhile in one write, packed once for all who take gzip. Who can not take them within CUT_S, or
falls behind the ring, is cut: he comes back with the id of the last event that he saw, and misses nothing that the
stream keeps.

    id: 812          place in the stream; records that came in one message have 812.1, 812.2, … and the last of them 812
    event: verdict   the record's kind
    data: {"record":"verdict",…}

Two events are the gateway's own: `gap` when the stream no longer keeps what was missed, `restored` when the mesh's
store came back older and is told from its beginning. Their ids are those to go on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import zlib
from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web

from agents.commands.story import RECORDS
from agents.gateway_bodies import EventsQuery, TopicEventsQuery
from agents.gateway_problems import refuse
from agents.gateway_routes import Call, Part, Route
from agents.gateway_tokens import READERS
from agents.runtime import Agent, now_s, within
from mesh import codec
from mesh.bus import Stored
from mesh.errors import BusUnavailable, Conflict, Malformed, NotFound
from mesh.messages.results import TopicSettled, TopicTurnedDown
from mesh.packed import split

MEDIA = "text/event-stream"

TURN_S, TURN_S_MAX = 0.1, 1.0
"""Least time between two writes to a watcher; with many watchers up to the second figure."""

WATCHER_TURN_S = 0.004
"""So much longer with each watcher: a write costs some tens of microseconds whatever it carries, so all watchers of a
busy mesh together take a hundredth of a core for their turns, be they ten or two hundred."""

HEARTBEAT_S = 15.0
"""A comment is sent after so long a silence: proxies keep the connection, and a closed one is noticed."""

CUT_S = 10.0
"""Patience with a watcher that takes nothing."""

RING_EVENTS_MAX = 20_000
RING_BYTES_MAX = 16 * 1024 * 1024
"""Newest events that are held for all watchers together; a watcher that falls behind them is cut."""

UNSENT_BYTES_MAX = 256 * 1024
"""Of one write: what a watcher that is cut may have had in our memory."""

GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Of a stream for who takes gzip (RFC 1952: deflate, no name, no time, unknown system)."""

JOINED_MAX = 64
"""Such writes that are kept for other watchers at the same place."""

PAGE = 500
"""Messages read at once for a watcher that comes back."""

CATCHING_UP_MAX = 4
"""Watchers that read pages at a time; others wait: coming back costs the mesh, staying does not."""

IDLE_S = 10.0
"""How long the tail goes on without a watcher."""

AGAIN_S = 1.0
"""Pause before the tail is begun again."""

WHOLE = 1_000_000_000
"""Row behind all rows of a message."""

OVER = (TopicSettled.kind, TopicTurnedDown.kind)
"""Kinds of a topic's last event."""

Place = tuple[int, int]
"""(sequence, row): of an event in the stream."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One record, ready to be sent."""

    place: Place
    topic: str
    kind: str
    data: bytes

    @property
    def id(self) -> str:
        """As it stands on the wire."""
        seq, row = self.place
        return str(seq) if row == WHOLE else f"{seq}.{row}"

    def wire(self) -> bytes:
        """As a watcher gets it."""
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (self.id.encode(), self.kind.encode(), self.data)


def place_of(id_: str) -> Place | None:
    """The place that an id names; None when it is none."""
    seq, dot, row = id_.partition(".")
    if not (seq.isascii() and seq.isdigit() and len(seq) <= 18) or (
        dot and not (row.isascii() and row.isdigit() and len(row) <= 6)
    ):
        return None
    return int(seq), int(row) if dot else WHOLE


def events_of(stored: Stored) -> list[Event]:
    """The events of one message; records that this program does not know are passed over."""
    found, topic = [], stored.subject.split(".")[2]
    rows = split(stored)
    for number, row in enumerate(rows, 1):
        try:
            record = codec.decode(row.data, *RECORDS)
        except Malformed:
            continue
        data = b'{"record":"%s",%s' % (record.kind.encode(), msgspec.json.encode(record)[1:])
        found.append(Event((stored.seq, number if number < len(rows) else WHOLE), topic, record.kind, data))
    return found


class Ring:
    """The newest events, and who waits for more."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._first = 0
        """Number of the first event that is held."""
        self._bytes = 0
        self.floor: Place = (0, WHOLE)
        """Everything behind this place is held, up to `newest`."""
        self.newest: Place = (0, WHOLE)
        self._more = asyncio.Event()
        self._told_at = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._joined: dict[tuple[int, str, bool], tuple[int, bytes]] = {}
        self.watchers = 0
        """How many are told."""
        self.generation = 0
        """Rises when the ring begins anew."""

    @property
    def next(self) -> int:
        """Number of the event that comes next."""
        return self._first + len(self._events)

    def begin(self, seq: int) -> None:
        """Everything behind this sequence will come; what was held is forgotten."""
        self._first = self.next
        self._events.clear()
        self._bytes = 0
        self.floor = self.newest = (seq, WHOLE)
        self._joined.clear()
        self.generation += 1
        self.wake()

    def add(self, stored: Stored) -> int:
        """The next message; how many events it was."""
        found = events_of(stored)
        self._events += found
        self._bytes += sum(len(one.data) for one in found)
        self.newest = (stored.seq, WHOLE)
        if self._bytes > RING_BYTES_MAX or len(self._events) > RING_EVENTS_MAX:
            self._trim()
        if self._telling is None:
            loop = asyncio.get_running_loop()
            turn_s = min(TURN_S_MAX, TURN_S + WATCHER_TURN_S * self.watchers)
            self._telling = loop.call_at(max(loop.time(), self._told_at + turn_s), self.wake)
        return len(found)

    def _trim(self) -> None:
        """Drop the older half: seldom, and then much at once, as a list moves all that stays."""
        gone = 0
        while gone < len(self._events) - 1 and (
            self._bytes > RING_BYTES_MAX // 2 or len(self._events) - gone > RING_EVENTS_MAX // 2
        ):
            self._bytes -= len(self._events[gone].data)
            gone += 1
        self.floor = self._events[gone - 1].place if gone else self.floor
        del self._events[:gone]
        self._first += gone

    def wake(self) -> None:
        """Tell the watchers now."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._told_at = asyncio.get_running_loop().time()
        self._joined.clear()
        self._more.set()
        self._more = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until something new is told, so long at most."""
        await within(seconds, self._more)

    def number_behind(self, place: Place) -> int:
        """Number of the first held event behind a place."""
        low, high = 0, len(self._events)
        while low < high:
            middle = (low + high) // 2
            if self._events[middle].place > place:
                high = middle
            else:
                low = middle + 1
        return self._first + low

    def held(self, number: int) -> bool:
        """Is everything from this number on still here?"""
        return number >= self._first

    def since(self, number: int, topic: str, packed: bool = False) -> tuple[int, bytes]:
        """(number to go on with, the events from `number` on as bytes); one piece of at most UNSENT_BYTES_MAX or one
        event. What one watcher asked for is kept for the others until the next turn, packed once for all who want it
        so."""
        if (known := self._joined.get((number, topic, packed))) is not None:
            return known
        pieces, size, at = [], 0, number
        while at < self.next and size < UNSENT_BYTES_MAX:
            event = self._events[at - self._first]
            if not topic or event.topic == topic:
                pieces.append(event.wire())
                size += len(pieces[-1])
            at += 1
        found = at, deflated(b"".join(pieces)) if packed and pieces else b"".join(pieces)
        if len(self._joined) < JOINED_MAX:
            self._joined[number, topic, packed] = found
        return found

    def ended(self, number: int, upto: int, topic: str) -> bool:
        """Did the topic's last event stand among these?"""
        some = self._events[max(0, number - self._first) : upto - self._first]
        return any(one.topic == topic and one.kind in OVER for one in some)


class Events(Part):
    """The streams of one gateway."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._ring = Ring()
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        """The tail has begun: the ring says where."""
        self._catching_up = asyncio.Semaphore(CATCHING_UP_MAX)
        self._closing = False

    def routes(self) -> tuple[Route, ...]:
        """All results, and those of one topic."""
        again = {"Last-Event-ID": "Id of the last event that was seen"}
        return (
            Route(
                "GET", "/api/v1/events", self.all, summary="Everything that happens, as server-sent events",
                query=EventsQuery, roles=READERS, media=MEDIA, long=True, headers=again,
                about="Begins now, or behind the event that `after` or Last-Event-ID names.",
            ),
            Route(
                "GET", "/api/v1/topics/{topic}/events", self.topic, summary="What happens to a topic, as server-sent "
                "events", query=TopicEventsQuery, roles=READERS, media=MEDIA, long=True, headers=again, statuses=(204,),
                about="Begins with the topic's first event, or behind the one that `after` or Last-Event-ID names.",
            ),
        )  # fmt: skip

    # -- the tail -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read the result stream while somebody watches."""
        while not self.agent.stopping.is_set():
            await self._wanted.wait()
            try:
                await self._tail()
            except Conflict:
                self.agent.log.info("the results are another history than before: watchers are told")
            except (BusUnavailable, NotFound) as error:
                self.agent.log.info("the results can not be read: %s", error)
            finally:
                self._ready.clear()
            await self.agent.pause(AGAIN_S)

    async def _tail(self) -> None:
        agent, stream = self.agent, self.agent.stream("RESULTS")
        last_seq = (await agent.broker.state(stream)).last_seq
        from_seq = last_seq + 1
        async with agent.broker.tail(stream, agent.subjects.results(), from_seq=from_seq) as messages:
            self._ring.begin(last_seq)
            self._ready.set()
            reading = asyncio.create_task(self._read(messages), name="results")
            watching = asyncio.create_task(self._until_nobody_watches(), name="watchers")
            try:
                await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
            finally:
                reading.cancel()
                watching.cancel()
                await asyncio.gather(reading, watching, return_exceptions=True)

    async def _read(self, messages: AsyncIterator[Stored]) -> None:
        async for stored in messages:
            self.agent.metrics.count("mesh_http_events_total", self._ring.add(stored))

    async def _until_nobody_watches(self) -> None:
        quiet_since = now_s()
        while now_s() - quiet_since < IDLE_S:
            await asyncio.sleep(IDLE_S / 4)
            if self._ring.watchers:
                quiet_since = now_s()
        self._wanted.clear()
        self._ready.clear()

    async def close(self) -> None:
        """End all streams."""
        self._closing = True
        self._ring.wake()

    # -- one watcher --------------------------------------------------------------------------------------------------

    async def all(self, call: Call) -> web.StreamResponse:
        """Everything, from now on."""
        after = _after(call, call.query(EventsQuery).after)
        return await self._stream(call, "", after, until_settled=False)

    async def topic(self, call: Call) -> web.StreamResponse:
        """One topic, from its beginning on. NotFound when there is none."""
        topic, asked = call.path["topic"], call.query(TopicEventsQuery)
        after = _after(call, asked.after) or (0, WHOLE)
        stored = await self.agent.broker.last(self.agent.stream("TOPICS"), self.agent.subjects.topic(topic))
        if stored is None:
            raise NotFound(f"no topic {topic!r} was published to this mesh.")
        if asked.until_settled and await self._is_over(topic, after):
            return web.Response(status=204)  # a browser's EventSource comes back no more
        return await self._stream(call, topic, after, asked.until_settled)

    async def _is_over(self, topic: str, after: Place) -> bool:
        """Had the caller seen the topic's last event?"""
        for kind in OVER:
            subject = self.agent.subjects.results(topic, kind)
            page = await self.agent.broker.read(self.agent.stream("RESULTS"), subject, messages_max=PAGE)
            if page and (page[-1].seq, WHOLE) <= after:
                return True
        return False

    async def _stream(self, call: Call, topic: str, after: Place | None, until_settled: bool) -> web.StreamResponse:
        self._ring.watchers += 1
        self._wanted.set()
        self.agent.metrics.set("mesh_http_watchers", self._ring.watchers)
        try:
            if not await within(CUT_S, self._ready):
                raise BusUnavailable("the results can not be read now: come back soon.")
            packed = not until_settled and takes_gzip(call.request.headers.get("Accept-Encoding", ""))
            head = {"Content-Type": MEDIA, "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"}
            response = web.StreamResponse(headers=head | ({"Content-Encoding": "gzip"} if packed else {}))
            await call.begin(response)
            watcher = Watcher(call, response, self._cut, packed)
            with contextlib.suppress(ConnectionError):
                await self._told(watcher, topic, after or self._ring.newest, until_settled)
            return response
        finally:
            self._ring.watchers -= 1
            self.agent.metrics.set("mesh_http_watchers", self._ring.watchers)

    async def _told(self, watcher: Watcher, topic: str, after: Place, until_settled: bool) -> None:
        """Everything behind `after`, as long as the watcher takes it."""
        await watcher.begin()
        after = await self._checked(watcher, topic, after)
        while after < self._ring.floor:
            reached = await self._pages(watcher, topic, after, until_settled)
            if reached is None:
                return
            after = reached
        number, generation = self._ring.number_behind(after), self._ring.generation
        while not self._closing and watcher.welcome():
            if generation != self._ring.generation:
                return  # the tail began anew: the watcher comes back and is told from where he was
            if not self._ring.held(number):
                return self._cut("it fell behind")
            upto, piece = self._ring.since(number, topic, watcher.packed)
            if piece:
                await watcher.send(piece)
                if until_settled and self._ring.ended(number, upto, topic):
                    return None
            number = upto
            if number == self._ring.next:
                await watcher.pause(self._ring)

    async def _checked(self, watcher: Watcher, topic: str, after: Place) -> Place:
        """Where to begin in the stream as it is now; the watcher is told where that is not what he asked for."""
        if self._ring.floor <= after <= self._ring.newest:
            return after
        state = await self.agent.broker.state(self.agent.stream("RESULTS"))
        if after[0] > state.last_seq:
            await watcher.own("restored", (0, WHOLE), "the mesh's store came back older: told from its beginning")
            return 0, WHOLE
        if not topic and 0 < after[0] < state.first_seq - 1:
            after = (state.first_seq - 1, WHOLE)
            await watcher.own("gap", after, "what happened meanwhile is no longer kept here")
        return after

    async def _pages(self, watcher: Watcher, topic: str, after: Place, until_settled: bool) -> Place | None:
        """What the stream has behind `after`, up to where the ring begins; the place that was reached, None when the
        watcher is to go."""
        stream, subject = self.agent.stream("RESULTS"), self.agent.subjects.results(topic or "*")
        async with self._catching_up:
            known = self._ring.newest  # what comes later, the ring has
            from_seq = after[0] + (after[1] == WHOLE)
            page = await self.agent.broker.read(stream, subject, from_seq=max(1, from_seq), messages_max=PAGE)
        pieces: list[bytes] = []
        for stored in page:
            for event in events_of(stored):
                if not after < event.place <= known:
                    continue
                pieces.append(event.wire())
                if until_settled and event.kind in OVER:
                    await watcher.write(b"".join(pieces))
                    return None
        if not watcher.welcome():
            return None
        await watcher.write(b"".join(pieces))
        return min(known, (page[-1].seq, WHOLE)) if len(page) == PAGE else known

    def _cut(self, why: str) -> None:
        self.agent.metrics.count("mesh_http_watchers_cut_total")
        self.agent.log.info("a watcher was cut: %s", why)


class Watcher:
    """The caller's side of one stream."""

    def __init__(self, call: Call, response: web.StreamResponse, cut: Callable[[str], None], packed: bool) -> None:
        self._call, self._response, self._cut, self.packed = call, response, cut, packed
        self.welcome = call.welcome
        """Does the token still hold? Asked before anything is sent."""

    async def begin(self) -> None:
        """The stream's first words."""
        if self.packed:
            await self.send(GZIP_HEAD)
        await self.write(b": here is what happens\nretry: 2000\n\n")

    async def write(self, data: bytes) -> None:
        """Send what nobody else gets; ConnectionError as `send`."""
        if data:
            await self.send(deflated(data) if self.packed else data)

    async def send(self, data: bytes) -> None:
        """Send as it is; ConnectionError when the watcher is gone, or too slow."""
        try:
            async with asyncio.timeout(CUT_S):
                await self._response.write(data)
        except TimeoutError:
            self._cut(f"it took nothing for {CUT_S:.0f} s")
            if self._call.request.transport is not None:
                self._call.request.transport.abort()
            raise ConnectionResetError from None

    async def own(self, kind: str, place: Place, why: str) -> None:
        """An event of the gateway's own."""
        data = msgspec.json.encode({"record": kind, "why": why})
        await self.write(Event(place, "", kind, data).wire())

    async def pause(self, ring: Ring) -> None:
        """Until there is more; a comment when that takes long."""
        before = ring.next
        await ring.wait(HEARTBEAT_S)
        if ring.next == before:
            await self.write(b": still here\n\n")


def takes_gzip(accepted: str) -> bool:
    """Does an Accept-Encoding (RFC 9110, 12.5.3) name gzip, and not with a weight of 0?"""
    for one in accepted.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return weight.strip().removeprefix("q=").strip("0.") != "" if weight.strip() else True
    return False


def deflated(data: bytes) -> bytes:
    """A piece of a deflate stream (RFC 1951) that refers to nothing before it and ends at a byte: it can follow any
    other one, so what is packed once goes to every watcher. No checksum ever follows, as the stream has no end of its
    own: who watches is cut, or goes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _after(call: Call, asked: str | None) -> Place | None:
    """From where on; None when nothing was said."""
    said = call.request.headers.get("Last-Event-ID") or asked
    if not said:
        return None
    place = place_of(said)
    if place is None:
        raise refuse("invalid", f"Last-Event-ID is the id of an event, such as 812 or 812.1, got {said[:40]!r}.")
    return place
