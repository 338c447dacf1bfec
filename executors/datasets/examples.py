"""Examples from a table: the input of each row, its label, its identity and its cluster.

Identity: the SHA-256 of the normalised input (text: see text.normalise; columns: the numbers as '%.9g' of float32 and
the categories' normalised texts, in column order). The label has no part in it, so that one input can not stand in two
splits. Rows without a label or without any input are dropped and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from executors.datasets import bounds
from executors.datasets.columns import Choice
from executors.datasets.roles import Column
from executors.datasets.table import Progress, Table
from executors.datasets.text import normalise
from mesh.errors import DataRefused

Array = np.ndarray[Any, np.dtype[Any]]

_WHOLE = re.compile(r"[+-]?[0-9]+\Z")


@dataclasses.dataclass(slots=True)
class Category:
    """A categorical column: codes into `values`, -1 where missing."""

    name: str
    codes: Array
    values: list[str]


@dataclasses.dataclass(slots=True)
class Examples:
    """Everything that goes into the splits, in the table's order."""

    modality: str
    labels: list[str]
    y: Array
    """int64: index into `labels`."""
    ids: Array
    """uint64: first eight bytes of the SHA-256 of the normalised input, little-endian."""
    points: Array
    """float64 in [0, 1): where the example falls when the data is split; from the SHA-256 of salt and normalised
    input."""
    clusters: Array
    """int32: rows of one cluster are not independent."""
    rows: Array
    """int64: the table's row of each."""
    texts: pa.ChunkedArray | None = None
    numbers: Array | None = None
    """float32 [n, columns], NaN where missing."""
    number_names: list[str] = dataclasses.field(default_factory=list)
    categories: list[Category] = dataclasses.field(default_factory=list)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.y)


def make(table: Table, choice: Choice, salt: str, progress: Progress) -> Examples:
    """Examples from the chosen columns; DataRefused when fewer than two labels are left."""
    codes, labels = label_codes(table.columns[choice.label.index], choice.label.name)
    made = (_from_texts if choice.texts else _from_columns)(table, choice, codes, salt, progress)
    unlabelled = int((codes < 0).sum())
    if unlabelled:
        made.dropped["row without a label"] = unlabelled
    _keep_used_labels(made, labels, choice.label.name)
    return made


def label_codes(column: pa.ChunkedArray, name: str) -> tuple[Array, list[str]]:
    """(index of each row's label or -1, label names in order): whole numbers by value, everything else by code
    point."""
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py()
        column = (
            column.cast(pa.int64(), safe=False).cast(pa.large_string()) if whole else column.cast(pa.large_string())
        )
    encoded = column.cast(pa.large_string()).dictionary_encode().unify_dictionaries().combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    raw = encoded.dictionary.to_pylist()
    clean = [unicodedata.normalize("NFC", " ".join((value or "").split())) for value in raw]
    long = next((value for value in clean if len(value) > bounds.LABEL_CHARS_MAX), None)
    if long is not None:
        raise DataRefused(
            f"the label column {name!r} holds texts of more than {bounds.LABEL_CHARS_MAX} characters "
            f"({long[:40]!r}…), labels are "
            "short names: name the column of classes with --label"
        )
    names = in_order(set(clean) - {""})
    position = {value: index for index, value in enumerate(names)}
    lookup = np.array([position.get(value, -1) for value in clean] + [-1], dtype=np.int64)
    return lookup[np.asarray(encoded.indices.fill_null(len(clean)).to_numpy(zero_copy_only=False))], names


def in_order(names: Iterable[str]) -> list[str]:
    """Label names in their order: by value when all are whole numbers, else by code point."""
    found = list(names)
    if all(_WHOLE.match(name) for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def _keep_used_labels(made: Examples, labels: list[str], name: str) -> None:
    """Forget labels whose rows were all dropped."""
    counts = np.bincount(made.y, minlength=len(labels))
    kept = np.flatnonzero(counts)
    if len(kept) < 2:
        one = f" {labels[int(kept[0])]!r}" if len(kept) else ""
        raise DataRefused(
            f"the label column {name!r} has {'one label only' + one if len(kept) else 'no usable rows'}: at least "
            "two labels with "
            "examples are needed; name another column with --label"
        )
    renumber = np.full(len(labels), -1, dtype=np.int64)
    renumber[kept] = np.arange(len(kept))
    made.y, made.labels = renumber[made.y], [labels[int(index)] for index in kept]


# -- texts ------------------------------------------------------------------------------------------------------------


def _from_texts(table: Table, choice: Choice, codes: Array, salt: str, progress: Progress) -> Examples:
    columns = [table.columns[column.index].cast(pa.large_string()) for column in choice.texts]
    chunks: list[pa.Array] = []
    kept: list[Array] = []
    ids, points = bytearray(), bytearray()
    cut = empty = 0
    for start in range(0, table.rows, bounds.BLOCK_ROWS):
        progress(start / table.rows)
        parts = [column.slice(start, bounds.BLOCK_ROWS).to_pylist() for column in columns]
        texts: list[str] = []
        rows: list[int] = []
        for offset, row in enumerate(zip(*parts, strict=True)):
            if codes[start + offset] < 0:
                continue
            joined = "\n".join(part.strip() for part in row if part and not part.isspace())
            key = normalise(joined[: bounds.TEXT_CHARS_MAX])
            if not key:
                empty += 1
                continue
            cut += len(joined) > bounds.TEXT_CHARS_MAX
            texts.append(joined[: bounds.TEXT_CHARS_MAX])
            rows.append(start + offset)
            _hash(key.encode(), salt, ids, points)
        chunks.append(pa.array(texts, type=pa.large_string()))
        kept.append(np.array(rows, dtype=np.int64))
    made = _examples("text", np.concatenate(kept), table, codes, ids, points)
    made.texts = pa.chunked_array(chunks, type=pa.large_string())
    if empty:
        made.dropped["row without text"] = empty
    if cut:
        made.warnings.append(f"{cut} texts are longer than {bounds.TEXT_CHARS_MAX:,} characters and were cut")
    return made


def _hash(key: bytes, salt: str, ids: bytearray, points: bytearray) -> None:
    ids += hashlib.sha256(key).digest()[:8]
    points += hashlib.sha256(salt.encode() + key).digest()[:8]


def _examples(modality: str, rows: Array, table: Table, codes: Array, ids: bytearray, points: bytearray) -> Examples:
    identity = np.frombuffer(bytes(ids), dtype="<u8")
    # The upper 53 bits: a float64 holds them exactly, so that the result is below 1.
    places = (np.frombuffer(bytes(points), dtype="<u8") >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    if table.clusters is not None:
        clusters = table.clusters[rows].astype(np.int32)
    else:
        clusters = np.unique(identity, return_inverse=True)[1].astype(np.int32)
    return Examples(modality, [], codes[rows], identity, places, clusters, rows)


# -- columns ----------------------------------------------------------------------------------------------------------


def _from_columns(table: Table, choice: Choice, codes: Array, salt: str, progress: Progress) -> Examples:
    cells = table.rows * (len(choice.numbers) + len(choice.categories))
    if cells > bounds.CELLS_MAX:
        raise DataRefused(
            f"the table has {cells:,} values, and {bounds.CELLS_MAX:,} are supported: keep fewer columns or rows"
        )
    numbers = np.empty((table.rows, len(choice.numbers)), dtype=np.float32)
    overflow = 0
    for position, column in enumerate(choice.numbers):
        overflow += _take_numbers(column, numbers[:, position])
    categories = [_category(table, column) for column in choice.categories]
    present = np.isfinite(numbers).any(axis=1)
    for category in categories:
        present |= category.codes >= 0
    rows = np.flatnonzero(present & (codes >= 0))
    numbers = numbers[rows]
    categories = [Category(category.name, category.codes[rows], category.values) for category in categories]
    ids, points = bytearray(), bytearray()
    for start in range(0, len(rows), bounds.BLOCK_ROWS):
        progress(start / len(rows))
        for key in _keys(numbers, categories, start, min(len(rows), start + bounds.BLOCK_ROWS)):
            _hash(key, salt, ids, points)
    made = _examples("tabular", rows, table, codes, ids, points)
    made.numbers, made.categories = numbers, categories
    made.number_names = [column.name for column in choice.numbers]
    if empty := int((~present & (codes >= 0)).sum()):
        made.dropped["row without any value"] = empty
    if overflow:
        made.warnings.append(f"{overflow} numbers are too large for single precision and count as missing")
    return made


def _take_numbers(column: Column, into: Array) -> int:
    """Move a column's numbers into a float32 column (and free them); how many were too large for it."""
    assert column.numbers is not None
    values, column.numbers = column.numbers.values, None
    with np.errstate(over="ignore"):
        into[:] = values.astype(np.float32) + np.float32(0.0)  # + 0 turns -0 into 0: they are the same number
    too_large = np.isinf(into)
    into[too_large] = np.nan
    return int(too_large.sum())


def _category(table: Table, column: Column) -> Category:
    encoded = (
        pc.utf8_trim_whitespace(table.columns[column.index]).dictionary_encode().unify_dictionaries().combine_chunks()
    )
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    raw: list[str] = [value or "" for value in encoded.dictionary.to_pylist()]
    values = sorted(set(raw) - {""})
    position = {value: index for index, value in enumerate(values)}
    lookup = np.array([position.get(value, -1) for value in raw] + [-1], dtype=np.int32)
    codes = lookup[np.asarray(encoded.indices.fill_null(len(raw)).to_numpy(zero_copy_only=False))]
    return Category(column.name, codes, values)


def _keys(numbers: Array, categories: list[Category], start: int, end: int) -> Iterable[bytes]:
    """The canonical text of each row's values."""
    pattern = "%.9g," * numbers.shape[1]
    normal = [[normalise(value) for value in category.values] + [""] for category in categories]
    codes = [category.codes[start:end].tolist() for category in categories]
    for offset, row in enumerate(numbers[start:end].tolist()):
        words = "\x1f".join(names[code[offset]] for names, code in zip(normal, codes, strict=True))
        yield (pattern % tuple(row) + words).encode()
