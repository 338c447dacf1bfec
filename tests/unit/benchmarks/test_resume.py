"""What the comparison of two trainings says, and that a kill which hits nothing is no kill."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from benchmarks import resume
from benchmarks.chaos_stage import Stage
from benchmarks.frame import Frame
from benchmarks.resume import HOWS, Ended, Killed
from mesh.errors import ChildBroke
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import TaskSpec, TaskState

WHOLE = Ended(state="s", trace="t", weights=("a", "b"), exact=True, steps=100, attempts=1, seconds=9.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, []), ({"attempts": 50, "seconds": 400.0}, []), ({"state": "x"}, ["state"]), ({"trace": "x"}, ["trace"]),
        ({"weights": ("a", "c")}, ["weights"]), ({"weights": ("a",), "exact": False}, ["weights", "exact"]),
    ],
)  # fmt: skip
def test_what_is_not_equal_to_the_last_bit_is_named(change: dict[str, Any], named: list[str]) -> None:
    assert resume.differences(WHOLE, dataclasses.replace(WHOLE, **change)) == named


def test_a_difference_and_a_kill_too_few_miss_the_aims() -> None:
    frame = Frame(quick=False)
    killed = Killed()
    killed.by["child"] = 49
    resume.rows(frame, WHOLE, dataclasses.replace(WHOLE, trace="x"), killed)
    assert [aim.met for aim in frame.aims] == [False, False]
    frame = Frame(quick=False)
    killed.by["machine"] = 1
    resume.rows(frame, WHOLE, WHOLE, killed)
    assert [aim.met for aim in frame.aims] == [True, True]


async def test_a_training_that_is_over_can_not_be_killed() -> None:
    stage = Stage(cast(Any, None), "resume")
    spec = TaskSpec(id=resume.TASK, topic="resume", executor="classify")
    stage.ended[resume.TASK] = TaskEnded(
        topic="resume",
        specialization="s",
        task=spec,
        state=TaskState.SUCCEEDED,
        attempts=1,
        reason="done",
        ledger_seq=1,
        at_ms=1,
    )
    with pytest.raises(ChildBroke, match="before it could be killed: done"):
        await resume.lives(stage, "a step", lambda: False)
    assert set(Killed().by) == set(HOWS)
