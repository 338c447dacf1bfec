"""The four splits: who goes where, and their files.

An example goes by the SHA-256 of salt and normalised input, read as a number in [0, 1):

    0              0.70        0.85       0.95   1
    |    train      | validation | holdout  | audit |

so that one input is always on one side, whatever its label, its place in the file or the rest of the data. Two repairs,
for small or lopsided sets only: a label that train lacks gets its nearest input moved into train, and an empty split
gets the train inputs nearest to it (never the last one of a label). Both depend on the data alone. What can not be
repaired is refused. The files of a split have the same bytes for the same input every time.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import SafetensorError
from safetensors.numpy import save_file

from executors.datasets import bounds
from executors.datasets.examples import Array, Category, Examples
from mesh.errors import DataRefused, DiskFull

SPLITS = ("train", "validation", "holdout", "audit")
EDGES = (0.70, 0.85, 0.95)
TRAIN, VALIDATION, HOLDOUT, AUDIT = range(4)

HOLDOUT_FEW = 50
"""Holdout examples below which a warning says that differences will be hard to prove."""


_FULL = (errno.ENOSPC, errno.EDQUOT)

SCHEMA_BYTES_MAX = 4 * 1024 * 1024
"""A schema: some 10,000 columns. Readers of splits accept no more."""


def assign(examples: Examples) -> Array:
    """The split (0 to 3) of every example; DataRefused when the set is too small."""
    inputs, first, group = np.unique(examples.ids, return_index=True, return_inverse=True)
    if len(inputs) < bounds.INPUTS_MIN:
        raise DataRefused(
            f"the data has {len(inputs)} different examples, and at least {bounds.INPUTS_MIN} are needed for train, "
            "validation, "
            "holdout and audit: add some"
        )
    points = examples.points[first]
    split = np.searchsorted(np.array(EDGES), points, side="right")
    pairs = np.unique(np.stack([group, examples.y]), axis=1)
    _fill_train(split, points, pairs, len(examples.labels))
    _fill_empty(split, points, pairs, len(examples.labels))
    return np.asarray(split[group])


def _fill_train(split: Array, points: Array, pairs: Array, labels: int) -> None:
    """Every label has an input in train: where it lacks one, the one nearest to train moves there."""
    group, label = pairs
    present = np.bincount(label[split[group] == TRAIN], minlength=labels)
    if present.all():
        return
    order = np.lexsort((points[group], label))
    ordered_label, ordered_group = label[order], group[order]
    nearest = ordered_group[np.searchsorted(ordered_label, np.flatnonzero(present == 0))]
    split[nearest] = TRAIN


def _fill_empty(split: Array, points: Array, pairs: Array, labels: int) -> None:
    """Every split has an input: an empty one gets train's nearest whose labels all keep another one in train."""
    group, label = pairs
    for empty in (VALIDATION, HOLDOUT, AUDIT):
        if (split == empty).any():
            continue
        in_train = split[group] == TRAIN
        counts = np.bincount(label[in_train], minlength=labels)
        needed = np.zeros(len(split), dtype=bool)
        needed[group[in_train & (counts[label] <= 1)]] = True
        free = np.flatnonzero((split == TRAIN) & ~needed)
        if len(free) == 0:
            raise DataRefused(
                f"the data has too few examples per label to fill the {SPLITS[empty]} split: at least two different "
                "examples of "
                "most labels are needed; add some, or group rare labels"
            )
        split[free[int(np.argmax(points[free]))]] = empty


class Encoding:
    """How the columns of a table become numbers; the values of a category are those of train."""

    def __init__(self, examples: Examples, train: Array) -> None:
        self.numbers = examples.number_names
        self.values = [_frequent(category, train) for category in examples.categories]
        self.categories = [category.name for category in examples.categories]

    @property
    def features(self) -> list[str]:
        """Names of the input features, in order."""
        names = list(self.numbers)
        for name, values in zip(self.categories, self.values, strict=True):
            names += [f"{name}={value}" for value in values]
        return names

    def describe(self) -> list[dict[str, Any]]:
        """The encoding as the schema tells it."""
        numbers = [{"column": name, "kind": "number"} for name in self.numbers]
        return numbers + [
            {"column": name, "kind": "category", "values": values}
            for name, values in zip(self.categories, self.values, strict=True)
        ]

    def encode(self, examples: Examples, rows: Array) -> Array:
        """float32 [rows, features]: numbers as they are, one column per category's value, NaN where missing."""
        assert examples.numbers is not None
        if len(examples) * len(self.features) > bounds.CELLS_MAX:
            raise DataRefused(
                f"the table becomes {len(examples):,} rows of {len(self.features):,} numbers, and "
                f"{bounds.CELLS_MAX:,} numbers "
                "are supported: keep fewer columns or rows"
            )
        x = np.zeros((len(rows), len(self.features)), dtype=np.float32)
        x[:, : len(self.numbers)] = examples.numbers[rows]
        start = len(self.numbers)
        for category, values in zip(examples.categories, self.values, strict=True):
            position = {value: index for index, value in enumerate(values)}
            places = np.array([position.get(value, -2) for value in category.values] + [-1], dtype=np.int64)
            place = places[category.codes[rows]]
            known = np.flatnonzero(place >= 0)
            x[known, start + place[known]] = 1.0
            x[place == -1, start : start + len(values)] = np.nan
            start += len(values)
        return x


def _frequent(category: Category, train: Array) -> list[str]:
    """The most frequent values of a category in train, in the order of their code points."""
    codes = category.codes[train]
    counts = np.bincount(codes[codes >= 0], minlength=len(category.values))
    order = np.lexsort((np.arange(len(counts)), -counts))[: bounds.CATEGORIES_MAX]
    return [category.values[index] for index in sorted(int(index) for index in order if counts[index] > 0)]


def write(
    folder: Path,
    examples: Examples,
    rows: Array,
    *,
    split: str,
    salt: str,
    encoding: Encoding | None,
    text_columns: list[str],
) -> None:
    """Write one split into `folder` (made here): examples.safetensors and schema.json."""
    tensors: dict[str, Array] = {
        "y": np.ascontiguousarray(examples.y[rows], dtype=np.int64),
        "id": np.ascontiguousarray(examples.ids[rows]).view(np.int64),
        "cluster": np.ascontiguousarray(examples.clusters[rows], dtype=np.int32),
    }
    schema: dict[str, Any] = {
        "task": "classify",
        "modality": examples.modality,
        "labels": examples.labels,
        "salt": salt,
        "split": split,
    }
    if encoding is None:
        assert examples.texts is not None
        tensors["text"], tensors["text_offsets"] = _bytes_of(examples.texts, rows)
        schema["text_columns"] = text_columns
    else:
        tensors["x"] = encoding.encode(examples, rows)
        schema["features"], schema["encoding"] = encoding.features, encoding.describe()
    data = (json.dumps(schema, ensure_ascii=False, sort_keys=True) + "\n").encode()
    if len(data) > SCHEMA_BYTES_MAX:
        raise DataRefused(
            f"the names of the data's {len(examples.labels):,} labels and {len(schema.get('features', [])):,} input "
            "features "
            f"take {len(data):,} bytes, and {SCHEMA_BYTES_MAX:,} are supported: shorten the names, or keep fewer "
            "columns"
        )
    _store(folder, tensors, data)


def _store(folder: Path, tensors: dict[str, Array], schema: bytes) -> None:
    """Write both files; DiskFull when there is no room, and then nothing half-written stays."""
    try:
        folder.mkdir(parents=True)
        save_file(tensors, folder / "examples.safetensors")
        (folder / "schema.json").write_bytes(schema)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in _FULL and "os error 28" not in str(error):
            raise
        size = sum(array.nbytes for array in tensors.values())
        shutil.rmtree(folder, ignore_errors=True)
        raise DiskFull(f"a split of {size:,} bytes does not fit on the disk at {folder}: free some space") from None


def _bytes_of(texts: pa.ChunkedArray, rows: Array) -> tuple[Array, Array]:
    """(UTF-8 bytes of the texts of `rows` (ascending), one after another; offsets of each and of the end).

    Chunk by chunk into one array of the right size: taking all rows at once would copy the whole column first.
    """
    lengths = pc.binary_length(texts).to_numpy()[rows]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
    data = np.empty(int(offsets[-1]), dtype=np.uint8)
    start = done = 0
    for chunk in texts.chunks:
        wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(chunk))] - start
        start += len(chunk)
        if len(wanted):
            taken = chunk.take(pa.array(wanted)).cast(pa.large_binary())
            size = int(pc.sum(pc.binary_length(taken)).as_py())
            if size:
                data[done : done + size] = np.frombuffer(taken.buffers()[2], dtype=np.uint8)[:size]
            done += size
    return data, offsets
