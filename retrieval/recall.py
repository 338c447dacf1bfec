"""How much of the truth an index finds: recall@k against exact search, query by query, and what an answer costs.

recall@k of one query = |its k nearest by the index, among its k nearest by comparing all| / k. The truth is computed in
float32, like the index. Of rows that tie at the k-th place one is the truth: equal vectors cost recall by chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.vectors import NO_ROW, Floats, Ids, VectorIndex, nearest

BLOCK = 256
"""Queries of one call: often enough to hear a stop."""


def _nothing() -> None:
    """A tick that nobody waits for."""


def exact(
    vectors: Floats, ids: Ids, queries: Floats, k: int, metric: str, *, threads: int = 1,
    tick: Callable[[], None] = _nothing,
) -> Ids:  # fmt: skip
    """The truth: per query [m, d] the ids [m, k] of its k nearest among vectors [n, d], nearest first; NO_ROW where
    there are fewer rows. Vectors and queries as `vectors.prepared` makes them."""
    within = min(k, len(vectors))
    found = np.full((len(queries), k), NO_ROW, np.int64)
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        found[block, :within] = ids[nearest(vectors, queries[block], within, metric, threads)]
        tick()
    return found


def in_blocks(index: VectorIndex, queries: NDArray[Any], k: int, tick: Callable[[], None] = _nothing) -> Ids:
    """[m, k] ids."""
    found = [np.zeros((0, k), np.int64)]
    for start in range(0, len(queries), BLOCK):
        found.append(index.search(queries[start : start + BLOCK], k)[0])
        tick()
    return np.concatenate(found)


def without_self(ids: Ids, own: Ids) -> Ids:
    """Of k + 1 neighbours the k that are not the query itself, which is a row of the corpus: [m, k]."""
    kept = ids != own[:, None]
    kept[kept.all(axis=1), -1] = False  # it did not find itself: its last neighbour goes
    others: Ids = ids[kept].reshape(len(ids), ids.shape[1] - 1)
    return others


def recalls(truth: Ids, found: Ids) -> NDArray[np.float32]:
    """Per query the share of its true neighbours [m, k] that were found [m, k]."""
    real = truth != NO_ROW
    hits = (truth[:, :, None] == found[:, None, :]).any(axis=2) & real
    shares: NDArray[np.float32] = (hits.sum(axis=1) / np.maximum(1, real.sum(axis=1))).astype(np.float32)
    return shares


def single_latencies(index: VectorIndex, queries: NDArray[Any], k: int, most: int, seconds: float) -> list[float]:
    """Milliseconds of one query at a time, after a warm-up of ten; at most `most` of them, for about `seconds`."""
    took: list[float] = []
    deadline = time.monotonic() + seconds
    for turn in range(10 + most):
        query = queries[turn % len(queries)][None]
        started = time.perf_counter()
        index.search(query, k)
        if turn >= 10:
            took.append((time.perf_counter() - started) * 1000.0)
        if took and time.monotonic() >= deadline:
            break
    return took
