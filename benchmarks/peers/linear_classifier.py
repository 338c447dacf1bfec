"""A careful person's scikit-learn: TF-IDF or standardised columns, logistic regression, C by the validation split.

python -m benchmarks.peers.linear_classifier TRAIN VALIDATION HOLDOUT      folders of splits
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.executors_stage import clock
from executors.data import Split, read_split

STRENGTHS = (0.1, 1.0, 10.0, 100.0)


def main(train: str, validation: str, holdout: str) -> None:
    """Fit, choose, judge, print."""
    splits = [read_split(Path(folder)) for folder in (train, validation, holdout)]
    wall, cpu = clock()
    features = _features(splits[0])
    seen, chosen_on = features.fit_transform(_inputs(splits[0])), features.transform(_inputs(splits[1]))
    best: tuple[float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1_000).fit(seen, splits[0].labels)
        right = float(model.score(chosen_on, splits[1].labels))
        if best is None or right > best[0]:
            best = (right, model)
    took = [after - before for after, before in zip(clock(), (wall, cpu), strict=True)]
    assert best is not None
    shares = best[1].predict_proba(features.transform(_inputs(splits[2])))
    labels = np.arange(len(splits[2].schema.labels))
    whole = np.full((len(shares), len(labels)), 1e-12)
    whole[:, best[1].classes_] = shares
    found = {
        "accuracy": float(accuracy_score(splits[2].labels, whole.argmax(axis=1))),
        "loss": float(log_loss(splits[2].labels, whole / whole.sum(axis=1, keepdims=True), labels=labels)),
        "wall_s": took[0],
        "cpu_s": took[1],
    }
    print(json.dumps(found))


def _features(split: Split) -> Any:
    if split.schema.modality != "text":
        return make_pipeline(SimpleImputer(), StandardScaler())
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=150_000)
    return FeatureUnion([("words", words), ("letters", letters)])


def _inputs(split: Split) -> Any:
    return split.texts if split.schema.modality == "text" else split.table


if __name__ == "__main__":
    main(*sys.argv[1:4])
