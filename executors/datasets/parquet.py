"""Apache Parquet, read in batches. Numbers stay numbers; dates, decimals and the like become texts; columns of lists,
maps or raw bytes are set aside with the reason. Whatever the library says about a damaged file becomes one sentence.

A file that was written here may say in its metadata (CLUSTERS) which of its columns of whole numbers holds the rows'
clusters: it is no column of the table then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from executors.datasets import bounds
from executors.datasets.names import unique_names
from executors.datasets.table import Progress, Table
from mesh.errors import DataRefused, RamifyError

CLUSTERS = b"ramify.clusters"
"""Key of the metadata; its value is the column's name."""


def read(path: Path, shown: str, progress: Progress) -> Table:
    """The table in a Parquet file; DataRefused when it is damaged, empty or too large."""
    try:
        return _read(path, shown, progress)
    except (RamifyError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise DataRefused(f"{shown!r} is no readable Parquet file ({reason}): write it anew") from None


def _read(path: Path, shown: str, progress: Progress) -> Table:
    size = path.stat().st_size
    if size > bounds.FILE_BYTES_MAX:
        raise DataRefused(f"{shown!r} has {size:,} bytes, and {bounds.FILE_BYTES_MAX:,} can be read: take a sample")
    with pq.ParquetFile(path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
        if rows == 0 or len(schema) == 0:
            raise DataRefused(f"{shown!r} has no rows: expected examples")
        if rows > bounds.ROWS_MAX or len(schema) > bounds.COLUMNS_MAX:
            raise DataRefused(
                f"{shown!r} has {rows:,} rows and {len(schema):,} columns, and {bounds.ROWS_MAX:,} rows of "
                f"{bounds.COLUMNS_MAX:,} columns can be read: take a sample"
            )
        set_aside = {field.name: reason for field in schema if (reason := _unusable(field.type))}
        grouped = (schema.metadata or {}).get(CLUSTERS, b"").decode("utf-8", "replace")
        wanted = [index for index, field in enumerate(schema) if field.name not in (*set_aside, grouped)]
        if not wanted:
            raise DataRefused(f"{shown!r} holds lists, maps or raw bytes only: expected columns of text and numbers")
        chunks: list[list[pa.Array]] = [[] for _ in wanted]
        done = 0
        for batch in file.iter_batches(batch_size=bounds.BLOCK_ROWS, columns=[schema.field(i).name for i in wanted]):
            for column, values in zip(chunks, batch.columns, strict=True):
                column.append(_plain(values))
            done += batch.num_rows
            progress(min(1.0, done / rows))
        clusters = _clusters(file, grouped) if grouped in schema.names else None
    names = unique_names([schema.field(index).name for index in wanted])
    columns = [pa.chunked_array(parts) for parts in chunks]
    return Table(names=names, columns=columns, set_aside=set_aside, bytes_read=size, clusters=clusters)


def _clusters(file: pq.ParquetFile, column: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    values = file.read(columns=[column]).column(0)
    if values.null_count or not pa.types.is_int32(values.type):
        raise ValueError(
            f"its clusters are {values.type} with {values.null_count} gaps, expected whole numbers (int32)"
        )
    return np.asarray(values.to_numpy(), np.int32)


def _unusable(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return "it holds lists or maps"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "it holds raw bytes"
    return ""


def _plain(values: pa.Array) -> pa.Array:
    """int64, float64 or texts."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _plain(values.dictionary_decode())
    if pa.types.is_boolean(kind):
        return pc.if_else(values, pa.scalar("true", pa.large_string()), pa.scalar("false", pa.large_string()))
    if pa.types.is_uint64(kind) or pa.types.is_floating(kind):
        return values.cast(pa.float64(), safe=False)
    if pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64())
    texts = values.cast(pa.large_string())
    texts.validate(full=True)  # a damaged file may hold texts that are no UTF-8
    return texts
