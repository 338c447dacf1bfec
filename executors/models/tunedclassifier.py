"""A classifier whose encoder learns, too: word pieces through the encoder and a small network behind it.

The encoder learns at a rate of its own, some hundred times lower than the network's: it knows much already. The best
weights of both are those with most validation examples right; the first validation, before any step, counts, so that a
run that goes on from another model is never worse than it there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from executors.models import encoder as encoders
from executors.models.encoder import Pooled, Tokens
from executors.models.network import Network, Rows
from executors.models.probabilities import log_softmax
from executors.models.sides import TokenInputs
from executors.recipe import Recipe
from executors.trainable import Base, Evaluation

Labels = NDArray[np.int64]


class TunedNetwork(nn.Module):
    """Tokens to logits [n, labels]."""

    def __init__(self, body: Pooled, head: Network, scale: float) -> None:
        super().__init__()
        self.body, self.head, self.scale = body, head, scale

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(Rows(self.body(tokens) * self.scale))
        return logits


@dataclasses.dataclass(frozen=True, slots=True)
class TokenPart:
    """Examples as word pieces, and their labels; -1 is one that the classifier does not know."""

    inputs: TokenInputs
    labels: Labels


@dataclasses.dataclass(slots=True)
class TunedLearner(Base):
    """What trains."""

    network: TunedNetwork
    train: TokenPart
    validation: TokenPart
    device: torch.device
    body_rate: float
    label_smoothing: float = 0.0

    @property
    def rows(self) -> int:
        """Training examples."""
        return len(self.train.labels)

    def build(self, rows: Labels) -> tuple[Any, Tensor]:
        """Word pieces and labels of some training examples."""
        return self.train.inputs.take(rows).to(self.device), torch.from_numpy(self.train.labels[rows]).to(self.device)

    def targets(self, batch: tuple[Any, Tensor]) -> int:
        """One per example."""
        return len(batch[1])

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        """Summed cross-entropy in nats."""
        tokens, labels = batch
        logits = self.network(tokens)
        return nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Matrices decay; the encoder has a rate of its own."""
        groups = []
        for part, rate in ((self.network.body, self.body_rate), (self.network.head, recipe.learning_rate)):
            trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
            for decay, parameters in (
                (recipe.weight_decay, [each for each in trained if each.ndim > 1]),
                (0.0, [each for each in trained if each.ndim <= 1]),
            ):
                groups.append({"params": parameters, "weight_decay": decay, "lr": rate})
        return groups

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Accuracy and loss over the validation examples whose labels are known."""
        known = np.flatnonzero(self.validation.labels >= 0)
        lengths = self.validation.inputs.lengths[known].tolist()
        logits = np.zeros((len(known), self.network.head.shape.labels), np.float32)
        with torch.inference_mode():
            for rows in encoders.batched(lengths):
                tokens = self.validation.inputs.take(known[rows]).to(self.device)
                logits[rows] = self.network(tokens).float().cpu().numpy()
                tick()
        labels = self.validation.labels[known]
        loss = float(-log_softmax(logits)[np.arange(len(labels)), labels].astype(np.float64).mean())
        accuracy = float((logits.argmax(axis=1) == labels).sum() / len(self.validation.labels))
        return Evaluation(accuracy, loss, {"validation_accuracy": accuracy})
