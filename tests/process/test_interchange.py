"""What goes into a mesh and comes out again loads in transformers, peft and safetensors, and answers as before.

The two libraries are an extra (`pip install -c .venv/constraints.txt transformers peft`): without them these tests are
skipped. They run in processes of their own, for they take seconds and hundreds of megabytes to import.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agents.commands.reach import Reach
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
LACKING = [name for name in ("transformers", "peft") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (the extra `interchange`, see docs/install.md)"
    ),
]
DEADLINE_S = 110.0


def program(*words: str) -> Any:
    """The libraries at work in a process of their own, without a network; what it printed last."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", *words],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


def foreign(*words: str) -> Any:
    return program("-m", "tests.support.foreign_models", *words)


@pytest.fixture
async def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryMesh, Reach]:
    """A mesh in memory that the commands reach, and how."""
    return await reached(tmp_path / "mesh", monkeypatch)


@pytest.mark.timeout(300)
async def test_transformers_and_peft_load_what_comes_out(meeting: tuple[MemoryMesh, Reach], tmp_path: Path) -> None:
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()
    out.mkdir()
    foreign("make", str(made))
    for name in ("encoder", "sharded", "adapter"):
        assert await command("push", str(made / name), "--name", name) == 0
        assert await command("pull", name, str(out / name)) == 0
        assert contents(out / name) == contents(made / name), "byte for byte"
    answers = json.loads((made / "answers.json").read_text())
    assert answers["the adapter changes something"] is True
    (out / "answers.json").write_text(json.dumps(answers))
    assert foreign("check", str(out)) == [], "what was pulled answers as what was made"


@pytest.mark.timeout(300)
async def test_a_champions_card_is_read_by_a_hub_and_its_tensors_by_safetensors(
    meeting: tuple[MemoryMesh, Reach], tmp_path: Path
) -> None:
    mesh, _ = meeting
    drawn = np.random.default_rng(3)
    rows = drawn.normal(size=(200, 3)).astype(np.float32)
    splits = write_four(
        tmp_path / "splits", rows, (rows[:, 0] > 0).astype(int).tolist(), ["yes: 'no'", "#2"], list("abc")
    )
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    made = made_by(Classify(), inputs, tmp_path / "line", {"epochs_max": 2, "hidden": [8]})
    digest = await mesh.store.put(made.outputs["model"], media="model")
    topic = Topic(
        id="t-1", text='Is it: "more" # than --- nothing?', data=DataRef(source="d" * 64, name="lab/rows.csv")
    )
    await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    await mesh.promote(
        Champion(
            specialization="is-it-3fa1c2", version_number=1, model=digest, topic="t-1", task="t-1-evolver",
            line=Line.EVOLVER, verdict="t-1-verdict", kpis={"accuracy": 0.91, "loss": 0.2}, holdout="h" * 64,
        )
    )  # fmt: skip
    assert await command("pull", "is-it-3fa1c2", str(tmp_path / "out")) == 0
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    assert "network.bias" in arrays
    wanted, _ = store.read_model(made.outputs["model"])
    assert all(np.array_equal(arrays[name], wanted[name]) for name in wanted)
    pulled, trained = foreign("cards", str(tmp_path / "out" / "README.md"), str(made.outputs["model"] / "README.md"))
    assert pulled["data"]["library_name"] == "ramify"
    assert pulled["data"]["pipeline_tag"] == "tabular-classification"
    assert pulled["data"]["datasets"] == ["lab/rows.csv"]
    assert "is-it-3fa1c2" in pulled["data"]["tags"]
    assert pulled["results"] == [
        ["tabular-classification", "lab/rows.csv, holdout", "holdout", "accuracy", 0.91],
        ["tabular-classification", "lab/rows.csv, holdout", "holdout", "loss", 0.2],
    ]
    assert {row[3] for row in trained["results"]} == {"accuracy", "loss"}
    assert {row[2] for row in trained["results"]} == {"validation"}
    refusal = (
        "import sys, json, transformers\n"
        "try:\n    transformers.AutoModel.from_pretrained(sys.argv[1])\n"
        "except ValueError as error:\n    print(json.dumps(str(error)))"
    )
    said = program("-c", refusal, str(tmp_path / "out"))
    assert "ramify-classifier" in said, "what the documentation says of AutoModel"
