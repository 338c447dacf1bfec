"""Split artifacts as arrays, the order in which training sees them, and batches built ahead.

A split is a folder (docs/executors.md draws it): `schema.json` says what the columns mean, `examples.safetensors` holds
them. It was written by another process, so everything is checked here once: names, shapes, ranges.

The order of an epoch is a pure function of (seed, epoch, number of rows): a permutation drawn from a Philox counter.
There is no iterator to save: whoever knows the step knows the next batch, so a resumed run neither skips nor repeats a
row, and batches that were built ahead but not used are simply built again.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mesh.errors import DataRefused

Ints = NDArray[np.int64]
Batch = TypeVar("Batch")

BATCHES_AHEAD = 4
"""Batches that wait for the trainer: enough to ride out one slow batch, few enough to cost no memory worth naming."""

SCHEMA_BYTES_MAX = 4 * 1024 * 1024
"""A schema of some 20,000 labels or columns."""


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """What a split's columns mean."""

    task: str
    modality: str
    labels: tuple[str, ...]
    features: tuple[str, ...] = ()
    salt: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """One part of a dataset: n examples, either texts or a table of numbers."""

    schema: Schema
    labels: Ints
    """[n], index into schema.labels."""
    ids: NDArray[np.uint64]
    """[n], first eight bytes of the SHA-256 of the normalised input."""
    clusters: NDArray[np.int32]
    """[n], examples of one cluster are not independent."""
    texts: list[str] = dataclasses.field(default_factory=list)
    table: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[n, d], raw values; NaN is missing."""

    def __len__(self) -> int:
        return len(self.labels)


def read_split(folder: Path) -> Split:
    """The split in `folder`. DataRefused with a sentence when it is no split or contradicts itself."""
    schema = _schema(folder / "schema.json")
    arrays = _arrays(folder / "examples.safetensors")
    labels = _column(arrays, "y", np.int64)
    rows = len(labels)
    ids = _column(arrays, "id", np.int64, rows).view(np.uint64)
    clusters = _column(arrays, "cluster", np.int32, rows)
    if rows == 0:
        raise DataRefused(
            f"the split {schema.split or folder.name!r} has no examples: give more data or other fractions"
        )
    if labels.min() < 0 or labels.max() >= len(schema.labels):
        raise DataRefused(
            f"the split {schema.split or folder.name!r} names label {int(labels.max())}, "
            f"its schema has {len(schema.labels)}"
        )
    if schema.modality == "text":
        return Split(schema, labels, ids, clusters, texts=_texts(arrays, rows))
    table = arrays.get("x")
    if table is None or table.shape != (rows, len(schema.features)):
        found = "none" if table is None else str(table.shape)
        raise DataRefused(
            f"expected a table of {rows} rows and {len(schema.features)} columns in the split, found {found}"
        )
    return Split(schema, labels, ids, clusters, table=np.ascontiguousarray(table, np.float32))


def _schema(path: Path) -> Schema:
    try:
        if path.stat().st_size > SCHEMA_BYTES_MAX:
            raise DataRefused(f"a split's schema has at most {SCHEMA_BYTES_MAX} bytes, {path.name} has more")
        schema = msgspec.convert(json.loads(path.read_bytes()), Schema)
    except FileNotFoundError:
        raise DataRefused(f"a split is a folder with {path.name}, and there is none: `profile` makes splits") from None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise DataRefused(f"the split's {path.name} can not be read as one: {str(error)[:200]}") from None
    if schema.task != "classify" or schema.modality not in ("text", "tabular"):
        raise DataRefused(
            f"expected a split to classify text or tabular data, got {schema.task!r} of {schema.modality!r}"
        )
    if len(set(schema.labels)) != len(schema.labels) or len(schema.labels) < 2:
        raise DataRefused(f"a classifier needs at least two different labels, the split names {len(schema.labels)}")
    return schema


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataRefused(f"{path} holds no examples: {str(error)[:200]}") from None


def _column(arrays: dict[str, NDArray[Any]], name: str, dtype: type[Any], rows: int | None = None) -> NDArray[Any]:
    column = arrays.get(name)
    if column is None or column.ndim != 1 or column.dtype != dtype or (rows is not None and len(column) != rows):
        found = "none" if column is None else f"{column.dtype}{list(column.shape)}"
        raise DataRefused(
            f"expected a column {name!r} of {rows or 'n'} {np.dtype(dtype).name} values in the split, found {found}"
        )
    return column


def _texts(arrays: dict[str, NDArray[Any]], rows: int) -> list[str]:
    data = _column(arrays, "text", np.uint8)
    offsets = _column(arrays, "text_offsets", np.int64, rows + 1)
    if offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise DataRefused("the split's text offsets do not cover its text: it is damaged, make it again")
    whole = data.tobytes()
    edges = offsets.tolist()
    try:
        return [whole[start:end].decode("utf-8") for start, end in itertools.pairwise(edges)]
    except UnicodeDecodeError as error:
        raise DataRefused(f"the split's text is no UTF-8 at byte {error.start}: it is damaged, make it again") from None


def digest_of(folder: Path) -> str:
    """The artifact's digest where the folder, or as in a worker's cache the one above its files, is named by it; else
    ''."""
    name = folder.parent.name if folder.name == "files" else folder.name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else ""


def single(split: Split, row: int) -> Split:
    """A split of one example."""
    return some(split, np.array([row], np.int64))


def some(split: Split, rows: Ints) -> Split:
    """A split of these examples, in this order."""
    return Split(
        split.schema,
        split.labels[rows],
        split.ids[rows],
        split.clusters[rows],
        texts=[split.texts[row] for row in rows.tolist()] if split.texts else [],
        table=split.table[rows] if len(split.table) else split.table,
    )


def order(seed: int, epoch: int, rows: int) -> Ints:
    """The permutation of `rows` rows in `epoch`: the same for the same three numbers, whoever asks and whenever."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(rows)


def batches(seed: int, rows: int, batch: int, first_step: int) -> Iterator[Ints]:
    """The rows of step `first_step`, of the next one, and so on for ever. An epoch's last batch may be shorter."""
    per_epoch = -(-rows // batch)
    epoch, place = divmod(first_step, per_epoch)
    while True:
        permutation = order(seed, epoch, rows)
        for start in range(place * batch, rows, batch):
            yield permutation[start : start + batch]
        epoch, place = epoch + 1, 0


class Ahead(Generic[Batch]):
    """Runs `build` over `source` in a thread of its own, a few batches ahead of the reader. Close it, or use `with`.

    The thread builds until `depth` batches wait, and goes on when half of them are gone: two threads that woke each
    other at every batch would cost small steps more than their batches do.
    """

    def __init__(self, source: Iterator[Ints], build: Callable[[Ints], Batch], depth: int = BATCHES_AHEAD) -> None:
        self._source, self._build, self._depth = source, build, depth
        self._ready: collections.deque[Batch | BaseException] = collections.deque()
        self._moved = threading.Condition()
        self._full = self._closing = False
        self._thread = threading.Thread(target=self._fill, name="batches ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ahead[Batch]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next(self) -> Batch:
        """The next batch; an error of `build` is raised here."""
        with self._moved:
            while not self._ready:
                self._moved.wait()
            item = self._ready.popleft()
            if self._full and len(self._ready) <= self._depth // 2:
                self._full = False
                self._moved.notify()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop building and wait for the thread."""
        with self._moved:
            self._closing, self._full = True, False
            self._moved.notify()
        self._thread.join(timeout=10.0)

    def _fill(self) -> None:
        try:
            for rows in self._source:
                if not self._offer(self._build(rows)):
                    return
        except BaseException as error:
            self._offer(error)

    def _offer(self, item: Batch | BaseException) -> bool:
        """Put it where the reader finds it, and wait for room for the next one; False when it is over."""
        with self._moved:
            self._ready.append(item)
            if len(self._ready) == 1:
                self._moved.notify()
            self._full = len(self._ready) >= self._depth and not self._closing
            while self._full:
                self._moved.wait()
            return not self._closing
