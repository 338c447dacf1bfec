"""JSON lines: one object per line; or one array of objects (read as a whole, so with a smaller bound).

Numbers keep the digits they were written with, `true` and `false` become these words, `null`, NaN and a missing key
count as missing. Columns that hold lists or maps are set aside. The row of an error is the line (or the position in the
array).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from executors.datasets import bounds
from executors.datasets.decoding import Source, open_text
from executors.datasets.names import unique_names
from executors.datasets.table import Columns, Progress, Table
from mesh.errors import DataRefused

ARRAY_BYTES_MAX = 256 * 1024 * 1024
"""A file that is one JSON array: parsing needs some ten times its size at once. Larger ones have to be JSON lines."""

_NESTED = "it holds lists or maps"


def read(path: Path, shown: str, progress: Progress) -> Table:
    """The table in a JSON file; DataRefused with the row when it is none."""
    source = open_text(path, shown)
    columns = Columns()
    positions: dict[str, int] = {}
    nested: dict[str, str] = {}
    block: list[dict[str, Any]] = []
    blank = 0
    for number, record in _records(source, progress):
        if record is None:
            blank += 1
            continue
        if not isinstance(record, dict):
            raise DataRefused(
                f"row {number} of {shown!r} is a JSON {_kind(record)}: expected an object such as "
                '{"text": "…", "label": "…"} per line',
                row=number,
            )
        block.append(record)
        if len(block) >= bounds.BLOCK_ROWS:
            _extend(columns, positions, nested, block)
            block = []
    _extend(columns, positions, nested, block)
    if not columns.rows:
        raise DataRefused(f"{shown!r} holds no objects: expected one JSON object per line")
    kept = [(name, values) for name, values in zip(columns.names, columns.arrays(), strict=True) if name not in nested]
    if not kept:
        raise DataRefused(
            f"the objects in {shown!r} hold lists and maps only: expected one object per example, of texts and numbers"
        )
    table = Table(names=[name for name, _ in kept], columns=[values for _, values in kept], set_aside=nested)
    table.bytes_read = source.size_bytes
    if blank:
        table.dropped["blank row"] = blank
    if source.warning:
        table.warnings.append(source.warning)
    return table


def _records(source: Source, progress: Progress) -> Iterator[tuple[int, Any]]:
    """(row, value) of each line, or of each element when the file is one array; None for a blank line."""
    first = next((line for line in source.lines(progress) if line.strip("\ufeff \t\r\n")), "")
    if first.lstrip("\ufeff \t").startswith("["):
        yield from _array(source, progress)
        return
    for number, line in enumerate(source.lines(progress), 1):
        text = line.strip().lstrip("\ufeff")
        yield number, _parse(text, number, source) if text else None


def _array(source: Source, progress: Progress) -> Iterator[tuple[int, Any]]:
    if source.size_bytes > ARRAY_BYTES_MAX:
        raise DataRefused(
            f"{source.shown!r} is one JSON array of {source.size_bytes:,} bytes, and {ARRAY_BYTES_MAX:,} can be read: "
            "write one object per line instead (jq -c '.[]')"
        )
    text = "".join(source.lines(progress)).strip().lstrip("\ufeff")
    values = _parse(text, 1, source)
    if not isinstance(values, list):
        raise DataRefused(f"{source.shown!r} begins like a JSON array and is none: expected one object per line", row=1)
    yield from enumerate(values, 1)


def _parse(text: str, number: int, source: Source) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) and error.lineno > 1 else ""
        raise DataRefused(
            f"row {number} of {source.shown!r} is no valid JSON{where} ({_reason(error)}): expected one object per "
            "line, "
            "or one array of objects",
            row=number,
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]


def _kind(value: Any) -> str:
    return {list: "array", str: "text or number", bool: "boolean", type(None): "null"}.get(type(value), "value")


def _extend(columns: Columns, positions: dict[str, int], nested: dict[str, str], block: list[dict[str, Any]]) -> None:
    """Append a block of objects; new keys become columns."""
    for record in block:
        for key in record:
            if key not in positions:
                positions[key] = columns.add(_name(key, columns.names))
    columns.extend(
        [[_text(record.get(key), columns.names[at], nested) for record in block] for key, at in positions.items()]
    )


def _name(key: str, taken: list[str]) -> str:
    """A column's name from a key: real characters only, not too long, not there yet."""
    return unique_names([*taken, key.encode("utf-8", "replace").decode()[: bounds.LABEL_CHARS_MAX]])[-1]


def _text(value: Any, key: str, nested: dict[str, str]) -> str | None:
    if value is None or isinstance(value, str):
        if value is not None and len(value) > bounds.FIELD_CHARS_MAX:
            raise DataRefused(f"a value of {key!r} has more than {bounds.FIELD_CHARS_MAX:,} characters: cut it first")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    nested[key] = _NESTED
    return None
