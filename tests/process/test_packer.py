"""A real packer: it answers or is replaced, its snapshots outlive who made them, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from executors import packer as packer_module
from executors.frames import Span
from executors.isolation import environment
from executors.packer import IDLE_S, Packer, Parcel
from mesh.errors import ChildBroke, DataRefused
from tests.support.snapshots import (
    STATE,
    TENSORS,
    a_step_later,
    buffer_of,
    files_below,
    restored,
    tensors_file,
    weights,
)

pytestmark = pytest.mark.process

MOVING = weights(60_000, seed=1)


class Desk:
    """A packer, an attempt's folder, and a buffer."""

    def __init__(self, folder: Path, packer: Packer) -> None:
        self.folder, self.packer, self.attempt = folder, packer, folder / "attempt"

    def snapshot(self, body: bytes) -> tuple[Span, ...]:
        return buffer_of(self.folder / "buffer", {TENSORS: tensors_file({"w": body}), STATE: b"state"})

    async def pack(self, body: bytes) -> Parcel:
        return await self.packer.pack(self.attempt, str(self.folder / "buffer"), self.snapshot(body))


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    packer = Packer(folder=tmp_path)
    try:
        yield Desk(tmp_path, packer)
    finally:
        await packer.close()
        assert packer.pid is None


async def test_checkpoints_are_packed_one_upon_the_other(desk: Desk) -> None:
    first = await desk.pack(MOVING)
    store = files_below(first.folder)
    assert restored(first.entries, store)[TENSORS] == tensors_file({"w": MOVING})
    assert first.new_bytes == sum(map(len, store.values()))
    desk.packer.settle(first, stored=True)
    after = a_step_later(MOVING, seed=2)
    second = await desk.pack(after)
    assert second.new_bytes < 0.8 * first.new_bytes
    assert restored(second.entries, store | files_below(second.folder))[TENSORS] == tensors_file({"w": after})


async def test_several_attempts_share_it_in_turn(desk: Desk) -> None:
    spans = desk.snapshot(MOVING)
    buffer = str(desk.folder / "buffer")
    parcels = await asyncio.gather(*(desk.packer.pack(desk.folder / name, buffer, spans) for name in "abc"))
    assert len({parcel.folder for parcel in parcels}) == 3
    assert {parcel.new_objects for parcel in parcels} == {3}


async def test_it_is_polite_small_and_in_a_group_of_its_own(desk: Desk) -> None:
    await desk.pack(MOVING)
    assert desk.packer.pid is not None
    process = psutil.Process(desk.packer.pid)
    assert process.nice() > psutil.Process().nice()
    assert process.memory_info().rss < 100 << 20
    assert os.getpgid(process.pid) == process.pid


async def test_a_snapshot_that_can_not_be_packed_costs_nothing_but_itself(desk: Desk) -> None:
    await desk.pack(MOVING)
    pid = desk.packer.pid
    with pytest.raises(DataRefused, match="gone"):
        await desk.packer.pack(desk.attempt, str(desk.folder / "no such buffer"), desk.snapshot(MOVING))
    with pytest.raises(DataRefused, match="ends before"):
        await desk.packer.pack(desk.attempt, str(desk.folder / "buffer"), (Span(STATE, 0, 1 << 30),))
    await desk.pack(MOVING)
    assert desk.packer.pid == pid


async def test_one_that_is_killed_is_replaced_and_its_parcels_stay_readable(desk: Desk) -> None:
    first = await desk.pack(MOVING)
    assert desk.packer.pid is not None
    killed = psutil.Process(desk.packer.pid)
    killed.kill()
    await asyncio.to_thread(psutil.wait_procs, [killed], 10)
    with contextlib.suppress(ChildBroke):  # its end may not have been noticed yet: that costs one checkpoint
        await desk.pack(MOVING)
    second = await desk.pack(a_step_later(MOVING, seed=2))
    assert second.folder != first.folder
    assert second.entries[0].bases == (), "a new packer knows no base"
    assert restored(first.entries, files_below(first.folder))
    desk.packer.settle(first, stored=True)
    await desk.packer.close()
    assert not first.folder.exists()
    assert restored(second.entries, files_below(second.folder))


async def test_one_that_hangs_is_ended_and_the_next_snapshot_gets_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.pack(MOVING)
    assert desk.packer.pid is not None
    hung = psutil.Process(desk.packer.pid)
    hung.suspend()
    monkeypatch.setattr(packer_module, "PACK_S_LEAST", 0.2)
    with pytest.raises(ChildBroke, match="no answer"):
        await desk.pack(MOVING)
    assert not hung.is_running()
    monkeypatch.undo()
    await desk.pack(MOVING)


async def test_one_that_dies_in_the_middle_says_its_last_words(desk: Desk) -> None:
    await desk.pack(MOVING)
    assert desk.packer.pid is not None
    process = psutil.Process(desk.packer.pid)
    process.suspend()
    packing = asyncio.create_task(desk.pack(MOVING))
    await asyncio.sleep(0)
    process.kill()
    with pytest.raises(ChildBroke, match="ended before"):
        await packing
    await desk.pack(MOVING)


async def test_who_gives_up_waiting_leaves_no_answer_for_the_next(desk: Desk) -> None:
    await desk.pack(MOVING)
    assert desk.packer.pid is not None
    psutil.Process(desk.packer.pid).suspend()
    packing = asyncio.create_task(desk.pack(MOVING))
    await asyncio.sleep(0)  # it has asked now: the packer was there, so nothing else is waited for
    packing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await packing
    parcel = await desk.pack(a_step_later(MOVING, seed=3))
    assert restored(parcel.entries, files_below(parcel.folder))


async def test_one_that_nobody_needs_is_ended(desk: Desk) -> None:
    await desk.pack(MOVING)
    assert desk.packer.pid is not None
    process = psutil.Process(desk.packer.pid)
    far = asyncio.get_running_loop().time() + 10 * IDLE_S
    await desk.packer.tidy(far)
    assert process.is_running(), "an attempt may have its bases there"
    desk.packer.drop(desk.attempt)
    await desk.packer.tidy(far)
    assert not process.is_running()
    await desk.pack(MOVING)


async def test_a_large_snapshot_takes_little_memory(desk: Desk) -> None:
    buffer, size = desk.folder / "large", 256 << 20
    with buffer.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 4 << 20):  # so that not all pieces are equal
            file.seek(offset)
            file.write(offset.to_bytes(8, "little"))
    parcel = await desk.packer.pack(desk.attempt, str(buffer), (Span(TENSORS, 0, size),))
    assert sum(entry.size_bytes for entry in parcel.entries) == size
    assert desk.packer.pid is not None
    assert psutil.Process(desk.packer.pid).memory_info().rss < 100 << 20


def test_it_ends_with_its_worker(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys; from executors.packer import Packer\n"
        "async def main():\n"
        "    packer = Packer(folder=pathlib.Path(sys.argv[1]))\n"
        "    try: await packer.pack(pathlib.Path(sys.argv[1]) / 'a', 'nothing', ())\n"
        "    except Exception: pass\n"
        "    print(packer.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-P", "-c", program, str(tmp_path)]
    with subprocess.Popen(argv, env=environment(1), stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        packer = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    gone, alive = psutil.wait_procs([packer], timeout=10)
    assert gone
    assert not alive
