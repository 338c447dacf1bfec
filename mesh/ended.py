"""Last lines of ended tasks, in SQLite: what the ledger's fold forgets when a task ends.

Rebuilt from the ledger at every start, so it need not survive a crash (synchronous=OFF, a fresh file). It exists so
that the scheduler's memory grows with open tasks only, and a late duplicate still gets an exact answer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import OrderedDict
from pathlib import Path

from mesh.errors import DiskFull, EnvironmentUnfit
from mesh.messages.base import Epoch, Key
from mesh.messages.tasks import TaskState
from planner.ledger import Ended

CACHED_LINES_MAX = 4_096
"""Lines kept in memory: the last ones that ended are those that are asked for."""


class EndedIndexOnDisk:
    """An EndedIndex (planner/ledger.py) in one file."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in (path, path.with_name(path.name + "-journal")):
                leftover.unlink(missing_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute("PRAGMA journal_mode=MEMORY")
            self._db.execute(
                "CREATE TABLE ended (task TEXT PRIMARY KEY, topic TEXT, state TEXT, epoch TEXT, key TEXT, reason TEXT,"
                " recorded TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentUnfit(
                f"The scheduler's index {path} can not be made ({error}): choose another place with --home."
            ) from None
        self._cache: OrderedDict[str, Ended | None] = OrderedDict()

    def get(self, task: str) -> Ended | None:
        """The last line of a task, or None while it is open or unknown."""
        if task in self._cache:
            self._cache.move_to_end(task)
            return self._cache[task]
        row = self._db.execute(
            "SELECT topic, state, epoch, key, reason, recorded FROM ended WHERE task = ?", (task,)
        ).fetchone()
        line = None if row is None else _line(task, *row)
        self._remember(task, line)
        return line

    def put(self, line: Ended) -> None:
        """Keep the last line of a task. DiskFull when there is no room."""
        key = "" if line.key is None else f"{line.key.epoch} {line.key.kind} {line.key.number}"
        try:
            self._db.execute(
                "INSERT OR REPLACE INTO ended VALUES (?, ?, ?, ?, ?, ?, ?)",
                (line.task, line.topic, str(line.state), str(line.epoch), key, line.reason, line.recorded),
            )
        except sqlite3.Error as error:
            raise DiskFull(f"The scheduler's index can not be written ({error}): free some disk space.") from None
        self._remember(line.task, line)

    def remove(self, task: str) -> None:
        """Forget a line: the task is open again. DiskFull when there is no room."""
        try:
            self._db.execute("DELETE FROM ended WHERE task = ?", (task,))
        except sqlite3.Error as error:
            raise DiskFull(f"The scheduler's index can not be written ({error}): free some disk space.") from None
        self._remember(task, None)

    def clear(self) -> None:
        """Forget all lines: the ledger is folded anew."""
        self._db.execute("DELETE FROM ended")
        self._cache.clear()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _remember(self, task: str, line: Ended | None) -> None:
        self._cache[task] = line
        self._cache.move_to_end(task)
        while len(self._cache) > CACHED_LINES_MAX:
            self._cache.popitem(last=False)


def _line(task: str, topic: str, state: str, epoch: str, key: str, reason: str, recorded: str) -> Ended:
    found = None
    if key:
        key_epoch, kind, number = key.split(" ")
        found = Key(task, Epoch.parse(key_epoch), kind, int(number))
    return Ended(task, topic, TaskState(state), Epoch.parse(epoch), found, reason, recorded)
