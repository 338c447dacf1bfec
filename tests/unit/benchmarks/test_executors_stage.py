"""A part of `bench executors`: whose turn it is, and what becomes of a reference that answers or fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.executors import PARTS
from benchmarks.executors_stage import Stage
from benchmarks.frame import CHECKOUT, Frame
from executors import vectorfiles
from executors.models.indexed import Truth, write_truth
from executors.vectorfiles import Vectors
from mesh.errors import ChildBroke


def test_every_part_has_its_module() -> None:
    for name in PARTS:
        assert (CHECKOUT / "benchmarks" / f"executors_{name.replace('-', '_')}.py").is_file()


def test_who_begins_changes_with_the_round(tmp_path: Path) -> None:
    said: list[str] = []
    stage = Stage(Frame(quick=False, runs=3), tmp_path)
    found = stage.rounds(lambda: said.append("ours"), lambda: said.append("theirs"))
    assert said == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [len(one) for one in found] == [3, 3]


def test_a_reference_answers_in_json_or_fails_with_a_sentence(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = np.arange(50, dtype=np.int64)
    vectors = vectorfiles.write(tmp_path / "vectors", Vectors(rows, ids))
    neighbours = (rows @ rows.T - 2 * np.eye(50)).argsort(axis=1)[:, ::-1][:, :3].astype(np.int64)
    truth = write_truth(tmp_path / "truth", Truth(rows, ids, neighbours, own=True))
    stage = Stage(Frame(quick=False), tmp_path)
    found = stage.peer("plain_faiss", vectors, truth, json.dumps({"family": "flat", "k": 3}))
    assert found["recall_at_3"] == 1.0
    with pytest.raises(ChildBroke, match="the reference plain_faiss: it ended with code 1"):
        stage.peer("plain_faiss", tmp_path / "nowhere", truth, "{}")
