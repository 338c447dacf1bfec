"""What the collector of one scheduler remembers between its rounds and lives, in a file of its own.

    awaited   manifests without a name: since which moment of the store, and for how long so far
    made      what was made for a topic, as long as the topic can be read or has open tasks
    pinned    models that were champions once: the lineage is kept for ever
    told      digests in the records for subscribers, each with the newest message that names it
    at        up to where the ledger and those records were read for that

Ages add up the time that passed in this scheduler while it led, by its own clock; clocks of machines are never
compared. A scheduler that has just taken over so keeps what it has not seen before for the whole time once more. Not
synced on purpose: what is lost is read from the ledger again, or kept for longer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mesh import sqlite_file

FORMAT = 1

_TABLES = (
    "CREATE TABLE awaited (digest BLOB PRIMARY KEY, mark TEXT, age_s REAL, round INTEGER) WITHOUT ROWID",
    "CREATE TABLE made (topic TEXT, digest BLOB, PRIMARY KEY (topic, digest)) WITHOUT ROWID",
    "CREATE TABLE pinned (digest BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE told (digest BLOB PRIMARY KEY, seq INTEGER) WITHOUT ROWID",
    "CREATE TABLE at (only INTEGER PRIMARY KEY, history TEXT, ledger INTEGER, results INTEGER, round INTEGER)",
    "INSERT INTO at VALUES (1, '', 0, 0, 0)",
)

PAGE = 1_000


class CollectorNotes:
    """One file. DiskFull when there is no room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            try:
                self._db = _opened(path)
            except sqlite3.OperationalError:  # no room, or another process has it
                raise
            except sqlite3.DatabaseError:  # damaged, or of another format: all of it can be learned again
                sqlite_file.remove(path)
                self._db = _opened(path)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # -- what was read ------------------------------------------------------------------------------------------------

    def follow(self, history: str) -> None:
        """The notes are about this history of this store. Of another one all is forgotten but the lineage: positions
        and marks would mean other moments."""
        if self._db.execute("SELECT history FROM at").fetchone()[0] == history:
            return
        with self._errors():
            self._db.execute("BEGIN")
            for table in ("awaited", "made", "told"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608
            self._db.execute("UPDATE at SET history = ?, ledger = 0, results = 0", (history,))
            self._db.execute("COMMIT")

    def read_to(self) -> tuple[int, int]:
        """The last entry of the ledger and the last record for subscribers that were read."""
        ledger, results = self._db.execute("SELECT ledger, results FROM at").fetchone()
        return int(ledger), int(results)

    def hear(self, seq: int, digests: Iterable[str]) -> None:
        """A message for subscribers names these."""
        with self._errors():
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR REPLACE INTO told VALUES (?, ?)", ((bytes.fromhex(digest), seq) for digest in digests)
            )
            self._db.execute("UPDATE at SET results = ?", (seq,))
            self._db.execute("COMMIT")

    def told(self, from_seq: int) -> Iterator[list[str]]:
        """Pages of what is named by messages from this one on; what is named by older ones only is forgotten."""
        with self._errors():
            self._db.execute("DELETE FROM told WHERE seq < ?", (from_seq,))
        yield from self._pages("told")

    def learn(self, seq: int, made: Iterable[tuple[str, str]], pinned: Iterable[str]) -> None:
        """An entry was read: (topic, digest) of what was made, and models that were champions."""
        with self._errors():
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO made VALUES (?, ?)", ((t, bytes.fromhex(d)) for t, d in made))
            self._db.executemany("INSERT OR IGNORE INTO pinned VALUES (?)", ((bytes.fromhex(d),) for d in pinned))
            self._db.execute("UPDATE at SET ledger = ?", (seq,))
            self._db.execute("COMMIT")

    def pinned(self) -> Iterator[list[str]]:
        """Pages of models that were champions once."""
        yield from self._pages("pinned")

    def _pages(self, table: str) -> Iterator[list[str]]:
        after = b""
        query = f"SELECT digest FROM {table} WHERE digest > ? ORDER BY digest LIMIT ?"  # noqa: S608
        while page := self._db.execute(query, (after, PAGE)).fetchall():
            yield [row[0].hex() for row in page]
            after = page[-1][0]

    def topics(self) -> list[str]:
        """Topics for which something was made."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT topic FROM made")]

    def made_for(self, topic: str) -> list[str]:
        """Digests of what was made for a topic."""
        return [row[0].hex() for row in self._db.execute("SELECT digest FROM made WHERE topic = ?", (topic,))]

    def forget_topics(self, topics: Collection[str]) -> None:
        """These topics can not be read any more, and nothing is done for them."""
        with self._errors():
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM made WHERE topic = ?", ((topic,) for topic in topics))
            self._db.execute("COMMIT")

    # -- what has no name ---------------------------------------------------------------------------------------------

    def next_round(self, passed_s: float) -> int:
        """A round looks: what was without a name before is so much older. Its number."""
        with self._errors():
            self._db.execute("BEGIN")
            self._db.execute("UPDATE at SET round = round + 1")
            self._db.execute("UPDATE awaited SET age_s = age_s + ?", (passed_s,))
            self._db.execute("COMMIT")
        return int(self._db.execute("SELECT round FROM at").fetchone()[0])

    def awaited(self, digest: str, mark: str, round_: int) -> tuple[str, float]:
        """A manifest has no name: (the moment of the store when that was first seen, for how long since)."""
        key = bytes.fromhex(digest)
        with self._errors():
            self._db.execute("INSERT OR IGNORE INTO awaited VALUES (?, ?, 0, ?)", (key, mark, round_))
            self._db.execute("UPDATE awaited SET round = ? WHERE digest = ?", (round_, key))
        row = self._db.execute("SELECT mark, age_s FROM awaited WHERE digest = ?", (key,)).fetchone()
        return str(row[0]), float(row[1])

    def begin_anew(self, digest: str) -> None:
        """It was written again, or got a name: its time without one starts from nothing."""
        with self._errors():
            self._db.execute("DELETE FROM awaited WHERE digest = ?", (bytes.fromhex(digest),))

    def forget_others(self, round_: int) -> None:
        """Whatever this round did not find without a name has one now, or is gone."""
        with self._errors():
            self._db.execute("DELETE FROM awaited WHERE round < ?", (round_,))

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_file.full_when_unwritable(self._path)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    pragmas = ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=OFF")
    return sqlite_file.opened(path, _TABLES, format_=FORMAT, pragmas=pragmas)
