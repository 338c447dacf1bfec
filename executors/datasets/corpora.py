"""A corpus of plain text as a profile delivers it: four folders of documents, and what the planner wants to know.

    documents.jsonl     one line per document: {"text": "…", "source": "…"}

The bytes are the same for the same input every time. `source` is what a document comes from: executors/corpus.py makes
clusters of it, and executors/datasets/documents.py gives whoever reads documents with it the same splits again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from executors.datasets import bounds
from executors.datasets.documents import FILE_NAME, Documents, keywords
from executors.datasets.examples import Array
from executors.datasets.splits import HOLDOUT_FEW, SPLITS

TASK, MODALITY = "language-model", "corpus"

ASKED_BYTES_MAX = 400_000
"""Of validation, holdout and audit, each: two hundred documents tell 0.02 nats per byte apart, and a core reads them
with a model of the usual size in a minute. Every line is read for its claims, for their check and on the holdout."""

CLUSTERS_FEW = 30
"""Sources in a holdout below which an interval over them says little."""


def write(folder: Path, documents: Documents, rows: Array) -> None:
    """The documents of these rows, in a folder that is made here."""
    folder.mkdir(parents=True)
    with (folder / FILE_NAME).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows.tolist():
            line = {"text": documents.texts[row], "source": documents.sources[row]}
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def facts(documents: Documents, rows: dict[str, Array]) -> dict[str, Any]:
    """What was found, by the names of planner/profile.py."""
    examples = sum(map(len, rows.values()))
    dropped = {
        **documents.dropped,
        "text that came before": documents.repeated,
        "more than is asked about": len(documents) - examples,
    }
    dropped = {why: count for why, count in dropped.items() if count}
    return {
        "task": TASK,
        "modality": MODALITY,
        "rows": examples + sum(dropped.values()),
        "examples": examples,
        "labels": 0,
        "label_names": [],
        "label_digest": hashlib.sha256(b"").hexdigest(),
        "text_columns": [documents.column[:100]] if documents.column else [],
        "label_column": "",
        "splits": {name: len(of) for name, of in rows.items()},
        "sources": len(set(documents.sources)),
        "duplicates": 0,
        "conflicting": 0,
        "dropped": dropped,
        "imbalance": 1.0,
        "warnings": [text[:400] for text in _warnings(documents, rows)[: bounds.WARNINGS_MAX]],
        "keywords": [word[:40] for word in keywords(documents)],
        "bytes": documents.bytes_read,
        "features": 0,
        "features_digest": "",
    }


def rows_of(documents: Documents) -> dict[str, Array]:
    """The rows of each split, by its name. Of what is asked about, as much as can be read within minutes."""
    found = {name: np.flatnonzero(documents.split == index) for index, name in enumerate(SPLITS)}
    return {name: rows if name == "train" else _spread(documents, rows) for name, rows in found.items()}


def _spread(documents: Documents, rows: Array) -> Array:
    """At most ASKED_BYTES_MAX of these documents: one of each source, then a second one of each, and so on; which of
    them is left to their hashes. In the order in which they were read."""
    taken: Counter[str] = Counter()
    ranked = []
    for row in sorted(rows.tolist(), key=lambda row: int(documents.ids[row])):
        taken[documents.sources[row]] += 1
        ranked.append((taken[documents.sources[row]], int(documents.ids[row]), row))
    kept: list[int] = []
    size = 0
    for _, _, row in sorted(ranked):
        size += len(documents.texts[row].encode("utf-8", "replace"))
        if size > ASKED_BYTES_MAX and kept:
            break
        kept.append(row)
    return np.array(sorted(kept), np.int64)


def _warnings(documents: Documents, rows: dict[str, Array]) -> list[str]:
    found = list(documents.warnings)
    holdout = rows["holdout"]
    sources = len({documents.sources[row] for row in holdout.tolist()})
    if len(holdout) < HOLDOUT_FEW or sources < CLUSTERS_FEW:
        found.append(
            f"the holdout has {len(holdout)} documents of {sources} sources only: differences between models will be "
            "hard to prove"
        )
    return found
