"""One lease with a child that hands over snapshots: what the worker makes of them, and what it tells meanwhile."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agents import patience, worker_checkpoints, worker_spool
from agents.holdings import Begin
from agents.owed import Debts
from agents.worker_asked import saved
from agents.worker_task import Running, Tools
from executors.frames import Finished, Frame, Halted, Heeds, Progressed, Snapshotted, Start
from executors.isolation import Bounds, Child
from executors.pool import Pool
from executors.port import Runtime
from executors.room import WAITS
from mesh import platform, windows
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.cache import LocalCache
from mesh.errors import DiskFull
from mesh.messages.base import Epoch
from mesh.messages.commands import CheckpointMade, GiveBack, ResultFound
from mesh.messages.leases import Lease
from mesh.messages.services import SaveAnswer
from mesh.messages.tasks import TaskSpec
from mesh.subjects import Subjects
from tests.support.gate import Gate
from tests.support.packing import PackerAtHand
from tests.support.snapshots import TENSORS, buffer_of, tensors_file, weights

FILES = {TENSORS: tensors_file({"w": weights(5_000, seed=1)})}


class Trainer:
    """A child in name: it hands over snapshots and ends when it is told."""

    runtime = Runtime.TORCH
    runs = 0

    def __init__(self, folder: Path) -> None:
        self.pid, self.silent_s, self.step = os.getpid(), 0.0, 0
        self.folder, self.fds = folder, list[int]()
        self.released: list[int] = []
        self.refused: list[int] = []
        """Snapshots that the disk had no room for."""
        self.saves = 0
        self.started: Start | None = None
        self.hear: Callable[[Frame], None] = lambda frame: None
        self.begun, self.halted = asyncio.Event(), asyncio.Event()
        self.ending: Halted | Finished = Halted(run=1)

    async def run(self, start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Halted | Finished:
        self.started, self.hear = start, hear
        self.begun.set()
        await self.halted.wait()
        return self.ending

    def finish(self) -> None:
        """End with a model in the task's folder."""
        assert self.started is not None
        model = Path(self.started.scratch) / "model"
        model.write_bytes(b"weights")
        self.ending = Finished(
            run=1,
            outputs={"model": str(model)},
            kpis={},
            stopped_by="finished",
            facts={},
            exact=True,
            media={},
            facts_of={},
        )
        self.halted.set()

    def snapshot(self, number: int, buffer: str = "") -> None:
        spans = buffer_of(self.folder / "image", FILES)
        fd, path = platform.shared_memory(self.folder)
        self.fds.append(fd)
        os.write(fd, (self.folder / "image").read_bytes())
        made = Snapshotted(
            run=1, number=number, step=number, best=False, trained_s=0.0, buffer=buffer or path, files=spans
        )
        self.hear(made)

    def halt(self, reason: str) -> None:
        self.snapshot(9)
        for fd in self.fds:
            os.close(fd)  # it is gone as soon as it has said that it stops
        self.halted.set()

    def save(self) -> None:
        """Asked to save."""
        self.saves += 1

    def release(self, run: int, number: int, *, unreadable: bool = False, lacked_room: bool = False) -> None:
        self.released.append(number)
        if lacked_room:
            self.refused.append(number)


class Stage:
    """A lease that runs in such a child."""

    def __init__(self, folder: Path, runtime: Runtime = Runtime.TORCH) -> None:
        self.child, self.gate, self.owed = Trainer(folder), Gate(), list[Any]()
        stage = self

        class OnePool:
            async def take(self, runtime: Runtime) -> Child:
                return cast(Child, stage.child)

            def expect(self, runtime: Runtime) -> None: ...

            def give(self, child: Child) -> None: ...

        class Owing:
            async def owe(self, row: Any) -> None:
                stage.owed.append(row)

        (folder / "scratch").mkdir()
        store = ArtifactStore(
            cast(Log, None), Subjects(), cache=folder / "cache", cache_bytes_max=10**9, backend=self.gate
        )
        self.packer = PackerAtHand(folder)
        tools = Tools(
            worker="w1", incarnation="w1.0001", store=store, pool=cast(Pool, OnePool()), packer=self.packer,
            debts=cast(Debts, Owing()), scratch=folder / "scratch", runtimes={"train": runtime}, gpu_numbers=(),
            light=asyncio.Semaphore(1),
        )  # fmt: skip
        spec = TaskSpec(id="task", topic="topic", executor="train")
        self.running = Running(Begin(Lease(task=spec, epoch=Epoch(1, 1), attempt=1), ()), tools)

    @property
    def checkpoints(self) -> list[int]:
        return [row.key.number for row in self.owed if isinstance(row, CheckpointMade)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in several places
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)
    monkeypatch.setattr(worker_checkpoints, "PAUSE_S_FIRST", 0.0)
    monkeypatch.setattr(worker_checkpoints, "LOOK_S", 0.001)


@pytest.mark.parametrize(("runtime", "packs"), [(Runtime.TORCH, True), (Runtime.SCIENCE, False)])
async def test_trainings_are_told_that_their_snapshots_are_packed(
    tmp_path: Path, runtime: Runtime, packs: bool
) -> None:
    stage = Stage(tmp_path, runtime)
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    assert stage.child.started is not None
    assert stage.child.started.packs is packs
    stage.running.void("enough")
    await life


async def test_the_last_snapshot_of_a_lease_that_is_given_back_is_stored_although_its_child_is_gone(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path)
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.snapshot(1)
    await until(lambda: stage.checkpoints == [1])
    stage.running.give_back("drained")
    await life
    assert stage.checkpoints == [1, 9]
    assert isinstance(stage.owed[-1], GiveBack), "the checkpoint's row comes first"
    assert stage.child.released == [1, 9]


async def test_a_full_store_is_told_and_the_training_goes_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.gate.error = DiskFull("The stream is full.")
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.snapshot(1)
    await until(lambda: bool(stage.running.paused))
    assert "The stream is full." in stage.running.paused
    assert stage.child.released == [1]
    stage.running.news = Progressed(run=1, step=5, done=0.5)
    progress = stage.running.take_progress()
    assert progress is not None
    assert progress.phase == "checkpoints wait"
    stage.gate.error = None
    await until(lambda: stage.checkpoints == [1])
    assert stage.running.paused == ""
    stage.running.void("enough")
    await life


async def test_outputs_that_find_a_full_store_are_told_until_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_S_FIRST", 0.0)
    stage = Stage(tmp_path)
    stage.gate.error = DiskFull("The stream is full.")
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.finish()
    await until(lambda: bool(stage.running.held_up))
    assert "output model of task waits: " in stage.running.held_up
    assert "The stream is full." in stage.running.held_up
    assert stage.running.paused == "", "no checkpoint waits"
    progress = stage.running.take_progress()
    assert progress is not None
    assert progress.phase == "outputs wait"
    assert stage.owed == []
    stage.gate.error = None
    await life
    assert stage.running.held_up == ""
    (row,) = stage.owed
    assert isinstance(row, ResultFound)
    assert list(row.outcome.outputs) == ["model"]


async def test_a_checkpoint_on_request_is_the_next_one_that_is_handed_over(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    asked = functools.partial(saved, "task", [stage.running])
    assert asked() == SaveAnswer(task="task", asked=False, reason="its inputs are still on their way to the worker")
    assert saved("other", [stage.running]).reason == "this worker does not run it"
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.hear(Progressed(run=1, step=1, done=0.1, phase="features"))
    answer = asked()
    assert (answer.asked, answer.number, stage.child.saves) == (True, 0, 1)
    assert "its kind train takes none when it is asked, or has not come to the part" in answer.reason
    assert "(it is at: features)" in answer.reason
    stage.child.hear(Heeds(run=1))
    stage.child.snapshot(3)
    assert asked() == SaveAnswer(task="task", asked=True, number=3)
    await until(lambda: stage.checkpoints == [3])
    stage.gate.error = DiskFull("The stream is full.")
    stage.child.snapshot(4)
    await until(lambda: bool(stage.running.paused))
    assert asked().reason == stage.running.paused
    stage.gate.error = None
    stage.running.give_back("enough")
    assert asked() == SaveAnswer(task="task", asked=False, reason="it is being stopped")
    assert stage.child.saves == 3
    await life
    assert not asked().asked


async def test_a_child_that_waits_for_room_is_told_of_until_it_goes_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    for phase in ("linear path", WAITS, WAITS):
        stage.child.hear(Progressed(run=1, step=9, done=1.0, phase=phase))
    assert "outputs of task wait: there is no room left below " in stage.running.held_up
    assert stage.running.outputs_wait == stage.running.held_up
    assert stage.running.paused == "", "no checkpoint waits"
    progress = stage.running.take_progress()
    assert progress is not None
    assert (progress.phase, progress.step) == (WAITS, 9)
    stage.child.hear(Progressed(run=1, step=9, done=1.0, phase="claims"))
    assert stage.running.held_up == ""
    stage.child.finish()
    await life
    assert [type(row) for row in stage.owed] == [ResultFound]


async def test_a_snapshot_that_finds_no_room_is_handed_back_as_such(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.packer.failures = [DiskFull("There is no room.")]
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.snapshot(1)
    await until(lambda: stage.child.released == [1])
    stage.child.snapshot(2)
    await until(lambda: stage.checkpoints == [2])
    assert stage.child.refused == [1]
    stage.running.void("enough")
    await life


async def test_a_result_that_can_not_be_written_down_is_delivered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written down as soon as there is room, because the upload may take long."""
    monkeypatch.setattr(patience, "PAUSE_S_FIRST", 0.0)
    save, full = worker_spool.save, [OSError(errno.ENOSPC, "No space left on device")] * 2

    def save_if_there_is_room(folder: Path, spooled: worker_spool.Spooled) -> None:
        if full:
            raise full.pop()
        save(folder, spooled)

    monkeypatch.setattr(worker_spool, "save", save_if_there_is_room)
    stage = Stage(tmp_path)
    stage.gate.error = DiskFull("The stream is full.")
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.finish()
    written = tmp_path / "scratch" / "task.1-1" / worker_spool.NAME
    await until(written.exists)
    assert full == []
    stage.running.void("the task went elsewhere")
    stage.gate.error = None
    await life
    (row,) = stage.owed
    assert isinstance(row, ResultFound)
    assert list(row.outcome.outputs) == ["model"]


async def test_a_result_that_is_not_written_down_is_given_back_when_no_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(folder: Path, spooled: worker_spool.Spooled) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker_spool, "save", save)
    stage = Stage(tmp_path)
    stage.gate.error = DiskFull("The stream is full.")
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.finish()
    await until(lambda: bool(stage.running.held_up))
    stage.running.abandon("the worker stops")
    await life
    assert [type(row) for row in stage.owed] == [GiveBack]


async def test_outputs_that_no_cache_has_room_for_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(cache: LocalCache) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalCache, "new_part", full)
    stage = Stage(tmp_path)
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    stage.child.finish()
    await life
    assert [type(row) for row in stage.owed] == [ResultFound]


async def test_a_child_names_its_own_memory_or_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 100)
    life = asyncio.create_task(stage.running.run())
    await stage.child.begun.wait()
    for number, path in enumerate((str(secret), "/proc/1/fd/0", f"/proc/{os.getpid()}/environ"), start=1):
        stage.child.snapshot(number, buffer=path)
    assert stage.child.released == [1, 2, 3]
    stage.running.void("enough")
    await life
    assert stage.owed == []
