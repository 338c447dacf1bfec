"""Outputs on a full disk: what is half-written goes; the wait is told and bounded, and can be stopped."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from executors import room
from executors.kinds.classify import Classify
from executors.port import Stopped
from executors.room import WAITS, Patience, is_full, written
from mesh.errors import DiskFull
from tests.support.executing import Recorder


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that only passes while somebody sleeps."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("executors.room.time.monotonic", lambda: now[0])
    monkeypatch.setattr("executors.room.time.sleep", sleep)
    return now


class Disk:
    """Has room from the n-th try on; what is written before that is cut off in the middle."""

    def __init__(self, tries: int, error: Exception | None = None) -> None:
        self.left, self.error = tries, error or OSError(errno.ENOSPC, "No space left on device")
        self.found: list[bool] = []

    def folder(self, place: Path) -> Path:
        self.found.append(place.exists())
        place.mkdir()
        (place / "weights").write_bytes(b"half")
        return self._go_on(place)

    def file(self, place: Path) -> Path:
        self.found.append(place.exists())
        place.write_bytes(b"half")
        return self._go_on(place)

    def _go_on(self, place: Path) -> Path:
        self.left -= 1
        if self.left > 0:
            raise self.error
        return place


@pytest.mark.parametrize("error", [None, DiskFull("it does not fit"), OSError(errno.EDQUOT, "quota")])
@pytest.mark.parametrize("how", [Disk.folder, Disk.file])
def test_it_waits_for_room_and_writes_again(
    tmp_path: Path, clock: list[float], how: Callable[[Disk, Path], Path], error: Exception | None
) -> None:
    context, disk = Recorder(tmp_path / "kept"), Disk(4, error)
    assert written(context, tmp_path / "model", lambda place: how(disk, place), step=7) == tmp_path / "model"
    assert disk.found == [False] * 4, "what was half-written takes room"
    assert clock[0] == 100.0 + 1 + 2 + 4
    assert context.reports == [(7, 1.0, {}, WAITS)] * 7
    assert len(context.lines) == 2
    assert "no room for model" in context.lines[0]
    assert "there is room" in context.lines[1]


def test_where_there_is_room_nothing_is_said(tmp_path: Path) -> None:
    context = Recorder(tmp_path / "kept")
    written(context, tmp_path / "model", Disk(1).folder)
    assert (context.lines, context.reports) == ([], [])


def test_it_does_not_wait_for_ever(tmp_path: Path, clock: list[float]) -> None:
    context, disk = Recorder(tmp_path / "kept"), Disk(10_000)
    with pytest.raises(DiskFull, match=r"no room for model below .* for 600 s: free some space.*last checkpoint"):
        written(context, tmp_path / "model", disk.folder)
    assert clock[0] == pytest.approx(100.0 + room.ROOM_S)
    assert not (tmp_path / "model").exists()
    gaps = room.ROOM_S / len(context.reports)
    assert gaps <= room.LOOK_S, "a sign of life at least every second"
    assert len(disk.found) < 60, "a try may write hundreds of megabytes"


def test_who_waits_leaves_when_it_is_asked_to(tmp_path: Path) -> None:
    context = Recorder(tmp_path / "kept", lambda polls: "checkpoint" if polls > 3 else "")
    with pytest.raises(Stopped, match="as asked: checkpoint"):
        written(context, tmp_path / "model", Disk(10_000).folder)


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "Permission denied"), ValueError("x"), SafetensorError("invalid header")):
        with pytest.raises(type(error)):
            written(Recorder(tmp_path / "kept"), tmp_path / f"{error}"[:5], Disk(10_000, error).folder)


def test_the_librarys_words_for_a_full_disk_are_understood() -> None:
    assert is_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"))
    assert not is_full(ValueError("(os error 28)"))


def test_patience_ends_in_the_middle_of_a_pause(clock: list[float]) -> None:
    ticks: list[float] = []
    patience = Patience(4.5, lambda: ticks.append(clock[0]))
    assert [patience.pause() for _ in range(4)] == [True, True, True, False]
    assert clock[0] == 104.5
    assert len(ticks) == 1 + 2 + 2


def test_the_disk_that_a_training_asks_for_holds_what_was_seen_to_lie_there() -> None:
    """880 steps of two layers of 1,024 units, a checkpoint every 25 ms: 4.5 MB of weights, 17.9 MB of state; at the
    peak 50.4 MB of objects, 17.9 MB of a plain copy, then 4.5 MB of model."""
    weights, state, peak = 4_480_000, 17_920_000, 50_400_000 + 17_920_000 + 4_480_000
    assert peak < room.of_training(state, weights) < 1.4 * peak
    needs = Classify().needs(
        Classify.Settings(hidden=(1024, 1024)), {"modality": "tabular", "features": 64, "labels": 3, "examples": 900}
    )
    assert peak <= needs.disk_bytes - (64 << 20) < 2 * peak
