"""Tiny instances of a classifier's training, for the gradient check: every layer of the real network, made-up rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from executors.features import Encoded, TableFeatures
from executors.models.classifier import Classifier
from executors.models.learner import ClassifierLearner, Part
from executors.models.network import Network, Shape
from executors.ngrams import Sparse

ROWS, INPUTS, LABELS = 12, 20, 3


def classifiers() -> dict[str, ClassifierLearner]:
    """Both ways to read an example (sparse text, a dense table), each with a linear and a deep path, dropout on."""
    drawn = np.random.default_rng(11)
    table = drawn.normal(size=(ROWS, INPUTS)).astype(np.float32)
    present = [np.sort(drawn.choice(INPUTS, size=5, replace=False)) for _ in range(ROWS)]
    offsets = np.arange(0, 5 * ROWS + 1, 5)
    text = Sparse(np.concatenate(present), drawn.random(5 * ROWS).astype(np.float32), offsets)
    return {
        "text": _learner(text, sparse=True, labels=drawn.integers(0, LABELS, ROWS)),
        "table": _learner(table, sparse=False, labels=drawn.integers(0, LABELS, ROWS)),
    }


def _learner(encoded: Encoded, *, sparse: bool, labels: NDArray[np.int64]) -> ClassifierLearner:
    shape = Shape(INPUTS, LABELS, sparse, wide=True, hidden=(8, 6))
    zeros = np.zeros(INPUTS, np.float32)
    features = TableFeatures(tuple("abcdefghijklmnopqrst"), zeros, zeros, zeros + 1, np.zeros(0, np.int64))
    network = Network(shape, dropout=0.2, feature_dropout=0.1)
    classifier = Classifier(features, network, tuple("xyz"), "wide-deep")
    part = Part(encoded, labels)
    return ClassifierLearner(classifier, part, part, torch.device("cpu"), label_smoothing=0.05)
