"""A sentence encoder beside another: how far its vectors and its neighbours are from those of the one it was made from.

    items: texts, and of each the vector that the original gave (unit length)
    item i: loss = 1 - cosine of the two vectors of text i
            label = the original's nearest other text, predicted = the nearest other text among its own vectors

So the original itself has a loss of 0 and is always right, and `accuracy` says how often the nearest neighbour stays.

    reference artifact: documents.jsonl      {"text": …} a line
                        vectors.safetensors  vectors float32[n, d], ids int64[n] (row numbers)
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from executors import outcomes, vectorfiles
from executors.corpus import Corpus, read_corpus
from executors.models.encoder import Encoder
from executors.models.loading import Tick, nothing
from executors.vectorfiles import Vectors
from mesh.errors import DataRefused, NonFinite, TaskRefused
from mesh.messages.judgement import Outcomes
from retrieval.vectors import nearest

DOCUMENTS = "documents.jsonl"

ITEMS_MAX = 20_000
"""Texts that are compared: their neighbours are found by comparing all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """Texts and the original's vectors; None before it was asked."""

    corpus: Corpus
    reference: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.corpus)


@dataclasses.dataclass(frozen=True, slots=True)
class LikenessRespondent:
    """A Respondent (executors/models/loading.py)."""

    encoder: Encoder

    def read(self, folder: Path) -> Compared:
        """A reference artifact, or texts alone."""
        if not (folder / DOCUMENTS).is_file() or not (folder / vectorfiles.NAME).is_file():
            corpus = read_corpus(folder)
            return Compared(corpus.take(np.arange(min(len(corpus), ITEMS_MAX))))
        corpus, vectors = read_corpus(folder / DOCUMENTS), vectorfiles.read(folder)
        if len(corpus) != len(vectors):
            raise DataRefused(f"{len(corpus)} texts and {len(vectors)} vectors of reference: make them again")
        return Compared(corpus, vectors.rows)

    def check(self, items: Compared) -> None:
        """Two texts are the least that have neighbours."""
        if len(items) < 2:
            raise TaskRefused("an encoder is compared on two texts at least, give more")
        if items.reference is not None and items.reference.shape[1] != self.encoder.width:
            raise TaskRefused(
                f"the vectors of reference have {items.reference.shape[1]} numbers, the encoder's "
                f"{self.encoder.width}: they are another encoder's"
            )

    def to(self, device: torch.device) -> None:
        """Move to where it computes."""
        self.encoder.network.to(device)

    def outcomes(
        self, items: Compared, device: torch.device, tick: Tick, *, model: str = "", split: str = ""
    ) -> Outcomes:
        """One outcome per text. Without a reference it is its own."""
        vectors = self.encoder.encode(items.corpus.texts, tick)
        if not np.isfinite(vectors).all():
            raise NonFinite("the encoder's vectors hold numbers that are not finite")
        reference = vectors if items.reference is None else items.reference
        loss = np.maximum(0.0, 1.0 - np.einsum("nd,nd->n", vectors, reference, dtype=np.float64))
        return Outcomes(
            model=model,
            split=split,
            items=len(items),
            ids=items.corpus.ids.astype("<u8").tobytes(),
            clusters=items.corpus.clusters.astype("<u4").tobytes(),
            label=_neighbours(reference).astype("<i4").tobytes(),
            predicted=_neighbours(vectors).astype("<i4").tobytes(),
            loss=loss.astype("<f4").tobytes(),
        )

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """How often the nearest neighbour is the original's, and the mean distance."""
        return {"accuracy": outcomes.accuracy(found), "loss": outcomes.mean_loss(found)}

    def answer(self, items: Compared, number: int, device: torch.device) -> None:
        """One text."""
        self.encoder.encode([items.corpus.texts[number % len(items)]])

    def referred(self, items: Compared, tick: Tick = nothing) -> Compared:
        """The same texts with this encoder's vectors as the reference."""
        return Compared(items.corpus, self.encoder.encode(items.corpus.texts, tick))


def write(folder: Path, items: Compared) -> Path:
    """A reference artifact."""
    assert items.reference is not None
    rows = np.arange(len(items), dtype=np.int64)
    vectorfiles.write(folder, Vectors(np.ascontiguousarray(items.reference, np.float32), rows))
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in items.corpus.texts]
    (folder / DOCUMENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _neighbours(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of each vector the row of the nearest other one."""
    two = nearest(np.ascontiguousarray(vectors, np.float32), vectors, 2, "inner-product", torch.get_num_threads())
    own = np.arange(len(vectors))
    return np.where(two[:, 0] == own, two[:, 1], two[:, 0])
