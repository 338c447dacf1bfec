"""Part of `bench executors`: `index` against FAISS called directly with the same parameters, on vectors of real texts:
TF-IDF of Python's docstrings in 128 dimensions."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np

from benchmarks.executors_stage import Ran, Stage
from executors import vectorfiles
from executors.corpus import read_corpus
from executors.vectorfiles import Vectors

FAMILIES: dict[str, dict[str, int]] = {
    "flat": {},
    "ivf": {"cells": 128, "probes": 12},
    "ivf-pq": {"cells": 128, "probes": 12, "codes": 32, "bits": 8},
    "hnsw": {"links": 32, "breadth_build": 100, "breadth": 64},
}
QUICK = ("ivf",)

DIMENSION = 128
K, QUERIES = 10, 1_000

SAME = 0.002
"""Of recall: two runs of k-means on the same rows differ by more."""


def measure(stage: Stage) -> None:
    """recall@10 of the same queries, processor seconds to build, milliseconds of a query alone."""
    folder = vectorfiles.write(stage.folder / "vectors", corpus(4_000 if stage.quick else 20_000))
    for family in QUICK if stage.quick else FAMILIES:
        settings: dict[str, Any] = {
            "family": family,
            "k": K,
            "queries_max": QUERIES,
            "recall_target": 0.0,
            **FAMILIES[family],
        }

        built: list[Ran] = []
        reference: list[dict[str, float]] = []
        for _ in range(stage.frame.runs(3)):
            built.append(stage.kind("index", settings, {"vectors": folder}))
            reference.append(stage.peer("plain_faiss", folder, built[-1].outputs["truth"], json.dumps(settings)))
        for who, measured in (("Ramify index", [one.kpis for one in built]), ("FAISS itself", reference)):
            for metric, unit in ((f"recall_at_{K}", "1"), ("build_cpu_s", "CPU s"), ("latency_p50_ms", "ms")):
                stage.frame.row(who, f"{family}, {metric}", [one[metric] for one in measured], unit)
        recalls = [one.kpis[f"recall_at_{K}"] for one in built]
        least = statistics.median(one[f"recall_at_{K}"] for one in reference) - SAME
        stage.frame.at_least(f"index finds what FAISS finds ({family})", least, "1", recalls)
        ratios = [a.kpis["build_cpu_s"] / b["build_cpu_s"] for a, b in zip(built, reference, strict=True)]
        stage.frame.row("Ramify index / FAISS", f"{family}, build", ratios, "1")
        ratios = [a.kpis["latency_p50_ms"] / b["latency_p50_ms"] for a, b in zip(built, reference, strict=True)]
        stage.frame.row("Ramify index / FAISS", f"{family}, one query", ratios, "1")


def corpus(rows: int) -> Vectors:
    """Docstrings as vectors: the same on every machine with the same Python."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = read_corpus("builtin:python-docs").texts
    counted = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=50_000).fit_transform(texts[:rows])
    made = TruncatedSVD(DIMENSION, random_state=7).fit_transform(counted).astype(np.float32)
    made = made[np.linalg.norm(made, axis=1) > 1e-6]
    return Vectors(np.ascontiguousarray(made), np.arange(len(made), dtype=np.int64))
