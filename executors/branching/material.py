"""What is divided: a topic's examples with their texts, splits and clusters, and how those of a branch are written.

    Labelled   a table with a label, read and split as the kind `profile` does it (executors/datasets/)
    Corpus     documents without labels (executors/datasets/documents.py)

A branch's dataset is one Parquet file with the text columns and the label (documents: text and source) under their own
names. The split of an example is a function of its input and the salt (documents: of source and salt), so the branch's
own profile puts every example where it was in the whole: what the whole's training never saw, the branch's never sees.
Small branches are where that could fail, because a profile repairs a label without a training example and an empty
split: `settle` gives examples whose label no training example of their branch has to the nearest branch that knows it,
and `fault` refuses a division in which any example would change its side.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from executors.branching import proxies
from executors.datasets import columns, examples, parquet, reading, splits
from executors.datasets.columns import Choice
from executors.datasets.examples import Array, Examples
from executors.datasets.table import Progress, Table
from executors.routing import Ints, Tick
from mesh.errors import DataRefused

if TYPE_CHECKING:
    from executors.datasets.documents import Documents

CLUSTER_COLUMN = "ramify cluster"

LABELS_PER_BRANCH = 2
"""A branch with fewer labels has nothing to learn."""


class Material(Protocol):
    """n examples of a topic."""

    modality: str
    """'text' or 'corpus'."""
    texts: list[str]
    split: Ints
    """[n], 0 to 3: index into splits.SPLITS."""
    clusters: Ints
    """[n], examples of one cluster are not independent."""
    size_bytes: int
    """Of documents; 0 for labelled texts."""

    def columns(self) -> dict[str, Any]:
        """The facts `text_columns` and `label_column` of a branch's dataset."""
        ...

    def settle(self, branch: Ints, distances: Any) -> Ints:
        """The branch of each example, [n], so that no branch's profile repairs anything. distances [n, k]."""
        ...

    def fault(self, branch: Ints, k: int) -> str:
        """Why this division can not be used; '' when it can."""
        ...

    def proxy(self, lead_bytes: int, seed: int, tick: Tick) -> proxies.Proxy:
        """Cheap models of these texts."""
        ...

    def write(self, rows: Ints, path: Path) -> Path:
        """The dataset of these examples, as a Parquet file."""
        ...


def read_labelled(source: str, name: str, text: str, label: str, task: str, salt: str, reported: Progress) -> Labelled:
    """As the kind `profile` reads it. DataRefused in one sentence; tabular data are refused, too."""
    table = reading.read(source, name, reported)
    choice = columns.choose(table, text_wanted=text, label_wanted=label, task=task)
    columns.check_label(choice.label, table.rows)
    if not choice.texts:
        raise DataRefused(
            f"branches are found in texts, and {name or source!r} is a table of numbers and categories: it stays whole"
        )
    return Labelled(table, choice, examples.make(table, choice, salt, lambda share: None))


class Labelled:
    """Texts with labels."""

    modality = "text"
    size_bytes = 0

    def __init__(self, table: Table, choice: Choice, made: Examples) -> None:
        assert made.texts is not None
        self._table, self._choice, self._made = table, choice, made
        self.texts: list[str] = made.texts.to_pylist()
        self.split: Ints = splits.assign(made).astype(np.int64)
        self.clusters: Ints = made.clusters.astype(np.int64)

    def columns(self) -> dict[str, Any]:
        """Under the names that the table has for them."""
        return {
            "text_columns": [column.name for column in self._choice.texts],
            "label_column": self._choice.label.name,
        }

    def settle(self, branch: Ints, distances: Any) -> Ints:
        """An example whose label has no training example in its branch goes to the nearest branch that has one."""
        settled, known = branch.copy(), self._trained(branch, distances.shape[1])
        for row in np.flatnonzero(~known[branch, self._made.y]).tolist():
            able = np.flatnonzero(known[:, self._made.y[row]])
            settled[row] = able[int(np.argmin(distances[row, able]))]
        return settled

    def _trained(self, branch: Ints, k: int) -> Any:
        """bool [k, labels]: has the branch a training example of the label?"""
        known = np.zeros((k, len(self._made.labels)), np.bool_)
        train = self.split == splits.TRAIN
        known[branch[train], self._made.y[train]] = True
        return known

    def fault(self, branch: Ints, k: int) -> str:
        """Too few labels in a branch, or a profile that would split it otherwise than the whole."""
        for one in range(k):
            rows = np.flatnonzero(branch == one)
            found = len(np.unique(self._made.y[rows]))
            if found < LABELS_PER_BRANCH:
                return f"of {k} branches one has {len(rows):,} examples with {found} label, and 2 labels are needed"
            try:
                same = splits.assign(self._part(rows))
            except DataRefused as error:
                return f"of {k} branches one can not be split ({error})"
            if (same != self.split[rows]).any():
                return f"of {k} branches one with {len(rows):,} examples is too small to be split as the whole is"
        return ""

    def _part(self, rows: Ints) -> Examples:
        """What decides the splits of a part of the examples."""
        made = self._made
        labels, y = np.unique(made.y[rows], return_inverse=True)
        return dataclasses.replace(
            made, labels=[made.labels[label] for label in labels.tolist()], y=y, ids=made.ids[rows],
            points=made.points[rows], clusters=made.clusters[rows], rows=made.rows[rows], texts=None,
        )  # fmt: skip

    def proxy(self, lead_bytes: int, seed: int, tick: Tick) -> proxies.Proxy:
        """Linear classifiers."""
        rows = [np.flatnonzero(self.split == side) for side in (splits.TRAIN, splits.VALIDATION)]
        return proxies.Labelled(self.texts, self._made.y, rows[0], rows[1], self.clusters, seed, tick)

    def write(self, rows: Ints, path: Path) -> Path:
        """Text columns as they are in the table, the label as it was understood, and the clusters."""
        taken = pa.array(self._made.rows[rows])
        kept = {
            column.name: self._table.columns[column.index].take(taken).cast(pa.large_string())
            for column in self._choice.texts
        }
        names = pa.array([self._made.labels[label] for label in self._made.y[rows].tolist()], pa.large_string())
        return _written({**kept, self._choice.label.name: names}, self._made.clusters[rows], path)


class Corpus:
    """Documents of a language model."""

    modality = "corpus"

    def __init__(self, found: Documents) -> None:
        self._found = found
        self.texts = found.texts
        self.split: Ints = found.split.astype(np.int64)
        self.clusters: Ints = np.unique(np.array(found.sources, dtype=object), return_inverse=True)[1].astype(np.int64)
        self.size_bytes = sum(len(text.encode("utf-8", "replace")) for text in found.texts)

    def columns(self) -> dict[str, Any]:
        """Texts under the name that the corpus has for them."""
        return {"text_columns": [self._found.column or "text"], "label_column": ""}

    def settle(self, branch: Ints, distances: Any) -> Ints:
        """As it is: there are no labels."""
        return branch

    def fault(self, branch: Ints, k: int) -> str:
        """A branch of so few sources that its profile would take them apart, or without one in some split."""
        from executors.datasets.documents import SOURCES_LEAST

        for one in range(k):
            rows = np.flatnonzero(branch == one)
            sources = len(np.unique(self.clusters[rows]))
            if sources < SOURCES_LEAST:
                return f"of {k} branches one has {sources} sources, and {SOURCES_LEAST} are needed to split it"
            if len(np.unique(self.split[rows])) < len(splits.SPLITS):
                return f"of {k} branches one with {len(rows):,} documents has none in some split"
        return ""

    def proxy(self, lead_bytes: int, seed: int, tick: Tick) -> proxies.Proxy:
        """Byte n-grams."""
        rows = [np.flatnonzero(self.split == side) for side in (splits.TRAIN, splits.VALIDATION)]
        return proxies.Documents(self.texts, rows[0], rows[1], self.clusters, lead_bytes, tick)

    def write(self, rows: Ints, path: Path) -> Path:
        """Text and source of each document."""
        chosen = rows.tolist()
        texts = pa.array([self.texts[row] for row in chosen], pa.large_string())
        sources = pa.array([self._found.sources[row] for row in chosen], pa.large_string())
        return _written({self._found.column or "text": texts, "source": sources}, None, path)


def _written(kept: dict[str, Any], clusters: Array | None, path: Path) -> Path:
    table = pa.table(kept)
    if clusters is not None:
        table = table.append_column(CLUSTER_COLUMN, pa.array(np.ascontiguousarray(clusters, np.int32)))
        table = table.replace_schema_metadata({parquet.CLUSTERS: CLUSTER_COLUMN.encode()})
    pq.write_table(table, path, compression="zstd")
    return path
