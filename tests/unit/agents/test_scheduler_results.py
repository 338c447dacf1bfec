"""What an entry says travels together by topic and kind, and no task's story is told in another order."""

from __future__ import annotations

from agents.scheduler_results import together
from mesh.messages.results import Projected, TaskEnded, TaskMoved
from mesh.messages.tasks import TaskSpec, TaskState


def moved(task: str, topic: str = "a") -> TaskMoved:
    return TaskMoved(topic=topic, task=task, state=TaskState.LEASED, ledger_seq=0, at_ms=0)


def ended(task: str, topic: str = "a") -> TaskEnded:
    spec = TaskSpec(id=task, topic=topic, executor="noop")
    return TaskEnded(topic=topic, specialization="", task=spec, state=TaskState.SUCCEEDED, ledger_seq=0, at_ms=0)


def cut(*records: Projected) -> list[tuple[str, str, list[int]]]:
    return [(topic, kind, [index for index, _ in rows]) for topic, kind, rows in together(enumerate(records))]


def test_one_group_for_each_topic_and_kind() -> None:
    found = cut(ended("x"), moved("y"), ended("z", "b"), ended("v"), moved("w"))
    assert found == [("a", "task-ended", [0, 3]), ("a", "task-moved", [1, 4]), ("b", "task-ended", [2])]


def test_a_task_that_is_leased_and_ends_in_one_entry_is_told_in_that_order() -> None:
    found = cut(ended("x"), moved("y"), ended("y"), moved("z"))
    assert found == [
        ("a", "task-ended", [0]),
        ("a", "task-moved", [1]),
        ("a", "task-ended", [2]),
        ("a", "task-moved", [3]),
    ]


def test_two_moves_of_one_task_stay_together() -> None:
    assert cut(moved("x"), moved("x")) == [("a", "task-moved", [0, 1])]


def test_nothing_is_told_of_nothing() -> None:
    assert cut() == []
