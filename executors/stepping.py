"""One step of a training: forward, backward, reduce, clip, check, move.

    for each part of the batch      loss / targets of the whole step, backward; a stop may leave between two parts
    reduce                          over the devices that train together
    look at the numbers             losses and the gradient's norm; one is not finite: nothing moves
    optimizer, moved()

The loss of a step is the sum over all its parts divided by the targets of all of them, so that parts of unequal size
weigh what they should. A step that is left between two parts is as if it had not begun: its gradients are dropped and
the generators put back.

With `accumulate_float64` each part's gradient is added to a float64 buffer as soon as it is there, the norm is taken
and the clipping done in float64, and the sum is rounded once, before the optimizer: the order and the number of parts
then change the last bits of no sum. (A gradient scaler looks at the rounded sum.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from executors import checkpoint
from executors.device import Device
from executors.recipe import Recipe
from executors.state import Moving
from executors.team import Team
from executors.trainable import Step, Trainable
from mesh.errors import NonFinite

SCALE_LEAST = 2.0**-14
"""A gradient scale below it means that the gradient itself is not finite, whatever it is scaled by."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What a step was."""

    loss: float
    norm: float
    """Of the gradient, before it was clipped."""
    rate: float
    targets: int


class Stepper:
    """Takes the steps of one run."""

    def __init__(
        self, trainable: Trainable, recipe: Recipe, device: Device, moving: Moving, team: Team,
        between: Callable[[Callable[[], None]], None],
    ) -> None:  # fmt: skip
        """between: called between two parts of a step with a function that undoes the step so far."""
        self._trainable, self._recipe, self._device, self._team = trainable, recipe, device, team
        self._moving, self._between = moving, between
        self._trained = [each for each in trainable.network.parameters() if each.requires_grad]
        self._rates = [group["lr"] / recipe.learning_rate for group in moving.optimizer.param_groups]
        self._sums = DoubleSums(self._trained) if recipe.accumulate_float64 else None
        self._put_aside = True

    def put_aside(self) -> None:
        """The network is used for something else than steps: its mode is set anew before the next one."""
        self._put_aside = True

    def take(self, batch: Sequence[Any], number: int, factor: float) -> Taken:
        """One step after `number` finished ones, at `factor` of the peak rate. NonFinite before anything has moved;
        whatever `between` raises."""
        scaler, optimizer = self._moving.scaler, self._moving.optimizer
        if self._put_aside:
            self._trainable.network.train()  # every module of it: a wrapper may be in this mode and what it holds not
            self._put_aside = False
        self._team.begin(number)
        optimizer.zero_grad(set_to_none=True)
        targets = int(self._team.total(sum(self._trainable.targets(part) for part in batch)))
        losses = self._gradients(batch, number, targets)
        norm = self._finished_gradient()
        loss = self._looked_at(losses, norm, number)
        rate = self._recipe.learning_rate * factor
        for group, share in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share if share != 1.0 else rate
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            self._trainable.moved()
        return Taken(loss, float(norm), rate, targets)

    def undo(self, generators: Mapping[str, Any]) -> None:
        """As if the step had not begun."""
        self._moving.optimizer.zero_grad(set_to_none=True)
        if self._sums is not None:
            self._sums.drop()
        if generators:
            checkpoint.restore_generators(generators)

    def _gradients(self, batch: Sequence[Any], number: int, targets: int) -> list[Tensor | float]:
        """Add up the gradients of a step's parts; the loss of each."""
        before = checkpoint.generators() if len(batch) > 1 else {}
        scale = self._moving.scaler.scale

        def backward(loss: Tensor) -> None:
            scale(loss).backward()

        def between() -> None:
            self._between(lambda: self.undo(before))

        step = Step(number, targets, self._device.autocast, backward, between)
        own = self._trainable.gradients(batch, step)
        if own is not None:
            return [own]
        losses: list[Tensor | float] = []
        for place, part in enumerate(batch):
            if place:
                between()
            with self._team.part(last=place == len(batch) - 1):
                with self._device.autocast():
                    loss = self._trainable.loss(part) / targets
                backward(loss)
            losses.append(loss.detach())
        return losses

    def _finished_gradient(self) -> Tensor:
        """Reduce, unscale and clip; the norm before it was clipped."""
        scaler, clip = self._moving.scaler, self._recipe.clip
        if self._sums is not None:
            if not scaler.is_enabled() and self._team.size == 1:
                return self._sums.settle(clip)
            self._sums.settle(math.inf)
        self._team.reduce(self._trained)
        scaler.unscale_(self._moving.optimizer)
        return self._team.clip(self._trained, clip)

    def _looked_at(self, losses: Sequence[Tensor | float], norm: Tensor, number: int) -> float:
        """The step's loss over all parts and devices. NonFinite when it, or the norm, is no number to go on with."""
        total = self._team.total(sum(map(float, losses)))
        if not math.isfinite(total):
            raise NonFinite(_sentence("the loss", total, number))
        scaler, found = self._moving.scaler, float(norm)
        if not math.isfinite(found) and (not scaler.is_enabled() or scaler.get_scale() < SCALE_LEAST):
            raise NonFinite(_sentence("the gradient's norm", found, number))
        return total


class DoubleSums:
    """Sums of gradients in float64, taken as soon as each is there."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums: dict[nn.Parameter, Tensor] = {}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._add)

    def _add(self, tensor: Tensor) -> None:
        parameter = tensor
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        known = self._sums.get(parameter)
        if known is None:
            self._sums[parameter] = parameter.grad.double()
        else:
            known.add_(parameter.grad)
        parameter.grad = None

    def settle(self, clip: float) -> Tensor:
        """Clip the sums to a norm of at most `clip`, round them into the gradients, begin anew; the norm before."""
        sums = {each: self._sums[each] for each in self._parameters if each in self._sums}
        if not sums:
            return torch.zeros(())
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in sums.values()]))
        share = torch.clamp(clip / (norm + 1e-6), max=1.0)
        for parameter, each in sums.items():
            parameter.grad = each.mul_(share).to(parameter.dtype)
        self._sums = {}
        return norm

    def drop(self) -> None:
        """Forget the sums."""
        self._sums = {}


def _sentence(what: str, value: float, number: int) -> str:
    return (
        f"{what} became {value} at step {number + 1}; the weights were not moved: "
        "try a lower learning_rate, or look at the data"
    )
