"""A dual encoder's training as the loop sees it: batches of pairs, InfoNCE over the whole step, ranking on validation.

A step's parts are one batch: the loss compares every pair of the step with every other, however many parts memory
allows (infonce.py). With `queues` it compares with earlier steps, too. Validation ranks the right texts of the
validation pairs, VALIDATION_MAX at most; best is the highest MRR. A space that collapses (ranking.Spread) stops the run
before the time is wasted, or is noted, as the settings say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executors.data import Ints
from executors.models import ranking
from executors.models.dual import Batch, Dual
from executors.models.dualencoder import vectors_of
from executors.models.infonce import gradients, info_nce
from executors.models.queues import Queues
from executors.models.sides import Inputs
from executors.pairs import Pairs
from executors.recipe import Recipe
from executors.trainable import Base, Evaluation, Step
from mesh.errors import TaskRefused

VALIDATION_MAX = 2_000
"""Pairs that are ranked in every validation."""


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """Pairs, and both of their texts as the towers take them."""

    left: Inputs
    right: Inputs
    pairs: Pairs


@dataclasses.dataclass(slots=True)
class ContrastLearner(Base):
    """What trains."""

    network: Dual
    train: Side
    validation: Side
    device: torch.device
    queues: Queues | None = None
    body_rate: float | None = None
    """Learning rate of an encoder that is tuned; None: that of the towers."""
    effective_rank_min: float = 2.0
    stops: bool = True
    """On a collapse; else it is noted in `collapsed`."""
    collapsed: str = ""
    start: ranking.Spread | None = None
    """Of the untrained towers: an encoder that was never trained for sentences begins with vectors that are all alike;
    that is no collapse as long as it gets no worse."""

    @property
    def rows(self) -> int:
        """Training pairs."""
        return len(self.train.pairs)

    def build(self, rows: Ints) -> Batch:
        """Some training pairs."""
        ids = (
            torch.from_numpy(each[rows].view(np.int64))
            for each in (self.train.pairs.left_ids, self.train.pairs.right_ids)
        )
        return Batch(self.train.left.take(rows), self.train.right.take(rows), *ids).to(self.device)

    def targets(self, batch: Batch) -> int:
        """One per pair."""
        return len(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Summed InfoNCE of one part alone."""
        left, right = self.network(batch)
        keys = self.queues.keys([batch]) if self.queues is not None else None
        return info_nce(left, right, batch.left_ids, batch.right_ids, self.network.temperature, keys)

    def gradients(self, parts: Sequence[Any], step: Step) -> float:
        """All parts as one batch."""
        queues = self.queues
        return gradients(self.network, parts, step, lambda: queues.keys(list(parts)) if queues is not None else None)

    def moved(self) -> None:
        """The momentum encoders follow, the queues take the step's keys."""
        if self.queues is not None:
            self.queues.moved()

    def state(self) -> Mapping[str, Tensor]:
        """Momentum encoders and queues."""
        return self.queues.state() if self.queues is not None else {}

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Matrices decay; the tuned encoder learns at a rate of its own."""
        body = {id(each) for each in self.network.body.parameters()} if self.network.body is not None else set[int]()
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in body, parameter.ndim > 1), []).append(parameter)
        rate = self.body_rate if self.body_rate is not None else recipe.learning_rate
        return [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "lr": rate if of_body else recipe.learning_rate,
            }
            for (of_body, decays), parameters in groups.items()
        ]

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Ranking of the validation pairs among their own rights. TaskRefused on a collapse that stops."""
        left, right = self.validation_vectors(tick)
        pool = ranking.pool_of(self.validation.pairs)
        in_pool = np.empty((len(pool), right.shape[1]), np.float32)
        in_pool[pool.truth] = right
        temperature = float(self.network.temperature.detach())
        ranked = ranking.rank(lambda rows: left[rows] @ in_pool.T, pool, temperature, tick)
        spread = ranking.spread(left, right)
        self._look_at(spread)
        found = ranking.measures(ranked)
        metrics = {
            "validation_mrr": found["mrr"],
            "validation_recall_at_1": found["recall_at_1"],
            "effective_rank": spread.effective_rank,
            "uniformity": spread.uniformity,
            "alignment": spread.alignment,
            "temperature": temperature,
        }
        return Evaluation(found["mrr"], float(ranked.loss.astype(np.float64).mean()), metrics)

    def validation_vectors(self, tick: Callable[[], None]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the validation pairs, both sides."""
        left, right = self.validation.left, self.validation.right
        return vectors_of(self.network, "left", left, tick), vectors_of(self.network, "right", right, tick)

    def _look_at(self, spread: ranking.Spread) -> None:
        why, start = spread.collapsed(self.effective_rank_min), self.start
        if not why or (
            start is not None
            and start.collapsed(self.effective_rank_min)
            and spread.effective_rank >= start.effective_rank
        ):
            return
        self.collapsed = self.collapsed or why
        if self.stops:
            raise TaskRefused(
                f"the vectors collapsed: {why}; take a lower learning_rate, a higher temperature, or with queues a "
                "momentum of 0.995 to 0.999 (collapse = flag goes on all the same)"
            )
