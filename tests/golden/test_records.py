"""The bytes of every record kind, pinned: two releases in one mesh read each other, and digests stay what they are.

    full   every field filled: its bytes may change only together with the record's meaning
    least  the fields without a default only: whatever is added later must have a default, so this is read for ever

`REWRITE_GOLDEN=1` writes down what is seen; the difference is then reviewed like code. A changed `least` block means
that older programs' records are no longer read: raise the record's version instead.
"""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mesh import codec
from tests.support.samples import least, sample

FOLDER = Path(__file__).with_name("records")
REWRITE = bool(os.environ.get("REWRITE_GOLDEN"))
BLOCKS = ("full", "least")


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, dict):
        return {str(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list | tuple) else value


def _block(name: str, data: bytes) -> str:
    fields = codec.unpack(data)
    shown = [f"{key} = {json.dumps(_readable(value), ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join([f"{name}: {len(data)} bytes", *shown, "", *textwrap.wrap(data.hex(), 112)]) + "\n"


def _pinned(kind: str) -> dict[str, bytes]:
    """The bytes in a golden file, by block."""
    parts = (FOLDER / f"{kind}.txt").read_text().strip().split("\n\n")
    return dict(zip(BLOCKS, (bytes.fromhex(part) for part in parts[1::2]), strict=True))


@pytest.mark.parametrize("kind", sorted(codec.RECORDS))
def test_bytes_are_what_they_were(kind: str) -> None:
    record = codec.RECORDS[kind]
    full, small = sample(record, full=True), sample(record, full=False)
    seen = {"full": codec.encode(full), "least": codec.pack(least(small))}
    if REWRITE:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{kind}.txt").write_text("\n".join(_block(name, data) for name, data in seen.items()))
    assert (FOLDER / f"{kind}.txt").exists(), f"{kind} has no golden bytes yet: REWRITE_GOLDEN=1 writes them"
    pinned = _pinned(kind)
    assert codec.decode(pinned["full"], record) == full
    assert codec.decode(pinned["least"], record) == small
    assert seen["full"] == pinned["full"], f"the bytes of {kind} changed: review, then REWRITE_GOLDEN=1"


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(codec.RECORDS)
