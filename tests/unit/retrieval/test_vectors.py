"""One interface over five families: against a slow search of our own, the same twice, and firm with bad input."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.errors import DataRefused
from retrieval import recall
from retrieval.choices import FAMILIES, METRICS, Spec, Wishes, choose
from retrieval.vectors import NO_ROW, VectorIndex, prepared

ROWS, WIDTH = 600, 16


def corpus(rows: int = ROWS, seed: int = 1) -> NDArray[np.float32]:
    """Vectors around twenty centres, as embeddings lie."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, WIDTH))
    return (centres[random.integers(0, 20, rows)] + 0.4 * random.standard_normal((rows, WIDTH))).astype(np.float32)


def built(family: str, metric: str = "cosine", *, seed: int = 3, ids: NDArray[Any] | None = None) -> VectorIndex:
    wishes = (
        Wishes(family=family, metric=metric, cells=12, probes=6)
        if "ivf" in family
        else Wishes(family=family, metric=metric)
    )
    index = VectorIndex(choose(ROWS, WIDTH, wishes, 1 << 30)[0], seed=seed)
    index.train(corpus())
    index.add(corpus(), ids)
    return index


def truth_for(queries: NDArray[Any], k: int, metric: str = "cosine") -> NDArray[np.int64]:
    """By comparing all of the corpus."""
    both = [prepared(part, WIDTH, metric) for part in (corpus(), queries)]
    return recall.exact(both[0], np.arange(ROWS, dtype=np.int64), both[1], k, metric)


def slow_neighbours(metric: str, queries: NDArray[Any], rows: NDArray[Any], k: int) -> list[list[int]]:
    """One pair at a time, in float64."""
    found = []
    for query in queries.astype(float):
        scores = []
        for row in rows.astype(float):
            if metric == "l2":
                scores.append(-float(((query - row) ** 2).sum()))
            else:
                length = np.linalg.norm(query) * np.linalg.norm(row) if metric == "cosine" else 1.0
                scores.append(float(query @ row / length))
        found.append(sorted(range(len(rows)), key=lambda row: -scores[row])[:k])
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_flat_finds_what_a_slow_search_finds(metric: str) -> None:
    queries = corpus(20, seed=9)
    ids, scores = built("flat", metric).search(queries, 5)
    assert ids.tolist() == slow_neighbours(metric, queries, corpus(), 5) == truth_for(queries, 5, metric).tolist()
    ordered = np.sort(scores, axis=1)
    assert (scores == (ordered if metric == "l2" else ordered[:, ::-1])).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_family_finds_most_of_the_truth(family: str, metric: str) -> None:
    queries = corpus(50, seed=9)
    truth = truth_for(queries, 10, metric)
    found, _ = built(family, metric).search(queries, 10)
    assert recall.recalls(truth, found).mean() > (0.25 if "pq" in family else 0.95)  # by chance: 0.017


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_makes_the_same_bytes_and_another_one_others(family: str) -> None:
    import faiss

    def digest(seed: int) -> str:
        return hashlib.sha256(faiss.serialize_index(built(family, seed=seed).inner).tobytes()).hexdigest()

    assert digest(3) == digest(3)
    assert (digest(3) == digest(4)) == (family == "flat")


def test_ids_are_the_callers() -> None:
    ids = np.arange(ROWS, dtype=np.int64) * 10**15
    index = built("ivf", ids=ids)
    found, _ = index.search(corpus()[:7], 1)
    assert found[:, 0].tolist() == ids[:7].tolist()


def test_adding_in_parts_is_adding_at_once() -> None:
    whole, parts = built("flat"), VectorIndex(Spec(family="flat", metric="cosine", dimension=WIDTH))
    for start in range(0, ROWS, 250):
        parts.add(corpus()[start : start + 250])
    assert whole.search(corpus(5, 9), 9)[0].tolist() == parts.search(corpus(5, 9), 9)[0].tolist()


def test_fewer_rows_than_asked_for_are_said() -> None:
    index = VectorIndex(Spec(family="flat", metric="l2", dimension=WIDTH))
    assert index.search(corpus(2), 3)[0].tolist() == [[NO_ROW] * 3] * 2
    index.add(corpus(2))
    ids, scores = index.search(corpus(1), 4)
    assert ids.tolist() == [[0, 1, NO_ROW, NO_ROW]]
    assert scores[0, 2:].tolist() == [np.inf, np.inf]


def test_a_wider_search_finds_more() -> None:
    index, queries = built("ivf"), corpus(60, seed=9)
    truth = truth_for(queries, 90)
    rates = []
    for width in (1, 12):
        index.search_width(width)
        rates.append(recall.recalls(truth, index.search(queries, 90)[0]).mean())
    assert rates[0] < rates[1] == 1.0


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((3, 5), np.float32), r"expected vectors \[n, 16\], got \[3, 5\]"),
        (np.zeros(16, np.float32), r"got \[16\]"),
        (np.full((1, WIDTH), np.nan, np.float32), "vector 0 holds numbers that are not finite"),
        (np.zeros((1, WIDTH), np.float32), "vector 0 is all zero"),
    ],
)
def test_bad_vectors_are_refused(vectors: NDArray[Any], said: str) -> None:
    for call in (built("flat").add, lambda rows: built("flat").search(rows, 1)):
        with pytest.raises(DataRefused, match=said):
            call(vectors)


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros(2, np.int64), np.array([1, -1]), np.zeros(3, np.int64), np.array([0.0, 1.0]), np.array([5, ROWS - 1])
    ],
)  # fmt: skip
def test_ids_stand_for_one_vector_each(ids: NDArray[Any]) -> None:
    with pytest.raises(DataRefused, match="id"):
        built("flat").add(corpus(2), ids)


def test_an_index_learns_first_and_from_enough() -> None:
    index = VectorIndex(Spec(family="ivf", metric="l2", dimension=WIDTH, cells=10, probes=1))
    with pytest.raises(DataRefused, match="call train first"):
        index.add(corpus())
    with pytest.raises(DataRefused, match="learns from 10 vectors or more, got 9"):
        index.train(corpus(9))


def test_recall_counts_what_is_there() -> None:
    truth = np.array([[1, 2, 3], [4, NO_ROW, NO_ROW]])
    found = np.array([[3, 9, 1], [4, NO_ROW, NO_ROW]])
    assert recall.recalls(truth, found).tolist() == pytest.approx([2 / 3, 1.0])


def test_a_query_out_of_the_corpus_is_not_its_own_neighbour() -> None:
    ids = np.array([[5, 1, 2], [7, 8, 6], [1, 2, 3]])
    assert recall.without_self(ids, np.array([5, 6, 9])).tolist() == [[1, 2], [7, 8], [1, 2]]


def test_latencies_are_counted_after_the_warm_up() -> None:
    assert len(recall.single_latencies(built("flat"), corpus(3, 9), 2, most=4, seconds=60.0)) == 4


@pytest.mark.parametrize("name", ["Flat", "IVF12,Flat", "PQ4x4", "IVF12,PQ4x4", "HNSW16,Flat"])
def test_faiss_called_by_hand_finds_the_same(name: str) -> None:
    import faiss

    direct = faiss.index_factory(WIDTH, name, faiss.METRIC_INNER_PRODUCT)
    spec = {
        "Flat": {"family": "flat"},
        "IVF12,Flat": {"family": "ivf", "cells": 12, "probes": 3},
        "PQ4x4": {"family": "pq", "codes": 4, "bits": 4},
        "IVF12,PQ4x4": {"family": "ivf-pq", "cells": 12, "probes": 3, "codes": 4, "bits": 4},
        "HNSW16,Flat": {"family": "hnsw", "links": 16, "breadth_build": 40, "breadth": 16},
    }[name]
    for part in [one for one in (direct, getattr(direct, "pq", None)) if hasattr(one, "cp")]:
        part.cp.seed, part.cp.min_points_per_centroid = 3, 1
    if "IVF" in name:
        direct.nprobe = 3
    if "HNSW" in name:
        direct.hnsw.rng = faiss.RandomGenerator(3)  # type: ignore[attr-defined]
    rows, queries = (prepared(part, WIDTH, "cosine") for part in (corpus(), corpus(40, seed=9)))
    direct.train(rows)
    direct.add(rows)
    index = VectorIndex(Spec(metric="inner-product", dimension=WIDTH, **spec), seed=3)  # type: ignore[arg-type]
    index.train(rows)
    index.add(rows)
    assert index.search(queries, 5)[0].tolist() == direct.search(queries, 5)[1].tolist()
