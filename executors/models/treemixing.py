"""How much each specialist of a tree counts, and what they say together. numpy only.

    weights of the k branches for each item (executors/routing.py), rows sum to 1 ─────────────── weights  [n, k]
    weights ── branches without a specialist go to the flat model, which has its own share ────── shares   [n, m]
    shares and log probabilities of the m models ── log of the sum of share * p ───────────────── mixed

m counts the specialists in the order of their branches, and the flat model last where there is one. Probabilities are
mixed, not logits (Gururangan et al. 2023, c-BTM): with logarithms throughout, so that nothing underflows.

For language there is a second way without a router (Li et al. 2022, Branch-Train-Merge): `posterior_mixed` weighs each
model by how well it has foretold the text so far, from shares that hold before anything was read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shares_of(weights: Floats, branches: Sequence[int], flat_share: float | None) -> Floats:
    """weights [n, k] to shares [n, m]. branches: which have a specialist; flat_share: of the flat model, None when
    there is none: then every branch needs a specialist."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    own = weights[:, list(branches)]
    if flat_share is None:
        return own
    alone = [branch for branch in range(weights.shape[1]) if branch not in set(branches)]
    flat = flat_share + (1.0 - flat_share) * weights[:, alone].sum(axis=1, keepdims=True)
    return np.hstack([(1.0 - flat_share) * own, flat])


def cold_of(prior: Floats, branches: Sequence[int], flat_share: float | None) -> Floats:
    """Shares [m] for the tokens before the router has read any: the flat model's, where there is one, else those of
    the branches, prior [k]."""
    if flat_share is None:
        return shares_of(prior[None], branches, None)[0]
    return np.eye(len(branches) + 1)[-1]


def log_shares(shares: Floats) -> Floats:
    """Logarithms; of 0 minus infinity."""
    with np.errstate(divide="ignore"):
        return np.log(shares)


def log_sum(values: Floats) -> Floats:
    """log of the sum of exp over the first axis; minus infinity where all are."""
    most = values.max(axis=0)
    safe = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - safe).sum(axis=0)) + safe


def token_mixed(told: Floats, shares: Floats, rows: NDArray[np.int64]) -> Floats:
    """told [m, n], log probabilities of n tokens; shares [r, m] and of each token its row of them: mixed [n]."""
    return log_sum(log_shares(shares).T[:, rows] + told)


def posterior_mixed(told: Floats, prior: Floats, begins: NDArray[np.int64]) -> Floats:
    """told [m, n], log probabilities of the tokens of documents one behind the other, which begin at `begins` (the last
    one ends at its last number): mixed [n], each token with the shares that those before it in its document gave."""
    joint = posterior_before(told, prior, begins)
    return log_sum(joint + told) - log_sum(joint)


def posterior_before(told: Floats, prior: Floats, begins: NDArray[np.int64]) -> Floats:
    """[m, n], up to a number per token: log of prior times the probability of the document's tokens before this one."""
    before = np.cumsum(told, axis=1) - told
    documents = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    return before - before[:, begins[:-1]][:, documents] + log_shares(prior)[:, None]


def entropy(weights: Floats) -> Floats:
    """Nats of each row of weights [n, k]: 0 for one branch alone, ln k for all alike."""
    return -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(axis=1)
