"""Refused outbox rows as files, read without opening the outbox: a worker that runs has it locked.

`mesh/outbox.py` writes one file per row below `<worker's folder>/refused/`, whole or not at all, and removes it after
seven days.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mesh import codec, limits
from mesh.errors import Malformed

FOLDER = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class RefusedRow:
    """One row that the ledger will never record as it is."""

    key: str
    """As the receipt spelled it: TASK/EPOCH/KIND/NUMBER."""
    subject: str
    reason: str
    data: bytes
    """The record's bytes, as they were sent."""
    refused_at: float
    """The file's own time: wall clock in seconds, for people."""
    path: Path


def refused_rows(folder: Path) -> list[RefusedRow]:
    """The refused rows of a worker's folder, the newest first; a file that can not be read is left out."""
    rows = [row for path in (folder / FOLDER).glob("*.msgpack") if (row := _read(path)) is not None]
    return sorted(rows, key=lambda row: (-row.refused_at, row.key))


def _read(path: Path) -> RefusedRow | None:
    try:
        fields = codec.unpack(path.read_bytes(), bytes_max=2 * limits.REPEATING_BYTES_MAX)
        at = path.stat().st_mtime
    except (OSError, Malformed):
        return None
    key, subject, reason, data = (fields.get(name) for name in ("key", "subject", "reason", "data"))
    if not (isinstance(key, str) and isinstance(subject, str) and isinstance(reason, str) and isinstance(data, bytes)):
        return None
    return RefusedRow(key, subject, reason, data, at, path)
