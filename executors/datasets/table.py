"""A table in memory: named columns of equal length, held compactly (Arrow), plus what was noticed while reading.

Texts are Arrow strings (their bytes and an offset each, some 1.1 times the file); numbers that the format itself types
(Parquet) are int64 or float64. Text formats deliver texts only; `numerals` and `columns` find the numbers among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from executors.datasets import bounds
from mesh.errors import DataRefused

Progress = Callable[[float], None]
"""Called now and then with the share of the reading that is done (0 to 1); may raise to stop."""


@dataclasses.dataclass(slots=True)
class Table:
    """What a reader makes."""

    names: list[str]
    columns: list[pa.ChunkedArray]
    first_row: int = 1
    """Number of the first data row as a person counts: 2 below a header."""
    headed: bool = True
    """False when the file has no header row and the names are made up."""
    separator: str = ""
    """Of a delimited file."""
    clusters: np.ndarray[Any, np.dtype[np.int32]] | None = None
    """Per row: rows of one cluster (one source file) are not independent of each other."""
    label: str | None = None
    texts: tuple[str, ...] = ()
    """Label and text columns, where the source itself knows them."""
    set_aside: dict[str, str] = dataclasses.field(default_factory=dict)
    """Columns that hold nothing usable, with the reason."""
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    bytes_read: int = 0

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.columns[0]) if self.columns else 0

    def row_number(self, index: int) -> int:
        """The row of a zero-based index, as a person counts."""
        return index + self.first_row


class Columns:
    """Collects rows of texts block by block into Arrow columns. Column names may appear as the reading goes on."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self._chunks: list[list[pa.Array]] = [[] for _ in self.names]
        self._rows = 0

    @property
    def rows(self) -> int:
        """Rows collected so far."""
        return self._rows

    def add(self, name: str) -> int:
        """A new column, missing in all earlier rows; its position."""
        if len(self.names) >= bounds.COLUMNS_MAX:
            raise DataRefused(
                f"a table may have {bounds.COLUMNS_MAX} columns, and this one has more: keep what is needed"
            )
        self.names.append(name)
        self._chunks.append([pa.nulls(self._rows, pa.large_string())] if self._rows else [])
        return len(self.names) - 1

    def extend(self, block: Sequence[Sequence[str | None]]) -> None:
        """Append a block given by columns, all of one length."""
        if not block or not block[0]:
            return
        if self._rows + len(block[0]) > bounds.ROWS_MAX:
            raise DataRefused(f"a table may have {bounds.ROWS_MAX} rows, and this one has more: take a sample of it")
        for chunks, values in zip(self._chunks, block, strict=True):
            chunks.append(strings(values))
        self._rows += len(block[0])

    def arrays(self) -> list[pa.ChunkedArray]:
        """The finished columns."""
        return [pa.chunked_array(chunks, type=pa.large_string()) for chunks in self._chunks]


def strings(values: Sequence[str | None]) -> pa.Array:
    """An Arrow array of texts; half surrogate pairs (no text at all) become the replacement character."""
    try:
        return pa.array(values, type=pa.large_string())
    except UnicodeEncodeError:
        clean = [None if value is None else value.encode("utf-8", "replace").decode() for value in values]
        return pa.array(clean, type=pa.large_string())
