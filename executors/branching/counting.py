"""Texts to numbers: which words there are, how often, and what each weighs.

    texts ── words ──> Counts  (rows of word numbers, as a sparse matrix)
    Counts ── chosen ──> the vocabulary: words in at least `documents_min` texts, no stop words, the most frequent
    Counts, vocabulary ──> TF-IDF: (1 + ln tf) * idf, idf = ln((1 + n) / (1 + df)) + 1, rows of length 1

The same formulas as a router's (executors/routing.py), which does the same for one text without scipy. Fitted on
training texts only; others are counted with a vocabulary that is there.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from executors.branching.words import STOP_WORDS, words
from executors.routing import Floats, Ints, Tick, nothing
from mesh.errors import DataRefused

SEEN_MAX = 2_000_000
"""Different words that are kept while counting (some 200 MB); words that appear later for the first time are rare and
are passed over."""

TERMS_LEAST = 10
"""Words that a vocabulary has at least; with fewer there is nothing to tell texts apart by."""

TICK_EVERY = 500
"""Texts between two signs of life."""


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """How often which word stands in which text."""

    terms: tuple[str, ...]
    """The word of each column."""
    matrix: Any
    """scipy CSR of int32 [n, terms]."""

    @property
    def frequencies(self) -> Ints:
        """int64 [terms], texts that a word stands in."""
        return np.bincount(self.matrix.indices, minlength=len(self.terms)).astype(np.int64)

    def rows(self, wanted: Ints) -> Counts:
        """These rows, in this order."""
        return Counts(self.terms, self.matrix[wanted])


@dataclasses.dataclass(frozen=True, slots=True)
class Weighing:
    """A vocabulary and what its words weigh."""

    terms: tuple[str, ...]
    idf: Floats

    def tf_idf(self, counts: Counts) -> Any:
        """scipy CSR of float32 [n, terms of this vocabulary], rows of length 1 or 0. `counts` may have other words."""
        numbers = {term: number for number, term in enumerate(self.terms)}
        to = np.array([numbers.get(term, -1) for term in counts.terms], np.int64)
        entries = counts.matrix.tocoo()
        kept = np.flatnonzero(to[entries.col] >= 0)
        rows, columns = entries.row[kept], to[entries.col[kept]]
        values = (1.0 + np.log(entries.data[kept])) * self.idf[columns]
        lengths = np.sqrt(np.bincount(rows, values**2, minlength=counts.matrix.shape[0]))
        shape = (counts.matrix.shape[0], len(self.terms))
        made = csr_matrix(((values / lengths[rows]).astype(np.float32), (rows, columns)), shape=shape)
        made.sort_indices()
        return made


def count(texts: Sequence[str], terms: Sequence[str] = (), tick: Tick = nothing) -> Counts:
    """Counts of all words of `texts`, or of `terms` only. `tick` is called now and then and may raise to stop."""
    numbers: dict[str, int] = {term: number for number, term in enumerate(terms)}
    seen_max = len(numbers) or SEEN_MAX
    columns: list[NDArray[np.int32]] = []
    values: list[NDArray[np.int32]] = []
    lengths = np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        found: dict[int, int] = {}
        for word, times in Counter(words(text)).items():
            number = numbers.get(word)
            if number is None:
                if len(numbers) >= seen_max:
                    continue
                number = numbers[word] = len(numbers)
            found[number] = times
        columns.append(np.fromiter(found.keys(), np.int32, len(found)))
        values.append(np.fromiter(found.values(), np.int32, len(found)))
        lengths[row] = len(found)
        if row % TICK_EVERY == 0:
            tick()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    joined = [np.concatenate(parts) if parts else np.zeros(0, np.int32) for parts in (values, columns)]
    matrix = csr_matrix((joined[0], joined[1], offsets), shape=(len(texts), len(numbers)))
    matrix.sort_indices()
    return Counts(tuple(numbers), matrix)


def weighing(counts: Counts, *, terms_max: int, documents_min: int = 2) -> Weighing:
    """The vocabulary of these (training) texts. DataRefused when they share next to no words."""
    frequency = counts.frequencies
    plain = np.array([term not in STOP_WORDS for term in counts.terms], np.bool_)
    kept = np.flatnonzero((frequency >= documents_min) & plain) if len(plain) else np.zeros(0, np.int64)
    if len(kept) < TERMS_LEAST:
        raise DataRefused(
            f"the texts share {len(kept)} words that tell anything, and at least {TERMS_LEAST} are needed to find "
            "branches: give more texts"
        )
    ranked = sorted(kept.tolist(), key=lambda number: (-int(frequency[number]), counts.terms[number]))[:terms_max]
    chosen = np.array(ranked, np.int64)
    idf = np.log((1.0 + counts.matrix.shape[0]) / (1.0 + frequency[chosen])) + 1.0
    return Weighing(tuple(counts.terms[number] for number in ranked), idf.astype(np.float32))
