"""Ramify's own driver: many small tasks straight onto a running mesh, and their results read back from RESULTS.

    publish   a Submit carries up to TASKS_PER_SUBMIT tasks; put-if-absent, repeated until the broker has stored it
    read      one tail on RESULTS for the topic's ended tasks: the publisher sees what every subscriber sees

    python -m benchmarks.flood NATS_URL      speaks as benchmarks/peers/driving.py says

The tasks of `submit` are those of the durability run: some wait, some keep checkpoints, some make bytes, chosen by
their number, so that kills meet them in every phase.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from agents.commands.reach import Reach, reach
from benchmarks.peers.driving import drive
from mesh import codec, settings
from mesh.errors import BusUnavailable, Conflict, NotFound
from mesh.messages.base import Facts
from mesh.messages.commands import Submit
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Needs, TaskSpec, TaskState
from mesh.packed import Each

TASKS_PER_SUBMIT = 200
"""Well below the record's limit of bytes."""

NEEDS = Needs(cores=0.0, memory_bytes=2 * 1024 * 1024, disk_bytes=1024 * 1024)

RESULT_S = 120.0
RETRY_S = 0.2

STREAMS_S = 30.0
"""Patience with the scheduler of a fresh mesh."""


class Flood:
    """Publishes to COMMANDS, hears RESULTS."""

    def __init__(self, url: str, topic: str = "") -> None:
        """topic: under which the tasks stand; a new one when it is not said."""
        self._url, self.topic = url, topic or f"flood-{secrets.token_hex(4)}"
        self._stack = contextlib.AsyncExitStack()
        self._there: Reach | None = None
        self._ended: dict[int, TaskEnded] = {}
        self._open: set[int] = set()
        """Tasks of `submit` that have not ended; of those that have, nothing is kept: there may be a million."""
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and begin to listen."""
        found = settings.load({"nats.url": self._url}, {}, Path.cwd())
        self._there = await self._stack.enter_async_context(reach(found, name="flood"))
        self._reader = asyncio.create_task(self._read(self._there, await self._next_result()), name="results")

    async def _next_result(self) -> int:
        """Sequence of the next result. A fresh mesh is waited for: its scheduler makes the streams."""
        assert self._there is not None
        async with asyncio.timeout(STREAMS_S):
            while True:
                with contextlib.suppress(NotFound, BusUnavailable):
                    return (await self._there.broker.state(self._there.stream("RESULTS"))).last_seq + 1
                await asyncio.sleep(RETRY_S)

    async def _read(self, there: Reach, from_seq: int) -> None:
        wanted = there.subjects.results(self.topic, TaskEnded.kind)
        async with there.broker.tail(there.stream("RESULTS"), wanted, from_seq=from_seq) as records:
            async for stored in Each(records):
                record = codec.decode(stored.data, TaskEnded)
                number = int(record.task.id.rpartition("-")[2])
                if number in self._open:
                    self._open.discard(number)
                else:
                    self._ended[number] = record
                self._news.set()

    async def one(self, number: int) -> int:
        """A submit of one task, and its result."""
        await self._publish([self._task(number, {})])
        await self._wait({number}, RESULT_S)
        return self._answer(number)

    async def many(self, numbers: range) -> list[int]:
        """All submits at once, all results as they come."""
        tasks = [self._task(number, {}) for number in numbers]
        await asyncio.gather(*(self._publish(part) for part in _parts(tasks)))
        missing = await self._wait(set(numbers), RESULT_S)
        if missing:
            raise BusUnavailable(f"{missing} of {len(numbers)} tasks did not end within {RESULT_S:.0f} s")
        return [self._answer(number) for number in numbers]

    async def submit(self, numbers: range) -> None:
        """Tasks of the durability run, put again until they are stored."""
        self._open.update(numbers)
        for part in _parts([self._task(number, durability_settings(number)) for number in numbers]):
            await self._publish(part)

    async def collect(self, numbers: range, within_s: float) -> int:
        """How many of them have not ended when the time is up."""
        await self._until(lambda: not self._open, within_s)
        return len(self._open)

    async def close(self) -> None:
        """Stop listening, disconnect."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._stack.aclose()

    async def _publish(self, tasks: list[TaskSpec]) -> None:
        assert self._there is not None
        submit = Submit(id=tasks[0].id, topic=self.topic, tasks=tuple(tasks))
        subject, data = self._there.subjects.command("flood", Submit.kind, submit.id), codec.encode(submit)
        while True:
            try:
                await self._there.broker.append(subject, data, subject_seq=0)
            except Conflict:
                return  # an earlier attempt was stored, its answer was lost
            except BusUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _wait(self, numbers: set[int], within_s: float) -> int:
        """Wait until these have ended, so long at most; how many have not."""
        await self._until(lambda: numbers <= self._ended.keys(), within_s)
        return len(numbers - self._ended.keys())

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():
                    if self._reader is not None and self._reader.done():
                        self._reader.result()
                    self._news.clear()
                    await self._news.wait()

    def _answer(self, number: int) -> int:
        record = self._ended[number]
        if record.state is not TaskState.SUCCEEDED:
            raise BusUnavailable(f"{record.task.id} ended as {record.state.value}: {record.reason}")
        return number

    def _task(self, number: int, given: Facts) -> TaskSpec:
        return TaskSpec(id=f"{self.topic}-{number}", topic=self.topic, executor="noop", settings=given, needs=NEEDS)


def durability_settings(number: int) -> Facts:
    """Every fifth task lasts, every tenth keeps checkpoints meanwhile, every twentieth lasts long enough to be met by a
    strike or two, every twenty-fifth makes an artifact."""
    settings_: Facts = {}
    if number % 5 == 0:
        settings_["seconds"] = 0.2
    if number % 10 == 0:
        settings_ |= {"seconds": 1.0, "checkpoint_s": 0.3}
    if number % 20 == 0:
        settings_ |= {"seconds": 5.0, "checkpoint_s": 1.0}
    if number % 25 == 0:
        settings_["payload_bytes"] = 100_000
    return settings_


def _parts(tasks: list[TaskSpec]) -> Iterator[list[TaskSpec]]:
    for first in range(0, len(tasks), TASKS_PER_SUBMIT):
        yield tasks[first : first + TASKS_PER_SUBMIT]


if __name__ == "__main__":
    asyncio.run(drive(Flood(*sys.argv[1:])))
