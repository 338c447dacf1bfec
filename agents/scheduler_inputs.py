"""What waits for the scheduler's next turn: commands, beats, reports and questions, in one bounded queue.

Commands are never dropped: their reader waits while the queue is full (the stream keeps them), and a turn takes no more
of them than fit into an entry of the ledger. Beats and questions are repeated by their senders, so the queue refuses
new ones when it is full, and counts them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable

from agents.runtime import within
from mesh import codec, limits
from mesh.bus import Stored
from mesh.errors import Malformed
from mesh.messages.base import Record
from mesh.messages.commands import COMMANDS, OWED
from mesh.messages.leases import Beat, Gone
from mesh.messages.packs import Pack
from mesh.messages.services import OwedQuestion
from mesh.subjects import Subjects
from planner.reopening import Maker

TURN_BYTES = limits.LEDGER_ENTRY_BYTES_MAX // 2
"""Commands of one turn, about: their events fit into one entry, and workers run the first of a thousand tasks while the
last are still planned."""

WAITING_BYTES_MAX = 4 * TURN_BYTES
"""Commands that wait: more would keep the beats behind them waiting."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeardCommand:
    """One message of the stream: a command, or a pack of a worker's rows. None stands for bytes that were no valid one.

    A turn takes a message as a whole: the sequence that an entry covers must not stand in the middle of a pack.
    """

    seq: int
    writer: str
    records: tuple[Record | None, ...]
    size_bytes: int


def heard(stored: Stored, subjects: Subjects, complain: Callable[[Malformed], None]) -> HeardCommand:
    """What a message of COMMANDS says; what of it can not be read is handed to `complain`.

    Rights are given for the kind that the subject names: a record of another kind under it is none, and a pack holds
    rows of a worker's outbox and nothing else.
    """
    writer, kind = subjects.writer(stored.subject), subjects.command_kind(stored.subject)
    allowed = OWED if kind == Pack.kind else tuple(one for one in COMMANDS if one.kind == kind)

    def read(data: bytes) -> Record | None:
        try:
            if not allowed:
                raise Malformed(f"no command is of the kind {kind!r}")
            return codec.decode(data, *allowed)
        except Malformed as error:
            complain(error)
            return None

    try:
        return HeardCommand(stored.seq, writer, tuple(map(read, codec.rows(stored.data))), len(stored.data))
    except Malformed as error:
        complain(error)
        return HeardCommand(stored.seq, writer, (None,), len(stored.data))


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about receipts: answered after the turn's commit, so that the answer is true."""

    owed: OwedQuestion
    reply: str
    asker: str = ""
    """Who asks, by the subject of the question."""


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    """The broker says that a connection of this incarnation has closed."""

    incarnation: str


Input = HeardCommand | Beat | Gone | Closed | Question | Maker


class Inputs:
    """The queue between what arrives and the turn that takes it all."""

    def __init__(self) -> None:
        self._waiting: deque[Input] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._waiting_bytes = 0
        """Of commands."""
        self.dropped = 0

    def offer(self, item: Input) -> None:
        """Add what its sender repeats anyway; dropped and counted when the queue is full."""
        if len(self._waiting) >= limits.INPUTS_PENDING_MAX:
            self.dropped += 1
            return
        self._waiting.append(item)
        self._arrived.set()

    async def put(self, item: HeardCommand) -> None:
        """Add a command; waits while the queue is full."""
        while len(self._waiting) >= limits.INPUTS_PENDING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            self._taken.clear()
            await self._taken.wait()
        self._waiting.append(item)
        self._waiting_bytes += item.size_bytes
        self._arrived.set()

    async def wait(self, timeout_s: float) -> None:
        """Until something arrives, at most `timeout_s`."""
        await within(timeout_s, self._arrived)

    def drain(self) -> list[Input]:
        """What waits, in the order of arrival, but commands for one turn only: the rest is for the next ones."""
        items, size_bytes = list[Input](), 0
        while self._waiting and size_bytes < TURN_BYTES:
            item = self._waiting.popleft()
            items.append(item)
            size_bytes += item.size_bytes if isinstance(item, HeardCommand) else 0
        self._waiting_bytes -= size_bytes
        if not self._waiting:
            self._arrived.clear()
        self._taken.set()
        return items

    def __len__(self) -> int:
        return len(self._waiting)
