"""A tuned linear model: what every trained network is measured against, and the path beside the network that keeps a
classifier from being worse than it. numpy and scikit-learn, no torch.

How: text goes into a linear support vector machine, one label against the rest, standardised tables into a multinomial
logistic regression. Both are convex and trained to convergence, so nothing but the regularisation C is left to choose:
the one with most validation examples right wins, among equals the smaller loss. A temperature that is fitted on
validation turns margins into probabilities.

Promises: the same data, settings and seed give the same model. What a clock decides is only how many values of C are
tried; the first one always is.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors import features as feature_module
from executors.data import Split
from executors.features import Encoded, Features
from executors.models.probabilities import fitted_temperature, log_softmax
from executors.ngrams import Ngrams, Sparse

STRENGTHS = {"text": (1.0, 0.3, 3.0, 0.1, 10.0), "tabular": (1.0, 0.1, 10.0, 0.01, 100.0, 0.001)}
"""Values of C, the likeliest first, so that a short budget tries the right ones."""

FEATURES_MAX = 200_000
"""N-grams of a text model, the most frequent ones: more of them stand in one training text only and teach little."""

SECONDS_MAX = 45.0
"""Processor seconds after which no further C is begun, so that a busy machine tries as many."""

ITERATIONS_MAX = 1_000

ABSENT_BIAS = 1e4
"""Of a label without a training example, subtracted: far below any margin, and finite."""

Labels = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a search may cost."""

    strengths: Sequence[float] = ()
    """Values of C in the order in which they are tried; () for the usual ones."""
    seconds_max: float = SECONDS_MAX
    """Of processor time."""
    wall_s_max: float = 600.0
    iterations_max: int = ITERATIONS_MAX

    def strengths_for(self, modality: str) -> Sequence[float]:
        """What is tried."""
        return self.strengths or STRENGTHS[modality]


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """One fitted linear model."""

    strength: float
    weights: NDArray[np.float32]
    """[features, labels]"""
    bias: NDArray[np.float32]
    logits: NDArray[np.float32]
    """On validation, [n, labels], before the temperature."""
    temperature: float
    accuracy: float
    """On validation, as the next."""
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Greater is better."""
        return self.accuracy, -self.loss


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The best fit, and what each C gave."""

    best: Fit
    tried: list[dict[str, float]]
    complete: bool
    """Was every C tried?"""


@dataclasses.dataclass(frozen=True, slots=True)
class Examples:
    """Encoded examples as scikit-learn takes them, and their labels; -1 is a label that the model does not know."""

    inputs: Any
    labels: Labels

    @property
    def known(self) -> Labels:
        """Rows with a label that the model knows."""
        return np.flatnonzero(self.labels >= 0)


def examples(
    features: Features, split: Split, labels: Labels | None = None, tick: Callable[[], None] = lambda: None
) -> Examples:
    """A split as `search` takes it; `labels` in place of the split's own numbers."""
    return prepared(features.encode(split, tick), features.width, split.labels if labels is None else labels)


def prepared(encoded: Encoded, width: int, labels: Labels) -> Examples:
    """Examples that are encoded already, with `width` features."""
    from scipy.sparse import csr_matrix

    if isinstance(encoded, Sparse):
        shape = (len(encoded), width)
        return Examples(csr_matrix((encoded.values, encoded.indices, encoded.offsets), shape=shape), labels)
    return Examples(encoded, labels)


def features_for(train: Split, features_max: int = FEATURES_MAX, tick: Callable[[], None] = lambda: None) -> Features:
    """The features that the model reads when nothing else asks for others."""
    if train.schema.modality == "text":
        return feature_module.fit_text(train, Ngrams(), documents_min=1, features_max=features_max, tick=tick)
    return feature_module.fit_table(train)


def search(
    train: Examples,
    validation: Examples,
    labels: int,
    modality: str,
    limits: Limits,
    seed: int,
    tried: Callable[[int, int, Fit], None] = lambda number, of, best: None,
) -> Found:
    """The best of the models for the values of C that fit into the time.

    labels: how many there are; tried: called after each fit with (its number, of how many, the best so far), may raise
    to stop.
    """
    strengths = limits.strengths_for(modality)
    started, took_s = _clocks(), (0.0, 0.0)
    best: Fit | None = None
    rows: list[dict[str, float]] = []
    for strength in strengths:
        began = _clocks()
        if best is not None and not _fits(limits, started, began, took_s):
            break
        fit = _fitted(train, validation, labels, modality, limits, seed, strength)
        ended = _clocks()
        took_s = (ended[0] - began[0], ended[1] - began[1])
        rows.append({"c": strength, "accuracy": fit.accuracy, "loss": fit.loss, "seconds": round(took_s[0], 3)})
        if best is None or fit.order > best.order:
            best = fit
        tried(len(rows), len(strengths), best)
    assert best is not None
    return Found(best, rows, len(rows) == len(strengths))


def _clocks() -> tuple[float, float]:
    """Processor and wall time."""
    return time.process_time(), time.monotonic()


def _fits(limits: Limits, started: tuple[float, float], now: tuple[float, float], took_s: tuple[float, float]) -> bool:
    """True when another fit (half as long again as the last) ends in time. Times: processor, wall."""
    ends_s = [now[clock] - started[clock] + 1.5 * took_s[clock] for clock in (0, 1)]
    return ends_s[0] <= limits.seconds_max and ends_s[1] <= limits.wall_s_max


def _fitted(
    train: Examples, validation: Examples, labels: int, modality: str, limits: Limits, seed: int, strength: float
) -> Fit:
    weights, bias = _weights(train, labels, modality, limits, seed, strength)
    logits = np.asarray(validation.inputs @ weights + bias, np.float32)
    known = validation.known
    truth = validation.labels[known]
    temperature = fitted_temperature(logits[known], truth)
    log_probabilities = log_softmax(logits[known] / np.float32(temperature))
    right = int((log_probabilities.argmax(axis=1) == truth).sum())
    loss = -log_probabilities[np.arange(len(truth)), truth].astype(np.float64).mean()
    return Fit(strength, weights, bias, logits, temperature, right / len(validation.labels), float(loss))


def _weights(
    train: Examples, labels: int, modality: str, limits: Limits, seed: int, strength: float
) -> tuple[Any, Any]:
    """([features, labels], [labels]) in float32. A label without a training example keeps weight zero and a bias so low
    that it is never named."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    most, seed = limits.iterations_max, seed & 0x7FFFFFFF
    if modality == "text":
        model = LinearSVC(C=strength, max_iter=most, random_state=seed)
    else:
        model = LogisticRegression(C=strength, max_iter=most, random_state=seed)
    present = np.unique(train.labels)
    weights = np.zeros((train.inputs.shape[1], labels), np.float32)
    bias = np.full(labels, -ABSENT_BIAS, np.float32)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.inputs, train.labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(present) == 2:
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.hstack([-intercept, intercept]) / 2
    weights[:, present], bias[present] = coefficients.T, intercept
    return weights, bias
