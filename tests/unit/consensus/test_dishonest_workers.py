"""Dishonest and broken workers against real checks: each is caught by the check that is meant for it, an honest one by
none. Real small models on the digits; kinds run in this process, consensus weighs as ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from executors import outcomes
from executors.port import Made
from mesh.messages.judgement import Choice
from mesh.messages.tasks import Line, TaskSpec
from tests.support.dishonest import SETTINGS, Room, Trained, claims_of, failures, forged, honest
from tests.support.small_trainings import small
from tests.support.splits import write_four


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    found = load_digits()
    labels, features = [str(name) for name in found.target_names], [str(name) for name in found.feature_names]
    rows = slice(0, 900)
    return write_four(
        tmp_path_factory.mktemp("digits"), found.data[rows], found.target[rows].tolist(), labels, features
    )


@pytest.fixture
def room(tmp_path: Path, digits: Path) -> Room:
    return Room(tmp_path, digits)


def test_nobody_honest_is_accused(room: Room) -> None:
    made = room.play(evolver=honest, reinventor=honest, independent="require")
    assert failures(made) == {}
    assert made.choice in (Choice.EVOLVER, Choice.REINVENTOR)
    evidence = {str(one.line): one.evidence for one in made.candidates}
    taken = evidence[made.choice.value]
    assert taken is not None
    assert (taken.rate, taken.replayed) == (1.0, 0.0)
    assert taken.gain is not None
    assert taken.gain > -2.0 * taken.gain_error


def test_a_liars_numbers_are_not_reproduced(room: Room) -> None:
    def liar(room: Room, task: TaskSpec, folder: Path) -> Trained:
        real = room.trained(task, folder)
        told = outcomes.read(real.made.outputs["claims"])
        perfect = claims_of(folder, real.made, predicted=told.label, loss=np.full(told.items, 0.001, "<f4").tobytes())
        return Trained(forged(real.made, outputs={**real.made.outputs, "claims": perfect}), real.checkpoints)

    made = room.play(evolver=honest, reinventor=liar)
    assert made.choice is Choice.EVOLVER
    assert "claims were reproduced" in failures(made)["w3"]
    assert list(failures(made)) == ["w3"]


def as_told(folder: Path, made: Made) -> Path:
    """The model's folder, in which the task's own settings stand."""
    model = folder / "as-told"
    shutil.copytree(made.outputs["model"], model)
    config = json.loads((model / "config.json").read_text())
    config["ramify"]["settings"] = {**config["ramify"]["settings"], **SETTINGS, "steps_max": 0, "patience": 10}
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_a_lazy_worker_that_invents_its_claims_is_caught_like_a_liar(room: Room) -> None:
    def lazy(room: Room, task: TaskSpec, folder: Path) -> Trained:
        real = room.trained(task, folder / "real")
        untrained = room.trained(task, folder / "lazy", settings={"steps_max": 1})
        outputs = {"model": as_told(folder, untrained.made), "claims": real.made.outputs["claims"]}
        return Trained(forged(real.made, outputs=outputs), untrained.checkpoints)

    made = room.play(evolver=honest, reinventor=lazy)
    assert made.choice is Choice.EVOLVER
    assert "claims were reproduced" in failures(made)["w3"]


def test_a_lazy_worker_that_claims_what_its_untrained_model_does_is_caught_by_a_replay(room: Room) -> None:
    """Two steps at a high rate, told as the whole training: model, claims and checkpoint fit each other."""

    def lazy(room: Room, task: TaskSpec, folder: Path) -> Trained:
        short = room.trained(task, folder / "lazy", settings={"steps_max": 2, "learning_rate": 0.02})
        real = room.trained(task, folder / "real")
        facts = {**short.made.facts, "data": real.made.facts["data"], "steps": real.made.facts["steps"]}
        outputs = {**short.made.outputs, "model": as_told(folder, short.made)}
        return Trained(forged(short.made, outputs=outputs, facts=facts), short.checkpoints)

    made = room.play(reinventor=lazy, independent="require")
    assert made.choice is Choice.KEEP
    assert failures(made)["w3"].startswith("replay: trained again, steps 0 to 2 end ")


def test_a_thief_who_hands_in_anothers_model_as_it_is_is_the_later_one(room: Room) -> None:
    stolen: list[Trained] = []

    def robbed(room: Room, task: TaskSpec, folder: Path) -> Trained:
        stolen.append(room.trained(task, folder))
        return stolen[0]

    made = room.play(evolver=robbed, reinventor=lambda *_: stolen[0])
    assert made.choice is Choice.EVOLVER
    assert failures(made) == {"w3": "structure: its model is that of t1-evolver, byte for byte"}


def test_a_thief_who_disguises_anothers_model_is_caught_by_a_replay(room: Room) -> None:
    """He trains a little as he should, for the checkpoints, and hands in what somebody else trained for longer."""

    def thief(room: Room, task: TaskSpec, folder: Path) -> Trained:
        own = room.trained(task, folder / "own")
        loot = room.trained(task, folder / "loot", name="t0-evolver")
        outputs = {"model": as_told(folder, loot.made), "claims": loot.made.outputs["claims"]}
        return Trained(forged(own.made, outputs=outputs), own.checkpoints)

    made = room.play(reinventor=thief, independent="require")
    assert made.choice is Choice.KEEP
    assert failures(made) == {"w3": "replay: the model's weights are not those of its training's last checkpoint"}


def test_a_thief_with_the_checkpoints_of_his_loot_is_caught_by_a_replay(room: Room) -> None:
    def thief(room: Room, task: TaskSpec, folder: Path) -> Trained:
        own = room.trained(task, folder / "own")
        loot = room.trained(task, folder / "loot", name="t0-evolver")
        facts = {**loot.made.facts, "data": own.made.facts["data"]}
        return Trained(forged(loot.made, facts=facts), loot.checkpoints)

    made = room.play(reinventor=thief, independent="require")
    assert made.choice is Choice.KEEP
    assert failures(made)["w3"].startswith("replay: trained again, steps ")


def test_who_did_not_use_the_data_is_suspicious_and_caught_by_a_replay(room: Room, digits: Path) -> None:
    """Trained on the validation split, which it knows better than what it was given; it tells of the right examples."""

    def elsewhere(room: Room, task: TaskSpec, folder: Path) -> Trained:
        real = room.trained(task, folder / "real")
        longer = {"epochs_max": 60, "patience": 100}
        other = room.trained(task, folder / "elsewhere", train=digits / "validation", settings=longer)
        told = {**other.made.facts, "data": real.made.facts["data"]}
        outputs = {**other.made.outputs, "model": as_told(folder, other.made)}
        return Trained(forged(other.made, facts=told, outputs=outputs), other.checkpoints)

    made = room.play(reinventor=elsewhere)
    assert made.choice is Choice.KEEP
    assert "t1-replay-reinventor" in room.ran
    assert "a recorded checkpoint is none of this task's" in failures(made)["w3"]
    evidence = made.candidates[0].evidence
    assert evidence is not None
    assert evidence.gain is not None
    assert evidence.gain < -2.0 * evidence.gain_error


def test_who_did_not_use_the_data_and_says_so_is_caught_by_its_digest(room: Room, digits: Path) -> None:
    def elsewhere(room: Room, task: TaskSpec, folder: Path) -> Trained:
        return room.trained(task, folder, train=digits / "validation")

    made = room.play(evolver=honest, reinventor=elsewhere)
    assert made.choice is Choice.EVOLVER
    assert failures(made)["w3"].startswith("structure: its training took")


def test_who_did_not_read_the_documents_that_he_was_given_is_caught_by_their_digest(tmp_path: Path) -> None:
    """Language models: documents have no labels, and nobody asks what a model loses on its own."""
    about = small("language-model", tmp_path / "data")
    splits = {"train": about.honest["train"], "other": about.other["train"]}
    splits |= dict.fromkeys(("validation", "holdout", "audit"), about.honest["validation"])
    for name, path in splits.items():
        (tmp_path / "splits" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "splits" / name / "documents.jsonl")
    room = Room(tmp_path, tmp_path / "splits", about.kind, about.settings)

    def elsewhere(room: Room, task: TaskSpec, folder: Path) -> Trained:
        return room.trained(task, folder, train=tmp_path / "splits" / "other")

    made = room.play(evolver=honest, reinventor=elsewhere)
    assert made.choice is Choice.EVOLVER
    assert failures(made) == {
        "w3": "structure: its training took other examples than those that it was given, or in another order"
    }
    assert next(one.evidence.rate for one in made.candidates if one.line is Line.EVOLVER and one.evidence) == 1.0


@pytest.mark.parametrize("how", ["nan", "shape", "torn"])
def test_a_broken_model_is_told_as_what_it_is(room: Room, how: str) -> None:
    def broken(room: Room, task: TaskSpec, folder: Path) -> Trained:
        real = room.trained(task, folder)
        path = real.made.outputs["model"] / "model.safetensors"
        tensors = load_file(path)
        name = next(one for one in sorted(tensors) if one.startswith("network.") and tensors[one].ndim == 2)
        if how == "nan":
            tensors[name][0, 0] = np.nan
        elif how == "shape":
            tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
        save_file(tensors, path)
        if how == "torn":
            path.write_bytes(path.read_bytes()[:-60])
        return real

    made = room.play(evolver=honest, reinventor=broken)
    assert made.choice is Choice.EVOLVER
    assert failures(made)["w3"].startswith("structure: the model can not be used: ")


def test_other_settings_than_the_tasks_are_told(room: Room) -> None:
    def own_way(room: Room, task: TaskSpec, folder: Path) -> Trained:
        return room.trained(task, folder, settings={"learning_rate": 0.01})

    made = room.play(evolver=honest, reinventor=own_way)
    assert made.choice is Choice.EVOLVER
    assert failures(made)["w3"] == (
        "structure: the model was trained with learning_rate 0.01, its task asked for 0.003"
    )
