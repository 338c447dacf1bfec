"""Baseline: a tuned linear model, the yardstick that every trained network is measured against. No torch.

In:    `train`, `validation`
Out:   `model` (architecture "linear", readable by `evaluate` and continued by `classify`); `claims`
How:   text: TF-IDF of words (1-2) and characters inside words (2-5) into a linear support vector machine; tables:
standardised,
       gaps filled, into a multinomial logistic regression. The regularisation C with most validation examples right
       wins (among equals the smaller loss), and a temperature fitted on validation turns margins into probabilities
Stops: when every C was tried, or when the next one would not end in time
Not:   a candidate: it is never promoted
"""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from executors.data import Split
    from executors.features import Features

MIB = 1024 * 1024

STRENGTHS = {"text": (1.0, 0.3, 3.0, 0.1, 10.0), "tabular": (1.0, 0.1, 10.0, 0.01, 100.0, 0.001)}
"""Values of C, the likeliest first, so that a short budget tries the right ones."""

ABSENT_BIAS = 1e4
"""Of a label without a training example, subtracted: far below any margin, and finite."""

PULSE_S = 1.0
"""Seconds between signs of life during a fit, which itself reports nothing."""


class BaselineSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is tried."""

    strengths: tuple[float, ...] = ()
    """Values of C in the order in which they are tried; () for the usual ones."""
    features_max: int = 200_000
    seconds_max: float = 45.0
    """Processor seconds after which no further C is begun, so that a busy machine tries as many; the task's budget
    bounds the wall time."""
    iterations_max: int = 1_000

    def __post_init__(self) -> None:
        if not all(1e-6 <= value <= 1e6 for value in self.strengths) or len(self.strengths) > 20:
            raise ValueError(f"strengths are at most 20 values of 1e-6 to 1e6, got {self.strengths}")
        if not 100 <= self.features_max <= 5_000_000 or not 1 <= self.iterations_max <= 100_000:
            raise ValueError("features_max is 100 to 5000000, iterations_max 1 to 100000")
        if not 0 < self.seconds_max <= 86_400:
            raise ValueError(f"seconds_max is above 0 and at most 86400, got {self.seconds_max}")


class Baseline:
    """The kind `baseline`."""

    name: ClassVar[str] = "baseline"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.SCIENCE
    Settings: ClassVar[type[port.Settings]] = BaselineSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for the encoded training split in double precision and a few copies of the weights."""
        rows, labels = int(facts.get("examples") or facts.get("rows") or 10_000), int(facts.get("labels") or 10)
        size = int(facts.get("bytes") or rows * 200)
        if facts.get("modality") == "tabular":
            width, encoded = int(facts.get("features") or 100), 24 * rows * int(facts.get("features") or 100)
        else:
            width, encoded = min(settings.features_max, max(1_000, size // 4)), min(60 * size, 12 * 1024 * MIB)
        weights = 8 * width * labels
        return Needs(cores=1.0, memory_bytes=300 * MIB + encoded + 3 * weights, disk_bytes=64 * MIB + weights + size)

    def run(self, job: Job, context: Context) -> Made:
        """Fit, choose, calibrate, claim."""
        from executors.data import read_split

        started = (time.process_time(), time.monotonic())
        train, validation = (read_split(Path(job.inputs[name])) for name in ("train", "validation"))
        with Pulse(context) as pulse:
            features, best, tried = _search(job, pulse, train, validation, started)
        return _deliver(job, features, train, validation, best, tried)


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
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Greater is better."""
        return self.accuracy, -self.loss


def _search(
    job: Job, pulse: Pulse, train: Split, validation: Split, started: tuple[float, float]
) -> tuple[Features, Fit, list[dict[str, float]]]:
    """Features, the best fit, and what each C gave."""
    from executors import features as feature_module
    from executors.ngrams import Ngrams

    modality = train.schema.modality
    features: Features
    if modality == "text":
        features = feature_module.fit_text(train, Ngrams(), documents_min=1, features_max=job.settings.features_max)
    else:
        features = feature_module.fit_table(train)
    inputs, held_out = _matrix(features, train), _matrix(features, validation)
    best, tried, took_s = None, [], (0.0, 0.0)
    strengths = job.settings.strengths or STRENGTHS[modality]
    for number, strength in enumerate(strengths):
        pulse.stop_if_asked()
        began = (time.process_time(), time.monotonic())
        if best is not None and not _fits(job, started, began, took_s):
            break
        fit = _fitted(job, inputs, train, held_out, validation, strength)
        took_s = (time.process_time() - began[0], time.monotonic() - began[1])
        tried.append({"c": strength, "accuracy": fit.accuracy, "loss": fit.loss, "seconds": round(took_s[0], 3)})
        if best is None or fit.order > best.order:
            best = fit
        pulse.report(number + 1, len(strengths), best)
    assert best is not None
    return features, best, tried


def _fits(job: Job, started: tuple[float, float], now: tuple[float, float], took_s: tuple[float, float]) -> bool:
    """True when another fit (half as long again as the last) ends in time. Times: processor, wall."""
    ends_s = [now[clock] - started[clock] + 1.5 * took_s[clock] for clock in (0, 1)]
    return ends_s[0] <= job.settings.seconds_max and ends_s[1] <= job.budget_s


def _matrix(features: Features, split: Split) -> Any:
    """The split's features as scikit-learn takes them."""
    from scipy.sparse import csr_matrix

    from executors.ngrams import Sparse

    encoded = features.encode(split)
    if isinstance(encoded, Sparse):
        shape = (len(encoded), features.width)
        return csr_matrix((encoded.values, encoded.indices, encoded.offsets), shape=shape)
    return encoded


def _fitted(job: Job, inputs: Any, train: Split, held_out: Any, validation: Split, strength: float) -> Fit:
    import numpy as np

    from executors.models.probabilities import fitted_temperature, log_softmax

    weights, bias = _weights(job, inputs, train, strength)
    logits = np.asarray(held_out @ weights + bias, np.float32)
    temperature = fitted_temperature(logits, validation.labels)
    log_probabilities = log_softmax(logits / np.float32(temperature))
    right = log_probabilities.argmax(axis=1) == validation.labels
    loss = -log_probabilities[np.arange(len(validation)), validation.labels].astype(np.float64).mean()
    return Fit(strength, weights, bias, logits, temperature, float(right.mean()), float(loss))


def _weights(job: Job, inputs: Any, train: Split, strength: float) -> tuple[Any, Any]:
    """([features, labels], [labels]) in float32. A label without a training example keeps weight zero and a bias so low
    that it is never named."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    most, seed = job.settings.iterations_max, job.seed & 0x7FFFFFFF
    if train.schema.modality == "text":
        model = LinearSVC(C=strength, max_iter=most, random_state=seed)
    else:
        model = LogisticRegression(C=strength, max_iter=most, random_state=seed)
    present = np.unique(train.labels)
    weights = np.zeros((inputs.shape[1], len(train.schema.labels)), np.float32)
    bias = np.full(len(train.schema.labels), -ABSENT_BIAS, np.float32)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, train.labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(present) == 2:
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.hstack([-intercept, intercept]) / 2
    weights[:, present], bias[present] = coefficients.T, intercept
    return weights, bias


def _deliver(
    job: Job, features: Features, train: Split, validation: Split, best: Fit, tried: list[dict[str, float]]
) -> Made:
    import numpy as np

    from executors import modelcard, outcomes
    from executors.models import store
    from executors.models.probabilities import check_finite, log_softmax

    log_probabilities = log_softmax(best.logits / np.float32(best.temperature))
    check_finite(log_probabilities)
    claims = outcomes.outcomes_of(validation, log_probabilities, train.schema.labels)
    sparse = train.schema.modality == "text"
    facts: dict[str, Any] = {"architecture": "linear", "c": best.strength, "tried": tried, "features": features.width}
    config = {
        "kind": job.kind,
        "settings": msgspec.to_builtins(job.settings),
        "trained": facts,
        "architecture": "linear",
        "modality": features.modality,
        "labels": list(train.schema.labels),
        "features": features.config(),
        "network": {
            "inputs": features.width, "labels": len(train.schema.labels), "sparse": sparse, "wide": True, "hidden": [],
        },
        "temperature": best.temperature,
    }  # fmt: skip
    arrays = {f"features.{name}": array for name, array in features.tensors().items()}
    arrays["network.wide.weight"] = best.weights if sparse else best.weights.T
    arrays["network.bias"] = best.bias
    kpis = {"validation_accuracy": outcomes.accuracy(claims), "validation_loss": outcomes.mean_loss(claims)}
    folder = store.write_model(job.scratch / "model", arrays, config, modelcard.card(config, kpis))
    kpis["size_bytes"], kpis["parameters"] = float(store.size_bytes(folder)), float(best.weights.size + best.bias.size)
    return Made(
        outputs={"model": folder, "claims": outcomes.write(claims, job.scratch / "claims")},
        media={"model": "model", "claims": "outcomes"},
        facts_of={"model": {"kind": job.kind, "architecture": "linear"}},
        kpis=kpis,
        stopped_by="finished"
        if len(tried) == len(job.settings.strengths or STRENGTHS[features.modality])
        else "budget",
        facts=facts,
    )


class Pulse:
    """Signs of life from a thread while scikit-learn fits (it releases the interpreter). A fit that never ends is
    bounded by the task's wall time, not by its silence."""

    def __init__(self, context: Context) -> None:
        self._context, self._over = context, threading.Event()
        self._last: tuple[int, float, dict[str, float]] = (0, 0.0, {})
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5.0)

    def report(self, tried: int, strengths: int, best: Fit) -> None:
        """One more C was tried."""
        metrics = {"validation_accuracy": best.accuracy, "validation_loss": best.loss}
        self._last = (tried, tried / strengths, metrics)
        self._context.progress(*self._last, "fitting")

    def stop_if_asked(self) -> None:
        """Stopped when the task is to end; there is no checkpoint, it is short."""
        if why := self._context.stop_requested():
            raise Stopped(f"stopped between two fits as asked: {why}")

    def _beat(self) -> None:
        while not self._over.wait(PULSE_S):
            self._context.progress(*self._last, "fitting")
