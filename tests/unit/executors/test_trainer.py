"""The loop: exact resume after a stop at any step and after kill -9, plan, early stop, bad numbers, memory."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from executors import checkpoint
from executors.device import Device, micro_batch
from executors.port import Stopped
from executors.recipe import Recipe
from executors.trainable import Base, Evaluation
from executors.trainer import Finished, Trainer
from mesh.errors import ArtifactCorrupt, NonFinite, OutOfMemory
from tests.support.executing import PackingRecorder, Recorder

CPU = Device("cpu", "fp32", 1, "a test")
RECIPE = Recipe(
    batch=8, micro_batch=8, learning_rate=0.05, weight_decay=0.01, warmup_steps=3, epochs_max=4, evaluate_every=5,
    patience=100, clip=1.0, budget_s=600.0, seed=11, checkpoint_s=1e9,
)  # fmt: skip


class Lines(Base):
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


def same(trained: Trainer, again: Trainer) -> bool:
    """Equal to the last bit: weights, moments, best weights, generators, trace and history."""
    one, other = trained.snapshot(), again.snapshot()
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
    assert same(undisturbed, resumed)


@pytest.mark.parametrize("stop_at", [1, 7, 12])
def test_out_of_shared_memory_it_goes_on_bit_identical(tmp_path: Path, stop_at: int) -> None:
    """With a packer: snapshots on the way, then a halt."""
    undisturbed, _ = run(tmp_path / "a")
    recorder = PackingRecorder(tmp_path / "kept")
    often = dataclasses.replace(RECIPE, checkpoint_steps=2, overhead=1.0)
    first = Trainer(Lines(), often, CPU, recorder, tmp_path / "b")
    recorder._stop = lambda polls: "checkpoint" if first.state.step >= stop_at else ""
    with pytest.raises(Stopped):
        first.run()
    assert [row[2] for row in recorder.checkpoints] == [*range(2, stop_at, 2), stop_at]
    assert recorder.taken[-1].facts["fingerprint"] == first.state.fingerprint
    assert not (tmp_path / "b").exists()
    checkpoint.seed_generators(999)
    resumed, finished = run(tmp_path / "c", resume=recorder.checkpoints[-1][0])
    assert finished.state.exact
    assert same(undisturbed, resumed)


def test_a_snapshot_does_not_change_while_training_goes_on(tmp_path: Path) -> None:
    """Nobody releases the first one: it stays as it was, later ones are skipped and counted, the loop never waits."""
    recorder, seen = PackingRecorder(tmp_path / "kept", slow=True), dict[str, bytes]()
    often = dataclasses.replace(RECIPE, checkpoint_steps=2, overhead=1.0)
    trainer = Trainer(Lines(), often, CPU, recorder, tmp_path / "b")

    def at_the_end(polls: int) -> str:
        if recorder.taken and recorder.slow:
            seen["last"] = Path(recorder.taken[0].buffer).read_bytes()
            seen.setdefault("first", seen["last"])
        if trainer.state.step == 19 and recorder.slow:
            recorder.slow = False
            recorder.pack()
        return ""

    recorder._stop = at_the_end
    finished = trainer.run()
    assert seen["first"] == seen["last"]
    assert finished.checkpoints["skipped"] == 8
    assert [taken.step for taken in recorder.taken] == [2, 19, 20]
    assert [taken.skipped for taken in recorder.taken] == [0, 8, 0]


@pytest.mark.parametrize("remembers", [False, True])
def test_a_step_of_many_parts_is_given_up_and_taken_again(tmp_path: Path, remembers: bool) -> None:
    """Asked to stop between two parts of a step, it leaves as if the step had not begun; a network that keeps averages
    of what passes through it finishes the step."""

    def lines() -> Lines:
        made = Lines()
        if remembers:
            made.network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 2))
        return made

    accumulating = dataclasses.replace(RECIPE, micro_batch=2)
    undisturbed, _ = run(tmp_path / "a", accumulating, lines=lines())
    disturbed, parts = lines(), [0]
    before = disturbed.loss

    def counted(batch: tuple[Tensor, Tensor]) -> Tensor:
        parts[0] += 1
        return before(batch)

    disturbed.loss = counted  # type: ignore[method-assign]
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if parts[0] >= 4 * 7 + 2 else "")
    with pytest.raises(Stopped, match="step 8" if remembers else "step 7"):
        run(tmp_path / "b", accumulating, recorder=recorder, lines=disturbed)
    assert parts[0] == 4 * 7 + (4 if remembers else 2)
    resumed, finished = run(tmp_path / "c", accumulating, resume=recorder.checkpoints[-1][0], lines=lines())
    assert finished.state.exact
    assert same(undisturbed, resumed)


def test_a_scaled_gradient_goes_on_bit_identical(tmp_path: Path) -> None:
    """fp16 with its scaler, whose scale grows and shrinks on the way."""
    half = Device("cpu", "fp16", 1, "a test")

    def trainer(folder: Path, recorder: Recorder) -> Trainer:
        made = Trainer(Lines(), RECIPE, half, recorder, folder)
        made._moving.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        return made

    undisturbed = trainer(tmp_path / "a", Recorder(tmp_path / "a" / "kept"))
    undisturbed.run()
    scale = undisturbed._moving.scaler.get_scale()
    assert 1.0 < scale < 2.0**40
    recorder = Recorder(tmp_path / "b" / "kept", lambda polls: "checkpoint" if polls > 14 else "")
    with pytest.raises(Stopped):
        trainer(tmp_path / "b", recorder).run()
    resumed = trainer(tmp_path / "c", Recorder(tmp_path / "c" / "kept"))
    resumed.resume(recorder.checkpoints[-1][0])
    resumed.run()
    assert resumed._moving.scaler.get_scale() == scale
    assert same(undisturbed, resumed)


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(tmp_path: Path) -> None:
    lines = Lines()
    lines.loss = lambda batch: torch.sqrt(lines.network(batch[0]).sum() * 0.0)  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match="gradient"):
        run(tmp_path, dataclasses.replace(RECIPE, epochs_max=100), lines=lines, device=Device("cpu", "fp16", 1, ""))


def test_a_checkpoint_on_request_does_not_stop_it(tmp_path: Path) -> None:
    recorder = PackingRecorder(tmp_path / "kept")
    trainer = Trainer(Lines(), RECIPE, CPU, recorder, tmp_path / "b")

    def asks(polls: int) -> str:
        recorder.saves = 1 if trainer.state.step >= 4 else 0
        return ""

    recorder._stop = asks
    assert trainer.run().stopped_by == "epochs"
    assert [taken.step for taken in recorder.taken] == [4, 20]


def test_checkpoints_come_as_often_as_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a second and copies of 0.1 s, asked for at every step: within 1 % they are ten seconds apart."""
    clock = [0.0]
    monkeypatch.setattr("executors.trainer.time.monotonic", lambda: clock[0])
    lines, recorder = Lines(), PackingRecorder(tmp_path / "kept")
    before, hand_over = lines.loss, recorder.snapshot

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        clock[0] += 1.0
        return before(batch)

    def slow(taken: Any) -> None:
        clock[0] += 0.1
        hand_over(taken)

    lines.loss, recorder.snapshot = step, slow  # type: ignore[method-assign]
    always = dataclasses.replace(RECIPE, checkpoint_steps=1, epochs_max=20, overhead=0.0101)
    finished = Trainer(lines, always, CPU, recorder, tmp_path / "b").run()
    steps = [taken.step for taken in recorder.taken]
    assert steps == [1, 2, 20, 30, 40, 50, 59, 69, 79, 89, 99, 100]
    assert finished.checkpoints["share"] <= 0.01
    assert (finished.checkpoints["taken"], finished.checkpoints["skipped"]) == (12, 0)
    assert finished.checkpoints["once_s"] == pytest.approx(0.2), "the first one's memory, and the last one"


def test_a_forgotten_generator_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _ = run(tmp_path / "a")
    recorder = Recorder(tmp_path / "b", lambda polls: "checkpoint" if polls > 12 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "b", recorder=recorder)
    monkeypatch.setattr(checkpoint, "restore_generators", lambda saved: [])
    resumed, _ = run(tmp_path / "c", resume=recorder.checkpoints[-1][0])
    assert not same(undisturbed, resumed)


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
    assert same(undisturbed, resumed)


ELSEWHERE = """
import json, sys
from pathlib import Path
from tests.unit.executors.test_trainer import run
trainer, finished = run(Path(sys.argv[1]), resume=Path(sys.argv[2]))
print(json.dumps([finished.state.exact, finished.state.differed, finished.state.step, finished.stopped_by]))
"""


@pytest.mark.process
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="needs an x86 to pretend")
def test_on_a_processor_with_other_code_it_goes_on_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "a", recorder=recorder)
    told = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "b"), str(recorder.checkpoints[-1][0])],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    exact, differed, step, stopped_by = json.loads(told.stdout)
    assert (exact, step, stopped_by) == (False, 20, "epochs")
    assert [row.split(":")[0] for row in differed] == ["capability", "environment"]


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


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run that was stopped in the middle."""
    folder = tmp_path_factory.mktemp("kept")
    recorder = Recorder(folder, lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(folder / "work", recorder=recorder)
    return recorder.checkpoints[-1][0]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([checkpoint.TENSORS, checkpoint.STATE]),
    place=st.floats(0.0, 1.0, exclude_max=True),
    change=st.one_of(st.integers(1, 255), st.sampled_from(["cut", "insert"])),
)
def test_whatever_is_changed_nothing_is_half_loaded(kept: Path, name: str, place: float, change: int | str) -> None:
    """ArtifactCorrupt and a network as it was; or, where the manifest alone could tell, another finite number."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "changed"
        shutil.copytree(kept, folder)
        data = bytearray((folder / name).read_bytes())
        at = int(place * len(data))
        if isinstance(change, int):
            data[at] ^= change
        elif change == "cut":
            del data[at:]
        else:
            data[at:at] = b"x"
        (folder / name).write_bytes(data)
        lines = Lines()
        trainer = Trainer(lines, RECIPE, CPU, Recorder(Path(scratch) / "kept"), Path(scratch) / "work")
        before, state = {k: v.clone() for k, v in lines.network.state_dict().items()}, trainer.state
        error: ArtifactCorrupt | None = None
        try:
            trainer.resume(folder)
        except ArtifactCorrupt as found:
            error = found
        if error is not None:
            assert error.facts["resume"]
            assert trainer.state is state
            assert all(torch.equal(before[k], v) for k, v in lines.network.state_dict().items())
        else:
            header = int.from_bytes((kept / checkpoint.TENSORS).read_bytes()[:8], "little")
            assert name == checkpoint.TENSORS
            assert isinstance(change, int)
            assert at >= 8 + header


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
