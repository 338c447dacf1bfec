"""What `bin/agent task` makes of its options: a task with stored inputs and the needs of its kind, or one sentence."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from agents.commands import errands
from agents.commands.errands import Errands
from agents.commands.reach import Reach
from executors import kinds
from mesh.errors import DataRefused, NotFound, SettingsInvalid
from mesh.messages.tasks import TaskSpec
from tests.support.memory_mesh import MemoryMesh
from tests.support.splits import write_four

LABELS = ["yes", "no"]


def given(executor: str = "classify", **options: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "executor": executor, "input": [], "set": [], "budget": 60.0, "cores": None, "memory": None, "gpus": None,
        "gpu_memory": None, "priority": 5,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **options})


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    texts = [f"{'good' if number % 2 else 'bad'} {number}" for number in range(40)]
    return write_four(tmp_path / "splits", texts, [number % 2 for number in range(40)], LABELS)


async def spec_of(tmp_path: Path, options: argparse.Namespace) -> tuple[TaskSpec, MemoryMesh, list[str]]:
    mesh = await MemoryMesh(tmp_path / "mesh").start()
    said: list[str] = []
    wanted = Errands.of(options)
    there = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)
    return await wanted.spec(there, said.append), mesh, said


async def test_inputs_are_stored_and_the_kind_is_asked_with_its_settings(tmp_path, splits):
    inputs = [(name, str(splits / name)) for name in ("train", "validation")]
    task, mesh, said = await spec_of(tmp_path, given(input=inputs, set=[("hidden", "[64]"), ("precision", "fp32")]))
    assert task.settings == {"hidden": [64], "precision": "fp32"}
    assert (task.id, task.executor, task.budget_s) == (task.topic, "classify", 60.0)
    sizes = {name: (await mesh.store.manifest(digest)).size_bytes for name, digest in task.inputs.items()}
    facts = {"modality": "text", "labels": 2, "features": 0, "bytes": sum(sizes.values()), "input_bytes": sizes}
    assert task.needs == kinds.needs_of("classify", task.settings, facts)
    assert [line.split(":")[0] for line in said] == ["input train", "input validation"]


async def test_a_person_may_say_what_it_takes(tmp_path):
    options = given("profile", input=[("data", "builtin:digits")], cores=0.5, memory=1 << 30, gpus=1, gpu_memory=5)
    task, _, said = await spec_of(tmp_path, options)
    assert (task.needs.cores, task.needs.memory_bytes, task.needs.gpus) == (0.5, 1 << 30, 1)
    assert task.needs.gpu_memory_bytes == 5
    assert task.inputs == {"data": "builtin:digits"}
    assert said == []


async def test_a_digest_and_a_name_are_looked_up(tmp_path, splits):
    with pytest.raises(NotFound, match="no artifact"):
        await spec_of(tmp_path / "a", given("profile", input=[("data", "a" * 64)]))
    with pytest.raises(NotFound, match="no file or folder here, and no model is called 'nobody'"):
        await spec_of(tmp_path / "b", given("evaluate", input=[("model", "nobody"), ("split", str(splits / "train"))]))


BOTH = [("train", "builtin:digits"), ("validation", "builtin:digits")]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (given("clasify"), SettingsInvalid, "no executor kind 'clasify' here; the kinds are: "),
        (given(set=[("epochs_max", "-1")], input=BOTH), SettingsInvalid, "epochs_max must be 1 to"),
        (given(set=[("clip", "NaN")], input=BOTH), SettingsInvalid, "clip"),
        (given(set=[("hiden", "[8]")], input=BOTH), SettingsInvalid, "hiden"),
        (given(set=[("clip", "1"), ("clip", "2")], input=BOTH), SettingsInvalid, "'clip' twice"),
        (given(input=BOTH[:1]), SettingsInvalid, "lacks the input 'validation'"),
        (given(input=[*BOTH, ("trian", "builtin:digits")]), SettingsInvalid, "reads no input 'trian'"),
        (given(input=[("train", "./nowhere")]), DataRefused, "no file or folder './nowhere' here"),
    ],
)
def test_what_can_not_be_is_one_sentence_before_anything_starts(options, error, words):
    with pytest.raises(error) as told:
        Errands.of(options)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["train", "=x", "train=", " = "])
def test_a_pair_has_two_halves(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=VALUE"):
        errands.pair(text)


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf"])
def test_cores_are_a_number_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="number of cores"):
        errands.cores(text)
