"""Baseline: a tuned linear model, the yardstick that every trained network is measured against. No torch.

In:    `train`, `validation`
Out:   `model` (architecture "linear", readable by `evaluate` and continued by `classify`); `claims`
How:   executors/models/linear.py, on TF-IDF of words (1-2) and characters inside words (2-5), or on standardised
       columns with their gaps filled
Stops: when every C was tried, or when the next one would not end in time
Not:   a candidate: it is never promoted
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from executors import port
from executors.port import Context, Job, Made, Runtime
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.data import Split
    from executors.features import Features
    from executors.models.linear import Found

MIB = 1024 * 1024


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
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("train", "validation"))
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
        from executors.models import linear
        from executors.pulse import Pulse

        settings = job.settings
        train, validation = (read_split(Path(job.inputs[name])) for name in ("train", "validation"))
        limits = linear.Limits(settings.strengths, settings.seconds_max, job.budget_s, settings.iterations_max)
        modality, labels = train.schema.modality, len(train.schema.labels)
        with Pulse(context, "fitting") as pulse:
            pulse.stop_if_asked()
            features = linear.features_for(train, settings.features_max)
            parts = [linear.examples(features, split) for split in (train, validation)]
            found = linear.search(parts[0], parts[1], labels, modality, limits, job.seed, pulse.fitted)
        return _deliver(job, context, features, train, validation, found)


def _deliver(job: Job, context: Context, features: Features, train: Split, validation: Split, found: Found) -> Made:
    import numpy as np

    from executors import modelcard, outcomes, room
    from executors.models import store
    from executors.models.probabilities import check_finite, log_softmax

    best = found.best
    log_probabilities = log_softmax(best.logits / np.float32(best.temperature))
    check_finite(log_probabilities)
    claims = outcomes.outcomes_of(validation, log_probabilities, train.schema.labels)
    sparse = train.schema.modality == "text"
    facts: dict[str, Any] = {
        "architecture": "linear",
        "c": best.strength,
        "tried": found.tried,
        "features": features.width,
    }
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
    card = modelcard.card(config, kpis)
    folder = room.written(context, job.scratch / "model", lambda place: store.write_model(place, arrays, config, card))
    claimed = room.written(context, job.scratch / "claims", lambda place: outcomes.write(claims, place))
    kpis["size_bytes"], kpis["parameters"] = float(store.size_bytes(folder)), float(best.weights.size + best.bias.size)
    return Made(
        outputs={"model": folder, "claims": claimed},
        media={"model": "model", "claims": "outcomes"},
        facts_of={"model": {"kind": job.kind, "architecture": "linear"}},
        kpis=kpis,
        stopped_by="finished" if found.complete else "budget",
        facts=facts,
    )
