"""Choosing how a tree mixes: every way of a small declared grid, on validation, from answers computed once.

    each model answers every item once, a block of items at a time ── mixed in every way of the grid ── worth of each

Which way is taken: for models that label, of the ways whose accuracy is within one standard error and one item of the
best one's (paired, on the same items) the one with the least loss, since a difference in accuracy inside the noise is
luck, and the loss sees more of every item. For language models the one with the least loss. But a way that asks fewer
models is taken before one whose loss is hardly less (LOSS_GAIN_LEAST): every model that is asked costs its time.

The items that chose flatter the choice. So it is also told what the choice is worth on items that did not choose: each
half of them, cut by a hash of their ids, is judged by the way that the other half chose (`apart`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from executors.corpus import places
from executors.models import treemixing
from executors.models.tree import CENTRES, LIKELIHOOD, Mixing
from executors.models.treemixing import Floats
from executors.outcomes import LOSS_MAX

SALT = "tree"

GRID_MAX = 192
"""Ways at most: each costs as much as mixing all items once, and a row of what is told."""


LOSS_GAIN_LEAST = 0.002
"""Share of the loss; a gain below is not worth another model's time. Far below what a gate can see in a holdout."""


@dataclasses.dataclass(frozen=True, slots=True)
class Worths:
    """What every way is worth, per item."""

    ways: tuple[Mixing, ...]
    loss: NDArray[np.float32]
    """[ways, n], nats of an example, or per byte of a document."""
    right: NDArray[np.bool_] | None
    """[ways, n]; None of language models."""

    def on(self, way: int, rows: NDArray[np.int64] | slice = slice(None)) -> dict[str, float]:
        """Measures of a way on some items."""
        found = {"loss": float(self.loss[way, rows].astype(np.float64).mean())}
        return found if self.right is None else {"accuracy": float(self.right[way, rows].mean()), **found}

    def chosen(self, rows: NDArray[np.int64] | slice = slice(None)) -> int:
        """The way to take, judged by some items."""
        loss = self.loss[:, rows].astype(np.float64).mean(axis=1)
        fit = np.arange(len(self.ways))
        if self.right is not None:
            right = self.right[:, rows].astype(np.float64)
            best = right[int(right.mean(axis=1).argmax())]
            behind = best - right
            noise = 1.0 + behind.std(axis=1) * np.sqrt(right.shape[1])  # of the sum; a single item decides nothing
            fit = np.flatnonzero(behind.sum(axis=1) <= noise)
        enough = float(loss[fit].min()) * (1.0 + LOSS_GAIN_LEAST)
        order = [(self._asked(way), float(loss[way]), way) for way in fit.tolist() if loss[way] <= enough]
        return min(order)[2]

    def _asked(self, way: int) -> int:
        """Models that answer, more or less."""
        mixing = self.ways[way]
        return (GRID_MAX if mixing.routing == LIKELIHOOD else mixing.top) + (mixing.flat_share > 0)

    def apart(self, ids: NDArray[np.uint64]) -> dict[str, float]:
        """Measures on items that did not choose: each half is judged by what the other one chose."""
        first = places(ids, SALT) < 0.5
        halves = np.flatnonzero(first), np.flatnonzero(~first)
        if min(map(len, halves)) == 0:
            return self.on(self.chosen())
        found = [(self.on(self.chosen(other), half), len(half)) for half, other in (halves, halves[::-1])]
        return {name: sum(one[name] * count for one, count in found) / len(ids) for name in found[0][0]}


def grid(
    temperatures: Sequence[float], tops: Sequence[int], flat_shares: Sequence[float], routings: Sequence[str],
    branches: int, has_flat: bool, reread: int,
) -> tuple[Mixing, ...]:  # fmt: skip
    """Every way that differs. With one branch asked the temperature says nothing, and likelihood knows neither."""
    shares = tuple(dict.fromkeys(flat_shares)) if has_flat else (0.0,)
    found: list[Mixing] = []
    if CENTRES in routings:
        for top in dict.fromkeys(min(top, branches) for top in tops):
            for temperature, share in itertools.product(temperatures if top > 1 else temperatures[:1], shares):
                found.append(Mixing(CENTRES, temperature, top, share, reread))
    if LIKELIHOOD in routings:
        found += [Mixing(LIKELIHOOD, temperatures[0], branches, share, reread) for share in shares]
    return tuple(dict.fromkeys(found))


# -- labels -----------------------------------------------------------------------------------------------------------


def label_worths(
    answers: NDArray[np.float32], weights: Sequence[Floats], ways: Sequence[Mixing], branches: Sequence[int],
    has_flat: bool, truth: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """(losses [ways, n], right [ways, n]). answers [m, n, L], probabilities over the union of labels; weights: of each
    way, [n, k]; truth [n]: index in the union, -1 where nobody knows the label."""
    losses = np.empty((len(ways), answers.shape[1]), np.float32)
    right = np.empty(losses.shape, np.bool_)
    rows, known = np.arange(len(truth)), truth >= 0
    for number, (way, mine) in enumerate(zip(ways, weights, strict=True)):
        shares = treemixing.shares_of(mine, branches, way.flat_share if has_flat else None)
        mixed = np.einsum("nm,mnl->nl", shares, answers, optimize=False)
        losses[number] = loss_of(mixed[rows, truth], known)
        right[number] = (mixed.argmax(axis=1) == truth) & known
    return losses, right


def loss_of(probabilities: Floats, known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Nats of the true labels, as an outcome keeps them."""
    least = np.exp(-LOSS_MAX)
    return np.where(known, -np.log(np.maximum(probabilities, least)), LOSS_MAX).astype(np.float32)


# -- language ---------------------------------------------------------------------------------------------------------


def token_worths(
    told: Floats, weights: Sequence[Floats], ways: Sequence[Mixing], branches: Sequence[int], has_flat: bool,
    prior: Floats, rows: NDArray[np.int64], begins: NDArray[np.int64], sizes: NDArray[np.int64],
) -> NDArray[np.float32]:  # fmt: skip
    """Nats per byte [ways, documents]. told [m, targets]; weights: of each way, [readings, k], those of the router;
    rows [targets]: 0 before any reading, else 1 + its number; begins [documents + 1] of their targets; sizes: bytes."""
    most = told.max(axis=0)
    scaled = np.exp(told - most)
    found = np.empty((len(ways), len(sizes)), np.float32)
    routed: dict[tuple[float, int], Floats] = {}
    for number, (way, mine) in enumerate(zip(ways, weights, strict=True)):
        share = way.flat_share if has_flat else None
        if way.routing == LIKELIHOOD:
            start = treemixing.shares_of(prior[None], branches, share)[0]
            mixed = treemixing.posterior_mixed(told[start > 0.0], start[start > 0.0], begins)
        else:
            key = (way.temperature, way.top)
            if key not in routed:
                routed[key] = _routed(scaled, mine, branches, has_flat, prior, rows)
            mixed = most + np.log(np.maximum(_with_flat(routed[key], scaled[-1], way.flat_share, rows), 1e-300))
        nats = -np.add.reduceat(mixed, begins[:-1])
        found[number] = np.minimum(nats / sizes, LOSS_MAX)
    return found


def _routed(
    scaled: Floats, weights: Floats, branches: Sequence[int], has_flat: bool, prior: Floats, rows: NDArray[np.int64]
) -> Floats:
    """[targets], the mixture without a share of the flat model beyond the branches that have no specialist."""
    share = 0.0 if has_flat else None
    shares = treemixing.cold_of(prior, branches, share)[None]
    if len(weights):
        shares = np.vstack([shares, treemixing.shares_of(weights, branches, share)])
    total = np.zeros(scaled.shape[1])
    for column, told in enumerate(scaled):
        total += shares[rows, column] * told
    return total


def _with_flat(routed: Floats, flat: Floats, share: float, rows: NDArray[np.int64]) -> Floats:
    """The flat model has its share wherever the router has read; before, it answers alone in any case."""
    return routed if share == 0.0 else np.where(rows == 0, routed, (1.0 - share) * routed + share * flat)
