"""Pairs of texts that belong together: read, told apart, and divided so that no text stands on two sides.

    left                               right                            question and answer, title and section, …
    "resize an image"                  "scales pictures to any size"
    ""                                 "plays music"                    no left: a distractor, in the pool only

A file (JSON lines, TSV, CSV, Parquet; executors/datasets reads it) has the columns `left` and `right`, or exactly two.
Texts are known by the first eight bytes of the SHA-256 of their normalised form, as in splits. A pair that occurs twice
counts once. Pairs that share a text are one cluster: they are not independent, and they go to one side:

    0           0.8          0.9        1       by the SHA-256 of the salt and the cluster's smallest id
    |   train    | validation | held-out |

Not covered: that a left has several right partners is known from the data only; what it does not say counts as wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import DataRefused

TEXT_CHARS_MAX = 20_000
"""Of one text; longer ones are cut: no tower here reads more."""

PAIRS_MAX = 5_000_000
"""Pairs of a file; their ids and texts take some 2 GB."""

PAIRS_MIN = 20
"""Different pairs below which no part would hold anything."""

EDGES = (0.8, 0.9)
PARTS = ("train", "validation", "held_out")

SALT = "ramify pairs"
"""Part of the data format: with another one the same data falls apart differently."""

FILE = "pairs.jsonl"

Ids = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """Some pairs: row i of each belongs to row i of the others."""

    left: Sequence[str]
    right: Sequence[str]
    left_ids: Ids
    right_ids: Ids
    clusters: NDArray[np.int32]
    """Pairs of one cluster share texts."""
    distractors: Sequence[str] = ()
    """Rights without a left."""

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: Rows, distractors: Sequence[str] = ()) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            [self.left[row] for row in rows],
            [self.right[row] for row in rows],
            self.left_ids[rows],
            self.right_ids[rows],
            self.clusters[rows],
            distractors,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Divided:
    """What a file of pairs is divided into."""

    train: Pairs
    validation: Pairs
    held_out: Pairs


def _nothing(done: float) -> None:
    """Progress that nobody waits for."""


def read(path: Path, progress: Callable[[float], None] = _nothing) -> Pairs:
    """The pairs at `path`, a file or a folder that holds one. DataRefused in one sentence when there are none."""
    from executors.datasets import reading

    table = reading.read(str(path), path.name, progress)
    if table.rows > PAIRS_MAX:
        raise DataRefused(f"{path.name!r} has {table.rows} pairs, and {PAIRS_MAX} are the most: take a sample")
    left, right = _columns(path.name, table)
    kept, distractors, seen = [], [], set[bytes]()
    for row, (one, other) in enumerate(zip(_texts(left), _texts(right), strict=True)):
        if not other:
            raise DataRefused(
                f"row {table.row_number(row)} of {path.name!r} has no text on the right: every pair needs one",
                row=table.row_number(row),
            )
        if not one:
            distractors.append(other)
            continue
        both = _digest(one) + _digest(other)
        if both not in seen:
            seen.add(both)
            kept.append((one, other))
    if not kept:
        raise DataRefused(f"{path.name!r} holds no pair: expected texts in the columns left and right")
    return of(kept, distractors)


def of(pairs: Sequence[tuple[str, str]], distractors: Sequence[str] = ()) -> Pairs:
    """Pairs in memory."""
    left, right = [one for one, _ in pairs], [other for _, other in pairs]
    left_ids, right_ids = ids_of(left), ids_of(right)
    return Pairs(left, right, left_ids, right_ids, _clusters(left_ids, right_ids), distractors)


def ids_of(texts: Sequence[str]) -> Ids:
    """One id per text; equal for texts that differ in case, spaces and form only."""
    return np.frombuffer(b"".join(_digest(text) for text in texts), "<u8")


def divide(pairs: Pairs, held_out: Pairs | None = None) -> Divided:
    """Train, validation and held-out. held_out: pairs that somebody else put aside; whatever shares a text with them is
    left out of the rest. DataRefused when a part would be empty."""
    if held_out is None:
        places = _places(pairs)
        parts = np.searchsorted(np.array(EDGES), places, side="right")
        if len(pairs) < PAIRS_MIN or any(not (parts == number).any() for number in range(3)):
            raise DataRefused(
                f"{len(pairs)} pairs in {len(np.unique(pairs.clusters))} clusters that share no text do not fill "
                f"train, validation and held-out pairs: {PAIRS_MIN} at least, and more that share nothing, are needed"
            )
        train, validation, out = (np.flatnonzero(parts == number) for number in range(3))
        return Divided(pairs.take(train), pairs.take(validation), pairs.take(out, pairs.distractors))
    known = np.union1d(held_out.left_ids, held_out.right_ids)
    free = ~(np.isin(pairs.left_ids, known) | np.isin(pairs.right_ids, known))
    rest = pairs.take(np.flatnonzero(free))
    in_train = _places(rest) < EDGES[1]
    if len(rest) < PAIRS_MIN or in_train.all() or not in_train.any():
        raise DataRefused(
            f"of {len(pairs)} pairs {len(rest)} share no text with the held-out ones: too few to train and validate on"
        )
    train, validation = np.flatnonzero(in_train), np.flatnonzero(~in_train)
    return Divided(rest.take(train), rest.take(validation), held_out)


def write(pairs: Pairs, folder: Path) -> Path:
    """A folder with one file of pairs and distractors, which `read` reads."""
    folder.mkdir(parents=True)
    rows = [{"left": one, "right": other} for one, other in zip(pairs.left, pairs.right, strict=True)]
    rows += [{"left": "", "right": other} for other in pairs.distractors]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / FILE).write_text(lines, encoding="utf-8")
    return folder


# -- inside -----------------------------------------------------------------------------------------------------------


def _columns(shown: str, table: Any) -> tuple[Any, Any]:
    where = {name.strip().lower(): number for number, name in enumerate(table.names)}
    if "left" in where and "right" in where:
        return table.columns[where["left"]], table.columns[where["right"]]
    if len(table.names) == 2:
        return table.columns[0], table.columns[1]
    raise DataRefused(
        f"{shown!r} has the columns {', '.join(map(repr, table.names[:6]))}: expected `left` and `right`, or two"
    )


def _texts(column: Any) -> list[str]:
    return [" ".join(str(value).split())[:TEXT_CHARS_MAX] if value is not None else "" for value in column.to_pylist()]


def _digest(text: str) -> bytes:
    from executors.datasets.text import normalise

    return hashlib.sha256(normalise(text).encode("utf-8", "replace")).digest()[:8]


def _clusters(left: Ids, right: Ids) -> NDArray[np.int32]:
    """Which pairs hang together through shared texts, on whichever side. Numbered by first appearance."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    texts, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    one, other = place[: len(left)], place[len(left) :]
    graph = coo_matrix((np.ones(len(left), np.int8), (one, other)), shape=(len(texts), len(texts)))
    component = connected_components(graph, directed=False)[1][one]
    _, first, numbers = np.unique(component, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int32)
    order[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return np.asarray(order[numbers], np.int32)


def _places(pairs: Pairs) -> NDArray[np.float64]:
    """Of every pair, where its cluster falls in [0, 1)."""
    smallest: dict[int, int] = {}
    ids = np.minimum(pairs.left_ids, pairs.right_ids).tolist()
    clusters = pairs.clusters.tolist()
    for cluster, id_ in zip(clusters, ids, strict=True):
        smallest[cluster] = min(id_, smallest.get(cluster, id_))
    place = {cluster: _unit(f"{SALT} {id_:016x}") for cluster, id_ in smallest.items()}
    return np.array([place[cluster] for cluster in clusters])


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48
