"""Snapshots on their way out: one at a time, never waited for but at the end, and then with a bound."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from executors import checkpoint, room
from executors.checkpoint import Snapshot
from executors.saving import Mark, Saver
from tests.support.executing import PackingRecorder, Recorder


def at(step: int) -> Snapshot:
    return Snapshot({"model.a": torch.full((1000,), float(step))}, {"run": {"step": step}})


def mark(step: int, **changes: Any) -> Mark:
    return Mark(**{"step": step, "best": False, "trained_s": 1.5, "facts": {"fingerprint": {"torch": "2"}}, **changes})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Patience without waiting: every look at the clock is a second later."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("executors.saving.time.monotonic", monotonic)
    return now


def test_a_packed_snapshot_says_where_it_stands(tmp_path: Path) -> None:
    context = PackingRecorder(tmp_path / "kept")
    saver = Saver(context, tmp_path / "work", 40)
    assert saver.empty()
    assert saver.take(at(3), (), mark(3, best=True, skipped=2))
    (taken,) = context.taken
    assert (taken.number, taken.step, taken.best, taken.trained_s, taken.skipped) == (41, 3, True, 1.5, 2)
    assert taken.facts == {"fingerprint": {"torch": "2"}}
    assert torch.equal(checkpoint.load(context.checkpoints[0][0]).tensors["model.a"], at(3).tensors["model.a"])
    assert saver.free()
    assert not saver.empty()
    assert not (tmp_path / "work").exists()
    saver.close()


def test_the_buffer_is_taken_until_it_is_released(tmp_path: Path) -> None:
    context = PackingRecorder(tmp_path / "kept", slow=True)
    saver = Saver(context, tmp_path / "work", 0)
    saver.take(at(1), (), mark(1))
    assert not saver.free()
    context.pack()
    assert saver.free()
    saver.close()


def test_the_last_one_waits_for_the_packer(tmp_path: Path) -> None:
    """Both for the one before, and for itself."""
    context = PackingRecorder(tmp_path / "kept", slow=True)
    saver, looks = Saver(context, tmp_path / "work", 0), []

    def tick() -> None:
        looks.append(len(context.taken))
        context.pack()

    saver.take(at(1), (), mark(1))
    saver.take_last(lambda: at(2), (), mark(2), tick)
    assert looks == [1, 2]
    assert [row[1:3] for row in context.checkpoints] == [(1, 1), (2, 2)]
    assert context.lines == []
    saver.close()


def test_what_was_handed_over_before_a_run_broke_off_is_still_taken(tmp_path: Path) -> None:
    context = PackingRecorder(tmp_path / "kept", slow=True)
    saver = Saver(context, tmp_path / "work", 0)
    saver.take(at(1), (), mark(1))
    asked = []

    def released(number: int, wait_s: float = 0.0) -> bool:
        asked.append(wait_s)
        if wait_s:
            context.pack()
        return context.released_up_to >= number

    context.released = released  # type: ignore[method-assign]
    saver.close()
    assert max(asked) > 0.0
    assert checkpoint.load(context.checkpoints[0][0]).state == {"run": {"step": 1}}


def test_a_packer_that_never_begins_is_done_without(tmp_path: Path, clock: list[float]) -> None:
    """The one before is still in the buffer: the last one is written aside."""
    context = PackingRecorder(tmp_path / "kept", slow=True)
    saver = Saver(context, tmp_path / "work", 0)
    saver.take(at(1), (), mark(1))
    saver.take_last(lambda: at(2), (), mark(2, best=True), lambda: None)
    (folder, number, step, best, _) = context.checkpoints[0]
    assert (number, step, best) == (2, 2, True)
    assert checkpoint.load(folder).state == {"run": {"step": 2}}
    assert "written as a folder" in context.lines[0]
    context.pack()
    assert checkpoint.load(tmp_path / "kept" / "000001").state == {"run": {"step": 1}}
    saver.close()


def test_a_packer_that_dies_over_the_last_one_is_done_without(tmp_path: Path, clock: list[float]) -> None:
    context = PackingRecorder(tmp_path / "kept", slow=True)
    saver = Saver(context, tmp_path / "work", 0)
    saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert [taken.number for taken in context.taken] == [1]
    (folder, number, step, _, _) = context.checkpoints[0]
    assert (number, step) == (2, 2)
    assert checkpoint.load(folder).state == {"run": {"step": 2}}
    saver.close()


class Blind(PackingRecorder):
    """The worker can not open the buffer, and says so."""

    def pack(self) -> None:
        """Release what was never read."""
        self.released_up_to, self.packs = self.taken[-1].number, False


@pytest.mark.parametrize("before", [0, 1, 2])
def test_memory_that_nobody_can_open_is_done_without(tmp_path: Path, before: int) -> None:
    """What was handed over is lost; folders from then on, for the last one at once."""
    context = Blind(tmp_path / "kept")
    saver = Saver(context, tmp_path / "work", 0)
    for step in range(before):
        while not saver.free():
            threading.Event().wait(0.01)
        saver.take(at(step), (), mark(step))
    saver.take_last(lambda: at(9), (), mark(9), lambda: None)
    assert len(context.taken) == 1
    assert [row[2] for row in context.checkpoints] == [*range(1, before), 9]
    assert checkpoint.load(context.checkpoints[-1][0]).state == {"run": {"step": 9}}
    saver.close()


def test_where_nobody_packs_a_thread_writes_a_folder(tmp_path: Path) -> None:
    go, context = threading.Event(), Recorder(tmp_path / "kept")
    write = checkpoint.write

    def slow(folder: Path, files: Any) -> Path:
        assert go.wait(20)
        return write(folder, files)

    saver = Saver(context, tmp_path / "work", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", slow)
        assert saver.take(at(1), (), mark(1))
        assert not saver.free()
        go.set()
        saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert [row[1:3] for row in context.checkpoints] == [(1, 1), (2, 2)]
    assert checkpoint.load(context.checkpoints[1][0]).state == {"run": {"step": 2}}
    saver.close()


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, files: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    context = Recorder(tmp_path / "kept")
    saver = Saver(context, tmp_path / "work", 0)
    saver.take(at(1), (), mark(1))
    monkeypatch.setattr(room, "LAST_S", 0.0)
    saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert (saver.lost, context.checkpoints) == (2, [])
    assert "training goes on" in context.lines[0]
    saver.close()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(room, "PAUSE_S_FIRST", 0.0)


def test_the_last_folder_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None) -> None:
    write, tries = checkpoint.write, []

    def full_twice(folder: Path, files: Any) -> Path:
        tries.append(folder.name)
        if len(tries) > 2:
            return write(folder, files)
        (folder.with_name(folder.name + ".tmp")).mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full_twice)
    context = Recorder(tmp_path / "kept")
    saver = Saver(context, tmp_path / "work", 0)
    saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert tries == ["000001", "000002", "000003"]
    assert [row[1:3] for row in context.checkpoints] == [(3, 2)]
    assert list((tmp_path / "work").iterdir()) == [], "what is half-written takes room"
    assert any("it waits 60 s at most" in line for line in context.lines)
    assert saver.lost == 0
    saver.close()


class Full(PackingRecorder):
    """A worker whose disk has no room for the first few snapshots."""

    def __init__(self, kept: Path, tries: int) -> None:
        super().__init__(kept)
        self.tries, self.refused = tries, list[int]()

    def pack(self) -> None:
        """Release what can not be kept."""
        if self.tries <= 0:
            return super().pack()
        self.tries -= 1
        self.refused.append(self.taken[-1].number)
        self.released_up_to = self.taken[-1].number

    def lacked_room(self, number: int) -> bool:
        """What the worker said of this one."""
        return number in self.refused


def test_the_last_snapshot_is_handed_over_again_until_there_is_room(tmp_path: Path, no_pause: None) -> None:
    context = Full(tmp_path / "kept", 3)
    saver, looks = Saver(context, tmp_path / "work", 0), list[int]()
    saver.take(at(1), (), mark(1))
    assert saver.lost == 0, "the worker counts it, training goes on"
    saver.take_last(lambda: at(2), (), mark(2, skipped=5), lambda: looks.append(1))
    assert context.refused == [1, 2, 3]
    assert [row[1:3] for row in context.checkpoints] == [(4, 2)]
    assert [taken.skipped for taken in context.taken] == [0, 5, 0, 0], "told once"
    assert saver.lost == 0
    saver.close()


def test_it_is_not_handed_over_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LAST_S", 0.0)
    context = Full(tmp_path / "kept", 10_000)
    saver = Saver(context, tmp_path / "work", 0)
    saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert (context.refused, context.checkpoints, saver.lost) == ([1], [], 1)
    saver.close()


def test_no_memory_for_the_buffer_costs_checkpoints_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, size_bytes: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mesh.platform.reserve", full)
    context = PackingRecorder(tmp_path / "kept")
    saver = Saver(context, tmp_path / "work", 0)
    assert not saver.take(at(1), (), mark(1))
    saver.take_last(lambda: at(2), (), mark(2), lambda: None)
    assert (saver.lost, context.taken) == (2, [])
    assert "no memory" in context.lines[0]
    saver.close()
