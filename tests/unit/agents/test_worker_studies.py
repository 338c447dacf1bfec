"""The worker's side of a study: what it puts, under whose name, and what a child hears when the broker does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from agents.worker_studies import Studies
from executors.frames import Consult, Consulted, Frame
from mesh import codec, streams
from mesh.errors import BusUnavailable, DiskFull
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass
from mesh.messages.studies import StudyEntry
from mesh.subjects import Subjects

SUBJECTS = Subjects()
EPOCH = Epoch(1, 3)


class Answers:
    """A child that hears."""

    def __init__(self) -> None:
        self.heard: list[Frame] = []
        self.told = asyncio.Event()

    def post(self, *sent: Frame) -> None:
        self.heard += sent
        self.told.set()


async def at_work(*, made: bool = True) -> tuple[Studies, MemoryServer]:
    server = MemoryServer(SUBJECTS)
    broker = server.connect("w1")
    if made:
        await streams.ensure_all(broker, streams.table(SUBJECTS, artifact_bytes_max=1 << 20))

    def spawn(work: Awaitable[None], name: str) -> object:
        return asyncio.ensure_future(work)

    return Studies(broker, SUBJECTS, "w1.1", spawn), server


def asked(**more: object) -> Consult:
    fields = {"run": 4, "number": 7, "study": "s", "from_seq": 1, "entry": '{"op_code":0}', "entry_id": "a-1", **more}
    return Consult(**fields)  # type: ignore[arg-type]


async def test_an_entry_carries_what_the_child_does_not_choose() -> None:
    studies, server = await at_work()
    child = Answers()
    studies.answer(asked(), "task", EPOCH, child)
    async with asyncio.timeout(5.0):
        await child.told.wait()
    (answer,) = child.heard
    assert isinstance(answer, Consulted)
    assert (answer.run, answer.number, answer.epoch, answer.failure, answer.more) == (4, 7, EPOCH, None, False)
    assert [(row.task, row.epoch, row.entry) for row in answer.rows] == [("task", EPOCH, '{"op_code":0}')]
    (stored,) = await server.connect("x").read("MESH_STUDIES", SUBJECTS.studies())
    assert stored.subject == "mesh.study.w1.s.task.1-3.a-1"
    assert codec.decode(stored.data, StudyEntry).by == "w1.1"


async def test_asked_again_the_entry_stands_there_once_and_a_question_alone_puts_nothing() -> None:
    studies, _ = await at_work()
    for _ in range(3):
        answer = await studies.consulted(asked(), "task", EPOCH)
    assert len(answer.rows) == 1
    assert len((await studies.consulted(asked(entry="", from_seq=2), "task", EPOCH)).rows) == 0


@pytest.mark.parametrize("error", [BusUnavailable("away"), DiskFull("the stream is full")])
async def test_what_may_pass_is_told_as_a_matter_of_time(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    studies, _ = await at_work()

    async def append(*args: object, **more: object) -> int:
        raise error

    monkeypatch.setattr(studies._log, "append", append)
    answer = await studies.consulted(asked(), "task", EPOCH)
    assert (answer.failure, answer.reason, answer.rows) == (FailureClass.RETRY, str(error), ())


async def test_a_mesh_whose_scheduler_made_no_such_stream_yet_is_waited_for() -> None:
    studies, _ = await at_work(made=False)
    answer = await studies.consulted(asked(entry=""), "task", EPOCH)
    assert answer.failure is FailureClass.RETRY


@pytest.mark.parametrize("wrong", [{"study": "a.b"}, {"entry_id": ""}, {"entry": "x" * 20_000}])
async def test_what_can_never_be_put_is_told_for_good(wrong: dict[str, object]) -> None:
    studies, server = await at_work()
    answer = await studies.consulted(asked(**wrong), "task", EPOCH)
    assert answer.failure is FailureClass.REJECT
    assert answer.reason
    assert await server.connect("x").read("MESH_STUDIES", SUBJECTS.studies()) == []
