"""The lane of light tasks: order, callbacks, long tasks that hold nobody up, and who is to blame when a child dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from executors.frames import Failed, Finished, Frame, Halt, Halted, Recall, Returned, Start
from executors.isolation import Bounds
from executors.lane import CHILDREN_MAX, QUEUE_FIRST, QUEUE_LEAST, QUEUE_MOST, WINDOW, Ending, Lane, Ticket
from executors.pool import Pool
from executors.port import Runtime
from mesh.errors import ChildBroke, EnvironmentUnfit, Retry
from mesh.messages.commands import FailureClass


class FakeChild:
    """A child that does what the test says."""

    def __init__(self) -> None:
        self.runs, self.heard, self.step, self.pid = 0, 0.0, 0, 1
        self.tired, self.killed = False, False
        self.sent: list[Frame] = []
        self.over: ChildBroke | None = None
        self.hear: Callable[[Frame], None] | None = None
        self.broke: Callable[[Exception], None] | None = None

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.heard

    @property
    def begun(self) -> list[str]:
        return [frame.task for frame in self.sent if isinstance(frame, Start)]

    def attach(self, hear: Callable[[Frame], None], broke: Callable[[Exception], None]) -> None:
        self.hear, self.broke = hear, broke

    def detach(self) -> None:
        self.hear = self.broke = None

    def next_run(self) -> int:
        self.runs += 1
        return self.runs

    def post(self, *frames: Frame) -> None:
        self.sent.extend(frames)

    async def over_bounds(self, bounds: Bounds, since: float) -> ChildBroke | None:
        return self.over

    async def kill(self) -> None:
        self.killed = True

    def say(self, frame: Frame) -> None:
        assert self.hear is not None
        self.hear(frame)

    def finish(self, *runs: int) -> None:
        for run in runs:
            self.say(finished(run))

    def die(self) -> None:
        assert self.broke is not None
        self.broke(ChildBroke("it is gone"))


class FakePool:
    def __init__(self, idle: int = 0) -> None:
        self.children = [FakeChild() for _ in range(idle)]
        self.idle = list(self.children)
        self.refusal: EnvironmentUnfit | None = None

    def take_idle(self, runtime: Runtime) -> FakeChild | None:
        return self.idle.pop() if self.idle else None

    async def take(self, runtime: Runtime) -> FakeChild:
        if self.refusal is not None:
            raise self.refusal
        self.children.append(FakeChild())
        return self.children[-1]

    def give(self, child: FakeChild) -> None:
        self.idle.append(child)


def finished(run: int, seconds: float = 0.0) -> Finished:
    return Finished(
        run=run, outputs={}, media={}, facts_of={}, kpis={}, stopped_by="finished", facts={}, exact=True,
        seconds=seconds, wrote=False,
    )  # fmt: skip


class Story:
    """A lane, its pool, and what became of each task."""

    def __init__(self, idle: int = 0) -> None:
        self.pool = FakePool(idle)
        self.lane = Lane(cast(Pool, self.pool))
        self.ends: dict[str, Ending] = {}

    def submit(self, *tasks: str) -> list[Ticket]:
        tickets = [self._ticket(task) for task in tasks]
        for ticket in tickets:
            self.lane.submit(ticket)
        return tickets

    def _ticket(self, task: str) -> Ticket:
        start = Start(
            run=0, task=task, kind="noop", kind_version=1, settings={}, inputs={}, scratch="", cores=0.0,
            memory_bytes=1, budget_s=1.0, in_line=True,
        )  # fmt: skip
        bounds = Bounds(wall_s=60.0, stall_s=60.0, memory_bytes=1)
        return Ticket(start, bounds, lambda frame: None, lambda ending: self.ends.update({task: ending}))

    @property
    def child(self) -> FakeChild:
        return self.pool.children[0]


@contextlib.asynccontextmanager
async def running(story: Story) -> AsyncIterator[None]:
    task = asyncio.create_task(story.lane.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the lane looks after its lines by the clock
            await asyncio.sleep(0.01)


async def test_all_that_is_submitted_at_once_is_written_at_once_and_ends_in_order() -> None:
    story = Story(idle=1)
    story.submit("a", "b", "c")
    await turns()
    assert story.child.begun == ["a", "b", "c"]
    story.child.finish(1, 2, 3)
    assert list(story.ends) == ["a", "b", "c"]
    await turns()
    assert story.pool.idle == [story.child], "an idle child goes back to the pool"


async def test_a_line_is_no_longer_than_its_window() -> None:
    story = Story(idle=1)
    story.submit(*(f"t{number}" for number in range(WINDOW + 1)))
    await turns()
    assert len(story.child.begun) == WINDOW


async def test_while_a_full_line_moves_no_other_child_is_asked_and_it_is_filled_up_when_half_of_it_is_done() -> None:
    story = Story(idle=2)
    story.submit(*(f"t{number}" for number in range(2 * WINDOW)))
    await turns()
    child = next(child for child in story.pool.children if child.begun)
    child.finish(*range(1, WINDOW // 2))
    await turns()
    assert len(child.begun) == WINDOW
    child.finish(WINDOW // 2)
    await turns()
    assert len(child.begun) == WINDOW + WINDOW // 2
    assert len(story.pool.idle) == 1


async def test_what_stands_behind_a_long_task_goes_through_another_child() -> None:
    story = Story(idle=2)
    async with running(story):
        story.submit("long", "a", "b")
        await turns()
        first = next(child for child in story.pool.children if child.begun)
        await until(lambda: any(isinstance(frame, Recall) for frame in first.sent))
        first.say(Returned(runs=(2, 3)))
        other = next(child for child in story.pool.children if child is not first)
        await until(lambda: other.begun == ["a", "b"])
        other.finish(1, 2)
        assert list(story.ends) == ["a", "b"]
        first.finish(1)
        assert list(story.ends) == ["a", "b", "long"]


async def test_no_more_children_run_at_once_than_allowed() -> None:
    story = Story()
    async with running(story):
        for number in range(CHILDREN_MAX + 2):
            story.submit(f"t{number}")
            await asyncio.sleep(0.07)  # each becomes a long one
        assert len(story.pool.children) == CHILDREN_MAX


async def test_the_only_task_in_line_is_to_blame_for_its_childs_death() -> None:
    story = Story(idle=1)
    story.submit("a")
    await turns()
    story.child.die()
    assert isinstance(story.ends["a"], ChildBroke)
    await turns()
    assert story.child.killed


async def test_of_several_each_is_run_alone_and_only_the_guilty_one_fails() -> None:
    story = Story(idle=1)
    story.submit("a", "bad", "c")
    await turns()
    story.child.die()
    assert story.ends == {}, "nobody knows who did it"
    await turns(20)
    answered = Counter[FakeChild]()
    while busy := [child for child in story.pool.children if child.hear is not None]:
        for child in busy:
            answered[child] += 1
            assert child.runs == answered[child], "nothing else is in line"
            if child.begun[-1] == "bad":
                child.die()
            else:
                child.finish(child.runs)
        await turns(20)
    assert isinstance(story.ends.pop("bad"), ChildBroke)
    assert all(isinstance(ending, Finished) for ending in story.ends.values())
    assert sorted(story.ends) == ["a", "c"]


async def test_a_failure_ends_its_child_and_the_next_ones_go_on_elsewhere() -> None:
    story = Story(idle=1)
    story.submit("a", "b")
    await turns()
    story.child.say(Failed(run=1, failure=FailureClass.RETRY, reason="not today"))
    assert isinstance(story.ends["a"], Retry)
    await turns(10)
    other = story.pool.children[1]
    assert other.begun == ["b"]
    assert story.child.killed


async def test_a_dropped_task_that_waits_is_forgotten_and_one_that_runs_is_killed() -> None:
    story = Story(idle=1)
    first, second, third = story.submit("a", "b", "c")
    await turns()
    story.lane.drop(second)
    assert isinstance(story.child.sent[-1], Recall)
    story.lane.drop(first)
    await turns(10)
    assert story.child.killed
    other = story.pool.children[1]
    assert other.begun == ["c"]
    other.finish(1)
    assert list(story.ends) == ["c"]
    assert third.line is None


async def test_a_task_over_its_bounds_fails_with_the_reason() -> None:
    story = Story(idle=1)
    async with running(story):
        story.submit("a")
        await turns()
        story.child.over = ChildBroke("too long")
        await until(lambda: "a" in story.ends)
        assert str(story.ends["a"]) == "too long"


async def test_a_halt_reaches_a_task_that_was_given_out_and_no_other() -> None:
    story = Story(idle=1)
    (ticket,) = story.submit("a")
    assert not story.lane.halt(ticket, "checkpoint"), "it waits"
    await turns()
    assert story.lane.halt(ticket, "checkpoint")
    assert story.child.sent[-1] == Halt(run=1, reason="checkpoint")
    story.child.say(Halted(run=1))
    assert isinstance(story.ends["a"], Halted)


async def test_without_any_child_to_be_had_tasks_fail_with_the_reason() -> None:
    story = Story()
    story.pool.refusal = EnvironmentUnfit("no more processes")
    story.submit("a", "b")
    await turns(10)
    assert [str(ending) for ending in story.ends.values()] == ["no more processes"] * 2


@pytest.mark.parametrize(("seconds", "depth"), [(0.0001, QUEUE_MOST), (5.0, QUEUE_LEAST)])
async def test_how_much_is_wanted_follows_how_long_tasks_last(seconds: float, depth: int) -> None:
    story = Story(idle=1)
    assert story.lane.depth == QUEUE_FIRST
    story.submit(*(f"t{number}" for number in range(100)))
    await turns()
    for run in range(1, 101):
        story.child.say(finished(run, seconds))
    assert story.lane.depth == depth
