"""The devices that train one network together, as the loop sees them: this process, and perhaps others beside it.

A step's batch is shared out, each process adds up the gradients of its share, and `reduce` makes them those of the
whole batch before anything is clipped or moved. What a clock or a message from outside decides is decided by the first
process and `agreed` upon, so that all of them leave the loop at the same step. `Team` is a process that trains alone;
executors/parallel.py has those that do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from executors.data import Ints

Value = TypeVar("Value")


class StopAsked(Exception):
    """Leaves an evaluation when the run is asked to stop."""


class Team:
    """A process that trains alone."""

    rank: int = 0
    """Number of this process; the first one reports and saves."""
    size: int = 1
    """Processes."""
    evaluates_alone: bool = True
    """The first process needs no other one for an evaluation, so that it may leave it half-way."""

    def wrap(self, network: nn.Module) -> None:
        """Prepare the network in place, before an optimizer sees its parameters."""

    def unwrap(self, network: nn.Module) -> None:
        """Give the first process its whole network back, after the last step."""

    def parts(self, rows: Ints, most: int) -> list[Ints]:
        """This process's share of a step's rows, in parts of at most `most` rows; as many parts in every process. Runs
        in the thread that builds batches."""
        return [rows[start : start + most] for start in range(0, len(rows), most)]

    def begin(self, number: int) -> None:
        """The step after `number` finished ones begins."""

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        return value

    def part(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of one part of a step; gradients may travel in the last one."""
        return contextlib.nullcontext()

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every gradient the sum over all processes (each was divided by the targets of all)."""

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> Tensor:
        """Scale the gradients down to a norm of at most `most`; the norm before."""
        return nn.utils.clip_grad_norm_(parameters, most)

    def agreed(self, value: Value) -> Value:
        """What the first process says, in every process."""
        return value

    def evaluated(self, work: Callable[[], Value]) -> Value:
        """What `work` gives, or raises, in the first process; in every process."""
        return work()

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of a snapshot, each in one piece, where the first process can save them."""
        return tensors

    def divided(self, tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """The inverse of `whole`: what of a snapshot's tensors this process holds."""
        return tensors

    def facts(self) -> dict[str, Any]:
        """What of it decides the last bits of a run."""
        return {}
