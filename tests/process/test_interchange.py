"""What goes into a mesh and comes out again loads in transformers, peft and safetensors, and answers as before.

The two libraries run in processes of their own, for they take seconds and hundreds of megabytes to import.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from executors.kinds.classify import Classify
from executors.models import store
from mesh import codec
from mesh.messages.judgement import Champion
from mesh.messages.tasks import Line
from mesh.messages.topics import DataRef, Topic
from tests.support.executing import made_by
from tests.support.memory_mesh import MemoryMesh
from tests.support.model_commands import command, contents, reached
from tests.support.splits import write_four

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.process
DEADLINE_S = 140.0


def foreign(action: str, folder: Path) -> Any:
    """The libraries at work in a process of their own, without a network; what it printed last."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "tests.support.foreign_models", action, str(folder)],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


async def champion(mesh: MemoryMesh, folder: Path) -> Path:
    """A champion of this program, with names that try to break its card; the folder that training wrote."""
    rows = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(int).tolist()
    splits = write_four(folder / "splits", rows, labels, ["yes: 'no'", "#2"], list("abc"))
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    settings = {"epochs_max": 2, "hidden": [8], "linear_path": False}
    trained = made_by(Classify(), inputs, folder / "line", settings).outputs["model"]
    digest = await mesh.store.put(trained, media="model")
    data = DataRef(source="d" * 64, name="lab/rows.csv")
    topic = Topic(id="t-1", text='Is it: "more" # than --- nothing?', data=data)
    await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    await mesh.promote(
        Champion(
            specialization="is-it-3fa1c2", version_number=1, model=digest, topic="t-1", task="t-1-evolver",
            line=Line.EVOLVER, verdict="t-1-verdict", kpis={"accuracy": 0.91, "loss": 0.2}, holdout="h" * 64,
        )
    )  # fmt: skip
    return trained


@pytest.mark.timeout(300)
async def test_other_programs_load_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, _ = await reached(tmp_path / "mesh", monkeypatch)
    made, out = tmp_path / "made", tmp_path / "out"
    (out / "cards").mkdir(parents=True)
    made.mkdir()
    foreign("make", made)
    answers = json.loads((made / "answers.json").read_text())
    assert answers["the adapter changes something"] is True
    for name in ("encoder", "sharded", "adapter"):
        assert await command("push", str(made / name), "--name", name) == 0
        assert await command("pull", name, str(out / name)) == 0
        assert contents(out / name) == contents(made / name), "byte for byte"
    trained = await champion(mesh, tmp_path)
    assert await command("pull", "is-it-3fa1c2", str(out / "champion")) == 0
    arrays, _ = store.read_model(trained)
    pulled = load_file(out / "champion" / "model.safetensors")
    assert all(np.array_equal(pulled[name], arrays[name]) for name in arrays)
    shutil.copy(out / "champion" / "README.md", out / "cards" / "pulled.md")
    shutil.copy(trained / "README.md", out / "cards" / "trained.md")
    shutil.copy(made / "answers.json", out / "answers.json")
    found = foreign("check", out)
    assert found["differ"] == [], "what was pulled answers as what was made"
    assert "ramify-classifier" in found["refused"], "what the documentation says of AutoModel"
    card = found["cards"]["pulled.md"]
    assert (card["library_name"], card["pipeline_tag"]) == ("ramify", "tabular-classification")
    assert card["datasets"] == ["lab/rows.csv"]
    assert "is-it-3fa1c2" in card["tags"]
    assert card["results"] == [
        ["tabular-classification", "lab/rows.csv, holdout", "holdout", "accuracy", 0.91],
        ["tabular-classification", "lab/rows.csv, holdout", "holdout", "loss", 0.2],
    ]
    before = found["cards"]["trained.md"]["results"]
    assert {(row[2], row[3]) for row in before} == {("validation", "accuracy"), ("validation", "loss")}
