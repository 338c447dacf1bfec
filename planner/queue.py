"""The order in which ready tasks are offered: priority with ageing, fair shares between topics, then age.

Every ready task has a fixed rank, in seconds:

    rank = ready_at - priority * AGE_S            lower goes first

so one step of priority is worth AGE_S seconds of waiting, and nothing starves: after ten steps of age the lowest
priority stands before the highest that has just arrived. A topic that already runs much is charged SHARE_S per core it
uses, so that two topics share the workers instead of queueing one behind the other. Ranks never change while a task
waits (time passes for all alike), so a heap per shape and topic is enough; a shape is everything that decides whether
an offer fits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mesh.messages.tasks import Avoid, Needs, TaskSpec

AGE_S = 600.0
"""Waiting time worth one step of priority: ten minutes, so that a day-long backlog can not bury a new urgent task."""

SHARE_S = 120.0
"""Waiting time that one core in use costs a topic's next task."""

Shape = tuple[str, int, Needs, tuple[str, ...], Avoid]
"""What decides whether an offer fits: kind, version, needs, avoided workers."""


def shape_of(spec: TaskSpec) -> Shape:
    """The shape of a task."""
    return (spec.executor, spec.executor_version, spec.needs, spec.avoid, spec.avoid_mode)


class Ranked(NamedTuple):
    """A ready task in its heap; compared there some ten times for each task, so a tuple."""

    rank: float
    order: int
    task: str


class ReadyQueue:
    """Ready tasks by shape and topic. Removed tasks are dropped lazily: `is_ready` has the last word."""

    def __init__(self, is_ready: Callable[[str], bool]) -> None:
        self._heaps: dict[Shape, dict[str, list[Ranked]]] = {}
        self._is_ready = is_ready
        self._queued: set[str] = set()

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, task: str) -> bool:
        return task in self._queued

    def push(self, spec: TaskSpec, order: int, now: float) -> None:
        """Add a task that became ready at `now` (seconds, monotonic)."""
        if spec.id in self._queued:
            return
        self._queued.add(spec.id)
        heap = self._heaps.setdefault(shape_of(spec), {}).setdefault(spec.topic, [])
        heapq.heappush(heap, Ranked(now - spec.priority * AGE_S, order, spec.id))

    def discard(self, task: str) -> None:
        """Forget a task that is no longer ready."""
        self._queued.discard(task)

    def shapes(self) -> Iterator[Shape]:
        """All shapes that have a ready task."""
        for shape in list(self._heaps):
            topics = self._heaps[shape]
            for topic in list(topics):
                if self._head(topics[topic]) is None:
                    del topics[topic]
            if topics:
                yield shape
            else:
                del self._heaps[shape]

    def heads(self, shape: Shape) -> Iterator[tuple[str, Ranked]]:
        """The first task of every topic in a shape."""
        for topic, heap in self._heaps.get(shape, {}).items():
            head = self._head(heap)
            if head is not None:
                yield topic, head

    def _head(self, heap: list[Ranked]) -> Ranked | None:
        while heap and (heap[0].task not in self._queued or not self._is_ready(heap[0].task)):
            self._queued.discard(heapq.heappop(heap).task)
        return heap[0] if heap else None
