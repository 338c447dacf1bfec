"""One way in: a path or the name of a built-in becomes a table."""

from __future__ import annotations

from pathlib import Path

from executors.datasets import builtin, delimited, jsonlines, look, parquet, textfolder
from executors.datasets.look import Format
from executors.datasets.table import Progress, Table
from mesh.errors import DataRefused

_READERS = {
    Format.DELIMITED: delimited.read,
    Format.JSON_LINES: jsonlines.read,
    Format.PARQUET: parquet.read,
    Format.FOLDER: textfolder.read,
}


def read(source: str, name: str, progress: Progress) -> Table:
    """The table at `source` (`builtin:NAME`, a file, or a folder); `name` is what the user called it.

    DataRefused with one sentence for everything that is no usable table.
    """
    if source.startswith(look.SCHEME):
        return builtin.read(source.removeprefix(look.SCHEME), progress)
    path = look.single_file(Path(source))
    shown = name or str(path)
    kind = look.format_of(path, shown)
    if kind is Format.CORPUS:
        raise DataRefused(f"{shown!r} is plain text without labels, not a table: say --task language-model to learn it")
    try:
        table = _READERS[kind](path, shown, progress)
    except OSError as error:
        raise DataRefused(f"{shown!r} can not be read ({error.strerror or error}): check its permissions") from None
    if table.rows == 0:
        raise DataRefused(f"{shown!r} has no rows: expected examples")
    return table
