"""A segment of somebody's training, trained again: who did as the task says comes out where he was, and nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from executors import checkpoint, replaying, schedules
from executors.child import seed_of
from executors.kinds.baseline import Baseline
from executors.kinds.classify import Classify
from executors.kinds.replay import Replay
from executors.pace import Pace
from executors.port import Allotment, Made
from mesh.errors import TaskRefused
from tests.support.executing import Recorder, job_for, made_by
from tests.support.small_trainings import NAMES, TASK, Trained, small
from tests.support.splits import write_four

SETTINGS = {
    "architecture": "deep", "hidden": [16], "epochs_max": 2, "batch": 32, "evaluate_every": 20, "linear_path": False,
    "checkpoint_steps": 25, "checkpoint_overhead": 1.0, "checkpoint_s": 600.0, "learning_rate": 0.003,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    found = load_digits()
    labels, features = [str(name) for name in found.target_names], [str(name) for name in found.feature_names]
    return write_four(tmp_path_factory.mktemp("digits"), found.data, found.target.tolist(), labels, features)


def trained(splits: Path, folder: Path, settings: Mapping[str, Any] = SETTINGS, task: str = TASK) -> Trained:
    recorder = Recorder(folder / "kept")
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    made = Classify().run(job_for(Classify(), inputs, folder / "scratch", settings, seed=seed_of(task)), recorder)
    return Trained(made, tuple(row[0] for row in reversed(recorder.checkpoints)))


@pytest.fixture(scope="module")
def honest(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(digits, tmp_path_factory.mktemp("honest"))


def replayed(digits: Path, folder: Path, checkpoints: tuple[Path, ...], **more: Any) -> Made:
    inputs = {"train": digits / "train", "validation": digits / "validation"}
    inputs |= {f"checkpoint-{place}": path for place, path in enumerate(checkpoints[:3], start=1)}
    if "model" in more:
        inputs["model"] = more.pop("model")
    cores = more.pop("cores", 1.0)
    settings = {"kind": "classify", "settings": SETTINGS, "task": TASK, **more}
    return made_by(Replay(), inputs, folder, settings, allotment=Allotment(cores=cores, memory_bytes=4 << 30))


def test_an_honest_training_comes_out_bit_by_bit(digits: Path, honest: Trained, tmp_path: Path) -> None:
    steps = honest.made.facts["steps"]
    found = replayed(digits, tmp_path, honest.checkpoints, model=honest.made.outputs["model"], steps=steps)
    assert found.facts["ok"] is True, found.facts["why"]
    assert found.facts["bound"] is True
    assert found.kpis["distance"] == 0.0
    assert all(one["identical"] and one["displacement"] > 0.0 for one in found.facts["segments"])
    assert found.outputs["report"].is_file()


def test_from_its_beginning_where_only_its_end_is_recorded(digits: Path, honest: Trained, tmp_path: Path) -> None:
    found = replayed(digits, tmp_path, honest.checkpoints[:1])
    (segment,) = found.facts["segments"]
    assert (segment["begin"], found.facts["ok"], segment["identical"]) == (0, True, True)


def test_turns_of_the_schedule_that_a_clock_decided_are_followed(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is always short: the plan turns at every validation."""

    def shorter(schedule: schedules.Schedule, step: int, left_s: float, per_step_s: float) -> schedules.Schedule:
        return schedule.aimed(step, step + max(2, (schedule.end - step) * 3 // 4)) if step else schedule

    with monkeypatch.context() as clock:
        clock.setattr(schedules, "replanned", shorter)
        clock.setattr(Pace, "seconds_per_step", 1.0)
        often = {**SETTINGS, "evaluate_every": 7}
        hurried = trained(digits, tmp_path / "hurried", often)
    last = checkpoint.load(hurried.checkpoints[0]).state["run"]
    assert len(last["plans"]) >= 3
    found = replayed(digits, tmp_path / "again", hurried.checkpoints[:1], settings=often)  # all turns in one segment
    assert (found.facts["ok"], found.kpis["distance"]) == (True, 0.0), found.facts["why"]


def test_other_threads_stay_within_the_tolerance(digits: Path, honest: Trained, tmp_path: Path) -> None:
    found = replayed(digits, tmp_path, honest.checkpoints, cores=2.0)
    torch.set_num_threads(1)
    assert found.facts["ok"] is True, found.facts["why"]
    assert found.facts["segments"][0]["tolerance"] == replaying.FP32


@pytest.mark.parametrize("lie", [{"learning_rate": 0.0033}, {"weight_decay": 0.5}, {"batch": 31}])
def test_other_settings_than_the_tasks_show(digits: Path, tmp_path: Path, lie: dict[str, Any]) -> None:
    liar = trained(digits, tmp_path / "liar", {**SETTINGS, **lie})
    found = replayed(digits, tmp_path / "again", liar.checkpoints)
    assert found.facts["ok"] is False
    assert "batch" in lie or found.kpis["distance"] > replaying.FP32


def test_a_thief_of_another_tasks_training_shows(digits: Path, tmp_path: Path) -> None:
    other = trained(digits, tmp_path / "other", task="t1-reinventor")
    found = replayed(digits, tmp_path / "again", other.checkpoints)
    assert found.facts["ok"] is False
    assert found.kpis["distance"] > 0.3
    assert "end" in found.facts["why"]
    assert "from where they were recorded" in found.facts["why"]


def test_training_on_other_data_shows(digits: Path, tmp_path: Path) -> None:
    """As many examples as it was given, with the labels of others."""
    swapped = tmp_path / "swapped"
    shutil.copytree(digits, swapped)
    tensors = load_file(swapped / "train" / "examples.safetensors")
    save_file({**tensors, "y": tensors["y"].flip(0).contiguous()}, swapped / "train" / "examples.safetensors")
    cheat = trained(swapped, tmp_path / "cheat")
    found = replayed(digits, tmp_path / "again", cheat.checkpoints)
    assert found.facts["ok"] is False
    assert found.kpis["distance"] > replaying.FP32


def test_another_model_than_the_trained_one_shows(digits: Path, honest: Trained, tmp_path: Path) -> None:
    other = trained(digits, tmp_path / "other", task="t1-reinventor")
    found = replayed(digits, tmp_path / "again", honest.checkpoints, model=other.made.outputs["model"])
    assert found.facts["ok"] is False
    assert found.facts["why"] == "the model's weights are not those of its training's last checkpoint"


def test_a_torn_checkpoint_and_one_of_another_network_are_faults(digits: Path, honest: Trained, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(honest.checkpoints[0], torn)
    (torn / "state.safetensors").write_bytes((torn / "state.safetensors").read_bytes()[:-100])
    found = replayed(digits, tmp_path / "one", (torn,))
    assert found.facts["ok"] is False
    assert "a recorded checkpoint can not be read" in found.facts["why"]
    wide = trained(digits, tmp_path / "wide", {**SETTINGS, "hidden": [17]})
    found = replayed(digits, tmp_path / "two", wide.checkpoints)
    assert found.facts["ok"] is False
    assert "none of this task's" in found.facts["why"]


def test_what_is_too_long_to_be_trained_again_says_nothing(digits: Path, honest: Trained, tmp_path: Path) -> None:
    found = replayed(digits, tmp_path, honest.checkpoints, steps_max=3)
    assert found.facts["ok"] is None
    assert found.kpis == {"distance": -1.0, "segments": 0.0}
    assert found.facts["why"] == "no recorded segment is short enough to be trained again, or begins with one that is"


def test_of_a_long_segment_the_beginning_is_trained_again_as_far_as_a_validation(digits: Path, tmp_path: Path) -> None:
    told = trained(digits, tmp_path / "line")
    found = replayed(digits, tmp_path / "again", told.checkpoints[:1], steps_max=50)
    (segment,) = found.facts["segments"]
    last = told.made.facts["steps"]
    assert (segment["begin"], segment["end"], segment["part_of"]) == (0, 41, last)
    assert (found.facts["ok"], segment["identical"], found.kpis["distance"]) == (True, True, 0.0)
    again = replayed(digits, tmp_path / "threads", told.checkpoints[:1], steps_max=50, cores=2.0)
    torch.set_num_threads(1)
    assert again.facts["ok"] is True
    assert again.kpis["distance"] < replaying.FP32 / 10


@pytest.mark.parametrize("lie", [{"learning_rate": 0.0033}, {"weight_decay": 0.5}, {"dropout": 0.1}])
def test_the_beginning_of_a_long_segment_shows_who_trained_otherwise(
    digits: Path, tmp_path: Path, lie: dict[str, Any]
) -> None:
    liar = trained(digits, tmp_path / "liar", {**SETTINGS, **lie})
    found = replayed(digits, tmp_path / "again", liar.checkpoints[:1], steps_max=50)
    assert found.facts["ok"] is False
    assert "come to losses " in found.facts["why"]


def test_a_short_segment_hides_no_long_one() -> None:
    def point(step: int, weight: float, *rows: list[float]) -> checkpoint.Snapshot:
        schedule = {"warmup": 1, "end": 9_000, "shape": "linear"}
        run = {"rows": 9, "batch": 3, "schedule": schedule, "fingerprint": {}, "step": step, "history": list(rows)}
        return checkpoint.Snapshot({"model.w": torch.tensor([weight])}, {"run": run})

    a, b, c = point(0, 0.0), point(5_000, 8.0, [0, 1, 1, 1], [500, 1, 1, 1], [1_000, 1, 1, 1]), point(5_020, 8.1)
    pieces = [piece for one, two in ((a, b), (b, c)) if (piece := replaying.piece_of(one, two, 600)) is not None]
    assert [(piece.end, piece.length, piece.row[:1]) for piece in pieces] == [(500, 500, (500,)), (5_020, 20, ())]
    drawn = {tuple(piece.end for piece in replaying.chosen(pieces, str(number))) for number in range(20)}
    assert drawn == {(5_020,), (500, 5_020)}
    assert replaying.piece_of(a, b, 400) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_that_trains_by_steps_is_replayed(tmp_path: Path, name: str) -> None:
    about = small(name, tmp_path / "data")
    lies = {"contrastive": {"momentum": 0.9}, "language-model": {"dropout": 0.0}}

    def again(folder: Path, **lie: Any) -> Made:
        told = about.trained(folder / "line", **lie)
        states = {f"checkpoint-{place}": path for place, path in enumerate(told.checkpoints[:2], start=1)}
        given = {**about.honest, **states, "model": told.made.outputs["model"]}
        steps = told.made.facts["steps"]
        says = {"kind": about.kind, "settings": about.settings, "task": TASK, "steps": steps}
        return made_by(Replay(), given, folder / "again", says)

    found = again(tmp_path / "honest")
    assert (found.facts["ok"], found.facts["bound"], found.kpis["distance"]) == (True, True, 0.0)
    lie = again(tmp_path / "liar", **lies.get(name, {"dropout": 0.2}))
    assert lie.facts["ok"] is False
    assert lie.kpis["distance"] > replaying.FP32


def test_a_model_without_weights_is_a_fault_of_its_maker(digits: Path, honest: Trained, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(honest.made.outputs["model"], model)
    (model / "model.safetensors").unlink()
    found = replayed(digits, tmp_path / "again", honest.checkpoints, model=model)
    assert found.facts["ok"] is False
    assert found.facts["why"].startswith("the model can not be read")


def test_what_does_not_train_by_steps_is_refused(digits: Path, honest: Trained, tmp_path: Path) -> None:
    inputs = {"train": digits / "train", "validation": digits / "validation", "checkpoint-1": honest.checkpoints[0]}
    with pytest.raises(TaskRefused, match="does not train by steps"):
        made_by(Replay(), inputs, tmp_path, {"kind": Baseline.name, "task": TASK, "settings": {"strengths": [1.0]}})
    with pytest.raises(TaskRefused, match="at least one checkpoint"):
        made_by(Replay(), {"train": digits / "train", "validation": digits / "validation"}, tmp_path / "x",
                {"kind": "classify", "task": TASK})  # fmt: skip


def test_the_tolerance_follows_what_differs_between_the_machines() -> None:
    cpu = {"device": "cpu", "precision": "fp32", "threads": 1}
    assert replaying.tolerance(600, cpu, dict(cpu), dict(cpu)) == replaying.SAME
    assert replaying.tolerance(60, cpu, {**cpu, "threads": 2}) == replaying.FP32
    assert replaying.tolerance(240, cpu, {**cpu, "threads": 2}) == 2 * replaying.FP32
    assert replaying.tolerance(9, {**cpu, "device": "H200"}, {**cpu, "device": "H200"}) == replaying.FP32
    assert replaying.tolerance(9, cpu, {**cpu, "precision": "bf16"}) == replaying.HALF
