"""Momentum contrast on both sides: slow copies of the towers, and queues of the vectors that they gave.

    after every step    copy = momentum * copy + (1 - momentum) * tower     (all parameters but the temperature)
                        the step's keys enter the queues, the oldest leave

All of it is part of a run's exact state (`state`): the tensors keep their names and shapes from the first step on, and
are changed in place. An empty place in a queue is never compared with. The copies compute without dropout, so that no
random number is drawn for them. (He et al. 2020; queues for both modalities as Li et al. 2021, ALBEF.)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from executors.models.dual import Batch, Dual
from executors.models.infonce import Keys


class Queues:
    """Slow towers and their memory."""

    def __init__(self, network: Dual, size: int, momentum: float) -> None:
        """size: vectors remembered per side; momentum: 0.995 to 0.999, less makes the keys run away."""
        self.size, self.momentum = size, momentum
        self._network = network
        self._slow = copy.deepcopy(network).requires_grad_(False).eval()
        device, width = network.log_temperature.device, network.shape.width
        self._left = torch.zeros(size, width, device=device)
        self._right = torch.zeros(size, width, device=device)
        self._left_ids = torch.zeros(size, dtype=torch.int64, device=device)
        self._right_ids = torch.zeros(size, dtype=torch.int64, device=device)
        self._entered = torch.zeros((), dtype=torch.int64)
        self._fresh: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    @property
    def filled(self) -> int:
        """Places of a queue that hold a vector."""
        return min(self.size, int(self._entered))

    def keys(self, parts: list[Batch]) -> Keys:
        """What a step over these parts is compared with. They enter the queues with `moved`."""
        vectors = [self._slow(part) for part in parts]
        left, right = (torch.cat([each[side] for each in vectors]) for side in (0, 1))
        ids = [torch.cat([getattr(part, name) for part in parts]) for name in ("left_ids", "right_ids")]
        self._fresh = (left, right, ids[0], ids[1])
        filled = slice(0, self.filled)
        queues = (self._left, self._right, self._left_ids, self._right_ids)
        return Keys(left, right, *(queue[filled].clone() for queue in queues))

    def moved(self) -> None:
        """The weights have moved: let the copies follow, and remember the step's keys."""
        for slow, fast in zip(self._slow.tower_parameters(), self._network.tower_parameters(), strict=True):
            slow.lerp_(fast.detach(), 1.0 - self.momentum)
        if self._fresh is None:
            return
        count = min(self.size, len(self._fresh[0]))
        places = (int(self._entered) + torch.arange(count, device=self._left.device)) % self.size
        for queue, new in zip((self._left, self._right, self._left_ids, self._right_ids), self._fresh, strict=True):
            queue[places] = new[-count:]
        self._entered += count
        self._fresh = None

    def state(self) -> dict[str, Tensor]:
        """Everything, by name; the tensors themselves."""
        slow = {f"slow.{name}": parameter.data for name, parameter in self._slow.named_parameters()}
        return {
            **slow,
            "queue.left": self._left,
            "queue.right": self._right,
            "queue.left_ids": self._left_ids,
            "queue.right_ids": self._right_ids,
            "queue.entered": self._entered,
        }
