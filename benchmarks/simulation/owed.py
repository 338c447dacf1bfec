"""What the workers' outboxes say at the end, held against the ledger.

    nothing lost      a result by a holder stands in the ledger, unless its task ended otherwise before it was heard
    true receipts     what an outbox let go as recorded is recorded, what was refused is not
    no stale write    what the ledger recorded was written by the holder of its epoch, and stands in its outbox

What was lost with a broker's store binds by the history that is there: a row that a lost one had refused may be
recorded now, and one that it had recorded is told again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.simulation.accounts import Accounts, Breaks
from benchmarks.simulation.parts import Disk
from benchmarks.simulation.wholeness import Wholeness
from mesh import codec
from mesh.bus import Stored
from mesh.memory import MemoryServer
from mesh.messages.base import Key, Record
from mesh.messages.commands import COMMANDS, CheckpointMade, FailureFound, GiveBack, ResultFound
from mesh.messages.ledger import Entry
from mesh.outbox import Row


class Owed:
    """The outboxes of all workers."""

    def __init__(self, server: MemoryServer, accounts: Accounts, wholeness: Wholeness, breaks: Breaks) -> None:
        self._server, self._subjects = server, server.subjects
        self._accounts, self._wholeness, self._breaks = accounts, wholeness, breaks
        self._refused_before: set[Key] = set()
        """Rows that were refused in a history that was lost."""

    def rewound(self, disks: Mapping[str, Disk]) -> None:
        """What was refused until now was refused in a history that is over: the one that comes may record it."""
        for disk in disks.values():
            self._refused_before.update(disk.refused)

    def unsettled(self, disks: Mapping[str, Disk]) -> list[str]:
        """Rows for which somebody still has to do something, in words."""
        return [
            f"{name} owes {key}"
            for name, disk in disks.items()
            for key in disk.pending
            if not self._accounts.forgotten(key)
        ]

    def untold(self, name: str, disk: Disk) -> list[str]:
        """What an outbox let go of as recorded and is not, though it could be."""
        accounts = self._accounts
        return [
            f"{name} let go of {key} as recorded, the ledger has no such thing"
            for key, row in disk.kept.items()
            if key not in accounts.recorded(key)
            and key not in accounts.undone(key)
            and not (key in accounts.recorded_before and self._wholeness.may_be_untold(row, disk))
        ]

    def conclude(self, disks: Mapping[str, Disk], entries: Sequence[tuple[int, Entry]]) -> None:
        """Everything that can only be said at the end."""
        heard = self._heard_commands(entries)
        for name, disk in disks.items():
            for row in (*disk.pending.values(), *disk.kept.values()):
                self._check_row(name, row, heard, refused=None)
            for row, reason in disk.refused.values():
                self._check_row(name, row, heard, refused=reason)
            for sentence in self.untold(name, disk):
                self._breaks("true receipts", sentence)
        self._check_writers(disks)

    # -- row by row ---------------------------------------------------------------------------------------------------

    def _check_row(self, worker: str, row: Row, heard: Mapping[str, int], refused: str | None) -> None:
        key, task = row.key, self._accounts.tasks.get(row.key.task)
        if task is None:
            if not self._accounts.forgotten(key):
                self._breaks("nothing lost", f"{worker} has {key}, the ledger does not know the task")
            return None
        if refused is not None and key in task.recorded - task.restored - self._refused_before:
            self._breaks("true receipts", f"{worker} was told that {key} is refused ({refused}), but it is recorded")
        record = codec.decode(row.data, *COMMANDS)
        if not isinstance(record, ResultFound) or task.holders.get(key.epoch) != record.incarnation:
            return None
        if not task.ended:
            self._breaks("nothing lost", f"{worker} has the result {key}, and {key.task} has not ended")
        at = heard.get(row.subject)
        if at is not None and task.ended_at > at and not task.had_ended(at):
            sentence = f"the result {key} was heard at entry {at}, and {key.task} ended at {task.ended_at}"
            self._breaks("nothing lost", sentence)
        return None

    def _heard_commands(self, entries: Sequence[tuple[int, Entry]]) -> dict[str, int]:
        """Ledger sequence at which each command subject was certainly heard; a pack is the subjects of its rows."""
        stream = self._server.stream(self._subjects.stream("COMMANDS"))
        covers, found, seq = iter(entries), dict[str, int](), 0
        ledger_seq, covered = 0, 0
        while (stored := stream.following(self._subjects.commands(), seq + 1)) is not None:
            seq = stored.seq
            while covered < seq:
                following = next(covers, None)
                if following is None:
                    return found
                ledger_seq, covered = following[0], following[1].commands_seq
            for subject in self._subjects_in(stored):
                found.setdefault(subject, ledger_seq)
        return found

    def _subjects_in(self, stored: Stored) -> Iterator[str]:
        rows = codec.rows(stored.data)
        if len(rows) == 1:
            yield stored.subject
            return
        for row in rows:
            record = codec.decode(row, *COMMANDS)
            if isinstance(record, ResultFound | CheckpointMade | FailureFound | GiveBack):
                yield self._subjects.owed(self._subjects.writer(stored.subject), record.key)

    # -- who wrote it -------------------------------------------------------------------------------------------------

    def _check_writers(self, disks: Mapping[str, Disk]) -> None:
        written: dict[Key, list[Record]] = {}
        for disk in disks.values():
            rows = (*disk.pending.values(), *disk.kept.values(), *(row for row, _ in disk.refused.values()))
            for row in rows:
                written.setdefault(row.key, []).append(codec.decode(row.data, *COMMANDS))
        for name, task in self._accounts.tasks.items():
            for key in sorted(task.recorded):
                writers = [
                    record.incarnation
                    for record in written.get(key, ())
                    if isinstance(record, CheckpointMade | FailureFound | GiveBack)
                    or (isinstance(record, ResultFound) and record.outcome == task.outcome)
                ]
                holders = sorted(self._accounts.leases.get((name, key.epoch), ()))
                if not set(holders) & set(writers):
                    sentence = f"{key} of {name} is recorded, held by {holders}, written by {writers}"
                    self._breaks("no stale write", sentence)
