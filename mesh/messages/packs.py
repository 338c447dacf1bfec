"""Many records of one writer in one message: one sync of the store, one header, one wake-up for all of them.

A pack changes how records travel, never what they mean: a reader takes its rows one by one, in order, as if each had
come in a message of its own. On COMMANDS a worker packs what its outbox owes; on RESULTS the leader packs what one
ledger entry says of one topic in one kind, and such a pack's subject names that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, TypeVar

from mesh import limits
from mesh.messages.base import Record

T = TypeVar("T")


class Pack(Record, frozen=True, kw_only=True):
    """Encoded records, each with its own kind and version, in the order in which they are to be taken. Never packs."""

    kind: ClassVar[str] = "pack"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    rows: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.rows) <= limits.ROWS_PER_PACK_MAX:
            raise ValueError(f"a pack carries 1 to {limits.ROWS_PER_PACK_MAX} records, got {len(self.rows)}")


def portions(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in order, cut where a pack would become too large. Lazy: the first portion costs only its own items."""
    portion: list[T] = []
    size_bytes = 0
    for item in items:
        size = size_of(item)
        if portion and (size_bytes + size > limits.PACK_BYTES_MAX or len(portion) >= limits.ROWS_PER_PACK_MAX):
            yield portion
            portion, size_bytes = [], 0
        portion.append(item)
        size_bytes += size
    if portion:
        yield portion
