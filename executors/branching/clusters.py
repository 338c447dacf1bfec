"""Centres of branches: k-means whose parts are of equal size while it is fitted, so that no branch starves.

How: k-means++ from a seed; then, at most ROUNDS times per chunk, every vector is given to a centre that has room (n /
k, rounded up), in the order of regret: who loses most by its second choice chooses first; then each centre moves to the
mean of its vectors. It stops when the centres move less than SHIFT. Of RESTARTS beginnings the tightest is kept. More
than CHUNK vectors are taken chunk by chunk, each going on from the centres before it (c-BTM, arXiv:2303.14177, does
so). Greedy by regret stands in for their auction: as balanced, in n k log k steps.

Only fitting is balanced: whoever is assigned later goes to the nearest centre (executors/routing.py).

Promises: the same vectors and seed give the same centres; every part of a chunk has floor(n / k) to ceil(n / k)
vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from executors.routing import Floats, Ints, Tick, nothing

CHUNK = 50_000
ROUNDS = 20
SHIFT = 1e-3
"""Summed squared movement of the centres (of vectors of length 1) below which nothing changes any more."""
RESTARTS = 3


def fit(vectors: Floats, k: int, seed: int, tick: Tick = nothing) -> Floats:
    """float32 [k, dims], the centres of `vectors` [n, dims]. ValueError with fewer vectors than centres."""
    if not 1 <= k <= len(vectors):
        raise ValueError(f"{len(vectors)} vectors have no {k} balanced parts")
    draw = np.random.Generator(np.random.Philox(key=np.array([seed & 0xFFFFFFFFFFFFFFFF, k], np.uint64)))
    order = draw.permutation(len(vectors))
    chunks = np.array_split(order, -(-len(vectors) // CHUNK))
    first = vectors[chunks[0]].astype(np.float64)
    tries = [_settled(first, _spread(first, k, draw), tick) for _ in range(RESTARTS if k > 1 else 1)]
    centres = min(tries, key=lambda found: found[1])[0]
    for chunk in chunks[1:]:
        if len(chunk) >= k:
            centres = _settled(vectors[chunk].astype(np.float64), centres, tick)[0]
    return centres.astype(np.float32)


def balanced(distances: NDArray[np.float64]) -> Ints:
    """int64 [n], a centre for each row of `distances` [n, k] so that all centres get as many, to within one."""
    rows, k = distances.shape
    preference = np.argsort(distances, axis=1, kind="stable")
    if k == 1:
        return np.zeros(rows, np.int64)
    ranked = np.take_along_axis(distances, preference[:, :2], axis=1)
    order = np.argsort(-(ranked[:, 1] - ranked[:, 0]), kind="stable")
    left, extra = [rows // k] * k, rows % k
    chosen = np.empty(rows, np.int64)
    wishes = preference.tolist()
    for row in order.tolist():
        for centre in wishes[row]:
            if left[centre] > 0:
                left[centre] -= 1
                break
            if extra and left[centre] == 0:
                extra -= 1
                left[centre] = -1  # it has had its one more
                break
        chosen[row] = centre
    return chosen


def squared_distances(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [n, k]."""
    inner = vectors @ centres.T
    return np.maximum((vectors**2).sum(axis=1, keepdims=True) - 2.0 * inner + (centres**2).sum(axis=1), 0.0)


def _settled(
    vectors: NDArray[np.float64], centres: NDArray[np.float64], tick: Tick
) -> tuple[NDArray[np.float64], float]:
    """(centres after their rounds, mean squared distance to the own one)."""
    spread = np.inf
    for _ in range(ROUNDS):
        tick()
        distances = squared_distances(vectors, centres)
        chosen = balanced(distances)
        spread = float(np.take_along_axis(distances, chosen[:, None], axis=1).mean())
        sums = np.zeros_like(centres)
        np.add.at(sums, chosen, vectors)
        moved = sums / np.bincount(chosen, minlength=len(centres))[:, None]
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        if shift < SHIFT:
            break
    return centres, spread


def _spread(vectors: NDArray[np.float64], k: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """k-means++: each next centre is a vector drawn by its squared distance to those before it."""
    centres = vectors[draw.integers(len(vectors))][None]
    nearest = squared_distances(vectors, centres)[:, 0]
    while len(centres) < k:
        total = nearest.sum()
        chance = nearest / total if total > 0.0 else np.full(len(vectors), 1.0 / len(vectors))
        centres = np.vstack([centres, vectors[draw.choice(len(vectors), p=chance)]])
        nearest = np.minimum(nearest, squared_distances(vectors, centres[-1:])[:, 0])
    return centres
