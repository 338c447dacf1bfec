"""Text as sparse numbers: word and character n-grams, hashed to 64 bits, weighted by TF-IDF. numpy only.

Aim: the features of scikit-learn's union of TfidfVectorizer(word, 1-2) and TfidfVectorizer(char_wb, 2-5), without
Python loops over characters and without a vocabulary of strings: a model stores one int64 per feature and needs no
pickle.

How: texts are lower-cased, their white space is collapsed, and all of a chunk stand one behind the other as code
points. The hash of every n-gram is a polynomial in those code points modulo 2^64, computed for the whole chunk at once;
a word's hash is the same polynomial over its run of letters, summed with `reduceat`. 64 bits make a collision among a
million features about as likely as one in 40 million, so a hash stands for its n-gram.

    " how do i pay "   words: how do pay, how do, do pay      (one-letter words are no words, as in scikit-learn)
                       characters, n = 3: " ho" "how" "ow " " do" "do " " i " …   (never across a space)

Not covered: languages without spaces get character n-grams only (their "words" are whole runs); texts are cut after
`characters_max`.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CHUNK_CHARACTERS = 1_000_000
"""Text handled at once: some 100 MB of intermediate arrays; more gains no speed, less pays numpy's overhead per
call."""

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Base of the polynomial hash: odd, with well-mixed bits (the golden ratio of 2^64)."""

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Ngrams:
    """Which n-grams count. Two texts are comparable only under equal settings: they are part of every model."""

    word_min: int = 1
    word_max: int = 2
    """0: no words."""
    char_min: int = 2
    char_max: int = 5
    """0: no characters."""
    characters_max: int = 10_000
    """Of one text; the rest is not read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sparse:
    """Rows of a sparse matrix (CSR): row i owns indices[offsets[i]:offsets[i + 1]], ascending, each once."""

    indices: Ints
    values: Floats
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def owners(self) -> Ints:
        """The row of every value."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def rows(self, wanted: Ints) -> Sparse:
        """The rows `wanted`, in that order."""
        lengths = self.offsets[wanted + 1] - self.offsets[wanted]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        take = np.arange(offsets[-1]) + np.repeat(self.offsets[wanted] - offsets[:-1], lengths)
        return Sparse(self.indices[take], self.values[take], offsets)


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """The features that a model knows and what each weighs. They are numbered by the texts they stand in, the most
    frequent first, so that the first `count` numbers are a smaller vocabulary (`head`). Words and characters are two
    blocks that are normalised apart, so that the many characters do not drown the few words."""

    ngrams: Ngrams
    hashes: Hashes
    """Ascending, to be searched."""
    numbers: Ints
    """Of each hash, the number of its feature."""
    idf: Floats
    """By number, as the next."""
    is_word: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hashes)

    def transform(self, texts: Sequence[str], tick: Callable[[], None] = lambda: None) -> Sparse:
        """TF-IDF of `texts`: (1 + ln tf) * idf, each block of a row scaled to length 1. A text without a known n-gram
        becomes an empty row. `tick` is called once per chunk: the caller's sign of life."""
        parts = []
        for chunk, rows in _chunks(texts, self.ngrams):
            parts.append(self._chunk(chunk, rows))
            tick()
        indices = np.concatenate([part.indices for part in parts]) if parts else np.zeros(0, np.int64)
        values = np.concatenate([part.values for part in parts]) if parts else np.zeros(0, np.float32)
        lengths = np.concatenate([np.diff(part.offsets) for part in parts]) if parts else np.zeros(0, np.int64)
        return Sparse(indices, values, np.concatenate([[0], np.cumsum(lengths)]))

    def _chunk(self, chunk: _Chunk, rows: int) -> Sparse:
        if not len(self.hashes):
            return Sparse(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(rows + 1, np.int64))
        keys = []
        for hashes, documents, _ in chunk.grams(self.ngrams):
            at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            known = self.hashes[at] == hashes
            keys.append(documents[known] * len(self.hashes) + self.numbers[at[known]])
        key, count = np.unique(np.concatenate(keys), return_counts=True)
        row, index = np.divmod(key, len(self.hashes))
        value = self._scaled((1.0 + np.log(count)) * self.idf[index], index, row, rows)
        return Sparse(index, value, np.searchsorted(row, np.arange(rows + 1)))

    def frequent(self, documents: int, documents_min: int) -> int:
        """How many of the features stand in at least `documents_min` of the `documents` texts that it was made of."""
        rarest = np.log((1.0 + documents) / (1.0 + documents_min)) + 1.0
        return int(np.searchsorted(self.idf, rarest + 1e-4 / (1.0 + documents_min), side="right"))

    def head(self, encoded: Sparse, count: int) -> Sparse:
        """What `transform` would have given with the `count` most frequent features only."""
        if count >= len(self.hashes):
            return encoded
        kept = encoded.indices < count
        index, row = encoded.indices[kept], encoded.owners[kept]
        value = self._scaled(encoded.values[kept].astype(np.float64), index, row, len(encoded))
        return Sparse(index, value, np.searchsorted(row, np.arange(len(encoded) + 1)))

    def _scaled(self, value: NDArray[np.float64], index: Ints, row: Ints, rows: int) -> Floats:
        """Each block of a row divided by its length."""
        block = 2 * row + self.is_word[index]
        length = np.sqrt(np.bincount(block, value * value, minlength=2 * rows))
        return (value / length[block]).astype(np.float32)


def fit(
    texts: Sequence[str],
    ngrams: Ngrams,
    *,
    documents_min: int = 1,
    features_max: int = 200_000,
    tick: Callable[[], None] = lambda: None,
) -> Vocabulary:
    """The vocabulary of `texts`: n-grams that stand in at least `documents_min` of them; of these the `features_max`
    most frequent ones."""
    hashes, frequency, is_word = _frequencies(texts, ngrams, tick)
    kept = np.flatnonzero(frequency >= documents_min)
    by_frequency = kept[np.lexsort((hashes[kept], -frequency[kept]))][:features_max]
    order = np.argsort(hashes[by_frequency])
    idf = np.log((1.0 + len(texts)) / (1.0 + frequency[by_frequency])) + 1.0
    return Vocabulary(ngrams, hashes[by_frequency][order], order, idf.astype(np.float32), is_word[by_frequency])


def _frequencies(
    texts: Sequence[str], ngrams: Ngrams, tick: Callable[[], None]
) -> tuple[Hashes, Ints, NDArray[np.bool_]]:
    """Every n-gram's hash (ascending), the number of texts it stands in, and whether it is a word."""
    hashes, counts, words = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for chunk, _ in _chunks(texts, ngrams):
        tick()
        for found, documents, is_word in chunk.grams(ngrams):
            order = np.argsort(found, kind="stable")
            found, documents = found[order], documents[order]
            first = np.ones(len(found), np.bool_)
            first[1:] = (found[1:] != found[:-1]) | (documents[1:] != documents[:-1])
            unique, count = np.unique(found[first], return_counts=True)
            hashes.append(unique)
            counts.append(count)
            words.append(np.full(len(unique), is_word))
    merged, where = np.unique(np.concatenate(hashes), return_inverse=True)
    frequency = np.bincount(where, np.concatenate(counts), minlength=len(merged)).astype(np.int64)
    is_word_of = np.zeros(len(merged), np.bool_)
    is_word_of[where] = np.concatenate(words)
    return merged, frequency, is_word_of


def normalise(text: str, characters_max: int) -> str:
    """Lower case in one Unicode form, single spaces, one space at either end; one space for a text of nothing."""
    words = unicodedata.normalize("NFKC", text[:characters_max]).lower().split()
    return f" {' '.join(words)} " if words else " "


def _chunks(texts: Sequence[str], ngrams: Ngrams) -> Iterator[tuple[_Chunk, int]]:
    """`texts` in pieces of about CHUNK_CHARACTERS, each with its number of texts."""
    waiting: list[str] = []
    size = 0
    for text in texts:
        waiting.append(normalise(text, ngrams.characters_max))
        size += len(waiting[-1])
        if size >= CHUNK_CHARACTERS:
            yield _Chunk(waiting), len(waiting)
            waiting, size = [], 0
    if waiting:
        yield _Chunk(waiting), len(waiting)


class _Chunk:
    """Some texts as one row of code points."""

    def __init__(self, texts: list[str]) -> None:
        joined = "".join(texts).encode("utf-32-le", "surrogatepass")
        self.codes = np.frombuffer(joined, np.uint32).astype(np.uint64)
        self.documents = np.repeat(np.arange(len(texts)), [len(text) for text in texts])

    def grams(self, ngrams: Ngrams) -> Iterator[tuple[Hashes, Ints, bool]]:
        """Hash and document of every n-gram, group by group; whether the group is one of words."""
        if ngrams.char_max:
            for n in range(ngrams.char_min, ngrams.char_max + 1):
                yield *self._characters(n), False
        if ngrams.word_max:
            words, documents = self._words()
            for n in range(ngrams.word_min, ngrams.word_max + 1):
                yield *self._sequences(words, documents, n), True

    def _characters(self, n: int) -> tuple[Hashes, Ints]:
        starts = len(self.codes) - n + 1
        if starts < 1:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        spaces = np.concatenate([[0], np.cumsum(self.codes == ord(" "))])
        inner = spaces[n - 1 : n - 1 + starts] - spaces[1 : 1 + starts]
        valid = (inner == 0) & (self.documents[:starts] == self.documents[n - 1 :])
        value = np.zeros(starts, np.uint64)
        for place in range(n):
            value = value * MULTIPLIER + self.codes[place : place + starts]
        return _mix(value[valid], n), self.documents[:starts][valid]

    def _words(self) -> tuple[Hashes, Ints]:
        """Hash and document of every run of two or more letters, digits or underscores."""
        alphabet, where = np.unique(self.codes, return_inverse=True)
        letter = np.array([chr(code).isalnum() or code == ord("_") for code in alphabet.tolist()], np.bool_)[where]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], letter, [False]]).astype(np.int8)))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        starts, lengths = starts[lengths > 1], lengths[lengths > 1]
        if not len(starts):
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        place = np.arange(int(lengths.sum())) - np.repeat(begins, lengths)
        powers = np.cumprod(np.full(int(lengths.max()), MULTIPLIER))
        terms = (self.codes[np.repeat(starts, lengths) + place] + np.uint64(1)) * powers[place]
        return _mix(np.add.reduceat(terms, begins), 0), self.documents[starts]

    def _sequences(self, words: Hashes, documents: Ints, n: int) -> tuple[Hashes, Ints]:
        starts = len(words) - n + 1
        if starts < 1:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        value = words[:starts].copy()
        for place in range(1, n):
            value = value * MULTIPLIER + words[place : place + starts]
        valid = documents[:starts] == documents[n - 1 :]
        return _mix(value[valid], 100 + n), documents[:starts][valid]


def _mix(value: Hashes, salt: int) -> Hashes:
    """Scatter the bits (the finaliser of SplitMix64), so that groups of different `salt` never share a hash by
    design."""
    value = value + np.uint64((salt * 0xD6E8FEB86659FD93 + 1) & 0xFFFFFFFFFFFFFFFF)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
