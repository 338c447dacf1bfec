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

SCHEME = "builtin:"


def read(source: str, name: str, progress: Progress) -> Table:
    """The table at `source` (`builtin:NAME`, a file, or a folder); `name` is what the user called it.

    DataRefused with one sentence for everything that is no usable table.
    """
    if source.startswith(SCHEME):
        return builtin.read(source.removeprefix(SCHEME), progress)
    path = Path(source)
    kind = look.format_of(path, name if path.is_file() else "")
    if kind is not Format.FOLDER:
        path = look.single_file(path)
        name = name if Path(name).suffix else path.name
    try:
        table = _READERS[kind](path, name or str(path), progress)
    except OSError as error:
        raise DataRefused(
            f"{name or source!r} can not be read ({error.strerror or error}): check its permissions"
        ) from None
    if table.rows == 0:
        raise DataRefused(f"{name or source!r} has no rows: expected examples")
    return table
