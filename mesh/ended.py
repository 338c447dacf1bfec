"""What a scheduler keeps of the ledger on its own disk: the last lines of ended tasks, and its state as last saved.

    lines   what the fold forgets when a task ends, so that memory grows with open tasks only and a late duplicate still
            gets an exact answer
    parts   open and parked tasks and the rest of the state, as of the last `save`

Everything since the last `save` is one open transaction: `undo` goes back to it, and so does a crash. So lines and
parts always belong to one entry of the ledger, and a start needs to read no more than what came after it. Not synced on
purpose: after a power cut the file may be older, or is made anew from the mesh's snapshot or the ledger; nothing rests
on it. One process at a time: a second one on the same folder takes another file.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mesh import codec, sqlite_file
from mesh.errors import EnvironmentUnfit, Malformed
from mesh.messages.base import Epoch, Key
from mesh.messages.ledger import SavedLine, SnapshotHead, SnapshotPart
from mesh.messages.tasks import TaskState
from mesh.platform import FileLock
from planner.ledger import Ended
from planner.saving import saved_line

CACHED_LINES_MAX = 4_096
"""Lines kept in memory: the last ones that ended are those that are asked for."""

FILES_MAX = 8
"""Schedulers of one name on one folder that keep their files over their lives; others make a new one each time."""

LINES_PER_PART = 256
"""Lines in one record of a snapshot: some 100 bytes each, a reason may have more."""

FORMAT = 2
"""Of the tables: a file of another format is made anew."""

_TABLES = (
    """CREATE TABLE ended (id INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT UNIQUE, topic TEXT, state TEXT, epoch TEXT,
    key TEXT, reason TEXT, recorded TEXT)""",
    "CREATE TABLE parts (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, data BLOB)",
    "CREATE TABLE head (only INTEGER PRIMARY KEY, data BLOB)",
)
_LINE = "topic, state, epoch, key, reason, recorded"
_PUT = "INSERT OR REPLACE INTO ended (task, topic, state, epoch, key, reason, recorded) VALUES (?, ?, ?, ?, ?, ?, ?)"
_PUT_PART = "INSERT OR REPLACE INTO parts (name, data) VALUES (?, ?)"


class EndedIndexOnDisk:
    """An EndedIndex (planner/ledger.py) in one file, with the state that belongs to it."""

    def __init__(self, path: Path) -> None:
        """path: the file; with its neighbours `-1`, `-2`, … when other processes use it. EnvironmentUnfit."""
        self._cache: OrderedDict[str, Ended | None] = OrderedDict()
        self._lock: FileLock | None = None
        self._passing = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path = self._own(path)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentUnfit(
                f"The scheduler's index {path} can not be made ({error}): choose another place with --home."
            ) from None

    def _own(self, path: Path) -> Path:
        """A file that no other process uses."""
        for number in range(FILES_MAX):
            found = path if not number else path.with_stem(f"{path.stem}-{number}")
            lock = FileLock(found.with_suffix(".lock"))
            if lock.acquire():
                self._lock = lock
                return found
        self._passing = True
        return path.with_stem(f"{path.stem}-{secrets.token_hex(4)}")

    def _open(self) -> sqlite3.Connection:
        try:
            return _opened(self.path)
        except sqlite3.DatabaseError:  # damaged, or of another format: what it held can be read elsewhere
            sqlite_file.remove(self.path)
            return _opened(self.path)

    # -- lines --------------------------------------------------------------------------------------------------------

    def get(self, task: str) -> Ended | None:
        """The last line of a task, or None while it is open or unknown."""
        if task in self._cache:
            self._cache.move_to_end(task)
            return self._cache[task]
        row = self._db.execute(f"SELECT {_LINE} FROM ended WHERE task = ?", (task,)).fetchone()  # noqa: S608
        line = None if row is None else _line(task, *row)
        self._remember(task, line)
        return line

    def put(self, line: Ended) -> None:
        """Keep the last line of a task. DiskFull when there is no room."""
        self._write(_PUT, _values(line))
        self._remember(line.task, line)

    def remove(self, task: str) -> None:
        """Forget a line: the task is open again. DiskFull when there is no room."""
        self._write("DELETE FROM ended WHERE task = ?", (task,))
        self._remember(task, None)

    def put_all(self, lines: Iterable[SavedLine]) -> None:
        """Lines of a snapshot."""
        with self._errors():
            self._db.executemany(_PUT, (_values(line) for line in lines))

    # -- the state ----------------------------------------------------------------------------------------------------

    def head(self) -> SnapshotHead | None:
        """What stands here; None for nothing."""
        row = self._db.execute("SELECT data FROM head").fetchone()
        try:
            return None if row is None else codec.decode(row[0], SnapshotHead)
        except Malformed:
            return None  # written by a newer program

    def parts(self) -> Iterator[SnapshotPart]:
        """The saved state, in the order in which its parts were last written."""
        for (data,) in self._db.execute("SELECT data FROM parts ORDER BY id"):
            yield codec.decode(data, SnapshotPart)

    def put_part(self, name: str, part: SnapshotPart | None) -> None:
        """Replace a part of the state, or remove it; counts with the next `save`."""
        if part is None:
            self._write("DELETE FROM parts WHERE name = ?", (name,))
        else:
            self._write(_PUT_PART, (name, codec.encode(part)))

    def put_parts(self, parts: Iterable[tuple[str, SnapshotPart | None]]) -> None:
        """The same for many."""
        given = [(name, None if part is None else codec.encode(part)) for name, part in parts]
        with self._errors():
            self._db.executemany("DELETE FROM parts WHERE name = ?", ((name,) for name, data in given if data is None))
            self._db.executemany(_PUT_PART, (row for row in given if row[1] is not None))

    def remove_parts(self, name: str) -> None:
        """Remove all parts whose name begins with this word."""
        self._write("DELETE FROM parts WHERE name >= ? AND name < ?", (f"{name} ", f"{name}!"))

    def save(self, head: SnapshotHead) -> None:
        """Lines and parts now belong to the entry that `head` names. DiskFull when there is no room."""
        self._write("INSERT OR REPLACE INTO head VALUES (1, ?)", (codec.encode(head),))
        with self._errors():
            self._db.execute("COMMIT")
            self._db.execute("BEGIN IMMEDIATE")

    def undo(self) -> None:
        """Back to the last `save`."""
        self._cache.clear()
        with self._errors():
            self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")

    def clear(self) -> None:
        """Forget everything: the ledger is folded anew."""
        self._cache.clear()
        for table in ("ended", "parts", "head"):
            self._write(f"DELETE FROM {table}", ())  # noqa: S608

    def reader(self) -> SavedReader:
        """What was saved last, for a thread, whatever is saved meanwhile."""
        return SavedReader(self.path)

    def close(self) -> None:
        """Close the file, as it was saved last."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._passing:
            with contextlib.suppress(OSError):
                sqlite_file.remove(self.path)
        if self._lock is not None:
            self._lock.release()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._errors():
            self._db.execute(statement, values)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_file.full_when_unwritable("The scheduler's index")

    def _remember(self, task: str, line: Ended | None) -> None:
        self._cache[task] = line
        self._cache.move_to_end(task)
        while len(self._cache) > CACHED_LINES_MAX:
            self._cache.popitem(last=False)


class SavedReader:
    """One saved state, read from a connection of its own; usable in another thread than the one that made it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("BEGIN")
        self._db.execute("SELECT only FROM head").fetchone()  # from here on what others save is not seen

    def head(self) -> bytes:
        """The encoded SnapshotHead."""
        data: bytes = self._db.execute("SELECT data FROM head").fetchone()[0]
        return data

    def parts(self) -> Iterator[bytes]:
        """Encoded SnapshotParts of the state."""
        for (data,) in self._db.execute("SELECT data FROM parts ORDER BY id"):
            yield data

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number of the part, encoded SnapshotPart) of the lines: lines that stay where they are give equal bytes."""
        rows = self._db.execute(f"SELECT id, task, {_LINE} FROM ended ORDER BY id")  # noqa: S608
        number, lines = 0, list[SavedLine]()
        for id_, task, *rest in rows:
            if lines and id_ // LINES_PER_PART != number:
                yield number, codec.encode(SnapshotPart(lines=tuple(lines)))
                lines = []
            number = id_ // LINES_PER_PART
            lines.append(saved_line(_line(task, *rest)))
        if lines:
            yield number, codec.encode(SnapshotPart(lines=tuple(lines)))

    def close(self) -> None:
        """Let the state go."""
        self._db.close()


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite_file.opened(path, _TABLES, format_=FORMAT, pragmas=("journal_mode=WAL", "synchronous=NORMAL"))
    try:
        db.execute("BEGIN IMMEDIATE")
    except BaseException:
        db.close()
        raise
    return db


def _values(line: Ended | SavedLine) -> tuple[str, ...]:
    key = "" if line.key is None else f"{line.key.epoch} {line.key.kind} {line.key.number}"
    return (line.task, line.topic, str(line.state), str(line.epoch), key, line.reason, line.recorded)


def _line(task: str, topic: str, state: str, epoch: str, key: str, reason: str, recorded: str) -> Ended:
    found = None
    if key:
        key_epoch, kind, number = key.split(" ")
        found = Key(task, Epoch.parse(key_epoch), kind, int(number))
    return Ended(task, topic, TaskState(state), Epoch.parse(epoch), found, reason, recorded)
