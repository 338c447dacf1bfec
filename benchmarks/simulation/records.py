"""One projection: RESULTS holds every record that follows from the ledger, once, and nothing else.

The records' words are the projection's own (planner/projection.py); which of them stand on the stream, and how often,
is counted here. How many there must be is known while the ledger grows; each one is compared only at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.simulation.accounts import Breaks
from mesh import codec
from mesh.memory import MemoryServer
from mesh.messages.ledger import Entry, LeaderChosen, Restored, WorkerDrained
from mesh.messages.results import stamped
from planner.ledger import Ledger
from planner.projection import project


class Records:
    """What stands on RESULTS, and what ought to."""

    def __init__(self, server: MemoryServer, breaks: Breaks) -> None:
        self._server, self._subjects, self._breaks = server, server.subjects, breaks

    def complete(self, entries: Sequence[tuple[int, Entry]]) -> bool:
        """Has RESULTS as many records as there are events that have one: all but the changes of leaders, and who is
        drained?"""
        stream, count, seq = self._server.stream(self._subjects.stream("RESULTS")), 0, 0
        while (stored := stream.following(self._subjects.results(), seq + 1)) is not None:
            count, seq = count + len(codec.rows(stored.data)), stored.seq
        return count == sum(
            not isinstance(event, LeaderChosen | Restored | WorkerDrained)
            for _, entry in entries
            for event in entry.events
        )

    def conclude(self, entries: Sequence[tuple[int, Entry]]) -> None:
        """Compare record by record."""
        wanted = self._wanted(entries)
        stream = self._server.stream(self._subjects.stream("RESULTS"))
        found, seq = Counter[tuple[str, bytes]](), 0
        while (stored := stream.following(self._subjects.results(), seq + 1)) is not None:
            seq = stored.seq
            for row in codec.rows(stored.data):
                what = stored.subject.rpartition("-")[0], row
                found[what] += 1
                if what not in wanted:
                    self._breaks("one projection", f"a record of {stored.subject} does not follow from the ledger")
        for what, count in wanted.items():
            if found[what] != count:
                self._breaks("one projection", f"a record of {what[0]} stands {found[what]} times on RESULTS")

    def _wanted(self, entries: Sequence[tuple[int, Entry]]) -> Counter[tuple[str, bytes]]:
        """Every record by its subject, without the number that makes it unique."""
        found, ledger = Counter[tuple[str, bytes]](), Ledger()
        for seq, entry in entries:
            for event in entry.events:
                record = project(event, ledger.apply(event))
                if record is not None:
                    where = self._subjects.result(record.topic, record.kind, f"{seq}-").rpartition("-")[0]
                    found[where, codec.encode(stamped(record, seq, entry.at_ms))] += 1
        return found
