"""Byte n-gram models that share their work: what a branch's texts alone, or weighed above all others, foretell of new
ones. The cheap stand-in for language models (executors/branching/proxies.py).

How: contexts of 0 to ORDER - 1 bytes inside a document, interpolated after Witten and Bell (1991):

    p(c | h) = (n(h c) + t(h) p(c | h without its first byte)) / (n(h) + t(h))      t(h): different bytes seen after h

The n-grams of the training bytes are numbered once and those of the texts to be foretold are looked up once; a weighing
of the training documents is then one pass of additions. So ten models cost little more than one.

Promises: pure; probabilities of the 257 symbols (bytes and a document's end) sum to 1. Not covered: words, anything
longer than ORDER bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from executors.routing import Ints, Tick, nothing

ORDER = 5
"""Bytes of an n-gram: with some megabytes longer ones are mostly new."""

_BITS = 9
"""Of a symbol in a key: 256 bytes, the document's end, and what stands before its beginning."""
_END, _BEFORE = 256, 257
SYMBOLS = 257

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class _Level:
    """n-grams of one length: the training texts' different ones, and where all others find them."""

    contexts: NDArray[np.int32]
    """[u], the context of each different n-gram."""
    context_count: int
    trained: NDArray[np.int32]
    """[training symbols], the n-gram at each."""
    foretold: NDArray[np.int32]
    """[symbols to foretell], as well; -1: never seen in training."""
    foretold_contexts: NDArray[np.int32]
    """[symbols to foretell], the context before each; -1: never seen."""


class ByteGrams:
    """Training documents and documents to foretell, numbered once."""

    def __init__(self, train: Sequence[bytes], foretold: Sequence[bytes], tick: Tick = nothing) -> None:
        trained, self._train_documents = _symbols(train)
        others, self.documents = _symbols(foretold)
        self.starts = np.concatenate([[0], np.cumsum([len(one) + 1 for one in foretold])]).astype(np.int64)
        """Where each document to foretell begins among the numbers of `nats`."""
        self._levels = []
        for length in range(1, ORDER + 1):
            self._levels.append(_level(_keys(trained, length), _keys(others, length)))
            tick()

    def nats(self, weights: Floats, only: NDArray[np.bool_] | None = None) -> Floats:
        """float64, nats of each symbol of the documents to foretell (their end included), by the training documents
        weighed with `weights` [n] (0: left out). only [documents to foretell]: the others' symbols are left out."""
        wanted = np.ones(len(self.documents), np.bool_) if only is None else only[self.documents]
        chance = np.full(int(wanted.sum()), 1.0 / SYMBOLS)
        weight = weights[self._train_documents]
        for level in self._levels:
            counts = np.bincount(level.trained, weight, minlength=len(level.contexts))
            totals = np.bincount(level.contexts, counts, minlength=level.context_count)
            types = np.bincount(level.contexts, counts > 0.0, minlength=level.context_count)
            gram, context = level.foretold[wanted], level.foretold_contexts[wanted]
            seen = np.where(gram >= 0, counts[gram], 0.0)
            total = np.where(context >= 0, totals[context], 0.0)
            kinds = np.where(context >= 0, types[context], 0.0)
            mixed = (seen + kinds * chance) / np.maximum(total + kinds, 1e-300)
            chance = np.where(total > 0.0, mixed, chance)
        return -np.log(chance)


def _symbols(documents: Sequence[bytes]) -> tuple[Ints, NDArray[np.int32]]:
    """(all symbols with each document's end, behind ORDER - 1 symbols that stand before it; their documents, of the
    real symbols only)."""
    parts = []
    before = np.full(ORDER - 1, _BEFORE, np.int64)
    for one in documents:
        parts += [before, np.frombuffer(one, np.uint8).astype(np.int64), np.array([_END], np.int64)]
    owners = np.repeat(np.arange(len(documents), dtype=np.int32), [len(one) + 1 for one in documents])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64), owners


def _keys(symbols: Ints, length: int) -> Ints:
    """The n-gram that ends at each real symbol, as one number: its context is the number without the last 9 bits."""
    key = np.zeros(len(symbols), np.int64)
    for back in range(length - 1, -1, -1):
        key <<= _BITS
        key[back:] |= symbols[: len(symbols) - back]
    return key[symbols != _BEFORE]


def _level(trained: Ints, others: Ints) -> _Level:
    grams, where = np.unique(trained, return_inverse=True)
    contexts, context_of = np.unique(grams >> _BITS, return_inverse=True)
    return _Level(
        context_of.astype(np.int32),
        len(contexts),
        where.astype(np.int32),
        _found(grams, others),
        _found(contexts, others >> _BITS),
    )


def _found(known: Ints, wanted: Ints) -> NDArray[np.int32]:
    """The position of each of `wanted` in the ascending `known`; -1 where it is not there."""
    if not len(known):
        return np.full(len(wanted), -1, np.int32)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1).astype(np.int32)
