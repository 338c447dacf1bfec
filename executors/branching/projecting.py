"""Truncated SVD of TF-IDF: the directions in which a topic's texts differ most, found by a randomised method (Halko,
Martinsson and Tropp, arXiv:0909.4061) from a seed. A router projects with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from executors.routing import Floats

DIMS_SMALL, DIMS_LARGE = 50, 100
SMALL_TEXTS = 10_000
"""Up to so many texts 50 directions do; c-BTM takes 100 for millions."""

POWERS = 4
"""Power iterations; fewer blur the directions behind the first ones, more change nothing."""


def dims_for(texts: int, terms: int, wanted: int = 0) -> int:
    """How many directions: `wanted`, or by the number of texts; fewer than texts and than words."""
    usual = DIMS_SMALL if texts <= SMALL_TEXTS else DIMS_LARGE
    return max(1, min(wanted or usual, texts - 1, terms - 1))


def components_of(tf_idf: Any, dims: int, seed: int) -> Floats:
    """float32 [terms, dims] of a sparse [n, terms]."""
    from sklearn.utils.extmath import randomized_svd

    _, _, turned = randomized_svd(tf_idf, n_components=dims, n_iter=POWERS, random_state=seed % 2**32)
    return np.ascontiguousarray(turned.T, np.float32)


def places_of(tf_idf: Any, components: Floats) -> Floats:
    """float32 [n, dims], rows of length 1 or 0: what a router's `embed` gives for the same texts, to rounding."""
    placed = np.asarray(tf_idf @ components, np.float64)
    norms = np.linalg.norm(placed, axis=1, keepdims=True)
    return np.divide(placed, norms, out=np.zeros_like(placed), where=norms > 1e-12).astype(np.float32)
