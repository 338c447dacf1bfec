"""What one round of collecting has found, on disk: millions of names cost no memory.

    found   every name that was stored when the round looked
    named   digests that are named by what is kept, and how
    kept    objects that a living manifest needs
    dead    manifests to remove, each with the moment after which a new version of it is left alone

`doomed` walks through what was found and not kept, in sorted order, in pages. Every call takes a bounded number of rows
and a few milliseconds: it is made on the event loop, between turns that give leases. The file is scratch: it is made
anew for each round, and nothing in it needs to survive.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mesh import sqlite_file
from mesh.messages.collecting import name_of, row_of
from mesh.messages.object_names import MANIFEST, ObjectName

PAGE = 1_000
"""Rows of one call: some 2 ms."""

CACHE_KIB = 4_096
"""Memory for pages of the file."""

_TABLES = (
    "CREATE TABLE found (name BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE named (digest BLOB PRIMARY KEY, how INTEGER) WITHOUT ROWID",
    "CREATE TABLE kept (name BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE dead (name BLOB PRIMARY KEY, mark TEXT) WITHOUT ROWID",
)


class Sieve:
    """The names of one round. DiskFull when there is no room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        sqlite_file.remove(path)
        with self._errors():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=OFF")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            for statement in _TABLES:
                self._db.execute(statement)

    def close(self) -> None:
        """Remove the file."""
        self._db.close()
        sqlite_file.remove(self._path)

    # -- in -----------------------------------------------------------------------------------------------------------

    def find(self, names: Iterable[ObjectName]) -> None:
        """These are stored."""
        self._all("INSERT OR IGNORE INTO found VALUES (?)", ((_row(name),) for name in names))

    def lose(self, name: ObjectName) -> None:
        """It is not stored after all."""
        self._all("DELETE FROM found WHERE name = ?", [(_row(name),)])

    def name(self, digests: Iterable[str], how: int) -> None:
        """These are named; the stronger way counts."""
        self._all(
            "INSERT INTO named VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET how = max(how, excluded.how)",
            ((bytes.fromhex(digest), how) for digest in digests),
        )

    def forget_named(self) -> None:
        """Names are looked for anew."""
        self._all("DELETE FROM named", [()])

    def keep(self, names: Iterable[ObjectName]) -> None:
        """A living manifest needs these."""
        self._all("INSERT OR IGNORE INTO kept VALUES (?)", ((_row(name),) for name in names))

    def bury(self, name: ObjectName, mark: str) -> None:
        """A manifest is dead, unless it is written again after `mark`."""
        self._all("INSERT OR REPLACE INTO dead VALUES (?, ?)", [(_row(name), mark)])

    def spare(self, name: ObjectName) -> None:
        """It lives after all."""
        self._all("DELETE FROM dead WHERE name = ?", [(_row(name),)])

    # -- out ----------------------------------------------------------------------------------------------------------

    def named(self, digest: str) -> int:
        """How a digest is named; 0: not at all."""
        row = self._db.execute("SELECT how FROM named WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()
        return int(row[0]) if row else 0

    def has_found(self, name: ObjectName) -> bool:
        """Was it stored when the round looked?"""
        return self._db.execute("SELECT 1 FROM found WHERE name = ?", (_row(name),)).fetchone() is not None

    def manifests(self) -> Iterator[list[ObjectName]]:
        """Pages of the manifests that were found."""
        after = MANIFEST.encode()
        while page := self._page("SELECT name FROM found WHERE name > ? ORDER BY name LIMIT ?", after):
            if names := [_name(row[0]) for row in page if row[0][:1] == MANIFEST.encode()]:
                yield names
            after = page[-1][0]

    def dead(self) -> Iterator[list[tuple[ObjectName, str]]]:
        """Pages of the dead manifests, each with its mark."""
        after = b""
        while page := self._page("SELECT name, mark FROM dead WHERE name > ? ORDER BY name LIMIT ?", after):
            yield [(_name(row), mark) for row, mark in page]
            after = page[-1][0]

    def doomed(self) -> Iterator[list[ObjectName]]:
        """Pages of objects that were found and that nothing keeps; a page may be empty."""
        after = b""
        while page := self._page(
            "SELECT f.name, k.name IS NULL FROM (SELECT name FROM found WHERE name > ? ORDER BY name LIMIT ?) AS f "
            "LEFT JOIN kept AS k ON k.name = f.name ORDER BY f.name",
            after,
        ):
            yield [_name(row) for row, doomed in page if doomed and row[:1] != MANIFEST.encode()]
            after = page[-1][0]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _page(self, query: str, after: bytes) -> list[tuple[bytes, Any]]:
        return self._db.execute(query, (after, PAGE)).fetchall()

    def _all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._errors():
            self._db.execute("BEGIN")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_file.full_when_unwritable(self._path)


def _row(name: ObjectName) -> bytes:
    return name.kind.encode() + row_of(name)


def _name(row: bytes) -> ObjectName:
    return name_of(row[:1].decode(), row[1:])
