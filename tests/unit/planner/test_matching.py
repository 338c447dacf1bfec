"""Matching costs one look at each shape that fits nowhere, not one at all others for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesh.messages.commands import Submit
from mesh.messages.leases import Beat, Offer
from mesh.messages.tasks import Needs, TaskSpec, TaskState
from planner.ledger import Ledger
from planner.queue import Ranked, ReadyQueue, Shape
from planner.scheduling import Policy, Scheduler

GIB = 1 << 30


def beat(name: str) -> Beat:
    offer = Offer(number=1, leases_max=1, cores=1.0, memory_bytes=GIB, disk_bytes=100 * GIB, kinds={"noop": 1})
    return Beat(worker=name, incarnation=f"{name}.1", number=1, reply=name, loop_age_s=0.0, offer=offer)


def spec(number: int, memory_bytes: int) -> TaskSpec:
    return TaskSpec(id=f"t{number}", topic="t", executor="noop", needs=Needs(cores=0.0, memory_bytes=memory_bytes))


def test_many_shapes_that_fit_nowhere_are_looked_at_once_and_the_rest_is_placed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mind = Scheduler(Ledger(), Policy(), 0.0)
    for number in range(200):
        mind.beat(beat(f"w{number}"), 0.0)
    large = [spec(number, 2 * GIB + number) for number in range(500)]
    for first in (0, 250):
        mind.command(first, "cli", Submit(id=f"s{first}", topic="t", tasks=tuple(large[first : first + 250])), 0.0)
    mind.command(999, "cli", Submit(id="s", topic="t", tasks=(spec(500, GIB),)), 0.0)
    looks = 0
    inner = ReadyQueue.heads

    def heads(queue: ReadyQueue, shape: Shape) -> Iterator[tuple[str, Ranked]]:
        nonlocal looks
        looks += 1
        return inner(queue, shape)

    monkeypatch.setattr(ReadyQueue, "heads", heads)
    mind.tick(1.0)
    states = [mind.ledger.tasks[f"t{number}"].state for number in range(501)]
    assert states == [TaskState.READY] * 500 + [TaskState.LEASED]
    assert looks <= 2 * 501
