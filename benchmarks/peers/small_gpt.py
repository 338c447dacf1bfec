"""The network, the data and the stop-watch that every training loop of the benchmark `training` shares.

    python -P -m benchmarks.peers.LOOP WINDOWS STEPS

WINDOWS is a safetensors file with `tokens` [rows, SEQUENCE + 1], bytes of text. The network is the program's own small
transformer, of ten million parameters, from a fixed seed; the optimizer is fused AdamW at a rate that rises and falls
in straight lines, gradients are clipped to a norm of 1. One thread. The loop is the peer's own; the last line on stdout
is a JSON object with what a step cost after WARM of them, and the running mean of the loss.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from executors.models.transformer import Shape, Transformer

SHAPE = Shape(
    vocabulary=257, width=320, layers=8, heads=5, kv_heads=5, head_width=64, inner=896, context=128
)  # fmt: skip
SEQUENCE, BATCH = 128, 8

RATE, DECAY, CLIP = 1e-3, 0.1, 1.0
WARM_UP = 10
"""Steps in which the rate rises."""

WARM = 2
"""Steps before the watch starts: the first ones allocate."""

NEWEST = 0.05
"""Weight of the newest loss in the running mean that is told: equal work ends at about the same."""


def network() -> Transformer:
    """The network, ready to train."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Transformer(SHAPE)


def windows() -> Tensor:
    """The data."""
    return load_file(sys.argv[1])["tokens"].long()


def steps() -> int:
    """How many steps to take."""
    return int(sys.argv[2])


def factor(step: int) -> float:
    """Share of the peak rate after `step` steps."""
    if step < WARM_UP:
        return (step + 1) / (WARM_UP + 1)
    return max(0.02, (steps() - step) / (steps() - WARM_UP))


def loss_of(model: Transformer, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next bytes; tokens [batch, SEQUENCE + 1]."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    return model.loss(inputs, targets.contiguous()) / targets.numel()


class Losing(nn.Module):
    """The network as trainers want it that call a model for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, tokens: Tensor, **_: Any) -> dict[str, Tensor]:
        """The loss by name."""
        return {"loss": loss_of(self.inner, tokens)}


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The windows one by one."""

    def __init__(self) -> None:
        self._tokens = windows()

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"tokens": self._tokens[row]}


class Watch:
    """Counts steps and what they cost."""

    def __init__(self) -> None:
        self._steps = 0
        self._from = self._upto = (0.0, 0.0)
        self._loss: float | None = None

    def step(self, loss: float | None = None) -> None:
        """A step is over."""
        self._steps += 1
        self._upto = time.perf_counter(), time.process_time()
        if self._steps == WARM:
            self._from = self._upto
        if loss is not None:
            self._loss = loss if self._loss is None else (1 - NEWEST) * self._loss + NEWEST * loss

    def tell(self) -> None:
        """The report on stdout."""
        counted = self._steps - WARM
        report = {
            "steps": self._steps,
            "step_s": (self._upto[0] - self._from[0]) / counted,
            "step_cpu_s": (self._upto[1] - self._from[1]) / counted,
            "loss": self._loss,
        }
        sys.stdout.write("\n" + json.dumps(report) + "\n")
