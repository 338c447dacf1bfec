"""Structural checks on real small models: what a model must be before its claims are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from executors import structure
from executors.child import seed_of
from executors.data import batches, read_split
from executors.kinds.classify import Classify
from executors.kinds.evaluate import Evaluate
from executors.port import Made
from executors.structure import Trained
from tests.support.executing import Recorder, job_for, made_by
from tests.support.splits import write_four

SETTINGS = {"architecture": "deep", "hidden": [16], "epochs_max": 4, "batch": 32, "linear_path": False}
TASK = "t1-evolver"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    found = load_digits()
    labels, features = [str(name) for name in found.target_names], [str(name) for name in found.feature_names]
    return write_four(tmp_path_factory.mktemp("digits"), found.data, found.target.tolist(), labels, features)


def trained(train: Path, digits: Path, folder: Path, settings: Mapping[str, Any] = SETTINGS) -> Made:
    inputs = {"train": train, "validation": digits / "validation"}
    job = job_for(Classify(), inputs, folder / "scratch", settings, seed=seed_of(TASK), task=TASK)
    return Classify().run(job, Recorder(folder / "kept"))


@pytest.fixture(scope="module")
def honest(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return trained(digits / "train", digits, tmp_path_factory.mktemp("honest"))


def check(digits: Path, folder: Path, model: Path, told: Made, **trained: Any) -> Made:
    inputs = {"model": model, "split": digits / "validation", "train": digits / "train"}
    about = {"task": TASK, "kind": "classify", "settings": SETTINGS, "data": told.facts["data"], **trained}
    return made_by(Evaluate(), inputs, folder, {"latency_items": 0, "trained": about})


def test_an_honest_model_passes_and_knows_its_own_data_better(digits: Path, honest: Made, tmp_path: Path) -> None:
    found = check(digits, tmp_path, honest.outputs["model"], honest)
    assert "structure" not in found.facts
    assert found.outputs["outcomes"].is_dir()
    assert found.kpis["own_gain"] == pytest.approx(found.kpis["loss"] - found.kpis["own_loss"])
    assert found.kpis["own_gain"] > 0.0


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ({"settings": {**SETTINGS, "learning_rate": 0.1}}, "trained with learning_rate"),
        ({"kind": "lora"}, "the model is one of 'classify', its task trains 'lora'"),
        ({"task": "t2-evolver"}, "other examples than those that it was given, or in another order"),
        ({"data": {"digest": "0" * 32, "rows": 12, "batch": 32, "steps": 3}}, "its training took 12 examples"),
        ({"data": {"digest": "x"}}, "can not be read"),
        ({"data": {}}, "does not say which examples its steps took"),
    ],
)
def test_a_model_of_another_task_is_told_apart(
    digits: Path, honest: Made, tmp_path: Path, lie: dict[str, Any], sentence: str
) -> None:
    found = check(digits, tmp_path, honest.outputs["model"], honest, **lie)
    assert sentence in found.facts["structure"]
    assert found.outputs == {}


def broken(folder: Path, made: Made, change: str) -> Path:
    model = folder / "model"
    shutil.copytree(made.outputs["model"], model)
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("network.") and tensors[name].ndim == 2)
    if change == "nan":
        tensors[name][0, 0] = np.nan
    elif change == "shape":
        tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
    save_file(tensors, path)
    if change == "torn":
        path.write_bytes(path.read_bytes()[:-50])
    elif change == "config":
        (model / "config.json").write_text(json.dumps({"ramify": "nothing"}))
    return model


@pytest.mark.parametrize("change", ["nan", "shape", "torn", "config"])
def test_a_broken_model_is_its_makers_fault_and_the_check_says_so(
    digits: Path, honest: Made, tmp_path: Path, change: str
) -> None:
    found = check(digits, tmp_path / "check", broken(tmp_path, honest, change), honest)
    assert found.facts["structure"].startswith("the model can not be used: ")
    assert found.outputs == {}


def test_who_did_not_use_his_data_gains_nothing_on_it(digits: Path, tmp_path: Path) -> None:
    """Trained on the holdout's examples in place of its own: it knows both splits alike."""
    made = trained(digits / "holdout", digits, tmp_path / "line")
    found = check(digits, tmp_path / "check", made.outputs["model"], made)
    assert "its training took" in found.facts["structure"]
    told = trained(digits / "train", digits, tmp_path / "told").facts["data"]
    found = check(digits, tmp_path / "again", made.outputs["model"], made, data=told)
    honest_gain = 0.05
    assert found.kpis["own_gain"] < honest_gain


def test_the_digest_is_of_the_examples_that_the_steps_took(digits: Path) -> None:
    split = read_split(digits / "train")
    rows, batch, steps = len(split), 32, 50
    source = batches(9, rows, batch, 0)
    taken = np.concatenate([next(source) for _ in range(steps)])
    whole, left = divmod(steps, -(-rows // batch))
    counts = np.bincount(taken, minlength=rows)
    assert set(counts.tolist()) <= {whole, whole + 1}
    assert (counts > whole).sum() == left * batch
    one = structure.consumed(split.ids, 9, batch, steps)
    assert one == structure.consumed(split.ids, 9, batch, steps)
    others = [
        structure.consumed(split.ids, 8, batch, steps), structure.consumed(split.ids, 9, batch, steps + 1),
        structure.consumed(split.ids, 9, 31, steps), structure.consumed(split.ids[:-1], 9, batch, steps),
    ]  # fmt: skip
    assert len({one, *others}) == 5
    moved = np.random.default_rng(0).permutation(rows)
    assert structure.consumed(split.ids[moved], 9, batch, steps) != one  # the same examples, in another order


def test_what_a_kind_leaves_aside_and_how_numbers_travel_are_no_fault() -> None:
    trained = Trained(task="t", kind="classify", settings={"hidden": (16,), "clip": 5, "linear_path": True})
    assert structure.model_fault({"kind": "classify", "settings": {"hidden": [16], "clip": 5.0}}, trained) == ""
    assert "does not say" in structure.model_fault({"kind": "classify"}, trained)
