"""What a tower reads: texts as sparse n-grams, as a frozen encoder's vectors, or as word pieces for a tuned encoder.

    Reader   how texts become inputs; part of the model       HashedReader | FrozenReader | TunedReader
    Inputs   many texts, ready to be cut into batches         Sparse | float32 [n, d] | word pieces

A text that occurs often is read once. Everything is in memory: 4 bytes a number for vectors, some 16 an n-gram, 8 a
word piece.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from executors.models.dual import Input
from executors.models.encoder import Encoder
from executors.models.network import rows_of
from executors.ngrams import Sparse, Vocabulary

Rows = NDArray[np.int64]
Tick = Callable[[], None]

PIECES_AT_ONCE = 1_024
"""Texts taken apart between two signs of life."""


class Inputs(Protocol):
    """Many texts as a tower takes them."""

    def __len__(self) -> int:
        """How many."""

    def take(self, rows: Rows) -> Input:
        """Some of them, as tensors."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Places that each takes in a batch: what to sort by."""


@dataclasses.dataclass(frozen=True, slots=True)
class SparseInputs:
    """n-grams; row i of the texts is row `where[i]` of the matrix."""

    matrix: Sparse
    where: Rows

    def __len__(self) -> int:
        return len(self.where)

    def take(self, rows: Rows) -> Input:
        """CSR rows."""
        return rows_of(self.matrix.rows(self.where[rows]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All alike."""
        return np.ones(len(self.where), np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class DenseInputs:
    """Vectors; row i of the texts is row `where[i]` of the matrix."""

    matrix: NDArray[np.float32]
    where: Rows

    def __len__(self) -> int:
        return len(self.where)

    def take(self, rows: Rows) -> Input:
        """Dense rows."""
        return rows_of(self.matrix[self.where[rows]])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All alike."""
        return np.ones(len(self.where), np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenInputs:
    """Word pieces, one text behind the other."""

    encoder: Encoder
    pieces: NDArray[np.int32]
    offsets: Rows
    where: Rows

    def __len__(self) -> int:
        return len(self.where)

    def take(self, rows: Rows) -> Input:
        """A padded rectangle."""
        places = self.where[rows]
        return self.encoder.padded(
            [self.pieces[self.offsets[place] : self.offsets[place + 1]].tolist() for place in places.tolist()]
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Word pieces of each text."""
        return np.asarray(np.diff(self.offsets)[self.where])


class Reader(Protocol):
    """How texts become inputs."""

    @property
    def width(self) -> int:
        """Numbers per text that a tower receives."""

    @property
    def sparse(self) -> bool:
        """Are nearly all of them zero?"""

    def inputs(self, texts: Sequence[str], tick: Tick) -> Inputs:
        """Texts, read. `tick` is called often and may raise."""

    def config(self) -> dict[str, Any]:
        """For the model's config."""


@dataclasses.dataclass(frozen=True, slots=True)
class HashedReader:
    """TF-IDF of hashed n-grams."""

    vocabulary: Vocabulary

    @property
    def width(self) -> int:
        """The vocabulary's size."""
        return len(self.vocabulary)

    @property
    def sparse(self) -> bool:
        """Yes."""
        return True

    def inputs(self, texts: Sequence[str], tick: Tick) -> SparseInputs:
        """n-grams of each text."""
        different, where = _once(texts)
        return SparseInputs(self.vocabulary.transform(different, tick), where)

    def config(self) -> dict[str, Any]:
        """For the model's config."""
        return {"reads": "n-grams", "ngrams": dataclasses.asdict(self.vocabulary.ngrams)}


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenReader:
    """Vectors of an encoder that does not change. With `known` a text is encoded once for all calls."""

    encoder: Encoder
    known: dict[str, NDArray[np.float32]] | None = None

    @property
    def width(self) -> int:
        """The encoder's width."""
        return self.encoder.width

    @property
    def sparse(self) -> bool:
        """No."""
        return False

    def inputs(self, texts: Sequence[str], tick: Tick) -> DenseInputs:
        """A vector per text."""
        different, where = _once(texts)
        if self.known is None:
            return DenseInputs(self.encoder.encode(different, tick), where)
        new = [text for text in different if text not in self.known]
        self.known.update(zip(new, self.encoder.encode(new, tick), strict=True))
        rows = [self.known[text] for text in different]
        return DenseInputs(np.stack(rows) if rows else np.zeros((0, self.width), np.float32), where)

    def config(self) -> dict[str, Any]:
        """For the model's config."""
        return {"reads": "frozen encoder", **_told(self.encoder)}


@dataclasses.dataclass(frozen=True, slots=True)
class TunedReader:
    """Word pieces for an encoder that is part of the network."""

    encoder: Encoder

    @property
    def width(self) -> int:
        """The encoder's width."""
        return self.encoder.width

    @property
    def sparse(self) -> bool:
        """No."""
        return False

    def inputs(self, texts: Sequence[str], tick: Tick) -> TokenInputs:
        """Word pieces of each text."""
        different, where = _once(texts)
        parts, lengths = [np.zeros(0, np.int32)], [0]
        for start in range(0, len(different), PIECES_AT_ONCE):
            found = self.encoder.tokens(different[start : start + PIECES_AT_ONCE])
            lengths += [len(row) for row in found]
            parts.append(np.array([piece for row in found for piece in row], np.int32))
            tick()
        return TokenInputs(self.encoder, np.concatenate(parts), np.cumsum(lengths), where)

    def config(self) -> dict[str, Any]:
        """For the model's config."""
        return {"reads": "tuned encoder", **_told(self.encoder)}


def _told(encoder: Encoder) -> dict[str, Any]:
    return {"encoder": encoder.digest, "tokens_max": encoder.tokens_max, "precision": encoder.precision}


def _once(texts: Sequence[str]) -> tuple[list[str], Rows]:
    """(the different texts in the order of their first appearance, of every text its place among them)."""
    places: dict[str, int] = {}
    where = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    return list(places), where
