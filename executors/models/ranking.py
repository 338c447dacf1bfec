"""How well a pool is ranked: recall@k, MRR, nDCG@10 and losses per item, for towers and for BM25 alike.

    rank of the true partner = 1 + how many of the pool score higher + half of those that score the same

Other partners that the data knows of the same left are no mistakes: they are left out of its ranking. Scores come in
blocks of rows, so that memory does not grow with the square of the data. A measure says nothing without the size of the
pool: both are told together.

BM25 (Robertson, Zaragoza 2009) is computed by the library bm25s with its usual parameters, English stop words out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from executors.models.probabilities import log_softmax
from executors.pairs import Pairs, ids_of

Floats = NDArray[np.float32]
Scores = Callable[[slice], Floats]
"""Rows of the score matrix, [rows, pool]."""

BLOCK_CELLS = 8_000_000
"""Scores in memory at once: 32 MB, and some copies of them."""

RECALLS = (1, 5, 10)


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """What may be the answer: every different right text, and which of them belong to each left."""

    texts: Sequence[str]
    truth: NDArray[np.int64]
    """[n], of each pair its right's place in the pool."""
    others: Sequence[NDArray[np.int64]]
    """Of each pair the places of its left's other partners."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True, slots=True)
class Ranked:
    """What a ranking was, per pair."""

    ranks: NDArray[np.float64]
    first: NDArray[np.int64]
    """Place of the best-scored text."""
    loss: Floats
    """-ln of the softmax of score / temperature at the true partner, nats."""


def pool_of(pairs: Pairs, texts_max: int = 1_000_000) -> Pool:
    """The rights and distractors of these pairs, each once, in the order of their ids. texts_max: distractors are left
    out (by the order of their ids) before the pool grows larger."""
    own = dict(zip(pairs.right_ids.tolist(), pairs.right, strict=True))
    further = dict(zip(ids_of(pairs.distractors).tolist(), pairs.distractors, strict=True)) if pairs.distractors else {}
    for id_ in sorted(further)[: max(0, texts_max - len(own))]:
        own.setdefault(id_, further[id_])
    ids = np.array(sorted(own), np.uint64)
    truth = np.searchsorted(ids, pairs.right_ids).astype(np.int64)
    partners: dict[int, set[int]] = {}
    for left, place in zip(pairs.left_ids.tolist(), truth.tolist(), strict=True):
        partners.setdefault(left, set()).add(place)
    others = [
        np.array(sorted(partners[left] - {place}), np.int64)
        for left, place in zip(pairs.left_ids.tolist(), truth.tolist(), strict=True)
    ]
    return Pool([own[id_] for id_ in ids.tolist()], truth, others)


def rank(scores: Scores, pool: Pool, temperature: float = 1.0, tick: Callable[[], None] = lambda: None) -> Ranked:
    """Rank the pool for every pair. `tick` is called once per block and may raise to stop."""
    n = len(pool.truth)
    ranks, first, loss = np.empty(n), np.empty(n, np.int64), np.empty(n, np.float32)
    for rows in blocks(n, len(pool)):
        block = np.array(scores(rows), np.float32)
        truth = pool.truth[rows]
        for number, others in enumerate(pool.others[rows]):
            block[number, others] = -np.inf
        own = block[np.arange(len(block)), truth]
        higher = (block > own[:, None]).sum(axis=1)
        same = (block == own[:, None]).sum(axis=1) - 1
        ranks[rows], first[rows] = 1.0 + higher + same / 2.0, block.argmax(axis=1)
        loss[rows] = -log_softmax(block / np.float32(temperature))[np.arange(len(block)), truth]
        tick()
    return Ranked(ranks, first, loss)


def blocks(rows: int, pool: int) -> Iterator[slice]:
    """Blocks of rows whose scores fit."""
    size = max(1, BLOCK_CELLS // max(1, pool))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


def measures(ranked: Ranked) -> dict[str, float]:
    """recall_at_k, mrr, ndcg_at_10."""
    ranks = ranked.ranks
    found = {f"recall_at_{k}": float((ranks <= k).mean()) for k in RECALLS}
    gain = np.where(ranks <= 10, 1.0 / np.log2(1.0 + ranks), 0.0)
    return {**found, "mrr": float((1.0 / ranks).mean()), "ndcg_at_10": float(gain.mean())}


def bm25(lefts: Sequence[str], pool: Pool, tick: Callable[[], None] = lambda: None) -> Ranked:
    """The same ranking by words alone."""
    import bm25s

    index = bm25s.BM25()
    texts = bm25s.tokenize(list(pool.texts), stopwords="en", return_ids=False, show_progress=False)
    index.index(texts, show_progress=False)
    queries = bm25s.tokenize(list(lefts), stopwords="en", return_ids=False, show_progress=False)

    def scores(rows: slice) -> Floats:
        return np.stack([_scores(index, query, len(pool)) for query in queries[rows]])

    return rank(scores, pool, tick=tick)


def _scores(index: object, query: Sequence[str], size: int) -> Floats:
    """Scores of one query; zero for all where no word of it is known."""
    known = [word for word in query if word in index.vocab_dict]  # type: ignore[attr-defined]
    if not known:
        return np.zeros(size, np.float32)
    return np.asarray(index.get_scores(known), np.float32)  # type: ignore[attr-defined]


# -- collapse ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """How the vectors of one evaluation use their space."""

    effective_rank: float
    """exp of the entropy of the shares of variance, the smaller of the two sides'; 1: all on one line."""
    uniformity: float
    """ln of the mean of exp(-2 distance^2), the worse side's; 0: all the same (Wang, Isola 2020)."""
    alignment: float
    """Mean squared distance of partners."""

    def collapsed(self, effective_rank_min: float) -> str:
        """Why these vectors tell nothing apart any more; '' when they do."""
        if self.effective_rank < effective_rank_min:
            return f"they use {self.effective_rank:.2f} dimensions, fewer than {effective_rank_min:g}"
        if self.uniformity > -0.5 and self.alignment < 0.1:
            return f"all are alike (uniformity {self.uniformity:.3f}, alignment {self.alignment:.3f})"
        return ""


SPREAD_ROWS = 1_024
"""Vectors of a side that are looked at."""


def spread(left: Floats, right: Floats) -> Spread:
    """left, right: [n, d] of length one, partners in the same row."""
    left, right = left[:SPREAD_ROWS], right[:SPREAD_ROWS]
    return Spread(
        effective_rank=min(_effective_rank(left), _effective_rank(right)),
        uniformity=max(_uniformity(left), _uniformity(right)),
        alignment=float(((left - right) ** 2).sum(axis=1).mean()),
    )


def _effective_rank(vectors: Floats) -> float:
    shares = np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2
    shares = shares[shares > 0] / shares.sum() if shares.sum() > 0 else np.ones(1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _uniformity(vectors: Floats) -> float:
    if len(vectors) < 2:
        return -4.0
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    near = np.exp(-4.0 * (1.0 - cosine))
    n = len(vectors)
    return float(np.log(max(1e-300, (near.sum() - np.trace(near)) / (n * (n - 1)))))
