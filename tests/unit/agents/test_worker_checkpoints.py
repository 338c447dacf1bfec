"""Checkpoints on their way: the newest goes, training never waits, and what stands in the way passes by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from agents import worker_checkpoints
from agents.worker_checkpoints import Checkpoints
from executors.frames import Checkpointed, Snapshotted
from mesh import metrics, platform, windows
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.errors import BusUnavailable, ChildBroke, DiskFull, RamifyError
from mesh.messages.base import Epoch
from mesh.messages.commands import CheckpointMade
from mesh.subjects import Subjects
from tests.support.gate import Gate
from tests.support.packing import PackerAtHand
from tests.support.snapshots import STATE, TENSORS, a_step_later, buffer_of, files_below, tensors_file, weights

WEIGHTS = [weights(20_000, seed=1)]
for number in range(1, 6):
    WEIGHTS.append(a_step_later(WEIGHTS[-1], seed=number))


class Desk:
    """The checkpoints of one attempt, a store, a packer, and what came of it."""

    def __init__(self, folder: Path, cache_bytes_max: int = 0) -> None:
        self.folder, self.gate = folder, Gate()
        self.store = ArtifactStore(
            cast(Log, None), Subjects(), cache=folder / "cache", cache_bytes_max=10**9, backend=self.gate
        )
        self.packer = PackerAtHand(folder)
        self.owed: list[CheckpointMade] = []
        self.released: list[int] = []
        self.lacked_room: list[int] = []
        self.scratch = folder / "scratch"
        self.checkpoints = Checkpoints(
            "task", Epoch(1, 2), "w1.0001", self.store, self.packer, self._owe, self.scratch,
            cache_bytes_max=cache_bytes_max,
        )  # fmt: skip

    async def _owe(self, row: CheckpointMade) -> None:
        self.gate.order.append("row")
        self.owed.append(row)

    def _let_go(self, number: int, lacked_room: bool) -> None:
        self.released.append(number)
        if lacked_room:
            self.lacked_room.append(number)

    @property
    def numbers(self) -> list[int]:
        return [row.key.number for row in self.owed]

    def snapshot(self, number: int, *, skipped: int = 0) -> None:
        """Hand over the snapshot of this number."""
        path = self.folder / f"buffer{number}"
        spans = buffer_of(path, files_of(number))
        made = Snapshotted(
            run=1, number=number, step=10 * number, best=number == 2, trained_s=1.5, buffer=str(path), files=spans,
            facts={"fingerprint": {"torch": "2"}}, skipped=skipped,
        )  # fmt: skip
        self.checkpoints.take(made, lambda full: self._let_go(number, full))

    async def restored(self, row: CheckpointMade) -> dict[str, bytes]:
        """What another worker would get."""
        elsewhere = ArtifactStore(
            cast(Log, None), Subjects(), cache=self.folder / "elsewhere", cache_bytes_max=10**9, backend=self.gate
        )
        folder = await elsewhere.get(row.manifest)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def files_of(number: int) -> dict[str, bytes]:
    return {TENSORS: tensors_file({"w": WEIGHTS[number]}), STATE: b"state %d" % number}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)
    monkeypatch.setattr(worker_checkpoints, "PAUSE_S_FIRST", 0.0)
    monkeypatch.setattr(worker_checkpoints, "LOOK_S", 0.001)


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.gate.open.set()
    await desk.checkpoints.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in several places
            await asyncio.sleep(0)


async def test_a_snapshot_is_stored_and_owed_manifest_last(desk: Desk) -> None:
    desk.snapshot(1)
    await desk.checkpoints.flush()
    (row,) = desk.owed
    assert (row.step, row.best, row.trained_s, row.incarnation) == (10, False, 1.5, "w1.0001")
    assert desk.gate.order[-2:] == ["manifest", "row"]
    assert desk.released == [1]
    assert await desk.restored(row) == files_of(1)
    facts = (await desk.store.manifest(row.manifest)).facts
    assert facts == {"task": "task", "epoch": "1-2", "number": 1, "step": 10, "fingerprint": {"torch": "2"}}


async def test_later_ones_are_deltas_and_come_back_whole(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.snapshot(number)
        await desk.checkpoints.flush()
    assert any(base for entry in desk.packer.parcels[1].entries for base in entry.bases)
    assert [await desk.restored(row) for row in desk.owed] == [files_of(number) for number in (1, 2, 3)]
    assert desk.packer.settled == [(1, True), (2, True), (3, True)]


async def test_the_buffer_is_free_again_while_the_upload_still_runs(desk: Desk) -> None:
    desk.gate.open.clear()
    desk.snapshot(1)
    await desk.gate.reached.wait()
    assert desk.released == [1]
    assert desk.owed == []
    desk.gate.open.set()
    await desk.checkpoints.flush()
    assert desk.numbers == [1]


async def test_the_newest_wins_and_the_skipped_are_counted(desk: Desk) -> None:
    before = metrics.value("mesh_checkpoints_total", outcome="skipped")
    desk.gate.open.clear()
    desk.snapshot(1)
    await desk.gate.reached.wait()
    for number in (2, 3, 4):
        desk.snapshot(number, skipped=1)
        await until(lambda number=number: number in desk.released)  # type: ignore[misc]
    desk.gate.open.set()
    await desk.checkpoints.flush()
    assert desk.numbers == [1, 4]
    assert await desk.restored(desk.owed[-1]) == files_of(4)
    assert desk.checkpoints.skipped == 2 + 3
    assert metrics.value("mesh_checkpoints_total", outcome="skipped") - before == 5
    assert sorted(desk.packer.settled) == [(1, True), (2, False), (3, False), (4, True)]


@pytest.mark.parametrize("error", [DiskFull("The stream is full."), BusUnavailable("The broker is away.")])
async def test_what_stands_in_the_way_pauses_uploads_and_passes(desk: Desk, error: RamifyError) -> None:
    desk.gate.error = error
    desk.snapshot(1)
    await until(lambda: bool(desk.checkpoints.paused))
    assert str(error) in desk.checkpoints.paused
    assert "training goes on" in desk.checkpoints.paused
    desk.snapshot(2)
    await until(lambda: (1, False) in desk.packer.settled)
    desk.snapshot(3)
    await until(lambda: (2, False) in desk.packer.settled)
    assert desk.released == [1, 2, 3]
    desk.gate.error = None
    await desk.checkpoints.flush()
    assert desk.numbers == [3], "the newest goes out by itself"
    assert desk.checkpoints.paused == ""
    assert await desk.restored(desk.owed[0]) == files_of(3)


async def test_an_end_waits_for_room_only_so_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_checkpoints, "FULL_S", 0.0)
    desk.gate.error = DiskFull("The stream is full.")
    desk.snapshot(1)
    await until(lambda: bool(desk.checkpoints.paused))
    await desk.checkpoints.flush()
    assert desk.owed == []


async def test_an_end_waits_for_a_broker_that_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_checkpoints, "FULL_S", 0.0)
    desk.gate.error = BusUnavailable("The broker is away.")
    desk.snapshot(1)
    flushing = asyncio.create_task(desk.checkpoints.flush())
    await until(lambda: bool(desk.checkpoints.paused))
    assert not flushing.done()
    desk.gate.error = None
    await flushing
    assert desk.numbers == [1]


async def test_what_was_handed_over_outlives_its_maker(desk: Desk) -> None:
    fd, path = platform.shared_memory(desk.folder)
    files = files_of(1)
    spans = buffer_of(desk.folder / "image", files)
    os.write(fd, (desk.folder / "image").read_bytes())
    made = Snapshotted(run=1, number=1, step=1, best=False, trained_s=0.0, buffer=path, files=spans)
    desk.checkpoints.take(made, lambda full: desk.released.append(1))
    os.close(fd)
    await desk.checkpoints.flush()
    assert await desk.restored(desk.owed[0]) == files


async def test_a_buffer_that_is_gone_costs_one_checkpoint(desk: Desk) -> None:
    made = Snapshotted(run=1, number=1, step=1, best=False, trained_s=0.0, buffer="/nowhere/at/all", files=())
    desk.checkpoints.take(made, lambda full: desk.released.append(1))
    assert desk.released == [1]
    desk.snapshot(2)
    await desk.checkpoints.flush()
    assert desk.numbers == [2]


async def test_a_packer_that_breaks_costs_one_checkpoint(desk: Desk) -> None:
    desk.packer.failures = [ChildBroke("killed")]
    desk.snapshot(1)
    await desk.checkpoints.flush()
    assert (desk.released, desk.owed, desk.checkpoints.paused) == ([1], [], "")
    desk.snapshot(2)
    await desk.checkpoints.flush()
    assert desk.numbers == [2]


async def test_a_full_disk_pauses_until_a_checkpoint_fits_again(desk: Desk) -> None:
    desk.packer.failures = [DiskFull("There is no room.")]
    desk.snapshot(1)
    await until(lambda: bool(desk.checkpoints.paused))
    assert "There is no room." in desk.checkpoints.paused
    assert (desk.released, desk.lacked_room) == ([1], [1])
    desk.snapshot(2)
    await desk.checkpoints.flush()
    assert (desk.numbers, desk.checkpoints.paused) == ([2], "")
    assert desk.lacked_room == [1]


async def test_objects_that_the_store_lost_are_sent_again_from_the_bases_kept_here(desk: Desk) -> None:
    desk.snapshot(1)
    await desk.checkpoints.flush()
    desk.gate.held.clear()
    desk.store.forget_stored()
    desk.snapshot(2)
    await desk.checkpoints.flush()
    assert await desk.restored(desk.owed[-1]) == files_of(2)


async def test_when_they_are_lost_here_too_the_next_one_but_one_is_whole(desk: Desk) -> None:
    desk.snapshot(1)
    await desk.checkpoints.flush()
    desk.gate.held.clear()
    desk.store.forget_stored()
    await until(lambda: all(name[0] == "c" for name in files_below(desk.scratch)))
    for path in desk.scratch.iterdir():
        path.unlink()
    desk.snapshot(2)
    await desk.checkpoints.flush()
    assert desk.numbers == [1], "it is built on what is gone"
    desk.snapshot(3)
    await desk.checkpoints.flush()
    assert desk.numbers == [1, 3]
    assert await desk.restored(desk.owed[-1]) == files_of(3)


async def test_the_newest_lies_in_the_local_cache_and_the_one_before_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, cache_bytes_max=10**9)
    for number in (1, 2, 3):
        desk.snapshot(number)
        await desk.checkpoints.flush()
    assert desk.store.cached(9) == [desk.owed[-1].manifest]
    folder = await desk.store.get(desk.owed[-1].manifest)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files_of(3)
    assert desk.gate.fetched == [], "a resume on this machine downloads nothing"
    monkeypatch.setattr(worker_checkpoints, "COPY_TIME_SHARE", 1e-9)
    desk.checkpoints._pack_s = 1.0
    desk.snapshot(4)
    await desk.checkpoints.flush()
    assert desk.packer.plain_wanted == [True, True, True, False]
    assert desk.store.cached(9) == [desk.owed[-2].manifest], "an older copy is kept until a newer one takes its place"
    await desk.checkpoints.close()
    assert not list((tmp_path / "scratch").rglob("state.*"))


async def test_no_copy_is_made_that_would_fill_cache_or_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, cache_bytes_max=100_000)
    desk.snapshot(1)
    await desk.checkpoints.flush()
    desk = Desk(tmp_path / "second", cache_bytes_max=10**9)
    (tmp_path / "second").mkdir(exist_ok=True)
    monkeypatch.setattr(platform, "disk_free", lambda path: 100_000)
    desk.snapshot(1)
    await desk.checkpoints.flush()
    assert desk.packer.plain_wanted == [False]


async def test_folders_go_the_same_way(desk: Desk) -> None:
    folder = desk.folder / "000001"
    folder.mkdir()
    for name, body in files_of(1).items():
        (folder / name).write_bytes(body)
    desk.checkpoints.offer(Checkpointed(run=1, folder=str(folder), number=1, step=10, best=False, trained_s=0.0))
    await desk.checkpoints.flush()
    assert desk.numbers == [1]
    await desk.checkpoints.close()
    assert not folder.exists()
    assert await desk.restored(desk.owed[0]) == files_of(1)


async def test_closing_in_the_middle_leaves_nothing_open(desk: Desk) -> None:
    desk.gate.open.clear()
    desk.snapshot(1)
    await desk.gate.reached.wait()
    desk.snapshot(2)
    await until(lambda: 2 in desk.released)
    await desk.checkpoints.close()
    assert desk.owed == []
    assert desk.released == [1, 2]
    assert sorted(desk.packer.settled) == [(1, False), (2, False)]
