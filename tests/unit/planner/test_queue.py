"""Rank: priority, ageing, and lazily dropped tasks."""

from __future__ import annotations

from mesh.messages.tasks import Needs, TaskSpec
from planner.queue import AGE_S, ReadyQueue, shape_of


def spec(name: str, priority: int = 5, topic: str = "t", cores: float = 1.0) -> TaskSpec:
    return TaskSpec(id=name, topic=topic, executor="noop", priority=priority, needs=Needs(cores=cores))


def first(queue: ReadyQueue) -> str:
    return min(head for shape in queue.shapes() for _, head in queue.heads(shape)).task


def test_priority_stands_before_age_until_the_age_outweighs_it() -> None:
    queue = ReadyQueue(lambda name: True)
    queue.push(spec("old", priority=4), 1, now=0.0)
    queue.push(spec("urgent", priority=5), 2, now=AGE_S - 1)
    assert first(queue) == "urgent"
    queue.discard("urgent")
    queue.push(spec("newer", priority=5), 3, now=AGE_S + 1)
    assert first(queue) == "old"


def test_equal_ranks_go_in_the_order_of_submission() -> None:
    queue = ReadyQueue(lambda name: True)
    for order, name in enumerate(["c", "a", "b"]):
        queue.push(spec(name), order, now=1.0)
    taken = []
    while len(queue):
        taken.append(first(queue))
        queue.discard(taken[-1])
    assert taken == ["c", "a", "b"]


def test_tasks_that_are_no_longer_ready_are_dropped() -> None:
    ready = {"a", "b"}
    queue = ReadyQueue(lambda name: name in ready)
    queue.push(spec("a"), 1, now=0.0)
    queue.push(spec("b"), 2, now=0.0)
    ready.discard("a")
    assert first(queue) == "b"
    ready.clear()
    assert list(queue.shapes()) == []


def test_shapes_tell_tasks_apart_that_fit_different_offers() -> None:
    queue = ReadyQueue(lambda name: True)
    queue.push(spec("a"), 1, now=0.0)
    queue.push(spec("b", cores=2.0), 2, now=0.0)
    assert len(set(queue.shapes())) == 2
    assert shape_of(spec("a")) == shape_of(spec("c", topic="other", priority=9))
