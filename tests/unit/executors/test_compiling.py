"""Networks are compiled where it pays, and every answer has a reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from executors import compiling
from executors.compiling import STEPS_LEAST
from executors.device import Device
from executors.trainable import Evaluation
from tests.support.executing import Recorder
from tests.unit.executors.test_trainer import RECIPE, Lines, run

CPU, GPU = Device("cpu", "fp32", 1, ""), Device("cuda:0", "fp32", 1, "")


@pytest.fixture(autouse=True)
def everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_lacking", lambda kind: "")


@pytest.mark.parametrize(
    ("wish", "device", "steps", "on", "reason"),
    [
        ("off", GPU, 10**6, False, "not asked"),
        ("on", CPU, 1, True, "as asked"),
        ("auto", CPU, 10**6, False, "on a cpu"),
        ("auto", GPU, STEPS_LEAST - 1, False, "too few"),
        ("auto", GPU, STEPS_LEAST, True, "a long run"),
    ],
)
def test_it_is_compiled_where_it_pays(wish: str, device: Device, steps: int, on: bool, reason: str) -> None:
    found = compiling.decided(wish, device, steps)
    assert found.on is on
    assert reason in found.reason


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even when it was asked for: the run goes on without, and says why."""
    monkeypatch.setattr(compiling, "_lacking", lambda kind: "there is no C++ compiler (g++) on this machine")
    recorder = Recorder(tmp_path / "kept")
    trainer, finished = run(tmp_path, dataclasses.replace(RECIPE, compile="on", steps_max=2), recorder=recorder)
    assert not finished.compiled.on
    assert trainer.state.fingerprint["compile"] is False
    assert recorder.lines == ["the network is not compiled: there is no C++ compiler (g++) on this machine"]


def test_what_lacks_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in compiling._lacking("cpu")


def test_every_shape_gets_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a step runs would depend on the shapes before it, and a resumed run would differ in the last bits."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: asked.append(given))
    assert compiling.compiled(nn.Linear(2, 2), "on", CPU, 10).on
    assert asked == [{"dynamic": False}]


def test_compiled_and_not_compiled_are_two_fingerprints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: None)  # minutes of work, and none of it looked at here
    trainer, finished = run(tmp_path, dataclasses.replace(RECIPE, compile="on", steps_max=2), lines=Lines())
    assert finished.compiled.on
    assert trainer.state.fingerprint["compile"] is True


@pytest.mark.parametrize("in_step", [False, True])
def test_where_compiling_fails_it_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_step: bool
) -> None:
    """It ends as a run that was never to be compiled."""

    class Unsupported(RuntimeError):
        pass

    def broken(self: nn.Module, **_: object) -> None:
        def call(x: Tensor) -> Tensor:
            torch.rand(3)  # a failing attempt may have drawn numbers
            raise Unsupported("no such operator\nand much more")

        self._compiled_call_impl = call

    _, plain = run(tmp_path / "a", dataclasses.replace(RECIPE, steps_max=5))
    monkeypatch.setattr(nn.Module, "compile", broken)
    monkeypatch.setattr(compiling, "failures", lambda: (Unsupported,))
    recorder = Recorder(tmp_path / "kept")
    lines = OnlyWhenTraining() if in_step else Lines()
    trainer, finished = run(
        tmp_path / "b", dataclasses.replace(RECIPE, steps_max=5, compile="on"), lines=lines, recorder=recorder
    )
    assert finished.compiled.reason == "compiling it failed (Unsupported: no such operator)"
    assert recorder.lines[-1] == f"the network is not compiled: {finished.compiled.reason}"
    assert trainer.state.fingerprint["compile"] is False
    assert finished.state.exact
    assert (finished.digest, finished.state.trace) == (plain.digest, plain.state.trace)


class OnlyWhenTraining(Lines):
    """Validates past what was compiled."""

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        compiled, self.network._compiled_call_impl = self.network._compiled_call_impl, None
        try:
            return super().evaluate(tick)
        finally:
            self.network._compiled_call_impl = compiled
