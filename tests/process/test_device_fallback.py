"""A real child whose leased GPU does not compute goes on with the CPU, says so at once, and its result says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from executors.frames import Finished, Frame, Placed, Start
from executors.isolation import Bounds, Child
from executors.kinds.classify import Classify
from executors.port import Runtime
from tests.support.splits import write_four

pytestmark = pytest.mark.process


async def test_a_gpu_that_is_not_there_is_noticed_before_the_task_begins(tmp_path: Path) -> None:
    drawn = np.random.default_rng(3)
    rows = drawn.normal(size=(80, 3)).astype(np.float32)
    splits = write_four(tmp_path / "splits", rows, (rows[:, 0] > 0).astype(int).tolist(), ["no", "yes"], list("abc"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    start = Start(
        run=1, task="fallback", kind="classify", kind_version=Classify.version,
        settings={"epochs_max": 1, "hidden": [4], "linear_path": False},
        inputs={name: str(splits / name) for name in ("train", "validation")}, scratch=str(scratch), cores=1.0,
        memory_bytes=2 << 30, budget_s=60.0, gpus=(63,),
    )  # fmt: skip
    heard: list[Frame] = []
    child = await Child.start(Runtime.TORCH, folder=tmp_path, threads=1, say=lambda line: None)
    try:
        ending = await child.run(start, Bounds(100.0, 60.0, 2 << 30), heard.append)
    finally:
        await child.close()
    assert isinstance(ending, Finished)
    placed = heard[0]
    assert isinstance(placed, Placed), "it comes before any progress"
    assert placed.reason
    assert ending.facts["device"]["name"] == "cpu"
    assert placed.reason in ending.facts["device"]["reason"]
