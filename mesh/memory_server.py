"""The server of the broker in memory: streams, who listens to what, its life and death, and the faults on the way.

`mesh/memory.py` adds the connections, and tells the story of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from mesh import wire
from mesh.bus import Message, StreamSpec
from mesh.errors import Conflict, DiskFull, Malformed, NotFound
from mesh.memory_store import MemoryStream
from mesh.subjects import Subjects


class Fate(enum.Enum):
    """What becomes of one write."""

    STORED = "stored"
    """Stored and answered."""
    LOST = "lost"
    """It never arrived; the writer waits in vain."""
    REPLY_LOST = "reply lost"
    """It was stored, and the writer waits in vain."""
    LATE = "late"
    """It is stored a while later, if it still may be then; the writer waits in vain, and may be dead by then."""


class Faults:
    """Decides what goes wrong; this one lets everything pass. Override what a test needs; keep it deterministic."""

    def copies(self, sender: str, receiver: str, message: Message) -> Sequence[float]:
        """Delays in seconds of each copy of a core message that arrives: () drops it, (0, 0.5) repeats it."""
        return (0.0,)

    def append(self, writer: str, subject: str) -> Fate:
        """The fate of one write to a stream."""
        return Fate.STORED

    def late_s(self) -> float:
        """How late a late write is."""
        return 1.0

    def latency_s(self, caller: str, what: str) -> float:
        """How long a call (`append`, `read`, `ack`, …) takes; infinite: its answer never comes."""
        return 0.0


class Bell:
    """Wakes everybody who waits for something to change, in the order in which they began to wait."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def ring(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until the next ring, or until the time is up."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            if timeout_s is None:
                await future
            else:
                await asyncio.wait({future}, timeout=timeout_s)
        finally:
            self._waiting.pop(future, None)


class Connection(Protocol):
    """What the server knows of a connection."""

    name: str
    client: str
    cut: bool
    cut_silently: bool

    def notice(self) -> None:
        """The server's or the partition's state may have changed."""


@dataclasses.dataclass(eq=False, slots=True)
class Interest:
    """One subscription or one waiting request, as the server sees it."""

    broker: Connection
    pattern: str
    queue: str
    take: Callable[[Message], None]


class ServerCore:
    """The server: streams, who listens to what, and its own life and death."""

    def __init__(
        self,
        subjects: Subjects | None = None,
        *,
        faults: Faults | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """clock: seconds that only grow; default: the running loop's time."""
        self.subjects = subjects or Subjects()
        self.faults = faults or Faults()
        self.up = True
        self.bell = Bell()
        self._clock = clock
        self._streams: dict[str, MemoryStream] = {}
        self._interests: list[Interest] = []
        self.brokers: dict[Connection, None] = {}
        self.on_disconnect: dict[Callable[[str], None], None] = {}
        self._turns: dict[tuple[str, str], int] = {}
        self._made = 0
        self.crashes = 0
        """How often it has stopped: what was on its way then is lost."""

    def now(self) -> float:
        """The server's clock."""
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    # -- faults -------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Stop at once: every connection is lost, what is stored stays."""
        self.up = False
        self.crashes += 1
        self._tell()

    def copy(self) -> dict[str, MemoryStream]:
        """A backup of all streams and consumers, for `restart`."""
        return {name: stream.copy() for name, stream in self._streams.items()}

    def restart(self, older: dict[str, MemoryStream] | None = None) -> None:
        """Come back, with what was stored or an older copy of it; connections return by themselves."""
        if older is not None:
            self._streams = {name: stream.copy() for name, stream in older.items()}
        self.up = True
        self._tell()

    def cut(self, name: str, *, silently: bool = False) -> None:
        """Partition all connections of this name. Silently: they believe to be connected, and nothing arrives."""
        for broker in self._named(name):
            broker.cut, broker.cut_silently = True, silently
            if not silently:
                self._left(broker)
        self._tell()

    def heal(self, name: str) -> None:
        """End the partition."""
        for broker in self._named(name):
            broker.cut = broker.cut_silently = False
        self._tell()

    def _named(self, name: str) -> list[Connection]:
        return [broker for broker in self.brokers if broker.name == name]

    def _tell(self) -> None:
        for broker in list(self.brokers):
            broker.notice()
        self.bell.ring()

    def forget(self, broker: Connection) -> None:
        """A connection was closed by its owner."""
        if broker in self.brokers:
            del self.brokers[broker]
            self._left(broker)
        self._interests = [interest for interest in self._interests if interest.broker is not broker]
        self.bell.ring()

    def _left(self, broker: Connection) -> None:
        """A connection has ended: tell who wants to know."""
        for tell in list(self.on_disconnect) if self.up else ():
            tell(broker.client)

    # -- core messages ------------------------------------------------------------------------------------------------

    def listen(self, interest: Interest) -> None:
        """Register interest in a pattern."""
        self._interests.append(interest)

    def unlisten(self, interest: Interest) -> None:
        """Forget it."""
        with contextlib.suppress(ValueError):
            self._interests.remove(interest)

    def route(self, sender: Connection, message: Message) -> int:
        """Hand a message to everybody who listens; to how many."""
        chosen = self._chosen(message.subject)
        for interest in chosen:
            for delay_s in self.faults.copies(sender.name, interest.broker.name, message):
                if delay_s > 0:
                    asyncio.get_running_loop().call_later(delay_s, self._arrive, interest, message)
                else:
                    self._arrive(interest, message)
        return len(chosen)

    def _chosen(self, subject: str) -> list[Interest]:
        """All without a queue, and one of each queue group, in turns."""
        chosen: list[Interest] = []
        groups: dict[tuple[str, str], list[Interest]] = {}
        for interest in self._interests:
            if (self.up and not interest.broker.cut) and wire.matches(interest.pattern, subject):
                if interest.queue:
                    groups.setdefault((interest.queue, interest.pattern), []).append(interest)
                else:
                    chosen.append(interest)
        for group, members in groups.items():
            turn = self._turns[group] = self._turns.get(group, -1) + 1
            chosen.append(members[turn % len(members)])
        return chosen

    def _arrive(self, interest: Interest, message: Message) -> None:
        if self.up and not interest.broker.cut and interest in self._interests:
            interest.take(message)

    # -- streams ------------------------------------------------------------------------------------------------------

    def write_late(self, late_s: float, write: Callable[[], object]) -> None:
        """Carry a write out later, unless this life of the server is over by then; nobody hears what comes of it."""
        life = self.crashes

        def carry_out() -> None:
            if self.crashes == life:
                with contextlib.suppress(Conflict, DiskFull, Malformed, NotFound):
                    write()
                self.bell.ring()

        asyncio.get_running_loop().call_later(late_s, carry_out)

    def stream(self, name: str) -> MemoryStream:
        """The stream of this name, with what is too old removed."""
        found = self._streams.get(name)
        if found is None:
            raise NotFound(f"there is no stream {name}: make the streams first")
        found.expire(self.now())
        return found

    def stream_of(self, subject: str) -> MemoryStream:
        """The stream that stores this subject."""
        for stream in self._streams.values():
            if any(wire.matches(pattern, subject) for pattern in stream.spec.subjects):
                return stream
        raise NotFound(f"no stream stores {subject}: make the streams first")

    def spec(self, name: str) -> StreamSpec | None:
        """How a stream was declared."""
        return self._streams[name].spec if name in self._streams else None

    def declare(self, spec: StreamSpec) -> None:
        """Make the stream, or change it. Conflict when another one stores some of its subjects."""
        for other in self._streams.values():
            taken = [
                mine for mine in spec.subjects for theirs in other.spec.subjects
                if other.spec.name != spec.name and wire.overlap(mine, theirs)
            ]  # fmt: skip
            if taken:
                raise Conflict(
                    f"stream {spec.name} wants {taken[0]}, which {other.spec.name} stores: choose another prefix"
                )
        if spec.name in self._streams:
            self._streams[spec.name].spec = spec
        else:
            self._made += 1
            self._streams[spec.name] = MemoryStream(spec, created=f"memory-{self._made}")
