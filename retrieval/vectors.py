"""An index over vectors: train, add, search; the same for all families. The only file that knows FAISS (stored.py keeps
its bytes).

    index = VectorIndex(spec, seed=7, threads=1)
    index.train(sample)              k-means of cells and codes; nothing for flat and hnsw
    index.add(vectors, ids)          in as many calls as one likes
    ids, scores = index.search(queries, k)

ids are int64 of the caller's choosing, each once. Scores: the inner product, the cosine (higher is nearer), or the
squared Euclidean distance (lower is nearer); an approximate family's scores are those of its codes. Where fewer than k
rows are found, the last ids are -1, which no row can have.

Same vectors in the same calls, same seed, same threads and processor: same bytes. hnsw is built by one thread, however
many there are, because several insert in an order that nobody knows.

Not covered: rows are never removed; whoever wants that builds anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import DataRefused
from retrieval.choices import ROWS_MAX, Spec

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

NO_ROW = -1


class VectorIndex:
    """Vectors that are found again."""

    def __init__(self, spec: Spec, *, seed: int = 0, threads: int = 1) -> None:
        """An empty index. seed: of the k-means and of the graph's levels. threads: compute threads of every call."""
        self.spec, self.seed, self.threads = spec, seed, threads
        self.inner = _made(spec, seed % 2**31)
        self.ids: Ids = np.zeros(0, np.int64)
        """The caller's id of each row."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> bool:
        """True once `add` is allowed."""
        return bool(self.inner.is_trained)

    def train(self, vectors: NDArray[Any]) -> None:
        """Learn cells and codes from a sample [n, dimension]. DataRefused when it is too small or not finite."""
        sample = self._checked(vectors)
        if len(sample) < self.spec.training_rows_min:
            raise DataRefused(
                f"a {self.spec.family} index of this shape learns from {self.spec.training_rows_min} vectors or more, "
                f"got {len(sample)}"
            )
        if not self.trained:
            with _computing(self.threads):
                self.inner.train(sample)

    def add(self, vectors: NDArray[Any], ids: NDArray[Any] | None = None) -> None:
        """Append vectors [n, dimension]. ids: int64[n], none of them negative or there already; None: row numbers."""
        rows = self._checked(vectors)
        if not self.trained:
            raise DataRefused(f"a {self.spec.family} index learns before vectors are added: call train first")
        if len(self) + len(rows) > ROWS_MAX:
            raise DataRefused(f"an index has at most {ROWS_MAX} vectors, this would be {len(self) + len(rows)}")
        together = np.concatenate([self.ids, _ids(len(self), len(rows), ids)])
        if len(np.unique(together)) != len(together):
            raise DataRefused("every id stands for one vector: an id was given twice or is there already")
        with _computing(1 if self.spec.family == "hnsw" else self.threads):
            self.inner.add(rows)
        self.ids = together

    def search(self, queries: NDArray[Any], k: int) -> tuple[Ids, Floats]:
        """The k nearest of each query [m, dimension]: (ids [m, k], scores [m, k]), nearest first."""
        if k < 1:
            raise ValueError(f"k is at least 1, got {k}")
        wanted, asked = min(k, max(1, len(self))), self._checked(queries)
        with _computing(self.threads):
            scores, rows = self.inner.search(asked, wanted)
        if wanted == k and len(self) and int(rows.min(initial=0)) >= 0:  # the usual case, and single queries are short
            return self.ids[rows], scores
        ids = np.full((len(asked), k), NO_ROW, np.int64)
        found = np.full((len(asked), k), np.inf if self.spec.metric == "l2" else -np.inf, np.float32)
        if len(self):
            ids[:, :wanted] = np.where(rows >= 0, self.ids[np.maximum(rows, 0)], NO_ROW)
            found[:, :wanted] = np.where(rows >= 0, scores, found[:, :wanted])
        return ids, found

    def search_width(self, width: int) -> None:
        """How much of the index a query looks at from now on: cells of `ivf` and `ivf-pq`, candidates of `hnsw`. The
        others look at everything."""
        if self.spec.has_cells:
            self.inner.nprobe = width
        elif self.spec.family == "hnsw":
            self.inner.hnsw.efSearch = width

    def _checked(self, vectors: NDArray[Any]) -> Floats:
        return prepared(vectors, self.spec.dimension, self.spec.metric)


def prepared(vectors: NDArray[Any], dimension: int, metric: str) -> Floats:
    """As FAISS wants them: float32 [n, dimension], finite, of length one for the cosine. DataRefused otherwise."""
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise DataRefused(f"expected vectors [n, {dimension}], got {list(array.shape)}")
    squares = np.einsum("nd,nd->n", array, array, dtype=np.float64)
    if not np.isfinite(squares).all():
        raise DataRefused(f"vector {int(np.flatnonzero(~np.isfinite(squares))[0])} holds numbers that are not finite")
    if metric != "cosine":
        return array
    if len(array) and not squares.min() > 0:
        raise DataRefused(f"vector {int(squares.argmin())} is all zero: it has no direction, and no cosine")
    unit: Floats = array / np.sqrt(squares).astype(np.float32)[:, None]
    return unit


def nearest(vectors: Floats, queries: Floats, k: int, metric: str, threads: int) -> Ids:
    """The truth: of each query [m, d] the rows [m, k] of its k nearest among vectors [n, d], by comparing all of them;
    both as `prepared` makes them, k at most n. Nothing is copied."""
    import faiss

    with _computing(threads):
        rows: Ids = faiss.knn(queries, vectors, k, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)[1]
    return rows


def _ids(before: int, rows: int, ids: NDArray[Any] | None) -> Ids:
    if ids is None:
        return np.arange(before, before + rows, dtype=np.int64)
    if ids.shape != (rows,) or ids.dtype != np.int64 or (rows and int(ids.min()) < 0):
        raise DataRefused(f"expected ids int64[{rows}], none negative, got {ids.dtype}{list(ids.shape)}")
    return ids


@contextmanager
def _computing(threads: int) -> Iterator[None]:
    """FAISS with so many threads; its errors in a sentence."""
    import faiss

    before = faiss.omp_get_max_threads()
    if before != threads:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    except RuntimeError as error:
        raise DataRefused(f"FAISS refuses these vectors: {str(error)[-200:]}") from None
    finally:
        if before != threads:
            faiss.omp_set_num_threads(before)


def _made(spec: Spec, seed: int) -> Any:
    """The empty FAISS index."""
    import faiss as published  # its types do not know all of what it has

    faiss: Any = published
    metric = faiss.METRIC_L2 if spec.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if spec.family == "flat":
        return faiss.IndexFlat(spec.dimension, metric)
    if spec.family == "hnsw":
        graph = faiss.IndexHNSWFlat(spec.dimension, spec.links, metric)
        graph.hnsw.rng = faiss.RandomGenerator(seed)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = spec.breadth_build, spec.breadth
        return graph
    if spec.family == "pq":
        coded = faiss.IndexPQ(spec.dimension, spec.codes, spec.bits, metric)
        _seed(coded.pq.cp, seed)
        return coded
    quantizer = faiss.IndexFlat(spec.dimension, metric)
    if spec.family == "ivf":
        celled = faiss.IndexIVFFlat(quantizer, spec.dimension, spec.cells, metric)
    else:
        celled = faiss.IndexIVFPQ(quantizer, spec.dimension, spec.cells, spec.codes, spec.bits, metric)
        _seed(celled.pq.cp, seed)
    _seed(celled.cp, seed)
    quantizer.this.disown()
    celled.own_fields, celled.nprobe = True, spec.probes
    return celled


def _seed(clustering: Any, seed: int) -> None:
    """Of a k-means. Whether there are enough rows for it is said by `choices`, not on stderr."""
    clustering.seed, clustering.min_points_per_centroid = seed, 1
