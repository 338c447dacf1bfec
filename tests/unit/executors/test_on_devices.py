"""The same training on every device that this machine has: the CPU always, a GPU where there is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from executors import checkpoint
from executors.device import Device
from executors.port import Stopped
from executors.recipe import Recipe
from executors.trainable import Base, Evaluation
from executors.trainer import Finished, Trainer
from mesh.errors import OutOfMemory
from tests.support.executing import Recorder

DEVICES = [
    "cpu",
    pytest.param(
        "cuda:0",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
        ],
    ),
]
RECIPE = Recipe(
    batch=16, micro_batch=16, learning_rate=0.05, weight_decay=0.01, warmup_steps=3, epochs_max=8, evaluate_every=5,
    patience=100, clip=1.0, budget_s=600.0, seed=11, checkpoint_s=1e9,
)  # fmt: skip
HALF = {"cpu": "bf16", "cuda:0": "fp16"}


class Plane(Base):
    """Which side of a plane a point lies on; without dropout, so that devices can be compared."""

    rows = 64

    def __init__(self, device: str, width: int = 16) -> None:
        checkpoint.seed_generators(5)
        points = np.random.default_rng(0).normal(size=(96, 6)).astype(np.float32)
        self.device = torch.device(device)
        self._x = torch.from_numpy(points)
        self._y = (self._x[:, 0] + self._x[:, 1] > 0).long()
        self.network = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2)).to(self.device)

    def build(self, rows: Any) -> tuple[Tensor, Tensor]:
        wanted = torch.from_numpy(rows)
        return self._x[wanted].to(self.device), self._y[wanted].to(self.device)

    def targets(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[1])

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]).float(), batch[1], reduction="sum")

    def evaluate(self, tick: Any) -> Evaluation:
        with torch.no_grad():
            logits = self.network(self._x[64:].to(self.device)).float().cpu()
        loss = float(nn.functional.cross_entropy(logits, self._y[64:]))
        return Evaluation(float((logits.argmax(1) == self._y[64:]).float().mean()), loss, {})


def trained(
    plane: Plane,
    folder: Path,
    recipe: Recipe = RECIPE,
    precision: str = "fp32",
    resume: Path | None = None,
    **stop: Any,
) -> tuple[Trainer, Finished, Recorder]:
    recorder = Recorder(folder / "kept", **stop)
    place = Device(str(plane.device), precision, 1, "a test")
    trainer = Trainer(plane, recipe, place, recorder, folder / "checkpoints")
    if resume is not None:
        trainer.resume(resume)
    return trainer, trainer.run(), recorder


@pytest.mark.parametrize("device", DEVICES)
def test_it_learns_what_the_cpu_learns(device: str, tmp_path: Path) -> None:
    _, expected, _ = trained(Plane("cpu"), tmp_path / "cpu")
    _, found, _ = trained(Plane(device), tmp_path / "here")
    assert found.state.best_score >= 0.9
    assert found.state.loss_mean == pytest.approx(expected.state.loss_mean, rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_learns_too(device: str, tmp_path: Path) -> None:
    trainer, found, _ = trained(Plane(device), tmp_path, precision=HALF[device])
    assert found.state.best_score >= 0.85
    assert trainer._moving.scaler.is_enabled() is (device != "cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_stopped_and_resumed_it_ends_alike(device: str, tmp_path: Path) -> None:
    _, finished, _ = trained(Plane(device), tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(Plane(device), tmp_path / "cut", stop=lambda polls: "checkpoint" if polls > 13 else "")
    kept = sorted((tmp_path / "cut" / "kept").iterdir())[-1]
    _, ended, _ = trained(Plane(device), tmp_path / "again", resume=kept)
    assert ended.state.exact
    assert (ended.state.trace, ended.digest) == (finished.state.trace, finished.digest)


@pytest.mark.parametrize("device", DEVICES)
def test_parts_of_a_batch_do_what_the_whole_does(device: str, tmp_path: Path) -> None:
    _, expected, _ = trained(Plane(device), tmp_path / "whole")
    _, found, _ = trained(Plane(device), tmp_path / "parts", dataclasses.replace(RECIPE, micro_batch=5))
    assert found.state.loss_mean == pytest.approx(expected.state.loss_mean, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_that_does_not_fit_is_out_of_memory(device: str, tmp_path: Path) -> None:
    class Greedy(Plane):
        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            torch.empty(1 << 46, dtype=torch.uint8, device=self.device)  # 64 TiB: no machine has them
            return super().loss(batch)

    with pytest.raises(OutOfMemory, match="half the batch"):
        trained(Greedy(device), tmp_path)
