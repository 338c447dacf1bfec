"""Steps of every sort go on bit-identical wherever they were broken off; sums in float64 are right; nothing frozen
moves."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from executors import checkpoint
from executors.device import Device
from executors.port import Stopped
from executors.recipe import Recipe
from executors.schedules import SHAPES
from executors.stepping import DoubleSums
from executors.trainable import Step
from executors.trainer import Finished, Trainer
from mesh.errors import ArtifactCorrupt, NonFinite
from tests.support.executing import PackingRecorder, Recorder
from tests.unit.executors.test_trainer import CPU, RECIPE, Lines, run, same

PARTS, FP16 = dataclasses.replace(RECIPE, micro_batch=3), dataclasses.replace(CPU, precision="fp16")


class Remembering(Lines):
    """Learns beside a momentum copy and a queue of what it saw, as contrastive training does."""

    def __init__(self) -> None:
        super().__init__()
        self.copy = [parameter.detach().clone() for parameter in self.network.parameters()]
        self.queue, self.place = torch.zeros(12, 2), torch.zeros((), dtype=torch.int64)
        self._last = torch.zeros(1, 2)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = self.network(batch[0])
        self._last = logits.detach()[:1]
        far: Tensor = (logits.mean(0) - self.queue.mean(0)).square().sum()
        return nn.functional.cross_entropy(logits, batch[1], reduction="sum").add(far, alpha=0.1)

    def moved(self) -> None:
        for old, new in zip(self.copy, self.network.parameters(), strict=True):
            old.lerp_(new, 0.1)
        self.queue[int(self.place)] = self._last[0]
        self.place.copy_((self.place + 1) % len(self.queue))

    def state(self) -> Mapping[str, Tensor]:
        return {"queue": self.queue, "place": self.place} | {f"copy.{n}": each for n, each in enumerate(self.copy)}


class Cached(Lines):
    """Computes a step's gradients by itself: all outputs without gradients first, then part by part with theirs."""

    def gradients(self, parts: Sequence[tuple[Tensor, Tensor]], step: Step) -> float | None:
        total = 0.0
        for number, (x, y) in enumerate(parts):
            if number:
                step.between()
            with step.autocast():
                loss = nn.functional.cross_entropy(self.network(x), y, reduction="sum") / step.targets
            step.backward(loss)
            total += float(loss.detach())
        return total


SORTS: dict[str, tuple[type[Lines], Recipe, Device]] = {
    "parts": (Lines, PARTS, CPU),
    "float64": (Lines, dataclasses.replace(PARTS, accumulate_float64=True), CPU),
    "float64, scaled": (Lines, dataclasses.replace(PARTS, accumulate_float64=True), FP16),
    "bf16": (Lines, PARTS, dataclasses.replace(CPU, precision="bf16")),
    "steps": (Lines, dataclasses.replace(RECIPE, epochs_max=1, steps_max=20), CPU),
    "further tensors": (Remembering, RECIPE, CPU),
    "further tensors, parts": (Remembering, PARTS, CPU),
    "gradients of its own": (Cached, PARTS, CPU),
    **{shape: (Lines, dataclasses.replace(RECIPE, schedule=shape), CPU) for shape in SHAPES},
}  # fmt: skip


@pytest.mark.parametrize("sort", SORTS)
def test_broken_off_anywhere_it_ends_bit_identical(tmp_path: Path, sort: str) -> None:
    """Once asked to stop at a random step, then killed by an error in a random step after that."""
    made, recipe, device = SORTS[sort]
    draw = random.Random(sort)
    undisturbed, whole = run(tmp_path / "a", recipe, lines=made(), device=device)
    recorder = Recorder(tmp_path / "b" / "kept")
    stopping = Trainer(made(), recipe, device, recorder, tmp_path / "b" / "checkpoints")
    stop_at = draw.randrange(1, 12)
    recorder._stop = lambda polls: "checkpoint" if stopping.state.step >= stop_at else ""
    with pytest.raises(Stopped):
        stopping.run()
    checkpoint.seed_generators(999)
    kept = killed(tmp_path / "c", made, recipe, device, recorder.checkpoints[-1][0], draw.randrange(stop_at + 3, 20))
    checkpoint.seed_generators(998)
    resumed, finished = run(tmp_path / "d", recipe, lines=made(), device=device, resume=kept)
    assert finished.state.exact
    assert same(undisturbed, resumed)
    assert (finished.digest, finished.state.trace) == (whole.digest, whole.state.trace)


def killed(folder: Path, made: Callable[[], Lines], recipe: Recipe, device: Device, resume: Path, kill_at: int) -> Path:
    """Go on, and break in the middle of a step; the newest checkpoint that is left."""
    lines, recorder = made(), PackingRecorder(folder / "kept")
    often = dataclasses.replace(recipe, checkpoint_steps=2, overhead=1.0)
    trainer = Trainer(lines, often, device, recorder, folder / "checkpoints")
    trainer.resume(resume)
    before = lines.targets

    def targets(batch: tuple[Tensor, Tensor]) -> int:
        if trainer.state.step >= kill_at:
            raise ConnectionResetError("pulled")
        return before(batch)

    lines.targets = targets  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError):
        trainer.run()
    return recorder.checkpoints[-1][0]


def test_further_tensors_that_were_forgotten_would_be_noticed(tmp_path: Path) -> None:
    undisturbed, _ = run(tmp_path / "a", lines=Remembering())
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "b", recorder=recorder, lines=Remembering())
    lines = Remembering()
    trainer = Trainer(lines, RECIPE, CPU, Recorder(tmp_path / "c"), tmp_path / "d")
    trainer.resume(recorder.checkpoints[-1][0])
    lines.queue.zero_()
    trainer.run()
    assert not same(undisturbed, trainer)


def test_a_checkpoint_with_other_further_tensors_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 9 else "")
    with pytest.raises(Stopped):
        run(tmp_path / "a", recorder=recorder, lines=Remembering())
    with pytest.raises(ArtifactCorrupt, match=r"extra\."):
        run(tmp_path / "b", resume=recorder.checkpoints[-1][0])
    longer = Remembering()
    longer.queue = torch.ones(13, 2)
    with pytest.raises(ArtifactCorrupt, match=r"extra\.queue"):
        run(tmp_path / "c", resume=recorder.checkpoints[-1][0], lines=longer)
    assert torch.equal(longer.queue, torch.ones(13, 2))


@pytest.mark.parametrize("made", [Lines, Cached])
def test_a_step_of_its_own_or_in_parts_is_the_same_step(tmp_path: Path, made: type[Lines]) -> None:
    def weights(recipe: Recipe, lines: Lines) -> Tensor:
        lines.network = nn.Linear(6, 2)
        with torch.no_grad():
            for parameter in lines.network.parameters():
                parameter.fill_(0.1)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        run(folder, dataclasses.replace(recipe, steps_max=5, clip=1e9), lines=lines)
        return torch.cat([parameter.detach().flatten() for parameter in lines.network.parameters()])

    whole, parts = weights(RECIPE, Lines()), weights(PARTS, made())
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.allclose(whole, weights(dataclasses.replace(PARTS, accumulate_float64=True), made()), atol=1e-6)


def test_sums_in_float64_lose_nothing() -> None:
    """A gradient of 1 and a thousand of 2**-25: float32 rounds every single one of them away."""
    one = nn.Parameter(torch.zeros(1))
    sums = DoubleSums([one, nn.Parameter(torch.zeros(1))])
    for size in (1.0, *[2.0**-25] * 1_000):
        torch.autograd.backward((one * size).sum())
        assert one.grad is None
    assert float(sums.settle(math.inf)) == 1.0 + 1_000 * 2.0**-25
    assert one.grad is not None
    assert float(one.grad) == pytest.approx(1.0 + 1_000 * 2.0**-25)
    one.grad = None  # as before every step
    torch.autograd.backward((one * 8.0).sum())
    assert float(sums.settle(0.5)) == 8.0, "nothing is left of the sum before"
    assert cast(Tensor, one.grad).tolist() == pytest.approx([0.5])


def test_frozen_parameters_neither_move_nor_cost_a_copy(tmp_path: Path) -> None:
    class Frozen(Lines):
        def frozen(self) -> Collection[str]:
            return ("0.weight", "0.bias")

    lines = Frozen()
    before = lines.network.state_dict()["0.weight"].clone()
    trainer, finished = run(tmp_path, lines=lines)
    assert torch.equal(lines.network.state_dict()["0.weight"], before)
    names = trainer.snapshot().tensors.keys()
    assert "model.0.weight" in trainer._moving.still()
    assert {"model.0.weight", "exp_avg.3.weight", "best.3.weight"} <= names
    assert not {"exp_avg.0.weight", "best.0.weight"} & names
    assert finished.state.step == 20
    lines.frozen = lambda: ("7.weight",)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"7\.weight"):
        Trainer(lines, RECIPE, CPU, Recorder(tmp_path / "b"), tmp_path / "c")


def test_groups_learn_at_rates_of_their_own(tmp_path: Path) -> None:
    class Slow(Lines):
        def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
            first, *others = self.network.parameters()
            return [{"params": [first], "lr": 0.1 * recipe.learning_rate}, {"params": others}]

    trainer, _ = run(tmp_path, lines=Slow())
    slow, usual = (group["lr"] for group in trainer._moving.optimizer.param_groups)
    assert slow == pytest.approx(0.1 * usual)
    assert usual == trainer._shown["learning_rate"]


@pytest.mark.parametrize("double", [False, True])
def test_bad_numbers_of_one_part_stop_before_anything_moves(tmp_path: Path, double: bool) -> None:
    class Bad(Remembering):
        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            found = super().loss(batch)
            return found * float("inf") if self.place == 4 else found

    lines = Bad()
    with pytest.raises(NonFinite, match="step 5"):
        run(tmp_path, dataclasses.replace(PARTS, accumulate_float64=double), lines=lines)
    assert int(lines.place) == 4
    assert all(torch.isfinite(parameter).all() for parameter in lines.network.parameters())


def test_a_run_of_steps_ends_after_them(tmp_path: Path) -> None:
    finished: Finished = run(tmp_path, dataclasses.replace(RECIPE, steps_max=7))[1]
    assert (finished.stopped_by, finished.state.step, finished.state.evaluated) == ("steps", 7, 7)


def test_every_report_says_how_the_steps_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executors.trainer.REPORT_S", 0.0)
    recorder = Recorder(tmp_path / "kept")
    trainer, finished = run(tmp_path, recorder=recorder)
    told = [(step, metrics) for step, _, metrics, phase in recorder.reports if phase == "training"]
    assert [step for step, _ in told] == list(range(1, 21))
    wanted = {"loss", "grad_norm", "learning_rate", "batch_s", "waiting_share", "examples_per_s", "memory_peak_bytes"}
    assert all(wanted | {"epoch", "examples"} <= metrics.keys() for _, metrics in told)
    assert all(math.isfinite(value) for _, metrics in told for value in metrics.values())
    assert told[-1][1]["examples"] == 160.0
    rates = [metrics["learning_rate"] for _, metrics in told]
    assert rates == [RECIPE.learning_rate * trainer.state.schedule.factor(step) for step in range(20)]
    assert finished.cost["memory_peak_bytes"] > 50e6
    assert 0.0 <= finished.cost["waiting_share"] < 1.0
    assert finished.cost["step_cpu_s"] > 0.0
    assert finished.cost["step_s"] > 0.0


class Wrapped(nn.Module):
    """A network in another, in modes of their own, as a loaded base below adapters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.eval()

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.inner(x)
        return drawn


def test_every_module_trains_from_the_first_step_of_a_resumed_run(tmp_path: Path) -> None:
    """The checkpoint may lie behind a validation, so that nothing else sets the modes before the first step."""

    def made() -> Lines:
        lines = Lines()
        lines.network = Wrapped(nn.Sequential(lines.network, nn.Dropout(0.5)))  # type: ignore[assignment]
        return lines

    undisturbed, whole = run(tmp_path / "a", PARTS, lines=made())
    recorder = Recorder(tmp_path / "b" / "kept")
    stopping = Trainer(made(), PARTS, CPU, recorder, tmp_path / "b" / "checkpoints")
    recorder._stop = lambda polls: "checkpoint" if stopping.state.step >= 7 else ""
    with pytest.raises(Stopped):
        stopping.run()
    resumed, finished = run(tmp_path / "d", PARTS, lines=made(), resume=recorder.checkpoints[-1][0])
    assert same(undisturbed, resumed)
    assert (finished.digest, finished.state.trace) == (whole.digest, whole.state.trace)
