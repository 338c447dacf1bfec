"""SQLite files that one process keeps for itself and can do without: made at first use, told apart by their format.

Nothing here decides what a damaged file means: `opened` raises sqlite3.DatabaseError, and who opened it knows whether
its content can be had elsewhere.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from mesh.errors import DiskFull

SUFFIXES = ("", "-wal", "-shm", "-journal")
"""What lies beside a database's file, with its own name in front."""


def opened(path: Path, tables: Iterable[str], *, format_: int, pragmas: Iterable[str]) -> sqlite3.Connection:
    """The database in `path`, with these pragmas, in autocommit; `tables` are the statements that make it.

    sqlite3.OperationalError when there is no room or another process has it, sqlite3.DatabaseError when it is damaged
    or of another format.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    try:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
        if db.execute("PRAGMA user_version").fetchone()[0] != format_:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("another format")
            for statement in tables:
                db.execute(statement)
            db.execute(f"PRAGMA user_version={format_}")
    except BaseException:
        db.close()
        raise
    return db


def remove(path: Path) -> None:
    """Remove a database that is not open."""
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def full_when_unwritable(what: object) -> Iterator[None]:
    """Turn an error of SQLite into DiskFull: of a file that only this process uses it is the likeliest reason."""
    try:
        yield
    except sqlite3.Error as error:
        raise DiskFull(f"{what} can not be written ({error}): free some disk space.") from None
