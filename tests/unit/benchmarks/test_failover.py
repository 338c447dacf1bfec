"""What a run of the failover benchmark reads from moves and progress."""

from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks import failover
from benchmarks.chaos_stage import Seen, Stage
from benchmarks.failover import Series
from benchmarks.frame import Frame
from mesh.messages.base import Epoch
from mesh.messages.results import TaskMoved
from mesh.messages.tasks import TaskState


def stage(moves: list[TaskMoved] | None = None, progress: list[Seen] | None = None) -> Stage:
    made = Stage(cast(Any, None), "topic")
    made.moves["train"], made.progress["train"] = moves or [], progress or []
    return made


def leased(count: int, who: str) -> TaskMoved:
    return moved(TaskState.LEASED, count, who, None)


def checkpoint(count: int, who: str, step: int) -> TaskMoved:
    return moved(TaskState.LEASED, count, who, step)


def moved(state: TaskState, count: int, who: str, step: int | None) -> TaskMoved:
    return TaskMoved(
        topic="topic", task="train", state=state, epoch=Epoch(1, count), incarnation=f"{who}.1", checkpoint_step=step,
        ledger_seq=0, at_ms=0,
    )  # fmt: skip


READY = moved(TaskState.READY, 1, "", None)


@pytest.mark.parametrize(
    ("moves", "resumed"),
    [
        ([], None),
        ([leased(1, "w1"), checkpoint(1, "w1", 10)], None),
        ([leased(1, "w1"), checkpoint(1, "w1", 10), checkpoint(1, "w1", 20), READY], None),
        ([leased(1, "w1"), checkpoint(1, "w1", 20), READY, leased(2, "w2")], 20),
        ([leased(1, "w1"), checkpoint(1, "w1", 20), READY, leased(2, "w2"), checkpoint(2, "w2", 30)], 20),
        ([leased(1, "w1"), READY, leased(2, "w2")], 0),
        ([leased(1, "w2"), READY, leased(2, "w1"), checkpoint(2, "w1", 5)], None),
    ],
)
def test_the_other_worker_goes_on_from_the_newest_checkpoint_before_its_lease(moves, resumed):
    assert failover.resumed_at(stage(moves), "train", "w2") == resumed


def test_the_pace_is_that_of_the_present_lease():
    def seen(at: float, count: int, step: int, phase: str = "training") -> Seen:
        return Seen(at, "w1", Epoch(1, count), step, phase)

    found = stage(
        progress=[seen(0, 1, 1), seen(1, 1, 1_000), seen(5, 2, 10, "features"), seen(6, 2, 20), seen(8, 2, 60)]
    )
    assert failover.steps_per_s(found, "train") == 20
    assert failover.steps_per_s(stage(progress=[seen(6, 2, 20)]), "train") == 0


def test_checkpoints_are_told_apart_by_epoch():
    found = stage([leased(1, "w1"), checkpoint(1, "w1", 10), leased(2, "w2"), checkpoint(2, "w2", 20)])
    assert found.checkpoints("train") == [10, 20]
    assert found.checkpoints("train", Epoch(1, 2)) == [20]


def test_a_series_that_broke_off_keeps_what_it_has_and_says_why():
    frame = Frame(quick=True)
    failover.rows(frame, "who", Series([2.0, 4.0], [1.0, 2.0], [5.0, 7.0], [0.1, 0.2], trouble="too late"))
    assert [(row.metric, row.value) for row in frame.rows][:2] == [
        (failover.TAKES, 3.0),
        ("kill to the lease of the other worker", 1.5),
    ]
    assert frame.failures == [f"who, {failover.TAKES}, after 2 runs: too late"]
