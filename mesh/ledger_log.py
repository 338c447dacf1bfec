"""The LEDGER stream as its single writer uses it: replay, then one compare-and-set after another.

    replay   entries in order, each checked: it decodes, and its `previous` is the digest of the entry before
    append   one message, only if the stream's last sequence is the one that we know

After a failed or unanswered append the tail is read: our own entry there means stored; nothing new means that it was
not (it is sent again, the same bytes); anybody else's entry means that another scheduler leads, and this one stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mesh import codec
from mesh.bus import Log
from mesh.errors import BusUnavailable, Conflict, Deposed, InvariantBroken, Malformed
from mesh.messages.ledger import Entry
from mesh.subjects import Subjects

START = "0" * 64
"""`previous` of the first entry."""

ASK_AGAIN_S = 0.5
"""Pause between attempts while the broker is away."""


class LedgerLog:
    """Reads the ledger and appends to it; remembers the last sequence and digest."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._stream = subjects.stream("LEDGER")
        self._subject = subjects.ledger()
        self.seq = 0
        self.digest = START

    async def replay(self) -> AsyncIterator[tuple[int, Entry]]:
        """All entries after the last one that is known, in order, each with its sequence. InvariantBroken when the
        chain is broken: the store was changed by other hands."""
        while True:
            batch = await self._log.read(self._stream, self._subject, from_seq=self.seq + 1)
            for stored in batch:
                entry = self._checked(stored.seq, stored.data)
                self.seq, self.digest = stored.seq, codec.digest(stored.data)
                yield stored.seq, entry
            if not batch:
                return

    def _checked(self, seq: int, data: bytes) -> Entry:
        try:
            entry = codec.decode(data, Entry)
        except Malformed as error:
            raise InvariantBroken(f"ledger entry {seq} can not be read: {error}") from None
        if entry.previous != self.digest:
            raise InvariantBroken(
                f"ledger entry {seq} follows {entry.previous[:12]}, but the entry before it is {self.digest[:12]}: "
                "the store was changed by other hands; restore it or start with a new home folder"
            )
        return entry

    async def append(self, entry: Entry) -> int:
        """Store the next entry; its sequence. Waits while the broker is away.

        Deposed when somebody else wrote first; Malformed when the entry is too large for one message.
        """
        data = codec.encode(entry)
        digest = codec.digest(data)
        while True:
            try:
                self.seq = await self._log.append(self._subject, data, stream_seq=self.seq)
                self.digest = digest
                return self.seq
            except (Conflict, BusUnavailable):
                if await self._stored(digest):
                    return self.seq

    async def _stored(self, digest: str) -> bool:
        """Is the entry in the log? Asks until the broker answers. Deposed when another one stands in its place."""
        while True:
            try:
                state = await self._log.state(self._stream)
                newest = await self._log.last(self._stream, self._subject)
                break
            except BusUnavailable:
                await asyncio.sleep(ASK_AGAIN_S)
        if state.last_seq == self.seq:
            return False
        if newest is not None and newest.seq == self.seq + 1 and codec.digest(newest.data) == digest:
            self.seq, self.digest = newest.seq, digest
            return True
        raise Deposed(
            f"The ledger was expected to end at entry {self.seq} and ends at {state.last_seq}: "
            "another scheduler leads this mesh now, so this one stops."
        )
