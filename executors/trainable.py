"""What a kind brings to the training loop: a network, its data, its loss, and how good it is.

    must      network, rows, build, targets, loss, evaluate
    may       parameter_groups   which parameters decay, and which learn at another rate
              frozen             which never change (a base model below adapters)
              gradients          a way of its own to the gradients of a step (gradient caching)
              moved              after every step: momentum encoders, queues
              state              further tensors of the exact state, saved and restored with the run

Inherit `Base` and define what must be; the rest has defaults. The loop calls `build` in a thread of its own and all
else in the thread that trains. Whatever these methods do must follow from the batch, the state and the generators of
random numbers that a checkpoint saves (executors/checkpoint.py): a resumed run is bit-identical only then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from executors.data import Ints
from executors.recipe import Recipe


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network is worth on validation. `score`: higher is better, what 'best' is chosen by."""

    score: float
    loss: float
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What the loop offers to a kind that computes a step's gradients by itself."""

    number: int
    """Finished steps before this one."""
    targets: int
    """Predictions of all parts of the step, on all devices: divide summed losses by it."""
    autocast: Callable[[], contextlib.AbstractContextManager[Any]]
    """Around every forward pass."""
    backward: Callable[[Tensor], None]
    """In place of `loss.backward()`: scales the loss where half precision needs it. What is computed from gradients
    that it left behind is scaled already."""
    between: Callable[[], None]
    """Call it between two parts: a sign of life, and the place where a stop may leave the step. It then is taken anew:
    change nothing but gradients before `moved`."""


class Trainable(Protocol):
    """A kind's training, as the loop sees it."""

    @property
    def network(self) -> nn.Module:
        """What is trained, on its device. Every trained parameter belongs to it."""

    @property
    def rows(self) -> int:
        """Training examples."""

    def build(self, rows: Ints) -> Any:
        """A batch of these training examples. Runs in another thread, draws no random numbers."""

    def targets(self, batch: Any) -> int:
        """How many predictions a batch asks for."""

    def loss(self, batch: Any) -> Tensor:
        """Sum of the loss over the batch's targets."""

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """The network on validation. Calls `tick` at least every second; it may raise. Draws no random numbers."""

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Groups of trained parameters for AdamW, each with 'params', perhaps with a 'weight_decay' or 'lr' of its
        own."""

    def frozen(self) -> Collection[str]:
        """Names of parameters that never change. They get no gradient, and travel once."""

    def gradients(self, parts: Sequence[Any], step: Step) -> float | None:
        """Add up the gradients of a step's parts; its summed loss divided by `step.targets`. None, before anything was
        computed: the loop does it, part by part."""

    def moved(self) -> None:
        """The optimizer has moved the weights. Runs without gradients; must be deterministic."""

    def state(self) -> Mapping[str, Tensor]:
        """Further tensors that decide how the run goes on, always the same names, shapes and types. They are saved
        after a step and, when a run is resumed, filled in place."""


class Base:
    """Defaults of what a trainable may leave out."""

    def parameter_groups(self: Trainable, recipe: Recipe) -> list[dict[str, Any]]:
        """Matrices decay; biases, norms and scales do not."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ]

    def frozen(self) -> Collection[str]:
        """None but those that require no gradient anyway."""
        return ()

    def gradients(self, parts: Sequence[Any], step: Step) -> float | None:
        """The loop does it."""
        return None

    def moved(self) -> None:
        """Nothing follows a step."""

    def state(self) -> Mapping[str, Tensor]:
        """No further tensors."""
        return {}
