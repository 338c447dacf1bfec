"""A classifier's network as the trainer's loop sees it: batches of encoded examples, cross-entropy, accuracy on
validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from executors import features
from executors.features import Encoded
from executors.models.classifier import Classifier, logits_of
from executors.models.network import Network, Rows, rows_of
from executors.models.probabilities import log_softmax
from executors.trainable import Base, Evaluation

Labels = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Examples encoded as the network reads them, and their labels; a label of -1 is one that the classifier does not
    know."""

    encoded: Encoded
    labels: Labels


def weights_of(labels: Labels, count: int, balance: float) -> Tensor | None:
    """What each of `count` labels weighs, by how often it occurs to the power of -balance; in the mean over the
    examples 1, so that a learning rate means the same. None where all weigh the same."""
    if balance <= 0.0:
        return None
    often = np.bincount(labels[labels >= 0], minlength=count).astype(np.float64)
    heavy = np.where(often > 0, np.maximum(often, 1.0) ** -balance, 0.0)
    return torch.from_numpy((heavy * often.sum() / (heavy * often).sum()).astype(np.float32))


@dataclasses.dataclass(slots=True)
class ClassifierLearner(Base):
    """What trains. Best is what answers most validation examples right; among equals the smaller loss."""

    classifier: Classifier
    train: Part
    validation: Part
    device: torch.device
    label_smoothing: float = 0.0
    weights: Tensor | None = None
    """Of the labels in the loss, on the device; None: all the same."""

    @property
    def network(self) -> Network:
        """The classifier's network."""
        return self.classifier.network

    @property
    def rows(self) -> int:
        """Training examples."""
        return len(self.train.labels)

    def build(self, rows: Labels) -> tuple[Rows, Tensor]:
        """Features and labels of some training examples."""
        encoded = rows_of(features.take(self.train.encoded, rows))
        return encoded.to(self.device), torch.from_numpy(self.train.labels[rows]).to(self.device)

    def targets(self, batch: tuple[Rows, Tensor]) -> int:
        """One per example."""
        return len(batch[1])

    def loss(self, batch: tuple[Rows, Tensor]) -> Tensor:
        """Summed cross-entropy in nats, weighted by the labels' mix."""
        rows, labels = batch
        return nn.functional.cross_entropy(
            self.network(rows), labels, weight=self.weights, reduction="sum", label_smoothing=self.label_smoothing
        )

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Accuracy and loss over the validation examples whose labels are known."""
        known = np.flatnonzero(self.validation.labels >= 0)
        logits = logits_of(self.network, self.validation.encoded, self.device, tick)[known]
        labels = self.validation.labels[known]
        loss = float(-log_softmax(logits)[np.arange(len(labels)), labels].astype(np.float64).mean())
        accuracy = float((logits.argmax(axis=1) == labels).sum() / len(self.validation.labels))
        return Evaluation(accuracy, loss, {"validation_accuracy": accuracy})
