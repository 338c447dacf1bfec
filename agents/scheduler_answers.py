"""Answers as bytes: one that is too large for a record is sent in part, and says so or is asked for again.

    answer        leases, orders and receipts that are left out are due again with the worker's next beat
    owed-answer   a key that is left out is asked for again
    status        rows that are left out are counted in `left_out`

Each turn halves the long lists, so that a few turns are enough; a record that one row of each still makes too large
raises Malformed.
"""

from __future__ import annotations

from typing import Any

from mesh import codec
from mesh.errors import Malformed
from mesh.messages.base import Record
from mesh.messages.leases import Answer
from mesh.messages.services import OwedAnswer, Status

LISTS: dict[type[Record], tuple[str, ...]] = {
    Answer: ("leases", "orders", "receipts"),
    OwedAnswer: ("receipts",),
    Status: ("tasks", "workers", "agents"),
}


def fitting(record: Record) -> bytes:
    """The bytes of the record, shortened as far as needed. Malformed when that is not enough."""
    while True:
        try:
            return codec.encode(record)
        except Malformed:
            shorter = _halved(record)
            if shorter == record:
                raise
            record = shorter


def _halved(record: Record) -> Record:
    kept: dict[str, Any] = {}
    for name in LISTS.get(type(record), ()):
        rows = getattr(record, name)
        kept[name] = rows[: (len(rows) + 1) // 2]
    if isinstance(record, Status):
        kept["left_out"] = record.left_out + sum(len(getattr(record, name)) - len(kept[name]) for name in LISTS[Status])
    return record.evolve(**kept)
