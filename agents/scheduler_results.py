"""The projection: records for subscribers, from committed ledger entries onto the RESULTS stream.

What an entry says of one topic in one kind travels in one message: a record alone, or a pack of them. Its subject ends
in `<ledger seq>-<index of the first of them in the entry>` and is put if absent, so projecting an entry again (after a
crash, by the next leader) changes nothing: the same entry is always cut the same way.

Every scheduler keeps what it has folded and does not yet know as projected; the leader writes it, in order, at most
WINDOW messages in flight. So when one is stored, all that come WINDOW messages before it are too, and the next leader
begins with the WINDOW-th newest message that it finds. What is older than the stream keeps is not told again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator

from agents.runtime import Agent
from mesh import codec
from mesh.errors import BusUnavailable, Conflict, DiskFull, Malformed
from mesh.messages.ledger import Untold
from mesh.messages.packs import Pack, portions
from mesh.messages.results import (
    Planned,
    Projected,
    RecommendationMade,
    TaskEnded,
    TaskMoved,
    TopicSettled,
    TopicTurnedDown,
    stamped,
)

PENDING_MAX = 20_000
"""Records that may wait for the broker; beyond it the scheduler's turn waits too (back-pressure, never loss)."""

WINDOW = 16
"""Messages in flight: enough to hide the way to the broker."""

LOOK_BACK = 128
"""Newest messages read at the start to find where the projection stands; verdicts between them are skipped over."""

AGAIN_S = 0.5
DRAIN_S = 5.0
"""Patience with the last records at a stop: the next leader projects what is left."""

KINDS: tuple[type[Projected], ...] = (
    Planned, TopicTurnedDown, TopicSettled, TaskMoved, TaskEnded, RecommendationMade,
)  # fmt: skip


class Projector:
    """What is to be projected, in order."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._queue: deque[Untold] = deque()
        self._changed = asyncio.Event()
        self._sure = asyncio.Event()
        self._sure.set()
        self._stored_seq = 0
        """Highest RESULTS sequence that was seen, or that the broker has said to have stored."""

    def __len__(self) -> int:
        return len(self._queue)

    # -- what waits ---------------------------------------------------------------------------------------------------

    def put(self, seq: int, at_ms: int, records: Iterable[tuple[int, Projected]]) -> None:
        """Queue what a committed entry says; each record with its index in the entry."""
        for topic, kind, rows in together(records):
            encoded = [(index, codec.encode(stamped(record, seq, at_ms))) for index, record in rows]
            for portion in portions(encoded, lambda row: len(row[1])):
                subject = self._agent.subjects.result(topic, kind, f"{seq}-{portion[0][0]}")
                parts = tuple(data for _, data in portion)
                data = parts[0] if len(parts) == 1 else codec.encode(Pack(rows=parts))
                self._queue.append(Untold(seq=seq, subject=subject, data=data))
        self._changed.set()

    def put_again(self, untold: Untold) -> None:
        """Queue a record that a snapshot holds."""
        self._queue.append(untold)
        self._changed.set()

    def untold(self) -> tuple[Untold, ...]:
        """What waits."""
        return tuple(self._queue)

    async def begin(self) -> int:
        """Start anew, with nothing that waits; the ledger sequence from which on entries are to be projected again."""
        self._queue.clear()
        self._sure.set()
        self._stored_seq = 0
        return await self._told_up_to()

    async def forget_told(self) -> None:
        """Drop what another scheduler has projected meanwhile."""
        told = await self._told_up_to()
        while self._queue and self._queue[0].seq < told:
            self._queue.popleft()

    async def _told_up_to(self) -> int:
        """Ledger sequence of the WINDOW-th newest message on RESULTS: everything below it stands there. 0: unknown."""
        stream, subject = self._agent.stream("RESULTS"), self._agent.subjects.results()
        state = await self._agent.broker.state(stream)
        self._stored_seq = max(self._stored_seq, state.last_seq)
        first = max(state.first_seq, state.last_seq - LOOK_BACK + 1, 1)
        seqs: list[int] = []
        for stored in await self._agent.broker.read(stream, subject, from_seq=first, messages_max=LOOK_BACK):
            try:
                seqs.append(codec.decode(codec.rows(stored.data)[0], *KINDS).ledger_seq)
            except Malformed:
                continue  # a verdict, or a record of a newer program: neither says where the projection stands
        return sorted(seqs)[-WINDOW] if len(seqs) >= WINDOW else 0 if first <= 1 else min(seqs, default=0)

    async def check(self) -> None:
        """Conflict when RESULTS lacks what was there: the store is from between an entry and its projection, so
        the ledger alone looks whole."""
        last_seq = (await self._agent.broker.state(self._agent.stream("RESULTS"))).last_seq
        if last_seq < self._stored_seq:
            raise Conflict(f"RESULTS was expected to reach {self._stored_seq} and ends at {last_seq}")

    async def room(self) -> None:
        """Wait while too much is queued."""
        while len(self._queue) > PENDING_MAX:
            self._changed.clear()
            await self._changed.wait()

    def hold(self) -> None:
        """Write nothing: the store may have come back older, without the entries that these records follow from."""
        self._sure.clear()

    def go_on(self) -> None:
        """The ledger has been seen to end where we think."""
        self._sure.set()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            batch = [self._queue[index] for index in range(min(WINDOW, len(self._queue)))]
            if len(batch) == 1:  # on its way without a turn of the loop more: somebody waits for one task's result
                await self._write(batch[0])
            else:
                await asyncio.gather(*(self._write(untold) for untold in batch))
            for _ in batch:
                self._queue.popleft()
            self._changed.set()

    async def drain(self) -> None:
        """Wait for the queue to empty, within a deadline."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._queue:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._agent.log.warning("%d records are left for the next leader to project", len(self._queue))

    async def _write(self, untold: Untold) -> None:
        while True:
            await self._sure.wait()
            try:
                stored_seq = await self._agent.broker.append(untold.subject, untold.data, subject_seq=0)
                self._stored_seq = max(self._stored_seq, stored_seq)
                return
            except Conflict:
                return  # already there
            except (BusUnavailable, DiskFull) as error:
                self._agent.log.warning("projecting %s waits: %s", untold.subject, error)
                await asyncio.sleep(AGAIN_S)


def together(records: Iterable[tuple[int, Projected]]) -> Iterator[tuple[str, str, list[tuple[int, Projected]]]]:
    """Records of an entry by topic and kind, the order of each task's records kept: one that is told of in two kinds
    begins all groups anew."""
    groups: dict[tuple[str, str], list[tuple[int, Projected]]] = {}
    told: dict[str, str] = {}
    for index, record in records:
        task = _task_of(record)
        if task and told.get(task, record.kind) != record.kind:
            yield from ((topic, kind, rows) for (topic, kind), rows in groups.items())
            groups, told = {}, {}
        told[task] = record.kind
        groups.setdefault((record.topic, record.kind), []).append((index, record))
    yield from ((topic, kind, rows) for (topic, kind), rows in groups.items())


def _task_of(record: Projected) -> str:
    match record:
        case TaskMoved():
            return record.task
        case TaskEnded():
            return record.task.id
    return ""
