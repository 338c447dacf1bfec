"""The gradient check: passes what is right, names what is wrong, and refuses what it could not judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from executors import gradients, kinds
from executors.data import Ints
from executors.kinds.gradcheck import Gradcheck
from executors.port import Stopped
from executors.trainable import Base, Evaluation, Step
from mesh.errors import NonFinite, TaskRefused
from tests.support.executing import Recorder, job_for

SLOWED = 0.98


class SlightlyWrong(torch.autograd.Function):
    """tanh whose backward pass is 2 % too small."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(torch.tanh(values))
        return torch.tanh(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (answer,) = ctx.saved_tensors
        return grads[0] * (1 - answer**2) * SLOWED


class Tiny(Base):
    """Two layers on made-up rows, in float32 as a real training is."""

    rows = 8

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.tanh, *, start: float = 1.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.network = nn.ModuleDict({"lower": nn.Linear(4, 6), "upper": nn.Linear(6, 1, bias=False)})
            self.inputs, self.wanted = torch.randn(8, 4), torch.randn(8)
        with torch.no_grad():
            self.network["upper"].weight.mul_(start)
        self.activation = activation

    def build(self, rows: Ints) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.inputs[rows], {"wanted": self.wanted[rows], "row": torch.from_numpy(rows)}

    def targets(self, batch: Any) -> int:
        return len(batch[0])

    def loss(self, batch: Any) -> Tensor:
        hidden = self.activation(self.network["lower"](batch[0]))
        return ((self.network["upper"](hidden)[:, 0] - batch[1]["wanted"]) ** 2).sum()

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        raise AssertionError("nobody evaluates here")


def offering(monkeypatch: pytest.MonkeyPatch, offered: Any) -> None:
    """A kind that offers this."""

    class Offering:
        name: ClassVar[str] = "offering"
        version: ClassVar[int] = 3

        def gradcheck_instance(self) -> Any:
            return offered

    monkeypatch.setattr(kinds, "load", lambda name: Offering())


def worst(rows: Sequence[gradients.Checked]) -> dict[str, float]:
    return {row.tensor: row.relative for row in rows}


def test_every_kind_that_trains_has_right_gradients() -> None:
    training = [
        name for name, info in kinds.kind_infos().items() if hasattr(kinds.declared(info), "gradcheck_instance")
    ]
    assert "classify" in training
    for name in training:
        report = gradients.check_kind(name, entries=4)
        assert report.ok, report.worst[:5]
        assert all(row.reached for row in report.tensors), f"a parameter of {name} has no part in its loss"


def test_a_wrong_backward_is_found_in_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, {"right": Tiny(), "wrong": Tiny(SlightlyWrong.apply)})
    report = gradients.check_kind("offering")
    assert not report.ok
    assert report.relative == pytest.approx(1 - SLOWED, rel=1e-3)
    assert {(entry.case, entry.tensor) for entry in report.worst} == {
        ("wrong", "lower.weight"),
        ("wrong", "lower.bias"),
    }
    first = report.worst[0]
    assert first.analytic == pytest.approx(SLOWED * first.numerical, rel=1e-4)
    document = report.document()
    assert document["worst"][0]["index"] == first.index
    assert document["losses"].keys() == {"right", "wrong"}
    assert [row["entries"] for row in document["tensors"] if row["tensor"] == "lower.weight"] == [24, 24]


def test_what_starts_at_zero_is_checked_elsewhere() -> None:
    """With an upper layer of zeros a wrong lower one would have no gradient to be wrong."""
    _, rows, _ = gradients.check(Tiny(SlightlyWrong.apply, start=0.0))
    assert worst(rows)["lower.weight"] > gradients.THRESHOLD


def test_a_kink_is_no_mistake() -> None:
    kink: list[Tensor] = []

    def bent(values: Tensor) -> Tensor:
        kink.append(values.detach() + 3e-6)
        return torch.relu(values - kink[0]) + torch.sin(values)

    _, rows, _ = gradients.check(Tiny(bent))
    assert max(worst(rows).values()) < gradients.THRESHOLD


def test_dropout_leaves_out_the_same_units_every_time() -> None:
    _, rows, _ = gradients.check(Tiny(lambda values: nn.functional.dropout(torch.tanh(values), 0.5)))
    assert max(worst(rows).values()) < gradients.THRESHOLD


def test_a_kinds_own_way_to_its_gradients_is_the_one_that_is_checked() -> None:
    class Own(Tiny):
        factor = 1.0

        def gradients(self, parts: Sequence[Any], step: Step) -> float | None:
            total = 0.0
            for part in parts:
                loss = self.loss(part) * self.factor / step.targets
                step.backward(loss)
                step.between()
                total += loss.item()
            return total

    right, wrong = Own(), Own()
    wrong.factor = 1.5
    assert max(worst(gradients.check(right)[1]).values()) < gradients.THRESHOLD
    assert min(worst(gradients.check(wrong)[1]).values()) > 0.3


def test_a_loss_in_single_precision_does_not_pass() -> None:
    _, rows, _ = gradients.check(Tiny(lambda values: torch.tanh(values.float()).double()))
    assert max(worst(rows).values()) > gradients.THRESHOLD


def test_a_parameter_without_effect_is_named() -> None:
    tiny = Tiny()
    tiny.network["spare"] = nn.Linear(2, 2)
    tiny.network["upper"].requires_grad_(False)
    _, rows, _ = gradients.check(tiny, entries=3)
    assert {row.tensor: row.reached for row in rows} == {
        "lower.weight": True, "lower.bias": True, "spare.weight": False, "spare.bias": False,
    }  # fmt: skip
    assert [row.entries for row in rows] == [3, 3, 3, 2]


def test_what_can_not_be_judged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stateful(Tiny):
        def state(self) -> Mapping[str, Tensor]:
            return {"queue": torch.zeros(3)}

    with pytest.raises(TaskRefused, match="queue can not be turned into float64"):
        gradients.check(Stateful())
    with pytest.raises(NonFinite, match="nan"):
        gradients.check(Tiny(lambda values: values / 0 * 0))
    with pytest.raises(TaskRefused, match="offers no instance"):
        gradients.check_kind("noop")
    still = Tiny()
    still.network.requires_grad_(False)
    offering(monkeypatch, still)
    with pytest.raises(TaskRefused, match="without trained parameters"):
        gradients.check_kind("offering")


def test_tensors_that_a_trainable_holds_become_float64_too() -> None:
    class Queued(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.queue = torch.linspace(0, 1, 8)

        def state(self) -> Mapping[str, Tensor]:
            return {"queue": self.queue}

        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) + (self.network["lower"](batch[0]) @ self.queue[:6]).sum()

    assert max(worst(gradients.check(Queued())[1]).values()) < gradients.THRESHOLD


def test_the_kind_writes_a_report_and_can_be_stopped(tmp_path: Any) -> None:
    settings = {"kind": "classify", "entries": 2}
    made = Gradcheck().run(job_for(Gradcheck(), {}, tmp_path / "run", settings), Recorder(tmp_path / "kept"))
    assert made.facts["ok"] is True
    assert '"worst"' in made.outputs["report"].read_text()
    with pytest.raises(Stopped):
        Gradcheck().run(job_for(Gradcheck(), {}, tmp_path / "two", settings), Recorder(tmp_path, lambda polls: "stop"))
