"""From a trained network to the classifier that answers: the linear path beside it, the blend, the champion before it.

    trained network ──┐
                      ├── blend (validation, with caution) ──┐
    linear path ──────┘                                      ├── the better one on validation answers
    champion as it was ──────────────────────────────────────┘

The linear path is fitted on the same training split as the network, over all features that the classifier knows; a
champion's is taken over when it was fitted on the very same split. With a champion the answer is never worse on
validation than the champion as it came.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors.data import Split, digest_of
from executors.features import Encoded
from executors.models import linear
from executors.models.blending import NETWORK_ALONE, choose
from executors.models.classifier import Classifier, indices_of, linear_path, logits_of
from executors.models.linear import Fit
from executors.models.probabilities import fitted_temperature, log_softmax
from executors.port import Context, Job
from executors.pulse import Pulse

LINEAR_SHARE = 0.25
"""Of the task's budget, what the linear path may take at least: the network is planned for the rest."""

LINEAR_PARAMETERS_MAX = 40_000_000
"""Numbers in a linear path, 160 MB: beyond some 200 labels it reads fewer n-grams for it."""

PHASE = "linear path"

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What was decided."""

    classifier: Classifier
    logits: Floats
    """On validation, [n, labels], before the temperature."""
    kept_champion: bool
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Validation:
    """The examples on which everything is decided."""

    encoded: Encoded
    labels: Labels
    known: Labels
    """Rows with a label that the classifier knows."""

    def order(self, logits: Floats) -> tuple[float, float]:
        """(accuracy, -loss) at the best temperature; greater is better."""
        logits, truth = logits[self.known], self.labels[self.known]
        log_probabilities = log_softmax(logits / np.float32(fitted_temperature(logits, truth)))
        right = float((log_probabilities.argmax(axis=1) == truth).mean())
        return right, float(log_probabilities[np.arange(len(truth)), truth].astype(np.float64).mean())


def linear_features_max(labels: int) -> int:
    """How many n-grams a linear path may read."""
    return max(20_000, min(linear.FEATURES_MAX, LINEAR_PARAMETERS_MAX // labels))


def settle(
    job: Job,
    context: Context,
    model: Classifier,
    before: Classifier | None,
    splits: dict[str, Split],
    device: torch.device,
    trained_s: float,
) -> Answer:
    """The classifier that answers. model: with its trained network; before: the champion with the same features and
    labels, as it came; trained_s: what of the budget is used. Stopped when asked to stop between two fits."""
    with Pulse(context, PHASE, done=1.0) as pulse:
        encoded = model.encode(splits["validation"])
        labels = indices_of(splits["validation"], model.labels)
        validation = _Validation(encoded, labels, np.flatnonzero(labels >= 0))
        facts: dict[str, Any] = {}
        if job.settings.linear_path:
            facts["linear"] = _put_beside(job, pulse, model, before, splits, device, validation, trained_s)
            facts["blend"] = _blend(model, validation, device)
        logits = model.logits(encoded, device)
        if before is None:
            return Answer(model, logits, False, facts)
        old = before.logits(encoded, device)
        facts["before"] = {"accuracy": validation.order(old)[0]}
        if validation.order(logits) > validation.order(old):
            return Answer(model, logits, False, facts)
        return Answer(before, old, True, facts)


def _put_beside(
    job: Job,
    pulse: Pulse,
    model: Classifier,
    before: Classifier | None,
    splits: dict[str, Split],
    device: torch.device,
    validation: _Validation,
    trained_s: float,
) -> dict[str, Any]:
    """Give the model its linear path; what is to be told of it."""
    source = digest_of(Path(job.inputs["train"]))
    if before is not None and before.linear is not None and source and source == before.fitted_on:
        model.linear, model.fitted_on = before.linear, source
        return {"taken_over": True}
    train = splits["train"]
    examples = linear.examples(model.features, train, indices_of(train, model.labels))
    held_out = linear.prepared(validation.encoded, model.features.width, validation.labels)
    limits = linear.Limits(wall_s_max=max(LINEAR_SHARE * job.budget_s, job.budget_s - trained_s))

    def tried(number: int, of: int, best: Fit) -> None:
        pulse.stop_if_asked()

    pulse.stop_if_asked()
    found = linear.search(examples, held_out, len(model.labels), _form(model), limits, job.seed, tried)
    model.linear, model.fitted_on = _path(found.best, model.features.sparse).to(device), source
    return {"c": found.best.strength, "tried": found.tried, "features": model.features.width}


def _form(model: Classifier) -> str:
    """Which linear model its features ask for: that of texts when they are sparse, else that of tables."""
    return "text" if model.features.sparse else "tabular"


def _path(fit: Fit, sparse: bool) -> Any:
    """A fitted linear model as a network without hidden layers."""
    path = linear_path(len(fit.weights), len(fit.bias), sparse)
    weight = fit.weights if sparse else np.ascontiguousarray(fit.weights.T)
    path.load_state_dict({"wide.weight": torch.from_numpy(weight), "bias": torch.from_numpy(fit.bias)})
    return path


def _blend(model: Classifier, validation: _Validation, device: torch.device) -> dict[str, Any]:
    """Choose how much each path counts. A linear path that counts nothing is left out."""
    assert model.linear is not None
    known = validation.known
    network = logits_of(model.network, model.head(validation.encoded), device)[known]
    beside = logits_of(model.linear, validation.encoded, device)[known]
    chosen = choose(network, beside, validation.labels[known])
    model.blend = chosen.blend
    if chosen.weight == 1.0:
        model.linear, model.blend, model.fitted_on = None, NETWORK_ALONE, ""
    return {"network": chosen.weight, "linear": 1.0 - chosen.weight, "gain": chosen.gain, "error": chosen.error}
