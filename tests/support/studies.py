"""The mesh's studies for tests of one process: the worker's side over the broker in memory, with answers that get lost.

A loop in a thread of its own holds the broker; children are threads, or the test itself, with a context each.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from agents.worker_studies import Studies
from executors.frames import Consult, Consulted
from executors.journal import Journal
from mesh import codec, limits, streams
from mesh.bus import Stored
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass
from mesh.messages.studies import StudyEntry
from mesh.subjects import Subjects
from tests.support.executing import Recorder

SUBJECTS = Subjects()
T = TypeVar("T")


class Desk:
    """A mesh with its studies."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.server = MemoryServer(SUBJECTS)
        self.broker = self.server.connect("worker")
        self.wait(streams.ensure_all(self.broker, streams.table(SUBJECTS, artifact_bytes_max=1 << 20)))
        self.studies = Studies(self.broker, SUBJECTS, "worker.1", lambda work, name: None)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine gives, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20.0)

    def stored(self, study: str = "s") -> list[Stored]:
        """Everything in a study's log."""
        found = self.broker.read("MESH_STUDIES", SUBJECTS.study(study), messages_max=limits.STUDY_ENTRIES_MAX)
        return self.wait(found)

    def operations(self, study: str = "s") -> list[str]:
        """The entries of a study's log as they stand there."""
        return [codec.decode(one.data, StudyEntry).entry for one in self.stored(study)]

    def child(self, task: str, count: int = 1, folder: Path = Path("."), **more: Any) -> Child:
        """The context of one attempt."""
        return Child(self, task, Epoch(1, count), folder, **more)


class Child(Recorder):
    """The context of one attempt of a task. lose: which questions get no answer, by their number, although they were
    heard; away: which are answered that the broker is away."""

    def __init__(
        self, desk: Desk, task: str, epoch: Epoch, folder: Path, *, lose: Callable[[int], bool] = lambda number: False,
        away: Callable[[int], bool] = lambda number: False, stop: Callable[[int], str] = lambda polls: "",
    ) -> None:  # fmt: skip
        super().__init__(folder, stop)
        self.desk, self.task, self.epoch, self._lose, self._away = desk, task, epoch, lose, away
        self.questions = 0
        self.evaluations: list[tuple[int, dict[str, float]]] = []

    def consult(
        self, study: str, from_seq: int, entry: str = "", entry_id: str = "", *, wait_s: float
    ) -> Consulted | None:
        """Ask the worker's side."""
        self.questions += 1
        number = self.questions
        if self._away(number):
            return Consulted(
                run=1, number=number, epoch=self.epoch, failure=FailureClass.RETRY, reason="the broker is away"
            )
        asked = Consult(run=1, number=number, study=study, from_seq=from_seq, entry=entry, entry_id=entry_id)
        answer = self.desk.wait(self.desk.studies.consulted(asked, self.task, self.epoch))
        return None if self._lose(number) else answer

    def journal(self, study: str = "s", clock: Callable[[], float] = lambda: 0.0) -> Journal:
        """The study's log as this attempt sees it; waiting takes no time."""
        return Journal(study, self.task, self, self, pause=lambda seconds: None, clock=clock)


@contextlib.contextmanager
def desk() -> Iterator[Desk]:
    """A mesh for the time of a test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker in memory", daemon=True)
    thread.start()
    try:
        yield Desk(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()
