"""What a benchmark of single tasks sees and does on a running mesh: submit, follow progress and moves, cancel.

Progress (lossy, at most every half second) is kept with the moment at which it arrived here; moves and ends come from
RESULTS. Everything is kept by task, and every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from agents.commands.reach import Reach
from mesh import codec
from mesh.bus import Message
from mesh.errors import BusUnavailable, ChildBroke, NotFound
from mesh.messages.base import Epoch
from mesh.messages.commands import Cancel, Submit
from mesh.messages.results import Progress, TaskEnded, TaskMoved
from mesh.messages.tasks import TaskSpec, TaskState
from mesh.packed import Each

RETRY_S = 0.2
STREAMS_S = 60.0
"""Patience with the scheduler of a fresh mesh."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One progress message."""

    at: float
    """Monotonic seconds of its arrival."""
    worker: str
    epoch: Epoch
    step: int
    phase: str


class Stage:
    """Eyes and hands of one benchmark."""

    def __init__(self, there: Reach, topic: str) -> None:
        self._there, self.topic = there, topic
        self.progress: dict[str, list[Seen]] = defaultdict(list)
        self.moves: dict[str, list[TaskMoved]] = defaultdict(list)
        self.ended: dict[str, TaskEnded] = {}
        self.leased: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """(monotonic seconds of its arrival, incarnation) of each lease."""
        self._news = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, there: Reach, topic: str) -> AsyncIterator[Stage]:
        """Eyes open, on a mesh whose scheduler may still be making its streams."""
        stage = cls(there, topic)
        await stage._streams()
        heard = await there.broker.subscribe(there.subjects.all_progress(topic), stage._hear)
        reading = asyncio.create_task(stage._read(), name="results")
        try:
            yield stage
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await heard.close()

    async def submit(self, spec: TaskSpec) -> None:
        """Put a task; its id is also the submit's."""
        record = Submit(id=spec.id, topic=self.topic, tasks=(spec,))
        subject = self._there.subjects.command("bench", Submit.kind, spec.id)
        await self._there.broker.append(subject, codec.encode(record), subject_seq=0)

    async def cancel(self, task: str) -> None:
        """Withdraw a task."""
        record = Cancel(id=f"{task}-cancel", task=task)
        subject = self._there.subjects.command("bench", Cancel.kind, record.id)
        await self._there.broker.append(subject, codec.encode(record), subject_seq=0)

    async def until(self, what: str, timeout_s: float, condition: Callable[[], bool]) -> None:
        """Wait until a condition of what was seen holds. BusUnavailable, naming `what`, when it does not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise BusUnavailable(f"{what} did not happen within {timeout_s:.0f} s") from None

    async def success(self, task: str, timeout_s: float) -> TaskEnded:
        """The end of a task. ChildBroke when it did not succeed."""
        await self.until(f"the end of {task}", timeout_s, lambda: task in self.ended)
        record = self.ended[task]
        if record.state is not TaskState.SUCCEEDED:
            raise ChildBroke(f"{task} ended as {record.state.value}: {record.reason}")
        return record

    def newest(self, task: str, phase: str = "") -> Seen | None:
        """The newest progress of a task (in that phase)."""
        return next((seen for seen in reversed(self.progress[task]) if phase in ("", seen.phase)), None)

    def checkpoints(self, task: str, epoch: Epoch | None = None) -> list[int]:
        """Steps of the recorded checkpoints (under that epoch), oldest first."""
        return [
            move.checkpoint_step
            for move in self.moves[task]
            if move.checkpoint_step is not None and epoch in (None, move.epoch)
        ]

    # -- eyes ---------------------------------------------------------------------------------------------------------

    async def _streams(self) -> None:
        async with asyncio.timeout(STREAMS_S):
            while True:
                with contextlib.suppress(NotFound, BusUnavailable):
                    await self._there.broker.state(self._there.stream("RESULTS"))
                    return
                await asyncio.sleep(RETRY_S)

    async def _hear(self, message: Message) -> None:
        record = codec.decode(message.data, Progress)
        seen = Seen(time.monotonic(), record.worker, record.epoch, record.step, record.phase)
        self.progress[record.task].append(seen)
        self._news.set()

    async def _read(self) -> None:
        there = self._there
        wanted: tuple[type[TaskEnded | TaskMoved], ...] = (TaskEnded, TaskMoved)
        async with there.broker.tail(there.stream("RESULTS"), there.subjects.results(self.topic)) as records:
            async for stored in Each(records):
                if stored.subject.split(".")[3] not in (TaskEnded.kind, TaskMoved.kind):
                    continue
                record = codec.decode(stored.data, *wanted)
                if isinstance(record, TaskEnded):
                    self.ended[record.task.id] = record
                else:
                    self.moves[record.task].append(record)
                    if record.state is TaskState.LEASED and record.checkpoint_step is None:
                        self.leased[record.task].append((time.monotonic(), record.incarnation))
                self._news.set()
