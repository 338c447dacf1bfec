"""The kind `noop`: it waits, makes bytes, keeps checkpoints, and fails as it is told."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from executors.kinds import noop
from executors.kinds.noop import Noop, NoopSettings
from executors.port import Made, Stopped
from mesh.errors import OutOfMemory, Retry, TaskRefused
from tests.support.datasets import Watching, job


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert 0 <= seconds <= 1.0
        self.now_s += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(noop, "time", made)
    return made


def run(
    tmp_path: Path, watching: Watching | None = None, *, more: dict[str, Any] | None = None, **settings: Any
) -> Made:
    scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
    return Noop().run(job(scratch, NoopSettings(**settings), "noop", **(more or {})), watching or Watching())


def test_it_takes_its_time_and_reports(tmp_path: Path, clock: Clock) -> None:
    watching = Watching()
    made = run(tmp_path, watching, seconds=3.0)
    assert clock.now_s == pytest.approx(103.0)
    assert made.kpis["seconds"] == pytest.approx(3.0)
    assert 6 <= len(watching.reports) <= 9
    assert watching.reports[-1][1] == 1.0
    assert run(tmp_path).outputs == {}


def test_its_payload_depends_on_the_seed_only(tmp_path: Path) -> None:
    one, two = (run(tmp_path, payload_bytes=1_500_000).outputs["payload"] for _ in range(2))
    assert one.stat().st_size == 1_500_000
    assert one.read_bytes() == two.read_bytes()
    other = run(tmp_path, payload_bytes=1_500_000, more={"seed": 8}).outputs["payload"]
    assert other.read_bytes() != one.read_bytes()


def test_it_stops_with_a_checkpoint_and_goes_on_from_it(tmp_path: Path, clock: Clock) -> None:
    watching = Watching(stop_after=5)
    with pytest.raises(Stopped):
        run(tmp_path, watching, seconds=10.0)
    (folder, number, trained_s) = watching.checkpoints[-1]
    assert number == 1
    assert 0 < trained_s < 10
    before_s = clock.now_s
    made = run(tmp_path, seconds=10.0, more={"resume": folder, "checkpoint_number": number, "trained_s": trained_s})
    assert clock.now_s - before_s == pytest.approx(10.0 - trained_s)
    assert made.kpis["attempts"] == 2.0


def test_a_checkpoint_comes_when_it_is_asked_for(tmp_path: Path, clock: Clock) -> None:
    class Asking(Watching):
        def saves_requested(self) -> int:
            return sum(clock.now_s >= at for at in (101.0, 101.5))

    watching = Asking()
    run(tmp_path, watching, seconds=2.0)
    assert [number for _, number, *_ in watching.checkpoints] == [1, 2]


def test_checkpoints_come_in_time(tmp_path: Path) -> None:
    watching = Watching()
    run(tmp_path, watching, seconds=5.0, checkpoint_s=1.0)
    assert [number for _, number, _ in watching.checkpoints] == [1, 2, 3, 4]


@pytest.mark.parametrize(("how", "error"), [("retry", Retry), ("reject", TaskRefused), ("memory", OutOfMemory)])
def test_it_fails_as_it_is_told(tmp_path: Path, how: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(tmp_path, fail=how)


def test_only_the_first_attempts_fail(tmp_path: Path) -> None:
    watching = Watching()
    with pytest.raises(Retry):
        run(tmp_path, watching, fail="retry", fail_attempts=1)
    folder, number, _ = watching.checkpoints[-1]
    made = run(tmp_path, fail="retry", fail_attempts=1, more={"resume": folder, "checkpoint_number": number})
    assert made.kpis["attempts"] == 2.0
    assert run(tmp_path, fail="memory", fail_attempts=2, more={"memory_attempts": 2}).stopped_by == "finished"


def test_it_hangs_in_silence(tmp_path: Path, clock: Clock) -> None:
    watching = Watching()
    with pytest.raises(Retry, match="hang"):
        run(tmp_path, watching, fail="hang")
    assert clock.now_s >= 3_700
    assert len(watching.reports) == 1


def test_its_settings_are_bounded() -> None:
    for settings in ({"seconds": -1.0}, {"seconds": 3_601.0}, {"fail": "burn"}, {"payload_bytes": 1 << 40}):
        with pytest.raises(ValueError, match="noop's"):
            NoopSettings(**settings)
    assert Noop().needs(NoopSettings(payload_bytes=1_000), {}).cores == 0


def test_it_holds_the_interpreter_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real clock
    turns: list[float] = []
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            turns.append(time.monotonic())

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        noop._hold_gil(0.5)
    finally:
        over.set()
        thread.join()
    longest_s = max(later - sooner for sooner, later in itertools.pairwise(turns))
    assert longest_s > 10 * sys.getswitchinterval()  # as often does a polite thread let others run
