"""What a scheduler knows from the log: the fold of the ledger, where it stands, and what it has ever seen.

    load      from the newest saved state, or from nothing  ->  the tail, entry by entry
    read_on   what has been appended since
    lost      evidence that the broker's store is older than what somebody has seen, until a leader has restored it

A leader's mind folds its decisions before they are committed. When it has to step down, or the store has come back
older, what it folded is not what the log says: the fold is loaded again.
"""

from __future__ import annotations

import time
from pathlib import Path

from agents.runtime import Agent
from agents.scheduler_results import Projector
from agents.scheduler_snapshots import Snapshots
from mesh import limits
from mesh.ended import EndedIndexOnDisk
from mesh.errors import Conflict
from mesh.ledger_log import LedgerLog
from mesh.messages.leases import Beat
from mesh.messages.ledger import Entry
from mesh.messages.results import Projected
from mesh.seen import Seen, SeenFile
from planner.ledger import Ledger
from planner.projection import project


class History:
    """The ledger as one scheduler has read it."""

    def __init__(self, agent: Agent, index: EndedIndexOnDisk, file: SeenFile, projector: Projector) -> None:
        self._agent, self._index = agent, index
        self.snapshots = Snapshots(agent, index, projector)
        self._file = file
        self._projector = projector
        self.ledger = Ledger(index)
        self.log = LedgerLog(agent.broker, agent.subjects)
        self.entries = 0
        """Entries folded since the last load."""
        self.covered = 0
        """COMMANDS sequence that the committed ledger covers."""
        self.seen, self.generation_seen = file.read()
        """The newest entry that was ever seen here, in earlier lives too, and the highest generation."""
        self.lost: Seen | None = None
        """An entry that is not in this history, of the present generation or a later one."""
        self._stranger = False
        self.listen_until = 0.0
        """No lease before this time (as `now_s` tells it), in whatever term: others may have led without us, and the
        store may have come back from before they did."""

    def beside(self, name: str) -> Path:
        """A file of this scheduler's own, beside its index."""
        return self._index.path.with_name(f"{self._index.path.stem}-{name}")

    async def load(self) -> None:
        """Fold the log anew, to its end."""
        since = await self._projector.begin()
        self.log = LedgerLog(self._agent.broker, self._agent.subjects)
        self.ledger, untold = await self.snapshots.load(self.log)
        self.covered, self.entries = self.ledger.commands_seq, 0
        for one in untold:
            if one.seq >= since:
                self._projector.put_again(one)
        kept_since_ms = time.time_ns() // 1_000_000 - int(limits.RESULTS_AGE_S * 1_000)
        await self._read(since, kept_since_ms)
        self.snapshots.save_if_due(self.ledger, self.log, leads=False)
        await self._compare()

    async def read_on(self) -> None:
        """Fold what has been appended meanwhile. Conflict when the store has another history."""
        await self._read(0, 0)
        self.snapshots.save_if_due(self.ledger, self.log, leads=False)
        self.note()

    async def _read(self, since: int, kept_since_ms: int) -> None:
        async for seq, entry in self.log.replay():
            self._fold(seq, entry, tell=seq >= since and entry.at_ms >= kept_since_ms)

    def _fold(self, seq: int, entry: Entry, *, tell: bool) -> None:
        ledger = self.ledger
        self.entries += 1
        told: list[tuple[int, Projected]] = []
        for index, event in enumerate(entry.events):
            task = ledger.apply(event)
            self.snapshots.heard(event)
            if tell and (record := project(event, task)) is not None:
                told.append((index, record))
        self._projector.put(seq, entry.at_ms, told)
        self.covered = ledger.commands_seq = entry.commands_seq
        self.snapshots.newest = entry.snapshot or self.snapshots.newest

    @property
    def stranger(self) -> bool:
        """True when this process can not know whether the store is older than what others have seen: it has seen
        nothing before, and leases were given."""
        return self._stranger

    # -- other histories ----------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """What was folded has been appended."""
        self.covered = self.ledger.commands_seq
        self.note()
        self.snapshots.save_if_due(self.ledger, self.log, leads=True)

    async def _compare(self) -> None:
        """Is what this process has seen before part of what it has read now?"""
        seen = self.seen
        self._stranger = seen.seq == 0 and self.entries > 0
        if seen.generation >= self.ledger.generation and not await self.log.holds(seen.seq, seen.digest):
            self.missed(seen)
        self.note()

    def note(self) -> None:
        """Remember the end of the log as seen; a raised generation settles what was lost."""
        self.generation_seen = max(self.generation_seen, self.ledger.generation)
        if self.lost is not None and self.lost.generation < self.ledger.generation:
            self.lost = None
        if self.lost is None:
            self.seen = Seen(self.ledger.generation, self.log.seq, self.log.digest)
            self._file.write(self.seen, self.generation_seen)

    def missed(self, seen: Seen) -> None:
        """Somebody has seen an entry that is not here."""
        self.generation_seen = max(self.generation_seen, seen.generation)
        self.lost = seen

    def contradicted(self, beat: Beat) -> bool:
        """Has the sender of a beat seen an entry that this history, read to its end, does not hold?"""
        generation, told = self.ledger.generation, beat.generation or 1
        if told < generation:
            return False  # it has not heard yet that the ledger was restored
        if told > generation or beat.ledger_seq > self.log.seq:
            return True
        known = self.log.digest_of(beat.ledger_seq)
        return bool(known and beat.ledger_digest) and not known.startswith(beat.ledger_digest)

    async def doubt(self, beat: Beat) -> None:
        """A beat contradicts this history. Raises what is true: Deposed when the log goes on behind what we know,
        else Conflict, because the store is older than what the beat's sender has seen."""
        await self.log.check()
        self.missed(Seen(max(1, beat.generation), beat.ledger_seq, beat.ledger_digest))
        raise Conflict(
            f"{beat.worker} has seen entry {beat.ledger_seq} of generation {beat.generation}, the ledger ends at "
            f"{self.log.seq} in generation {self.ledger.generation}: the broker came back older"
        )
