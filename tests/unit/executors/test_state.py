"""What a run needs to continue: all of it goes out and comes back, and nothing that was made up gets in."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from executors import checkpoint, schedules
from executors.checkpoint import Snapshot
from executors.state import Moving, State
from mesh.errors import ArtifactCorrupt


def fresh(**changes: Any) -> State:
    given = {"rows": 10, "batch": 2, "schedule": schedules.first(100, 5), "fingerprint": {"torch": "2"}, **changes}
    return State(**given)


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    made[0].weight.requires_grad_(False)
    return made


def moving(scaling: bool = False) -> Moving:
    made = network()
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    return Moving(made, torch.optim.AdamW(trained), torch.amp.GradScaler("cpu", enabled=scaling, init_scale=8.0))


def trained(steps: int = 3, scaling: bool = False) -> tuple[Moving, State]:
    checkpoint.seed_generators(1)
    run = moving(scaling)
    for _ in range(steps):
        run.scaler.scale(run.network(torch.randn(5, 3)).square().sum()).backward()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
    run.remember_best()
    state = fresh(step=steps, evaluated=steps, best_step=steps, best_score=0.5, best_loss=0.2, trace=b"t" * 32)
    return run, state


def taken(run: Moving, state: State) -> Snapshot:
    """As it comes back from a file: copies of the tensors, values through msgpack."""
    found = run.snapshot(state)
    tensors = {name: tensor.detach().clone() for name, tensor in found.tensors.items()}
    return Snapshot(tensors, msgspec.msgpack.decode(msgspec.msgpack.encode(found.state)))


def same(one: Moving, other: Moving) -> bool:
    tensors = one.snapshot(fresh()).tensors, other.snapshot(fresh()).tensors
    return tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0]
    )


def test_all_of_it_comes_back() -> None:
    run, state = trained()
    saved, other = taken(run, state), moving()
    assert not same(run, other)
    found = other.restore(saved, fresh())
    assert same(run, other)
    assert msgspec.to_builtins(found) == msgspec.to_builtins(state)
    assert torch.get_rng_state().numpy().tobytes() == saved.state["generators"]["torch"]


def test_the_digest_tells_every_part_apart() -> None:
    run, state = trained()
    other = moving()
    other.restore(taken(run, state), fresh())
    seen = {run.digest()}
    assert other.digest() in seen
    for name in ("model.2.bias", "exp_avg_sq.2.weight", "best.2.bias", "step.2.weight", "model.1.running_var"):
        with torch.no_grad():
            other.tensors()[name].add_(1.0)
        seen.add(other.digest())
    torch.rand(1)
    seen.add(other.digest())
    assert len(seen) == 7


def test_a_metric_that_is_no_number_does_not_spoil_a_checkpoint() -> None:
    """A kind may measure something that is undefined; the loop chooses by the score, which is checked."""
    run, state = trained()
    state.best_metrics = {"recall_of_nothing": math.nan}
    found = moving().restore(taken(run, state), fresh())
    assert math.isnan(found.best_metrics["recall_of_nothing"])


def test_what_is_frozen_is_there_once_and_named_as_still() -> None:
    run, state = trained()
    names = set(run.snapshot(state).tensors)
    assert "model.0.weight" in names
    assert not {"best.0.weight", "exp_avg.0.weight"} & names
    assert run.still() >= {"model.0.weight", "best.2.weight", "best.1.running_mean"}
    assert "model.2.weight" not in run.still()
    assert run.snapshot(state).tensors["model.0.weight"] is dict(run.network.named_parameters())["0.weight"]


def test_the_best_is_put_back_without_what_is_frozen() -> None:
    run, _ = trained()
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    with torch.no_grad():
        for parameter in run.network.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    run.take_best()
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())


def test_the_gradient_scale_comes_back() -> None:
    run, state = trained(scaling=True)
    run.scaler.update(4.0)
    saved, other = taken(run, state), moving(scaling=True)
    other.restore(saved, fresh())
    assert other.scaler.get_scale() == 4.0
    assert other.scaler.state_dict() == run.scaler.state_dict()


def test_a_parameter_that_never_had_a_gradient_is_no_obstacle() -> None:
    run, state = trained()
    del run.optimizer.state[dict(run.network.named_parameters())["2.bias"]]
    saved, other = taken(run, state), moving()
    other.restore(saved, fresh())
    assert same(run, other)


def test_before_the_first_step_there_are_no_moments() -> None:
    run = moving()
    state = fresh()
    other = moving()
    other.restore(taken(run, state), fresh())
    assert same(run, other)


Change = Callable[[dict[str, Tensor], dict[str, Any]], object]

MADE_UP: dict[str, Change] = {
    "a tensor is missing": lambda tensors, state: tensors.pop("model.2.weight"),
    "a moment is missing": lambda tensors, state: tensors.pop("exp_avg.2.weight"),
    "a best one is missing": lambda tensors, state: tensors.pop("best.2.weight"),
    "another shape": lambda tensors, state: tensors.update({"model.2.weight": torch.zeros(2, 5)}),
    "another type": lambda tensors, state: tensors.update({"exp_avg_sq.2.bias": torch.zeros(2).double()}),
    "one too many": lambda tensors, state: tensors.update({"model.3.weight": torch.zeros(1)}),
    "of no group": lambda tensors, state: tensors.update({"weight": torch.zeros(1)}),
    "not finite": lambda tensors, state: tensors["model.2.bias"].fill_(math.nan),
    "no state": lambda tensors, state: state.pop("run"),
    "no generators": lambda tensors, state: state.pop("generators"),
    "broken generators": lambda tensors, state: state["generators"].update(torch=b"x"),
    "generators of another form": lambda tensors, state: state.update(generators=7),
    "a state of another form": lambda tensors, state: state.update(run=[1, 2]),
    "a step that is text": lambda tensors, state: state["run"].update(step="many"),
    "a negative step": lambda tensors, state: state["run"].update(step=-1, evaluated=-1, best_step=-1),
    "evaluated later than taken": lambda tensors, state: state["run"].update(evaluated=9),
    "a step beyond all": lambda tensors, state: state["run"].update(step=2**60),
    "a schedule from nowhere": lambda tensors, state: state["run"]["schedule"].update(end=-5),
    "a rate that is no number": lambda tensors, state: state["run"]["schedule"].update(anchor=math.nan),
    "a best that is no number": lambda tensors, state: state["run"].update(best_score=math.nan),
    "a trace of another length": lambda tensors, state: state["run"].update(trace=b"short"),
    "a history without end": lambda tensors, state: state["run"].update(history=[[0.0]] * 5_000),
    "other rows": lambda tensors, state: state["run"].update(rows=11),
    "another batch": lambda tensors, state: state["run"].update(batch=1),
    "no step, but moments": lambda tensors, state: state["run"].update(step=0, evaluated=0, best_step=0),
}


@pytest.mark.parametrize("what", MADE_UP)
def test_what_was_made_up_is_refused_and_moves_nothing(what: str) -> None:
    run, state = trained()
    saved = taken(run, state)
    tensors, values = dict(saved.tensors), copy.deepcopy(dict(saved.state))
    MADE_UP[what](tensors, values)
    checkpoint.seed_generators(99)
    other, mine = moving(), fresh()
    before, generators = taken(other, mine), checkpoint.generators()
    with pytest.raises(ArtifactCorrupt, match="the checkpoint"):
        other.restore(Snapshot(tensors, values), mine)
    after = taken(other, mine)
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    assert before.tensors.keys() == after.tensors.keys()
    assert checkpoint.generators() == generators


def test_a_gradient_scale_that_was_made_up_is_refused() -> None:
    run, state = trained(scaling=True)
    saved = taken(run, state)
    broken = Snapshot(saved.tensors, {**saved.state, "scaler": {**saved.state["scaler"], "scale": math.inf}})
    with pytest.raises(ArtifactCorrupt, match="scale"):
        moving(scaling=True).restore(broken, fresh())


def test_another_fingerprint_and_missing_devices_are_named() -> None:
    run, state = trained()
    saved = taken(run, state)
    saved.state["generators"]["cuda"] = [b"state"] * (torch.cuda.device_count() + 1)
    found = moving().restore(saved, fresh(fingerprint={"torch": "3"}))
    assert not found.exact
    assert found.differed == ["torch: 2, now 3", "the random generators of cuda could not be restored here"]
    assert found.fingerprint == {"torch": "3"}
