"""The outbox: what a worker owes the mesh, on its own disk, until the ledger's receipt.

    record --fsync--> pending --receipt: recorded--> kept (receipt_keep_s, for a broker that comes back older) --> gone
                         |    --receipt: refused---> a file under refused/ (seven days)
                         '----older checkpoint, and the outbox is full--> dropped: a newer one stands behind it

SQLite with synchronous=FULL: when `record` returns, the row survives a kill -9 and a power cut. The journal is a write-
ahead log because that costs one fsync a commit instead of three; with locking_mode=EXCLUSIVE it needs no shared memory
file, and the lock makes a second opener fail at once. Rows come back in the order in which they were recorded, so that
a task's checkpoints reach the ledger before its result. The key is put-if-absent: the first row of a key is the truth.

Letting go (`settle`) costs no fsync: it survives a kill -9, and what a power cut takes of it is owed once more and gets
the same receipt. The next row that is recorded takes it to the disk along with itself.

Bounds: `bytes_max` of pending rows (checkpoint rows that a newer one of the same lease replaces give way first, then
`record` raises DiskFull), `kept_bytes_max` of receipted ones (oldest first), REFUSED_FILES_MAX files.
Calls take a millisecond or two (one fsync); they are thread-safe, so an event loop may put them into a thread.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file; values are always bound

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from mesh import codec
from mesh.errors import DiskFull, EnvironmentUnfit, Malformed
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import CheckpointMade
from mesh.messages.leases import Receipt

BYTES_MAX = 64 * 1024 * 1024
"""Pending bytes: some 100,000 rows; a worker that is cut off for days stays below it."""

KEPT_BYTES_MAX = 64 * 1024 * 1024
"""Receipted bytes kept for a broker that comes back older."""

KEEP_S = 24 * 3_600.0
"""How long a receipted row is kept: longer than the age of any sane backup of the broker's store."""

REFUSED_KEEP_S = 7 * 86_400.0
"""How long a refused row's file is kept: a person may look into it within a week."""

REFUSED_FILES_MAX = 1_000
"""Refused rows kept as files; the oldest go first."""

_TABLE = """
create table if not exists rows (
    id integer primary key autoincrement,
    task text not null, generation integer not null, count integer not null, kind text not null,
    number integer not null,
    subject text not null, data blob not null, recorded_at real not null,
    settled_at real,  -- null: pending; else when the receipt said "recorded"
    unique (task, generation, count, kind, number)
)
"""
_OF_KEY = "task = ? and generation = ? and count = ? and kind = ? and number = ?"
_COLUMNS = "task, generation, count, kind, number, subject, data, recorded_at"
_INSERT = f"insert or ignore into rows ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)"
_SETTLE = f"update rows set settled_at = ? where settled_at is null and {_OF_KEY}"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One thing owed: what to publish, and where."""

    key: Key
    subject: str
    data: bytes
    recorded_at: float
    """Wall clock in seconds, for people and for `receipt_keep_s`."""


class Outbox:
    """The outbox in one folder; opened by one process at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        keep_s: float = KEEP_S,
        bytes_max: int = BYTES_MAX,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or make it. EnvironmentUnfit when another process has it, when it is damaged or can not be written."""
        self._path = folder / "outbox.db"
        self._refused = folder / "refused"
        self._keep_s, self._bytes_max, self._kept_bytes_max = keep_s, bytes_max, kept_bytes_max
        self._clock = clock
        self._lock = threading.Lock()
        with self._errors():
            self._refused.mkdir(parents=True, exist_ok=True)
            self._db = _open(self._path)
            self._pending_bytes = self._bytes("settled_at is null")
            """Never less than there are; exact again when somebody measures, and before a row is refused."""
        self.prune()

    def record(self, key: Key, subject: str, data: bytes) -> bool:
        """Take a row; on disk when this returns. False: a row of this key is here already. DiskFull when full."""
        return self.record_all([(key, subject, data)]) == 1

    def record_all(self, rows: Sequence[tuple[Key, str, bytes]]) -> int:
        """Take (key, subject, data) rows in order with one sync, all or none; how many were new. DiskFull when full."""
        size_bytes, at = sum(len(data) for _, _, data in rows), self._clock()
        with self._errors(), self._lock, self._writing():
            if self._pending_bytes + size_bytes > self._bytes_max:
                return sum(self._insert_if_fits(key, subject, data, at) for key, subject, data in rows)
            self._pending_bytes += size_bytes
            return self._db.executemany(_INSERT, ((*_values(row[0]), *row[1:], at) for row in rows)).rowcount

    def _insert_if_fits(self, key: Key, subject: str, data: bytes, at: float) -> bool:
        if self._one(f"select 1 from rows where {_OF_KEY}", *_values(key)):
            return False
        if self._pending_bytes + len(data) > self._bytes_max:
            self._make_room(key, len(data))
        self._db.execute(_INSERT, (*_values(key), subject, data, at))
        self._pending_bytes += len(data)
        return True

    def pending(self, limit: int = 1_000) -> list[Row]:
        """Rows without a receipt, in the order in which they were recorded."""
        with self._errors(), self._lock:
            found = self._db.execute(
                f"select {_COLUMNS} from rows where settled_at is null order by id limit ?", (limit,)
            )
            return [_row(values) for values in found]

    def find(self, key: Key) -> tuple[Row, bool] | None:
        """The row of a key, and whether it has its receipt; None when it is not here, or not any more."""
        with self._errors(), self._lock:
            values = self._one(f"select {_COLUMNS}, settled_at is not null from rows where {_OF_KEY}", *_values(key))
        return None if values is None else (_row(values[:-1]), bool(values[-1]))

    def refusal(self, key: Key) -> tuple[bytes, str] | None:
        """(data, reason) of a row that was refused, as long as it is kept; None when there is none."""
        try:
            kept = codec.unpack(self._aside(key).read_bytes())
        except (OSError, Malformed):
            return None
        return (kept["data"], kept["reason"]) if isinstance(kept, dict) else None

    def settle(self, *receipts: Receipt) -> int:
        """Let rows go as the ledger's receipts say; how many were pending. Repeating changes nothing. After a power cut
        some of them may be pending again."""
        recorded, at = [receipt.key for receipt in receipts if receipt.recorded], float(self._clock())
        with self._errors(), self._lock, self._unsynced(), self._writing():
            settled = self._db.executemany(_SETTLE, ((at, *_values(key)) for key in recorded)).rowcount
            return settled + sum(self._refuse(receipt) for receipt in receipts if not receipt.recorded)

    def _refuse(self, receipt: Receipt) -> bool:
        found = self._one(f"select {_COLUMNS} from rows where settled_at is null and {_OF_KEY}", *_values(receipt.key))
        if found is None:
            return False
        # The file first: a crash in between leaves both, and the next receipt the file alone.
        self._set_aside(_row(found), receipt.reason)
        self._db.execute(f"delete from rows where {_OF_KEY}", _values(receipt.key))
        return True

    def reopen(self, keys: tuple[Key, ...] | None = None, *, besides: Collection[str] = ()) -> int:
        """Owe receipted rows once more, because the broker came back older: those of `keys`, or all but those of the
        tasks in `besides`; how many."""
        statement = "update rows set settled_at = null where settled_at is not null"
        with self._errors(), self._lock, self._writing():
            if keys is None:
                self._db.execute("create temporary table besides (task text primary key)")
                self._db.executemany("insert into besides values (?)", ((task,) for task in besides))
                count = self._db.execute(f"{statement} and task not in (select task from besides)").rowcount
                self._db.execute("drop table besides")
            else:
                count = sum(self._db.execute(f"{statement} and {_OF_KEY}", _values(key)).rowcount for key in keys)
            self._pending_bytes = self._bytes("settled_at is null")
        return count

    def kept(self, limit: int = 1_000) -> list[Row]:
        """Receipted rows that are still here, oldest first."""
        return [row for _, row in self.kept_beyond(0, limit)]

    def kept_beyond(self, place: int, limit: int) -> list[tuple[int, Row]]:
        """The same with the place of each, from behind a place on: to go through all of them a part at a time."""
        with self._errors(), self._lock:
            found = self._db.execute(
                f"select id, {_COLUMNS} from rows where settled_at is not null and id > ? order by id limit ?",
                (place, limit),
            )
            return [(_int(values[0]), _row(values[1:])) for values in found]

    def prune(self) -> None:
        """Let go what has been kept long enough, or is over the bounds."""
        now = self._clock()
        with self._errors(), self._lock, self._writing():
            self._db.execute("delete from rows where settled_at < ?", (now - self._keep_s,))
            over = self._bytes("settled_at is not null") - self._kept_bytes_max
            if over > 0:
                self._delete_oldest("settled_at is not null", (), over)
        files = sorted(((path.stat().st_mtime, path) for path in self._refused.glob("*.msgpack")), reverse=True)
        for index, (made_at, path) in enumerate(files):
            if index >= REFUSED_FILES_MAX or now - made_at > REFUSED_KEEP_S:
                path.unlink(missing_ok=True)

    def measure(self) -> tuple[int, int, float]:
        """(rows, bytes, age of the oldest in seconds) of what is pending."""
        with self._errors(), self._lock:
            found = self._one(
                "select count(*), coalesce(sum(length(data)), 0), coalesce(min(recorded_at), 0.0) from rows "
                "where settled_at is null"
            )
            assert found is not None
            rows, size_bytes, oldest = _int(found[0]), _int(found[1]), found[2]
            self._pending_bytes = size_bytes
        assert isinstance(oldest, float)
        return rows, size_bytes, max(0.0, self._clock() - oldest) if rows else 0.0

    def close(self) -> None:
        """Close the file; what is pending waits for the next life."""
        with self._lock:
            self._db.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _make_room(self, key: Key, size: int) -> None:
        """Drop checkpoint rows of older numbers if that is needed and enough; DiskFull if not."""
        self._pending_bytes = self._bytes("settled_at is null")
        over = self._pending_bytes + size - self._bytes_max
        if over <= 0:
            return
        replaced = (
            "settled_at is null and kind = ? and exists (select 1 from rows newer where newer.task = rows.task "
            "and newer.generation = rows.generation and newer.count = rows.count and newer.kind = rows.kind "
            "and newer.number > rows.number)"
        )
        if self._bytes(replaced, CheckpointMade.kind) < over:
            raise DiskFull(
                f"The outbox {self._path} may hold {self._bytes_max} bytes that the scheduler has not confirmed and is "
                f"full at {key}: bring the broker and the scheduler back."
            )
        self._delete_oldest(replaced, (CheckpointMade.kind,), over)

    def _delete_oldest(self, where: str, values: tuple[str, ...], size: int) -> None:
        """Delete the oldest rows that `where` names until `size` bytes are gone."""
        found = self._db.execute(f"select id, length(data) from rows where {where} order by id", values).fetchall()
        for id_, length in found:
            if size <= 0:
                return
            self._db.execute("delete from rows where id = ?", (id_,))
            size -= length

    def _bytes(self, where: str, *values: str) -> int:
        found = self._one(f"select coalesce(sum(length(data)), 0) from rows where {where}", *values)
        return _int(found[0]) if found else 0

    def _one(self, statement: str, *values: object) -> tuple[object, ...] | None:
        found: tuple[object, ...] | None = self._db.execute(statement, values).fetchone()
        return found

    def _set_aside(self, row: Row, reason: str) -> None:
        """Write a refused row as a file, whole or not at all; the same row again overwrites itself."""
        path = self._aside(row.key)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(codec.pack({"key": str(row.key), "subject": row.subject, "reason": reason, "data": row.data}))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _aside(self, key: Key) -> Path:
        return self._refused / f"{key.task}.{key.epoch}.{key.kind}.{key.number}.msgpack"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all or nothing, on disk at its end."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk has rolled back by itself
                self._db.execute("rollback")
            raise
        self._db.execute("commit")

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        """A transaction in it is in the file, and in its order, but on disk only with the next one outside."""
        self._db.execute("pragma synchronous = normal")
        try:
            yield
        finally:
            self._db.execute("pragma synchronous = full")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate what SQLite and the file system say."""
        try:
            yield
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error
        except OSError as error:
            raise EnvironmentUnfit(f"The outbox {self._path} can not be written: {error}.") from error


def _open(path: Path) -> sqlite3.Connection:
    """The database with its pragmas and table, locked for this process."""
    db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("locking_mode = exclusive", "journal_mode = wal", "synchronous = full", "temp_store = memory"):
            db.execute(f"pragma {pragma}").fetchall()
        db.execute("begin immediate")
        db.execute(_TABLE)
        db.execute("commit")
    except BaseException:
        db.close()
        raise
    return db


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    """What an error of SQLite means for the worker."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"There is no room left on the disk for the outbox {path}: free some space.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return EnvironmentUnfit(f"The outbox {path} is in use by another process: give this worker another --name.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return EnvironmentUnfit(
            f"The outbox {path} is damaged ({error}): move the file away to start with an empty one."
        )
    return EnvironmentUnfit(f"The outbox {path} can not be used: {error}.")


def _values(key: Key) -> tuple[str, int, int, str, int]:
    return (key.task, key.epoch.generation, key.epoch.count, key.kind, key.number)


def _row(values: tuple[object, ...]) -> Row:
    task, generation, count, kind, number, subject, data, recorded_at = values
    key = Key(str(task), Epoch(_int(generation), _int(count)), str(kind), _int(number))
    assert isinstance(data, bytes)
    assert isinstance(recorded_at, float)
    return Row(key, str(subject), data, recorded_at)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
