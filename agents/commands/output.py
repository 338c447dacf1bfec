"""What a command prints: aligned rows for people, one JSON document or JSON lines for programs.

Texts come from other people's data: control characters are made visible before they reach a terminal. A JSON file
appears whole or not at all (temporary name, then rename).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import DiskFull, EnvironmentUnfit, RamifyError

CELL_CHARS_MAX = 60
"""A cell is cut here: a table that wraps is read by nobody. `--json` has the whole text."""

Cell = str | int | float | None


def say(text: str = "") -> None:
    """A line on stdout, now."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line on stderr: what is going on, beside the answer."""
    print(text, file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """`text` on one line, control characters as '?'."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Aligned columns; a column whose cells are all numbers stands to the right. No rows: the headers alone."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headers), *texts]) for column in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(headers))]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(headers), *texts]
    ]
    return "\n".join(lines)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    text = plain(str(value))
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def number(value: float | None) -> str:
    """Four significant digits, thousands grouped; '-' for none."""
    if value is None:
        return "-"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def size(value: float) -> str:
    """Bytes as people read them: 512 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(seconds: float) -> str:
    """A duration as people read it: 3 s, 5 min, 2 h, 4 d."""
    for limit, divisor, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def builtin(value: Any) -> Any:
    """Records as plain JSON values; a number that JSON does not know becomes null."""
    return _finite(msgspec.to_builtins(value, str_keys=True))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def check_target(target: str | None) -> None:
    """Raise before a long piece of work when its document could not be written afterwards."""
    if target in (None, "-"):
        return
    path = Path(str(target))
    folder = path.parent
    if path.is_dir():
        raise EnvironmentUnfit(f"--json expects a file, and {str(path)!r} is a folder: name a file in it.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is not writable" if folder.is_dir() else "does not exist"
        raise EnvironmentUnfit(f"--json {str(path)!r} can not be written: the folder {str(folder)!r} {why}.")


def write_json(target: str, document: Any) -> None:
    """One document to a file, or to stdout for '-'."""
    text = json.dumps(builtin(document), indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(target)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe: it must not be replaced by a file
            path.write_text(text, encoding="utf-8")
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritten(f"--json {target!r}", error) from None


def unwritten(what: str, error: OSError) -> RamifyError:
    """The error for something that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what} can not be written: the disk is full; free some space.")
    return EnvironmentUnfit(f"{what} can not be written ({error.strerror or error}): name another place.")


def json_line(record: Any) -> str:
    """One value on one line."""
    return json.dumps(builtin(record), ensure_ascii=False, separators=(",", ":"))
