"""The fold refuses what may not follow, and keeps its books."""

from __future__ import annotations

import pytest

from mesh.errors import InvariantBroken
from mesh.messages.base import Epoch, Key
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    CheckpointRecorded,
    LeaderChosen,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskSucceeded,
    TopicPlanned,
)
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from planner.ledger import RECORDED_KEYS_MAX, Ledger


def planned(*names: str, after: tuple[str, ...] = ()) -> TopicPlanned:
    tasks = tuple(TaskSpec(id=name, topic="t", executor="noop", after=after) for name in names)
    return TopicPlanned(submit=f"s-{names[0]}", topic="t", tasks=tasks)


def leased(name: str, count: int, incarnation: str = "w.1") -> TaskLeased:
    return TaskLeased(task=name, epoch=Epoch(1, count), incarnation=incarnation, attempt=count)


def succeeded(name: str, count: int) -> TaskSucceeded:
    return TaskSucceeded(task=name, epoch=Epoch(1, count), number=1, incarnation="w.1", outcome=Outcome())


def ended(name: str, count: int, cause: Cause = Cause.FAILURE) -> LeaseEnded:
    return LeaseEnded(task=name, epoch=Epoch(1, count), cause=cause, reason="broken", key_kind="failure", key_number=1)


def folded(*events: AnyEvent) -> Ledger:
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ([], leased("a", 1)),
        ([planned("a")], planned("a")),
        ([planned("a"), leased("a", 1)], leased("a", 2)),
        ([planned("a"), leased("a", 2), ended("a", 2)], leased("a", 2)),
        ([planned("a"), leased("a", 2), ended("a", 2)], leased("a", 1)),
        ([planned("a"), leased("a", 1)], succeeded("a", 2)),
        ([planned("a")], succeeded("a", 1)),
        ([planned("a"), leased("a", 1), succeeded("a", 1)], succeeded("a", 1)),
        ([planned("a"), leased("a", 1), succeeded("a", 1)], leased("a", 2)),
        ([planned("a"), TaskCanceled(task="a", reason="no")], leased("a", 1)),
        ([planned("b", after=("a",))], leased("b", 1)),
        ([LeaderChosen(name="s", term=2)], LeaderChosen(name="s", term=2)),
        (
            [
                planned("a"),
                leased("a", 1),
                CheckpointRecorded(task="a", epoch=Epoch(1, 1), number=2, manifest="m", step=1),
            ],
            CheckpointRecorded(task="a", epoch=Epoch(1, 1), number=2, manifest="m", step=1),
        ),
    ],
)
def test_what_may_not_follow_is_a_broken_invariant(before: list[AnyEvent], event: AnyEvent) -> None:
    ledger = folded(*before)
    with pytest.raises(InvariantBroken):
        ledger.apply(event)


def test_an_ended_task_leaves_the_fold_and_one_line() -> None:
    ledger = folded(planned("a"), leased("a", 1), succeeded("a", 1))
    assert not ledger.tasks
    assert not ledger.by_topic
    assert not ledger.by_incarnation
    line = ledger.ended.get("a")
    assert line is not None
    assert line.state is TaskState.SUCCEEDED
    assert line.key == Key("a", Epoch(1, 1), "result", 1)
    assert ledger.counts[TaskState.SUCCEEDED] == 1


def test_a_dependent_becomes_ready_when_all_it_needs_has_succeeded() -> None:
    ledger = folded(planned("a", "b"), planned("c", after=("a", "b")))
    ledger.apply(leased("a", 1))
    ledger.apply(succeeded("a", 1))
    assert ledger.tasks["c"].state is TaskState.WAITING
    ledger.apply(leased("b", 1))
    ledger.apply(succeeded("b", 1))
    assert ledger.tasks["c"].state is TaskState.READY


def test_a_task_planned_after_its_need_has_ended_is_ready_at_once() -> None:
    ledger = folded(planned("a"), leased("a", 1), succeeded("a", 1), planned("b", after=("a",)))
    assert ledger.tasks["b"].state is TaskState.READY


def test_recorded_keys_are_bounded() -> None:
    ledger = folded(planned("a"), leased("a", 1))
    for number in range(1, 3 * RECORDED_KEYS_MAX):
        ledger.apply(CheckpointRecorded(task="a", epoch=Epoch(1, 1), number=number, manifest="m", step=number))
    assert len(ledger.tasks["a"].recorded) == RECORDED_KEYS_MAX


def test_a_checkpoint_clears_the_count_of_deaths() -> None:
    ledger = folded(planned("a"), leased("a", 1), ended("a", 1, Cause.DIED), leased("a", 2))
    assert ledger.tasks["a"].deaths == 1
    ledger.apply(CheckpointRecorded(task="a", epoch=Epoch(1, 2), number=1, manifest="m", step=1))
    assert ledger.tasks["a"].deaths == 0


def test_the_newest_checkpoint_the_one_before_and_the_best_are_known() -> None:
    ledger = folded(planned("a"), leased("a", 1))
    for number in range(1, 9):
        ledger.apply(
            CheckpointRecorded(
                task="a", epoch=Epoch(1, 1), number=number, manifest=f"m{number}", step=number, best=number in (2, 4, 7)
            )
        )
        task = ledger.tasks["a"]
        assert task.checkpoint is not None
        known = [task.checkpoint.number, *(one.number for one in task.older)]
        best = max((one for one in (2, 4, 7) if one <= number), default=number)
        assert known == sorted({number, max(1, number - 1), best}, reverse=True)
