"""Branches of a corpus, and who answers a document, for `bench specialists`: the parts that the kind `branch` uses.

Fitted on the training documents alone: words, TF-IDF, truncated SVD, balanced k-means (executors/branching/). A
training document belongs to the nearest centre; a test document is routed by its first LEAD_BYTES bytes
(executors/routing.py). How many branches there are is given here: that question has its own answer elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.specialists_reading import LEAD_BYTES, Floats
from executors.branching import clusters, counting, projecting
from executors.routing import Router, card_of

TERMS_MAX = 20_000

TEMPERATURE, TOP = 0.1, 2
"""As c-BTM has it for language models."""


@dataclasses.dataclass(frozen=True, slots=True)
class Branches:
    """What a corpus was divided into."""

    router: Router
    assigned: NDArray[np.int64]
    """Branch of each training document."""

    def weights(self, texts: Sequence[str], top: int = TOP) -> Floats:
        """[documents, branches]: how much each branch's probabilities count, by the beginning of each document."""
        return self.router.weights([self.router.lead(text) for text in texts], top=top).astype(np.float64)


def branched(texts: Sequence[str], k: int, seed: int) -> Branches:
    """Divide training documents into k branches."""
    counts = counting.count(texts)
    weighing = counting.weighing(counts, terms_max=TERMS_MAX)
    tf_idf = weighing.tf_idf(counts)
    components = projecting.components_of(tf_idf, projecting.dims_for(len(texts), len(weighing.terms)), seed)
    centres = clusters.fit(projecting.places_of(tf_idf, components), k, seed)
    card = card_of(weighing.terms, centres, temperature=TEMPERATURE, top=TOP, modality="corpus", lead_bytes=LEAD_BYTES)
    router = Router(card, weighing.terms, weighing.idf, components, centres)
    return Branches(router, router.nearest(texts))
