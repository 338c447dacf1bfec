"""A worker with real children and the real scheduler, on the broker in memory: every ending, every kind of trouble."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from agents import owed, scheduler, worker, worker_spool
from agents.beats import Beats, BeatTask
from agents.runtime import Agent
from mesh import codec, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Message
from mesh.errors import EnvironmentUnfit
from mesh.memory import MemoryServer
from mesh.messages.base import Facts
from mesh.messages.commands import Submit
from mesh.messages.leases import Beat
from mesh.messages.results import Progress, TaskEnded, TaskMoved
from mesh.messages.tasks import Needs, TaskSpec, TaskState
from mesh.outbox import Outbox
from mesh.packed import split
from mesh.subjects import Subjects
from tests.support import agents

pytestmark = pytest.mark.process

FAST: dict[str, object] = {
    "scheduler.beat_s": 0.1,
    "scheduler.lost_s": 3.0,
    "scheduler.back_off_s_first": 0.05,
    "http.port": 0,
}


class Mesh:
    """A scheduler, and workers as the test likes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.subjects = Subjects()
        self.server = MemoryServer(self.subjects)
        self.bus = self.server.connect("test")
        self.store = ArtifactStore(self.bus, self.subjects, cache=home / "test-cache", cache_bytes_max=1 << 30)
        self.progress: list[Progress] = []
        self._count = 0

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[Mesh]:
        async with agents.running(self._agent("scheduler"), scheduler.body):
            await agents.until(self._has_streams, "streams")
            yield self

    def _has_streams(self) -> bool:
        return "MESH_COMMANDS" in self.server.copy()

    def _agent(self, role: str, **flags: object) -> Agent:
        return agents.make(self.server, role, self.home, name="", **{**FAST, **flags})

    def worker(self, **flags: object) -> contextlib.AbstractAsyncContextManager[Agent]:
        flags = {"worker.cores": 2.0, "worker.memory_bytes": 1 << 30, "worker.disk_bytes": 1 << 30, **flags}
        return agents.running(self._agent("worker", **flags), self._body)

    async def _body(self, agent: Agent) -> None:
        def beats(of: Agent, make: Callable[[], Beats]) -> BeatTask:
            return BeatTask(make, of.broker)

        await worker.work(agent, beats)

    async def submit(self, *, settings: Facts | None = None, **fields: object) -> str:
        self._count += 1
        name = f"task{self._count}"
        needs = fields.pop("needs", Needs(cores=0.0, memory_bytes=1 << 20, disk_bytes=0))
        given = {"id": name, "topic": "topic", "executor": "noop", "settings": settings or {}, "needs": needs, **fields}
        spec = TaskSpec(**given)  # type: ignore[arg-type]
        submit = Submit(id=f"submit-{name}", topic="topic", tasks=(spec,))
        await self.bus.append(self.subjects.command("test", "submit", submit.id), codec.encode(submit), subject_seq=0)
        return name

    async def results(self) -> list[TaskEnded | TaskMoved]:
        stored = await self.bus.read("MESH_RESULTS", self.subjects.results())
        wanted = [
            one for pack in stored for one in split(pack) if one.subject.split(".")[3] in ("task-ended", "task-moved")
        ]
        wanted_types: tuple[type[TaskEnded | TaskMoved], ...] = (TaskEnded, TaskMoved)
        return [codec.decode(one.data, *wanted_types) for one in wanted]

    async def ended(self, task: str, timeout_s: float = 30.0) -> TaskEnded:
        async with asyncio.timeout(timeout_s):
            while True:
                for record in await self.results():
                    if isinstance(record, TaskEnded) and record.task.id == task:
                        return record
                await asyncio.sleep(0.02)

    async def moved(self, task: str, condition: Callable[[TaskMoved], bool]) -> TaskMoved:
        async with asyncio.timeout(30):
            while True:
                for record in await self.results():
                    if isinstance(record, TaskMoved) and record.task == task and condition(record):
                        return record
                await asyncio.sleep(0.02)

    async def reasons(self, task: str) -> list[str]:
        return [one.reason for one in await self.results() if isinstance(one, TaskMoved) and one.task == task]

    def folder(self) -> Path:
        return self.home / "workers" / "worker"

    def owed(self) -> int:
        """Rows that the closed worker still owes."""
        outbox = Outbox(self.folder())
        try:
            return len(outbox.pending())
        finally:
            outbox.close()


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE and "executors.child" in one.cmdline()]


@pytest.fixture(autouse=True)
def _no_child_stays() -> object:
    yield
    assert children() == []


async def test_a_task_runs_and_its_output_is_in_the_mesh(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker() as agent:
        task = await mesh.submit(settings={"payload_bytes": 700_000})
        ended = await mesh.ended(task)
        assert ended.state is TaskState.SUCCEEDED
        assert ended.incarnation == agent.incarnation
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 1.0
        path = await mesh.store.get(ended.outcome.outputs["payload"])
        assert (path / "payload").stat().st_size == 700_000
    assert mesh.owed() == 0
    assert list((mesh.folder() / "scratch").iterdir()) == []


async def test_many_small_tasks_share_the_light_children(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        tasks = [await mesh.submit() for _ in range(60)]
        ended = [await mesh.ended(task) for task in tasks]
        assert all(one.state is TaskState.SUCCEEDED for one in ended)
        assert len(children()) <= 4
    assert mesh.owed() == 0


async def test_progress_reaches_subscribers_thinned_out(mesh: Mesh) -> None:
    heard: list[Progress] = []

    async def hear(message: object) -> None:
        heard.append(codec.decode(message.data, Progress))  # type: ignore[attr-defined]

    async with mesh.leading(), mesh.worker():
        await mesh.bus.subscribe(mesh.subjects.all_progress("topic"), hear)
        task = await mesh.submit(settings={"seconds": 1.2})
        await mesh.ended(task)
    assert heard
    assert len(heard) <= 6
    assert all(one.task == task and 0 <= one.done <= 1 for one in heard)


@pytest.mark.parametrize(("fail", "state"), [("retry", "succeeded"), ("memory", "succeeded"), ("crash", "succeeded")])
async def test_failures_that_pass_are_tried_again(mesh: Mesh, fail: str, state: str) -> None:
    async with mesh.leading(), mesh.worker():
        task = await mesh.submit(settings={"fail": fail, "fail_attempts": 1})
        ended = await mesh.ended(task)
        assert ended.state == state
        assert ended.attempts == 2


async def test_what_can_never_succeed_is_parked_with_its_reason(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        ended = await mesh.ended(await mesh.submit(settings={"fail": "reject"}))
        assert ended.state is TaskState.PARKED
        assert "noop was asked to fail for good" in ended.reason
        ended = await mesh.ended(await mesh.submit(settings={"no_such": 1}))
        assert ended.state is TaskState.PARKED
        assert "no_such" in ended.reason


async def test_a_hanging_child_is_killed_and_the_task_goes_on(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        task = await mesh.submit(settings={"fail": "hang", "fail_attempts": 1}, stall_s=0.3)
        assert (await mesh.ended(task)).attempts == 2
        assert any("no sign of life" in reason for reason in await mesh.reasons(task))


async def test_a_missing_input_is_tried_again_until_it_is_there(mesh: Mesh, tmp_path: Path) -> None:
    other = MemoryServer(mesh.subjects).connect("other")
    await streams.ensure_all(other, streams.table(mesh.subjects, artifact_bytes_max=1 << 30))
    elsewhere = ArtifactStore(other, mesh.subjects, cache=tmp_path / "elsewhere", cache_bytes_max=1 << 30)
    data = tmp_path / "data.txt"
    data.write_text("comes late")
    digest = await elsewhere.put(data, media="document")
    async with mesh.leading(), mesh.worker():
        task = await mesh.submit(inputs={"data": digest, "other": "builtin:digits"}, attempts_max=1)
        moved = await mesh.moved(task, lambda one: "not in the" in one.reason)
        assert digest[:16] in moved.reason
        assert await mesh.store.put(data, media="document") == digest
        ended = await mesh.ended(task)
        assert ended.state is TaskState.SUCCEEDED  # nobody's failure: it was not counted


async def test_a_killed_child_continues_from_its_last_checkpoint(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        task = await mesh.submit(settings={"seconds": 1.5, "checkpoint_s": 0.3})
        moved = await mesh.moved(task, lambda one: one.checkpoint_step is not None)
        for child in children():
            os.kill(child.pid, signal.SIGKILL)
        ended = await mesh.ended(task)
        assert moved.checkpoint_step is not None
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 2.0
        assert ended.attempts == 2


async def test_a_stop_checkpoints_gives_back_and_the_next_life_continues(mesh: Mesh) -> None:
    async with mesh.leading():
        async with mesh.worker():
            task = await mesh.submit(settings={"seconds": 2.0})
            await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
            await agents.until(lambda: any(children()), "a child")
            await asyncio.sleep(0.5)
        back = await mesh.moved(task, lambda one: one.reason.startswith("the worker stops"))
        assert back.state is not TaskState.LEASED
        assert mesh.owed() == 0
        async with mesh.worker():
            ended = await mesh.ended(task)
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 2.0
        assert 1.9 <= ended.outcome.kpis["seconds"] < 3.0


async def test_a_canceled_task_is_stopped_and_nothing_of_it_recorded(mesh: Mesh) -> None:
    from mesh.messages.commands import Cancel

    async with mesh.leading(), mesh.worker():
        task = await mesh.submit(settings={"seconds": 60.0})
        await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
        cancel = Cancel(id="c1", task=task)
        await mesh.bus.append(mesh.subjects.command("test", "cancel", "c1"), codec.encode(cancel), subject_seq=0)
        assert (await mesh.ended(task)).state is TaskState.CANCELED
        free = await mesh.submit(needs=Needs(cores=2.0, memory_bytes=1 << 20, disk_bytes=0))
        assert (await mesh.ended(free)).state is TaskState.SUCCEEDED


async def test_cut_off_it_works_on_and_delivers_when_the_broker_is_back(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker() as agent:
        task = await mesh.submit(settings={"seconds": 0.5, "payload_bytes": 1_000}, on_disconnect="wait")
        await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
        mesh.server.cut("worker")
        finished = mesh.folder() / "scratch" / f"{task}.1-1" / worker_spool.NAME
        await agents.until(finished.is_file, "a spooled result")
        mesh.server.heal("worker")
        ended = await mesh.ended(task)
        assert (ended.state, ended.attempts, ended.incarnation) == (TaskState.SUCCEEDED, 1, agent.incarnation)


async def test_a_finished_result_survives_the_worker(mesh: Mesh) -> None:
    """Cut off, finished, and ended before anything was sent: the next life on the folder delivers the result."""
    async with mesh.leading():
        async with mesh.worker(**{"worker.stop_grace_s": 0.5}) as first:
            task = await mesh.submit(settings={"seconds": 0.5, "payload_bytes": 1_000}, on_disconnect="wait")
            await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
            mesh.server.cut("worker")
            finished = mesh.folder() / "scratch" / f"{task}.1-1" / worker_spool.NAME
            await agents.until(finished.is_file, "a spooled result")
        assert finished.is_file()
        mesh.server.heal("worker")
        async with mesh.worker() as second:
            ended = await mesh.ended(task)
        assert ended.incarnation == first.incarnation != second.incarnation
        assert ended.outcome is not None
        assert ended.outcome.kpis["attempts"] == 1.0
        assert not finished.exists()


async def test_owed_rows_are_sent_by_the_next_life(mesh: Mesh) -> None:
    async with mesh.leading():
        async with mesh.worker(**{"worker.stop_grace_s": 0.5}):
            task = await mesh.submit(settings={"seconds": 60.0}, on_disconnect="wait")
            await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
            await agents.until(lambda: any(children()), "a child")
            mesh.server.cut("worker")
        assert mesh.owed() == 1
        mesh.server.heal("worker")
        async with mesh.worker(**{"worker.stop_grace_s": 0.5}):
            await mesh.moved(task, lambda one: one.reason.startswith("the worker stops"))
            assert (await mesh.ended(await mesh.submit())).state is TaskState.SUCCEEDED


async def test_a_child_that_does_not_listen_costs_the_stop_no_more_than_its_grace(mesh: Mesh) -> None:
    async with mesh.leading():
        async with mesh.worker(**{"worker.stop_grace_s": 1.0}) as agent:
            task = await mesh.submit(settings={"fail": "hang", "fail_attempts": 1}, on_disconnect="wait")
            await mesh.moved(task, lambda one: one.checkpoint_step is not None)  # it is written just before it hangs
            began = time.monotonic()
            agent.stop()
        assert time.monotonic() - began < 10.0
        given_back = await mesh.moved(task, lambda one: "its grace time is over" in one.reason)
        assert given_back.state is TaskState.READY, "the lease moves although nothing was saved"


async def test_a_full_outbox_takes_nothing_new_until_there_is_room(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "OUTBOX_FULL", 0.0)
    monkeypatch.setattr(worker, "OUTBOX_ROOM", 0.0)
    monkeypatch.setattr(worker, "TIDY_S", 0.05)
    wanted: list[tuple[int, str]] = []

    async def on_beat(message: Message) -> None:
        beat = codec.decode(message.data, Beat)
        wanted.append((beat.offer.leases_max, beat.note))

    await mesh.bus.subscribe(mesh.subjects.beats(), on_beat)
    async with mesh.leading(), mesh.worker() as agent:
        task = await mesh.submit(settings={"seconds": 1.0, "checkpoint_s": 0.2}, on_disconnect="wait")
        await mesh.moved(task, lambda one: one.state is TaskState.LEASED)
        mesh.server.cut("scheduler")  # nobody gives receipts
        await agents.until(lambda: "outbox" in agent.problems(), "a full outbox")
        assert "no new tasks are taken" in agent.problems()["outbox"]
        await agents.until(lambda: wanted[-1] == (0, agent.problems().get("outbox")), "a withdrawn offer that says why")
        mesh.server.heal("scheduler")
        assert (await mesh.ended(task)).attempts == 1, "what ran went on"
        await agents.until(lambda: "outbox" not in agent.problems(), "room in the outbox")
        assert (await mesh.ended(await mesh.submit())).state is TaskState.SUCCEEDED


async def test_a_row_without_room_waits_and_the_offer_is_withdrawn(mesh: Mesh) -> None:
    """The bound itself: what is owed beyond it waits in its task, and is written once receipts have made room."""
    from mesh.log import get
    from mesh.messages.base import Epoch, Key
    from mesh.messages.commands import ResultFound
    from mesh.messages.leases import Receipt
    from mesh.messages.tasks import Outcome

    outbox = Outbox(mesh.home, bytes_max=1_000)
    debts = owed.Debts("w", outbox, mesh.bus, mesh.subjects, get("test"))
    rows = [
        ResultFound(
            key=Key(f"t{n}", Epoch(1, 1), "result", 1), incarnation="w.1", outcome=Outcome(stopped_by="x" * 600)
        )
        for n in range(2)
    ]
    writing = asyncio.create_task(debts.write())
    await debts.owe(rows[0])
    second = asyncio.create_task(debts.owe(rows[1]))
    await agents.until(lambda: bool(debts.full), "a full outbox")
    assert "is full at t1/1-1/result/1" in debts.full
    assert not second.done()
    outbox.settle(Receipt(key=rows[0].key, recorded=True))
    await second
    assert debts.full == ""
    assert [row.key for row in outbox.pending()] == [rows[1].key]
    writing.cancel()
    outbox.close()


async def test_a_receipted_row_is_kept_for_a_broker_that_comes_back_older(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        task = await mesh.submit()
        await mesh.ended(task)
        await agents.until(lambda: not list((mesh.folder() / "scratch").iterdir()), "an empty scratch folder")
    outbox = Outbox(mesh.folder())
    assert [row.key.task for row in outbox.kept()] == [task]
    outbox.close()


async def test_two_workers_of_one_name_on_one_folder_are_one_too_many(mesh: Mesh) -> None:
    async with mesh.leading(), mesh.worker():
        with pytest.raises(EnvironmentUnfit, match=r"runs on .* already"):
            async with mesh.worker() as second:
                await second.stopping.wait()


async def test_a_lost_answer_about_a_sent_row_changes_nothing(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "ASK_S_FIRST", 0.1)
    async with mesh.leading(), mesh.worker():
        tasks = [await mesh.submit() for _ in range(5)]
        for task in tasks:
            assert (await mesh.ended(task)).attempts == 1
    assert mesh.owed() == 0


def test_a_spooled_result_reads_back_as_it_was(tmp_path: Path) -> None:
    from mesh.messages.base import Epoch, Key
    from mesh.messages.tasks import Outcome

    spooled = worker_spool.Spooled(
        key=Key("t", Epoch(1, 2), "result", 1), incarnation="w.1", outputs={"model": "out/model"},
        media={"model": "model"}, facts_of={"model": {"labels": ["a"]}}, outcome=Outcome(kpis={"loss": 0.5}),
    )  # fmt: skip
    worker_spool.save(tmp_path, spooled)
    assert worker_spool.load(tmp_path) == spooled
    assert msgspec.structs.asdict(spooled)["outcome"].kpis == {"loss": 0.5}
    (tmp_path / worker_spool.NAME).write_bytes(b"torn")
    assert worker_spool.load(tmp_path) is None
    assert worker_spool.load(tmp_path / "nothing") is None
