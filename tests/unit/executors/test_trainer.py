"""The loop: exact resume after a stop at any step and after kill -9, plan, early stop, bad numbers, memory."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from executors import checkpoint
from executors.device import Device, micro_batch
from executors.port import Stopped
from executors.trainer import Evaluation, Finished, Recipe, Trainer
from mesh.errors import ArtifactCorrupt, NonFinite, OutOfMemory
from tests.support.executing import Recorder

CPU = Device("cpu", "fp32", 1, "a test")
RECIPE = Recipe(
    batch=8, micro_batch=8, learning_rate=0.05, weight_decay=0.01, warmup_steps=3, epochs_max=4, evaluate_every=5,
    patience=100, clip=1.0, budget_s=600.0, seed=11, checkpoint_s=1e9,
)  # fmt: skip


class Lines:
    """A small network with dropout that learns which side of a plane a point lies on."""

    def __init__(self) -> None:
        checkpoint.seed_generators(5)
        generator = np.random.default_rng(0)
        self._x = torch.from_numpy(generator.normal(size=(50, 6)).astype(np.float32))
        self._y = (self._x[:, 0] + self._x[:, 1] > 0).long()
        self.network: nn.Module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.rows = 40
        self.scores: Callable[[float], float] = lambda score: score

    def build(self, rows: Any) -> tuple[Tensor, Tensor]:
        wanted = torch.from_numpy(rows)
        return self._x[wanted], self._y[wanted]

    def targets(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[1])

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1], reduction="sum")

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        tick()
        with torch.no_grad():
            logits = self.network(self._x[40:])
        loss = float(nn.functional.cross_entropy(logits, self._y[40:]))
        score = float((logits.argmax(1) == self._y[40:]).float().mean())
        return Evaluation(self.scores(score), loss, {"validation_accuracy": score})


def run(folder: Path, recipe: Recipe = RECIPE, *, resume: Path | None = None, recorder: Recorder | None = None,
        lines: Lines | None = None, device: Device = CPU) -> tuple[Trainer, Finished]:  # fmt: skip
    torch.set_num_threads(1)
    made = Trainer(lines or Lines(), recipe, device, recorder or Recorder(folder / "kept"), folder / "checkpoints")
    if resume is not None:
        made.resume(resume)
    return made, made.run()


def same(one: checkpoint.Snapshot, other: checkpoint.Snapshot) -> bool:
    """Equal to the last bit: weights, moments, best weights, generators, trace and history."""
    assert one.tensors.keys() == other.tensors.keys()
    timeless = [{**snapshot.state["run"], "trained_s": 0.0} for snapshot in (one, other)]
    tensors = all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    return tensors and timeless[0] == timeless[1] and one.state["generators"] == other.state["generators"]


def test_it_learns(tmp_path: Path) -> None:
    _, finished = run(tmp_path, dataclasses.replace(RECIPE, epochs_max=30))
    assert finished.stopped_by == "epochs"
    assert finished.state.best_score >= 0.9
    assert finished.state.step == 150


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 13, 19])
def test_stopped_anywhere_and_resumed_it_ends_bit_identical(tmp_path: Path, stop_at: int) -> None:
    undisturbed, _ = run(tmp_path / "a")
    recorder = Recorder(tmp_path / "b" / "kept")
    lines = Lines()
    first = Trainer(lines, RECIPE, CPU, recorder, tmp_path / "b" / "checkpoints")
    recorder._stop = lambda polls: "checkpoint" if first.state.step >= stop_at else ""
    with pytest.raises(Stopped):
        first.run()
    folder, number, step, _, _ = recorder.checkpoints[-1]
    assert (number, step) == (1, stop_at)
    checkpoint.seed_generators(999)
    resumed, finished = run(tmp_path / "c", resume=folder)
    assert finished.state.exact
    assert same(undisturbed.snapshot(), resumed.snapshot())


def test_a_forgotten_generator_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _ = run(tmp_path / "a")
    recorder = Recorder(tmp_path / "b", lambda polls: "checkpoint" if polls > 12 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "b", recorder=recorder)
    monkeypatch.setattr(checkpoint, "restore_generators", lambda saved: [])
    resumed, _ = run(tmp_path / "c", resume=recorder.checkpoints[-1][0])
    assert not same(undisturbed.snapshot(), resumed.snapshot())


CHILD = """
import sys
from pathlib import Path
from tests.unit.executors.test_trainer import CPU, RECIPE, Lines, Recorder, dataclasses, os_kill_after, run
recipe = dataclasses.replace(RECIPE, checkpoint_steps=3)
lines, folder = Lines(), Path(sys.argv[1])
os_kill_after(lines, int(sys.argv[2]), folder / "kept")
resume = Path(sys.argv[3]) if len(sys.argv) > 3 else None
run(folder, recipe, lines=lines, resume=resume)
"""


def os_kill_after(lines: Lines, steps: int, kept: Path) -> None:
    """Kill this process without warning in the middle of the given step's loss, once a checkpoint was handed over."""
    import os
    import time

    before, seen = lines.loss, [0]

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        seen[0] += 1
        if seen[0] > steps:
            deadline = time.monotonic() + 60.0
            while not any(kept.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return before(batch)

    lines.loss = loss  # type: ignore[method-assign]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 needs a Unix")
def test_killed_without_warning_it_goes_on_bit_identical(tmp_path: Path) -> None:
    undisturbed, _ = run(tmp_path / "a", dataclasses.replace(RECIPE, checkpoint_steps=3))
    killed = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "b"), "11"], timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = sorted((tmp_path / "b" / "kept").iterdir())
    assert kept
    resumed, finished = run(tmp_path / "c", dataclasses.replace(RECIPE, checkpoint_steps=3), resume=kept[-1])
    assert finished.state.exact
    assert same(undisturbed.snapshot(), resumed.snapshot())


def test_another_fingerprint_goes_on_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "a", recorder=recorder)
    other = dataclasses.replace(CPU, threads=2)
    _, finished = run(tmp_path / "b", resume=recorder.checkpoints[-1][0], device=other)
    assert not finished.state.exact
    assert finished.state.differed == ["threads: 1, now 2"]
    assert finished.stopped_by == "epochs"


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "a", recorder=recorder)
    folder = recorder.checkpoints[-1][0]
    with pytest.raises(ArtifactCorrupt, match="does not fit this task"):
        run(tmp_path / "b", dataclasses.replace(RECIPE, batch=16, micro_batch=16), resume=folder)
    wider = Lines()
    wider.network = nn.Linear(6, 2)
    with pytest.raises(ArtifactCorrupt, match="does not fit this task"):
        run(tmp_path / "c", lines=wider, resume=folder)


def test_smaller_pieces_of_a_step_give_the_same_step(tmp_path: Path) -> None:
    """Accumulated micro-batches of unequal size equal one big batch, up to the order of the sums."""

    def trained(size: int) -> dict[str, Tensor]:
        lines = Lines()
        lines.network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        run(tmp_path / str(size), dataclasses.replace(RECIPE, batch=7, micro_batch=size), lines=lines)
        return lines.network.state_dict()

    whole, pieces = trained(7), trained(micro_batch(7, 1))
    assert micro_batch(7, 1) == 4
    assert all(torch.allclose(whole[name], pieces[name], atol=1e-5) for name in whole)


def test_bad_numbers_stop_before_the_weights_move(tmp_path: Path) -> None:
    lines = Lines()
    before = {name: tensor.clone() for name, tensor in lines.network.state_dict().items()}
    lines.loss = lambda batch: lines.network(batch[0]).sum() * math.nan  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match="step 1"):
        run(tmp_path / "loss", lines=lines)
    assert all(torch.equal(before[name], tensor) for name, tensor in lines.network.state_dict().items())
    lines = Lines()
    lines.loss = lambda batch: torch.sqrt(lines.network(batch[0]).sum() * 0.0)  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match="gradient"):
        run(tmp_path / "norm", lines=lines)
    assert all(torch.equal(before[name], tensor) for name, tensor in lines.network.state_dict().items())


def test_patience_ends_a_run_with_the_best_weights(tmp_path: Path) -> None:
    lines, seen = Lines(), []

    def worse(score: float) -> float:
        seen.append({name: tensor.clone() for name, tensor in lines.network.state_dict().items()})
        return 1.0 if len(seen) == 2 else 0.5

    lines.scores = worse
    _, finished = run(tmp_path, dataclasses.replace(RECIPE, epochs_max=50, patience=3), lines=lines)
    assert finished.stopped_by == "early stop"
    assert finished.state.best_step == 5
    assert finished.state.step == 20
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in lines.network.state_dict().items())


def test_a_short_budget_is_planned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that makes every step cost a second: the schedule comes down in time, and the reason is the budget."""
    clock = [0.0]
    monkeypatch.setattr("executors.trainer.time.monotonic", lambda: clock[0])
    lines = Lines()
    before = lines.loss

    def slow(batch: tuple[Tensor, Tensor]) -> Tensor:
        clock[0] += 1.0
        return before(batch)

    lines.loss = slow  # type: ignore[method-assign]
    recorder = Recorder(tmp_path / "kept")
    _, finished = run(tmp_path, dataclasses.replace(RECIPE, epochs_max=1_000, budget_s=60.0), lines=lines,
                      recorder=recorder)  # fmt: skip
    assert finished.stopped_by == "budget"
    assert 50 <= finished.state.step <= 60
    rates = [metrics["learning_rate"] for _, _, metrics, phase in recorder.reports if phase == "training"]
    assert rates[-1] < 0.1 * max(rates)


def test_trained_seconds_of_earlier_attempts_count(tmp_path: Path) -> None:
    made = Trainer(Lines(), RECIPE, CPU, Recorder(tmp_path / "kept"), tmp_path / "checkpoints")
    recorder = Recorder(tmp_path / "other", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "a", recorder=recorder)
    made.resume(recorder.checkpoints[-1][0], trained_s=RECIPE.budget_s)
    assert made.run().stopped_by == "budget"


def test_a_stop_without_checkpoint_leaves_none(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "now" if polls > 5 else "")
    with pytest.raises(Stopped, match="now"):
        run(tmp_path, recorder=recorder)
    assert recorder.checkpoints == []


def test_checkpoints_are_numbered_on_and_the_best_is_marked(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept")
    often = dataclasses.replace(RECIPE, checkpoint_s=0.0, overhead=1.0)
    made = Trainer(Lines(), often, CPU, recorder, tmp_path / "c", number=40)
    finished = made.run()
    numbers = [number for _, number, _, _, _ in recorder.checkpoints]
    assert numbers == list(range(41, 41 + len(numbers)))
    assert recorder.checkpoints[-1][2] == finished.state.step
    marked = {step for _, _, step, best, _ in recorder.checkpoints if best}
    assert marked <= {int(row[0]) for row in finished.state.history}


def test_memory_that_runs_out_has_one_name(tmp_path: Path) -> None:
    lines = Lines()

    def too_much(batch: tuple[Tensor, Tensor]) -> Tensor:
        return torch.empty(2**60, dtype=torch.uint8).float().sum()

    lines.loss = too_much  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match="half the batch"):
        run(tmp_path, lines=lines)


def test_errors_of_batch_building_reach_the_loop(tmp_path: Path) -> None:
    lines = Lines()

    def broken(rows: Any) -> tuple[Tensor, Tensor]:
        raise KeyError("no such row")

    lines.build = broken  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        run(tmp_path, lines=lines)
