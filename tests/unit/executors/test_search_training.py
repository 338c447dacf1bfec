"""A trial of a real kind: stopped at a checkpoint and taken up again, it ends as the undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from executors.kinds.search_step import SearchStep
from executors.port import Made, Stopped
from mesh.messages.base import Epoch
from tests.support import studies
from tests.support.executing import job_for
from tests.support.splits import write_table_split
from tests.support.studies import Child, Desk

SETTINGS: dict[str, Any] = {
    "study": "s",
    "kind": "classify",
    "space": {"learning_rate": {"type": "log-float", "low": 1e-3, "high": 1e-2}},
    "fixed": {
        "architecture": "deep", "hidden": [8], "epochs_max": 4, "batch": 16, "evaluate_every": 4, "compile": "off",
        "linear_path": False, "checkpoint_steps": 3, "checkpoint_overhead": 1.0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    draw = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("splits")
    found = {}
    for name, rows in (("train", 96), ("validation", 48)):
        x = draw.normal(size=(rows, 4)).astype(np.float32)
        y = [int(value) for value in (x[:, 0] + x[:, 1] > 0)]
        found[name] = write_table_split(folder / name, x, y, ["no", "yes"], list("abcd"), split=name)
    return found


def attempt(desk: Desk, splits: dict[str, Path], folder: Path, count: int, child: Child, **more: Any) -> Made:
    kind = SearchStep()
    return kind.run(job_for(kind, splits, folder / str(count), SETTINGS, task="a", **more), child)


def test_stopped_and_taken_up_again_it_ends_as_the_undisturbed_one(splits: dict[str, Path], tmp_path: Path) -> None:
    with studies.desk() as desk:
        whole = attempt(desk, splits, tmp_path / "whole", 1, desk.child("a", 1, tmp_path / "whole-kept"))
    with studies.desk() as desk:
        stopped = desk.child("a", 1, tmp_path / "kept", stop=lambda polls: "checkpoint" if polls > 12 else "")
        with pytest.raises(Stopped):
            attempt(desk, splits, tmp_path / "torn", 1, stopped)
        folder, number, step, _, trained_s = stopped.checkpoints[-1]
        assert 0 < step < 24
        again = Child(desk, "a", Epoch(1, 2), tmp_path / "kept-2")
        made = attempt(
            desk, splits, tmp_path / "torn", 2, again, resume=folder, checkpoint_number=number, trained_s=trained_s
        )
    records = [json.loads((one.outputs["trial"] / "trial.json").read_text()) for one in (whole, made)]
    assert records[0]["settings"] == records[1]["settings"]
    assert records[0]["curve"] == records[1]["curve"]
    assert len(records[0]["curve"]) >= 4
    assert records[1]["trials"]["complete"] == sum(records[1]["trials"].values()) == 1
    assert whole.facts["state"] == made.facts["state"], "the same bits"
    weights = [(one.outputs["model"] / "model.safetensors").read_bytes() for one in (whole, made)]
    assert weights[0] == weights[1]
