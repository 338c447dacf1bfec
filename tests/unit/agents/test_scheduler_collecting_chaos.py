"""Collecting beside uploads at every moment: no living artifact ever loses an object, and garbage goes in the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents import scheduler_collecting
from mesh import limits, virtual_time
from tests.support.collecting_chaos import Chaos

SEEDS = int(os.environ.get("COLLECTING_SEEDS", "6"))
FIRST = int(os.environ.get("COLLECTING_SEED", "1"))
"""A failure names its seed; COLLECTING_SEED=n COLLECTING_SEEDS=1 runs it again."""


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists come and go, and beliefs age, in the time of one run; one still lasts much longer than the other."""
    monkeypatch.setattr(scheduler_collecting, "KEEP_LISTS_S", 400.0)
    monkeypatch.setattr(limits, "BELIEF_S", 100.0)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_no_living_artifact_loses_an_object(tmp_path: Path, seed: int) -> None:
    chaos = Chaos(tmp_path, seed)
    virtual_time.run(chaos.run(1_500.0))
    assert not chaos.lost, f"seed {seed}: {len(chaos.lost)} losses, the first: {chaos.lost[0]}"
    assert chaos.told > 50, f"seed {seed}: hardly anything was stored"
    assert chaos.removed > 50, f"seed {seed}: hardly anything was removed"
    assert not chaos.left_over, f"seed {seed}: {len(chaos.left_over)} are left over"
