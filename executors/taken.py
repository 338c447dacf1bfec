"""The rows that a training takes, as its kind reads them from its inputs: who trains says a digest of them, who checks
reads the same data and comes to the same (executors/structure.py).

    classify, lora of labels       the examples of the split `train`
    contrastive                    the training pairs that are left beside `held_out`
    language-model                 the documents of `train` that do not stand in the validation corpus
    lora of the next token         the documents of `train`

Only what a plan gives such a task is known here: a corpus that a training divides by itself is not read (None).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from executors.corpus import Corpus
    from executors.data import Split
    from executors.pairs import Pairs

CORPUS = "language-model"
"""The kind, and the task of `lora`, whose rows are windows over documents."""

PAIR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that the left text's id loses nothing: one id of both, and another one when they change sides."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """Ids in the order in which they were read."""

    ids: NDArray[np.uint64]
    whole: bool = False
    """They are of documents: which windows a step takes does not follow from them alone."""


def of_split(split: Split) -> Taken:
    """Of a split's examples."""
    return Taken(split.ids)


def of_pairs(pairs: Pairs) -> Taken:
    """Of pairs of texts."""
    return Taken(pairs.left_ids * PAIR + pairs.right_ids)


def of_documents(corpus: Corpus) -> Taken:
    """Of a corpus."""
    return Taken(corpus.ids, whole=True)


def read(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Taken | None:
    """What a task of this kind takes. inputs: `train` and `validation`, or `pairs` and perhaps `held_out`. None where
    nothing is known of the kind, or its data are not there."""
    if "pairs" in inputs:
        from executors import pairs

        aside = inputs.get("held_out")
        return of_pairs(pairs.divide(pairs.read(inputs["pairs"]), pairs.read(aside) if aside else None).train)
    if "train" not in inputs:
        return None
    if kind == CORPUS or settings.get("task") == CORPUS:
        from executors import corpus

        train = corpus.read_corpus(inputs["train"])
        if kind == CORPUS:
            train = corpus.without(train, corpus.read_corpus(inputs["validation"]))
        return of_documents(train)
    from executors.data import read_split

    return of_split(read_split(inputs["train"]))
