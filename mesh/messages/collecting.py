"""Collecting garbage from the artifact store: what is condemned, what was found corrupt, what is wanted back.

A list of the condemned is a message of the CONDEMNED stream; its sequence is its number. It says: these names may be
removed from the store soon, in the versions that were there when the collector looked. Whoever relies on one of them
after that stores it again, over the old one. Rows are sorted, so that a reader searches them as they are.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Iterable, Iterator
from typing import ClassVar

from mesh import limits
from mesh.messages.base import Part, Record
from mesh.messages.object_names import DELTA, MANIFEST, WHOLE, ObjectName

DIGEST_BYTES = 32
_WIDTHS = {WHOLE: DIGEST_BYTES, DELTA: 2 * DIGEST_BYTES, MANIFEST: DIGEST_BYTES}

NAMES_PER_MESSAGE_MAX = 500
"""Names in one report or request."""


class Why(enum.StrEnum):
    """Why names are condemned."""

    GARBAGE = "garbage"
    """Nothing that lives names them. They are removed after a while, unless something does by then."""
    CORRUPT = "corrupt"
    """The stored bytes do not match the name. They are removed at once; whoever has the right bytes stores them."""


class Condemned(Record, frozen=True, kw_only=True):
    """One list of the condemned. Rows are raw digests one after the other: 32 bytes each, a delta's 64 (its own, then
    its base's), sorted."""

    kind: ClassVar[str] = "condemned"

    why: Why
    by: str
    """Incarnation of the scheduler that collects."""
    term: int
    wholes: bytes = b""
    deltas: bytes = b""
    manifests: bytes = b""

    def __post_init__(self) -> None:
        for kind, rows in self._rows():
            if len(rows) % _WIDTHS[kind]:
                raise ValueError(f"a list of the condemned has rows of {_WIDTHS[kind]} bytes, got {len(rows)} bytes")

    def holds(self, name: ObjectName) -> bool:
        """Does the list name it?"""
        rows, width, row = dict(self._rows())[name.kind], _WIDTHS[name.kind], row_of(name)
        count = len(rows) // width
        index = bisect.bisect_left(range(count), row, key=lambda at: rows[at * width : (at + 1) * width])
        return index < count and rows[index * width : (index + 1) * width] == row

    def names(self) -> Iterator[ObjectName]:
        """All names of the list."""
        for kind, rows in self._rows():
            for at in range(0, len(rows), _WIDTHS[kind]):
                yield name_of(kind, rows[at : at + _WIDTHS[kind]])

    def _rows(self) -> tuple[tuple[str, bytes], ...]:
        return ((WHOLE, self.wholes), (DELTA, self.deltas), (MANIFEST, self.manifests))


def row_of(name: ObjectName) -> bytes:
    """The raw digests of a name."""
    return bytes.fromhex(name.digest + name.base)


def name_of(kind: str, row: bytes) -> ObjectName:
    """The inverse of `row_of`."""
    return ObjectName(kind, row[:DIGEST_BYTES].hex(), row[DIGEST_BYTES:].hex())


def condemn(names: Iterable[ObjectName], why: Why, by: str, term: int) -> Condemned:
    """A list of these names."""
    rows: dict[str, list[bytes]] = {WHOLE: [], DELTA: [], MANIFEST: []}
    for name in set(names):
        rows[name.kind].append(row_of(name))
    wholes, deltas, manifests = (b"".join(sorted(rows[kind])) for kind in (WHOLE, DELTA, MANIFEST))
    return Condemned(why=why, by=by, term=term, wholes=wholes, deltas=deltas, manifests=manifests)


class CorruptFound(Record, frozen=True, kw_only=True):
    """A reader tells the leader: what is stored under these names does not match them. Perhaps; it looks itself."""

    kind: ClassVar[str] = "corrupt-found"

    names: tuple[str, ...]
    by: str = ""

    def __post_init__(self) -> None:
        _check_count(self.names)


class Wanted(Record, frozen=True, kw_only=True):
    """The leader asks whoever has these objects in his cache to store them again."""

    kind: ClassVar[str] = "wanted"

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_count(self.names)


class CorruptRow(Part, frozen=True, kw_only=True):
    """A corrupt object that was removed."""

    name: str
    age_s: float
    """Since it was found."""
    back: bool
    """It has been stored again since."""


class StoreUse(Record, frozen=True, kw_only=True):
    """What the artifact store holds and what collecting would free, as the leader last saw it."""

    kind: ClassVar[str] = "store-use"

    where: str
    """Where objects lie, for people."""
    size_bytes: int
    """-1: the store does not say."""
    limit_bytes: int
    """-1: no limit is known."""
    looked_age_s: float = -1.0
    """Since the last look at everything; -1: none was finished in this term."""
    objects: int = 0
    manifests: int = 0
    garbage: int = 0
    """Objects and manifests that the last look found nothing to name."""
    garbage_bytes: int = 0
    """About; from the mean size of what is stored."""
    missing: int = 0
    """Artifacts of champions and open tasks that are not there."""
    removed: int = 0
    """Objects and manifests that were removed in this term."""
    state: str = ""
    """What the collector does now, for people."""
    corrupt: tuple[CorruptRow, ...] = ()
    home: str = ""
    """Where the scheduler has its artifacts, in the words of a hello's `facts.artifacts`; '': it does not say."""
    identity: str = ""
    """What that folder or bucket says of itself, as in a hello's `facts.artifact_store`; '': it is not known."""


def _check_count(names: tuple[str, ...]) -> None:
    if len(names) > NAMES_PER_MESSAGE_MAX:
        raise ValueError(f"at most {NAMES_PER_MESSAGE_MAX} names go into one message, got {len(names)}")


ROWS_BYTES_MAX = limits.RECORD_BYTES_MAX - 16 * 1024
"""Rows of one list: a record, less what stands beside them."""
