"""An index as a model that `evaluate` can ask: one query, one item; its loss is what it did not find.

    truth artifact: vectors.safetensors     queries     float32[m, d]    of length one where the metric is the cosine
                                            ids         int64[m]         of each query
                                            neighbours  int64[m, k]      ids of its true nearest, in order; -1: none
                    truth.json              format, own (queries are rows of the corpus), k

Outcomes: label = the number of the true nearest among all ids that occur, predicted = that of the first found (-1 when
no truth names it), loss = 1 - recall@k. So `accuracy` is recall@1, and a check by another worker compares like any
other.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors import outcomes
from executors.modelfolder import CONFIG, CONFIG_BYTES_MAX, FORMAT
from executors.models.loading import Tick, nothing
from mesh.errors import DataRefused, TaskRefused
from mesh.messages.judgement import Outcomes
from retrieval import recall, stored
from retrieval.vectors import NO_ROW, Floats, Ids, VectorIndex

TRUTH_FORMAT = 1
TRUTH, TENSORS = "truth.json", "vectors.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """m queries and what comparing all vectors finds for them."""

    queries: Floats
    ids: Ids
    neighbours: Ids
    own: bool
    """True when the queries are rows of the corpus: each is asked for one more, and is not its own neighbour."""

    @property
    def k(self) -> int:
        """Neighbours per query."""
        return int(self.neighbours.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Truth:
        """Some of the queries."""
        return Truth(self.queries[rows], self.ids[rows], self.neighbours[rows], self.own)

    def found_by(self, index: VectorIndex, tick: Callable[[], None] = nothing) -> Ids:
        """[m, k] ids that an index finds."""
        found = recall.in_blocks(index, self.queries, self.k + self.own, tick)
        return recall.without_self(found, self.ids) if self.own else found


def outcomes_of(
    index: VectorIndex, truth: Truth, tick: Tick = nothing, *, model: str = "", split: str = ""
) -> Outcomes:
    """What the index finds of the truth, query by query."""
    found = truth.found_by(index, tick)
    names = np.unique(truth.neighbours)
    predicted = np.minimum(np.searchsorted(names, found[:, 0]), len(names) - 1)
    predicted = np.where(names[predicted] == found[:, 0], predicted, NO_ROW)
    return Outcomes(
        model=model,
        split=split,
        items=len(truth),
        ids=truth.ids.astype("<u8").tobytes(),
        clusters=np.arange(len(truth), dtype="<u4").tobytes(),
        label=np.searchsorted(names, truth.neighbours[:, 0]).astype("<i4").tobytes(),
        predicted=predicted.astype("<i4").tobytes(),
        loss=(1.0 - recall.recalls(truth.neighbours, found)).astype("<f4").tobytes(),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class IndexRespondent:
    """A Respondent (executors/models/loading.py)."""

    index: VectorIndex

    def read(self, folder: Path) -> Truth:
        """The truth in `folder`."""
        return read_truth(folder)

    def check(self, items: Truth) -> None:
        """TaskRefused when the queries have another length."""
        if items.queries.shape[1] != self.index.spec.dimension:
            raise TaskRefused(
                f"the index holds vectors of {self.index.spec.dimension} numbers, the queries have "
                f"{items.queries.shape[1]}: they are for another index"
            )

    def to(self, device: torch.device) -> None:
        """FAISS computes on the CPU."""

    def outcomes(self, items: Truth, device: torch.device, tick: Tick, *, model: str = "", split: str = "") -> Outcomes:
        """One outcome per query."""
        return outcomes_of(self.index, items, tick, model=model, split=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """`accuracy`: recall@1; `loss`: 1 - recall@k."""
        loss = outcomes.mean_loss(found)
        return {"accuracy": outcomes.accuracy(found), "loss": loss, "recall": 1.0 - loss}

    def answer(self, items: Truth, number: int, device: torch.device) -> None:
        """One query."""
        row = number % len(items)
        self.index.search(items.queries[row : row + 1], items.k)


def respondent(folder: Path, base: Path | None) -> IndexRespondent:
    """The index in `folder`, ready to be asked."""
    return IndexRespondent(stored.load(folder, threads=torch.get_num_threads()))


# -- files ------------------------------------------------------------------------------------------------------------


def write_config(folder: Path, kind: str, settings: Any, facts: Mapping[str, Any]) -> None:
    """config.json, by which `evaluate` knows what it has before it."""
    config = {"ramify": {"format": FORMAT, "kind": kind, "settings": settings, "trained": dict(facts)}}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_truth(folder: Path, truth: Truth) -> Path:
    """A truth artifact."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=False)
    arrays = {"queries": truth.queries, "ids": truth.ids, "neighbours": truth.neighbours}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / TENSORS)
    facts = {"format": TRUTH_FORMAT, "own": bool(truth.own), "k": truth.k}
    (folder / TRUTH).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return folder


def read_truth(folder: Path) -> Truth:
    """The inverse of `write_truth`. DataRefused when the folder holds none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if (folder / TRUTH).stat().st_size > CONFIG_BYTES_MAX:
            raise ValueError(f"{TRUTH} is too large")
        facts = json.loads((folder / TRUTH).read_bytes())
        if facts["format"] != TRUTH_FORMAT or type(facts["own"]) is not bool:
            raise ValueError(f"format {TRUTH_FORMAT} was expected, got {str(facts['format'])[:20]}")
        arrays = load_file(folder / TENSORS)
        truth = Truth(arrays["queries"], arrays["ids"], arrays["neighbours"], facts["own"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DataRefused(
            f"expected queries and their true neighbours ({TRUTH}, {TENSORS}) in {folder.name!r}: "
            f"{type(error).__name__} {str(error)[:120]}"
        ) from None
    _check(truth)
    return truth


def _check(truth: Truth) -> None:
    shapes: dict[str, tuple[NDArray[Any], Any, int]] = {
        "queries": (truth.queries, np.float32, 2), "ids": (truth.ids, np.int64, 1),
        "neighbours": (truth.neighbours, np.int64, 2),
    }  # fmt: skip
    for name, (array, dtype, axes) in shapes.items():
        if array.dtype != dtype or array.ndim != axes or len(array) != len(truth.ids) or 0 in array.shape:
            raise DataRefused(f"the truth's {name} are {array.dtype}{list(array.shape)}: make it again")
    if not np.isfinite(truth.queries).all():
        raise DataRefused("the truth's queries hold numbers that are not finite: make it again")
