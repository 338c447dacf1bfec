"""The leader's projection: records for subscribers, from committed ledger entries onto the RESULTS stream.

Each record's subject ends in `<ledger seq>-<index in the entry>` and is put if absent, so projecting an entry again
(after a crash, by the next leader) changes nothing. At the start everything from the newest projected entry on is
projected again, but for what is older than the stream keeps: after a quiet week it would all be told once more.
"""

from __future__ import annotations

import asyncio

from agents.runtime import Agent
from mesh import codec
from mesh.errors import BusUnavailable, Conflict, DiskFull, Malformed
from mesh.messages.results import (
    Planned,
    Projected,
    RecommendationMade,
    TaskEnded,
    TaskMoved,
    TopicTurnedDown,
    stamped,
)

PENDING_MAX = 20_000
"""Records that may wait for the broker; beyond it the scheduler's turn waits too (back-pressure, never loss)."""

LOOK_BACK = 500
"""Newest records read at the start to find where the projection stands; verdicts between them are skipped over."""

AGAIN_S = 0.5
DRAIN_S = 5.0
"""Patience with the last records at a stop: the next leader projects what is left."""

KINDS: tuple[type[Projected], ...] = (Planned, TopicTurnedDown, TaskMoved, TaskEnded, RecommendationMade)


class Projector:
    """Writes projected records in order."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    async def projected_up_to(self) -> int:
        """Ledger sequence of the newest record on RESULTS (entries from it on are projected again); 0 for none."""
        stream, subject = self._agent.stream("RESULTS"), self._agent.subjects.results()
        state = await self._agent.broker.state(stream)
        first = max(state.first_seq, state.last_seq - LOOK_BACK + 1, 1)
        newest = 0
        for stored in await self._agent.broker.read(stream, subject, from_seq=first, messages_max=LOOK_BACK):
            try:
                newest = max(newest, codec.decode(stored.data, *KINDS).ledger_seq)
            except Malformed:
                continue  # a verdict, or a record of a newer program: neither says where the projection stands
        return newest

    def put(self, record: Projected, seq: int, index: int, at_ms: int) -> None:
        """Queue one record of a committed entry."""
        subject = self._agent.subjects.result(record.topic, record.kind, f"{seq}-{index}")
        self._queue.put_nowait((subject, codec.encode(stamped(record, seq, at_ms))))
        if self._queue.qsize() > PENDING_MAX:
            self._room.clear()

    async def room(self) -> None:
        """Wait while too much is queued."""
        await self._room.wait()

    async def run(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            subject, data = await self._queue.get()
            await self._write(subject, data)
            self._queue.task_done()
            if self._queue.qsize() <= PENDING_MAX // 2:
                self._room.set()

    async def drain(self) -> None:
        """Wait for the queue to empty, within a deadline."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._queue.join()
        except TimeoutError:
            self._agent.log.warning("%d records are left for the next leader to project", self._queue.qsize())

    async def _write(self, subject: str, data: bytes) -> None:
        while True:
            try:
                await self._agent.broker.append(subject, data, subject_seq=0)
                return
            except Conflict:
                return  # already there
            except (BusUnavailable, DiskFull) as error:
                self._agent.log.warning("projecting %s waits: %s", subject, error)
                await asyncio.sleep(AGAIN_S)
