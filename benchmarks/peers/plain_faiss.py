"""FAISS called directly, as its own examples do, with the parameters that the kind `index` was given.

python -m benchmarks.peers.plain_faiss VECTORS TRUTH SETTINGS
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import faiss as published
import numpy as np
from safetensors.numpy import load_file

faiss: Any = published

SINGLE = 200


def main(vectors: str, truth: str, settings: str) -> None:
    """Build, search, print. Queries are rows of the corpus: each is asked for one neighbour more than it needs."""
    faiss.omp_set_num_threads(1)
    rows = load_file(Path(vectors) / "vectors.safetensors")["vectors"]
    asked = load_file(Path(truth) / "vectors.safetensors")
    wanted: dict[str, Any] = json.loads(settings)
    faiss.normalize_L2(rows)
    started, cpu_s = time.perf_counter(), time.process_time()
    index = _made(rows.shape[1], wanted)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    build_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    k = int(wanted["k"])
    found = index.search(asked["queries"], k + 1)[1]
    hits = [
        len(set(true) & set([row for row in got if row != own][:k])) / k
        for true, got, own in zip(asked["neighbours"].tolist(), found.tolist(), asked["ids"].tolist(), strict=True)
    ]
    took = []
    for row in range(10 + SINGLE):
        begun = time.perf_counter()
        index.search(asked["queries"][row % len(found)][None], k)
        took.append((time.perf_counter() - begun) * 1000.0)
    median = statistics.median(took[10:])
    print(
        json.dumps(
            {f"recall_at_{k}": float(np.mean(hits)), "build_s": build_s, "build_cpu_s": cpu_s, "latency_p50_ms": median}
        )
    )


def _made(width: int, wanted: dict[str, Any]) -> Any:
    metric = faiss.METRIC_INNER_PRODUCT
    names = {
        "flat": "Flat",
        "ivf": f"IVF{wanted.get('cells')},Flat",
        "ivf-pq": f"IVF{wanted.get('cells')},PQ{wanted.get('codes')}x{wanted.get('bits')}",
        "hnsw": f"HNSW{wanted.get('links')},Flat",
    }
    index = faiss.index_factory(width, names[wanted["family"]], metric)
    if "probes" in wanted:
        index.nprobe = wanted["probes"]
    if "breadth" in wanted:
        index.hnsw.efConstruction, index.hnsw.efSearch = wanted["breadth_build"], wanted["breadth"]
    return index


if __name__ == "__main__":
    main(*sys.argv[1:4])
