"""The LEDGER stream as schedulers use it: followed by all of them, written by the one that leads.

    replay   entries after the last known one, in order, each checked: it decodes, and its `previous` is the digest of
             the entry before; the last known one is read again first, so that another history is noticed
    append   one message, only if the stream's last sequence is the one that we know
    check    is the last entry that we know still there, and the last one?

After a failed or unanswered append the tail is read: our own entry there means stored; nothing new means that it was
not (the same bytes are sent again, for a while); anybody else's entry means that another scheduler leads (Deposed).
When the last entry that we know is gone or another one, the store has come back older or anew (Conflict): read it from
the start.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator

from mesh import codec
from mesh.bus import Log, Stored
from mesh.errors import BusUnavailable, Conflict, Deposed, InvariantBroken, Malformed
from mesh.messages.ledger import Entry
from mesh.streams import other_history
from mesh.subjects import Subjects

START = "0" * 64
"""`previous` of the first entry."""

ASK_AGAIN_S = 0.5
"""Pause between attempts while the broker is away."""

READ_ENTRIES_MAX = 64
"""Entries read at once: up to 16 MiB of memory."""

DIGESTS_MAX = 4_096
"""Digests of the newest entries that are remembered, to compare with what others have seen; some 600 kB."""


class LedgerLog:
    """Reads the ledger and appends to it; remembers the last sequence and digest."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._stream = subjects.stream("LEDGER")
        self._subject = subjects.ledger()
        self._digests: OrderedDict[int, str] = OrderedDict()
        self.seq = 0
        self.digest = START

    def stand_at(self, seq: int, digest: str) -> None:
        """Go on from this entry, which is trusted."""
        self._digests.clear()
        self._advance(seq, digest)

    def _advance(self, seq: int, digest: str) -> None:
        self.seq, self.digest = seq, digest
        self._digests[seq] = digest
        while len(self._digests) > DIGESTS_MAX:
            self._digests.popitem(last=False)

    def digest_of(self, seq: int) -> str:
        """Digest of an entry that was read or written lately; '' when it is not remembered."""
        return self._digests.get(seq, "")

    async def holds(self, seq: int, digest: str) -> bool:
        """Does an entry with this sequence and a digest that begins so stand in the stream now?"""
        if seq == 0:
            return True
        found = await self._log.read(self._stream, self._subject, from_seq=seq, messages_max=1)
        return bool(found) and found[0].seq == seq and codec.digest(found[0].data).startswith(digest)

    async def newest(self) -> Entry | None:
        """The newest entry, unchecked; None in an empty stream."""
        stored = await self._log.last(self._stream, self._subject)
        return None if stored is None else codec.decode(stored.data, Entry)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def replay(self) -> AsyncIterator[tuple[int, Entry]]:
        """All entries after the last one that is known, in order, each with its sequence. Conflict when that one is
        not there any more; InvariantBroken when the chain is broken: the store was changed by other hands."""
        while True:
            batch = await self._following()
            for stored in batch:
                entry = self._checked(stored.seq, stored.data)
                self._advance(stored.seq, codec.digest(stored.data))
                yield stored.seq, entry
            if not batch:
                return

    async def _following(self) -> list[Stored]:
        """What stands behind the last known entry now. Conflict when that one does not stand there."""
        batch = await self._log.read(
            self._stream, self._subject, from_seq=max(1, self.seq), messages_max=READ_ENTRIES_MAX
        )
        if self.seq == 0:
            return batch
        if not batch or batch[0].seq != self.seq or codec.digest(batch[0].data) != self.digest:
            raise other_history(self._stream, self.seq, batch[-1].seq if batch else 0)
        return batch[1:]

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

    # -- writing ------------------------------------------------------------------------------------------------------

    async def append(self, entry: Entry, *, until: float = math.inf) -> int:
        """Store the next entry; its sequence. Waits while the broker is away.

        until: after this time of the running loop it is not sent any more. Others may have led meanwhile, and if the
        store has come back from before their term, nothing there tells that what the entry decides was decided anew.

        Deposed when somebody else wrote first or the time is over, Conflict when the store has another history,
        Malformed when the entry is too large for one message, NotFound when there is no such stream.
        """
        data = codec.encode(entry)
        digest = codec.digest(data)
        while True:
            if asyncio.get_running_loop().time() > until:
                raise Deposed(
                    f"The entry behind {self.seq} could not be stored for so long that another scheduler may lead: "
                    "this one listens before it leads again."
                )
            try:
                seq = await self._log.append(self._subject, data, stream_seq=self.seq)
                self._advance(seq, digest)
                return seq
            except (Conflict, BusUnavailable):
                if await self._stored(digest):
                    return self.seq

    async def _stored(self, digest: str) -> bool:
        """Is the entry in the log? Asks until the broker answers. Deposed when another one stands in its place."""
        while True:
            try:
                following = await self._following()
                break
            except BusUnavailable:
                await asyncio.sleep(ASK_AGAIN_S)
        if not following:
            return False
        if codec.digest(following[0].data) != digest:
            raise self._deposed(following)
        self._advance(following[0].seq, digest)
        if len(following) > 1:
            raise self._deposed(following)
        return True

    async def check(self) -> None:
        """Deposed when somebody else has written, Conflict when the store has another history."""
        if following := await self._following():
            raise self._deposed(following)

    def _deposed(self, following: list[Stored]) -> Deposed:
        return Deposed(
            f"The ledger was expected to end at entry {self.seq} and ends at {following[-1].seq}: "
            "another scheduler leads this mesh now, so this one steps down."
        )
