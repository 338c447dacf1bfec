"""The worker's supervisor, with real processes that end in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agents import supervisor
from agents.supervisor import Supervisor
from mesh.errors import BusUnavailable, EnvironmentUnfit
from mesh.messages.leases import Gone

pytestmark = pytest.mark.process

LIFE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
lives = folder / "lives"
number = len(lives.read_text().split()) + 1 if lives.exists() else 1
with lives.open("a") as file:
    file.write(f"{os.getpid()}\\n")
ends = sys.argv[2].split(",")
end = ends[min(number, len(ends)) - 1]
if end != "4":  # no broker, no incarnation
    (folder / "incarnation").write_text(f"w1.{number:08}")
if end == "lost":
    sys.exit(4)
if end == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (folder / "ready").touch()
    time.sleep(600)
if end == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "ready").touch()
    time.sleep(600)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(end))
"""


class Watched:
    """A supervisor of scripted lives."""

    def __init__(self, folder: Path, ends: str, report: Callable[[Gone], None] | None = None) -> None:
        self.folder, self.said, self.reported = folder, list[str](), list[Gone]()

        async def tell(gone: Gone) -> None:
            self.reported.append(gone)
            if report is not None:
                report(gone)

        self.supervisor = Supervisor(
            [sys.executable, "-c", LIFE, str(folder), ends],
            dict(os.environ),
            worker="w1",
            incarnation_file=folder / "incarnation",
            grace_s=0.2,
            report=tell,
            say=self.said.append,
        )

    def lives(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "lives").read_text().split()]

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while not (self.folder / "ready").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_S_FIRST", 0.001)


async def test_a_worker_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "70,kill,0")
    assert await watched.supervisor.run() == 0
    assert [(gone.incarnation, gone.exit_code) for gone in watched.reported] == [
        ("w1.00000001", 70),
        ("w1.00000002", -signal.SIGKILL),
    ]
    assert "exit code 70" in watched.said[0]
    assert "signal 9" in watched.said[1]


@pytest.mark.parametrize("code", [2, 3, 4, 8, 9, 130])
async def test_what_a_restart_can_not_mend_is_not_restarted(tmp_path: Path, code: int) -> None:
    watched = Watched(tmp_path, str(code))
    assert await watched.supervisor.run() == code
    assert len(watched.lives()) == 1


async def test_five_quick_deaths_are_enough(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "1")
    with pytest.raises(EnvironmentUnfit, match="5 times in a row"):
        await watched.supervisor.run()
    assert len(watched.lives()) == len(watched.reported) == 5


async def test_long_lives_in_between_start_the_count_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "QUICK_S", 0.0)
    watched = Watched(tmp_path, "1,1,1,1,1,1,1,0")
    assert await watched.supervisor.run() == 0
    assert len(watched.lives()) == 8


async def test_an_outage_after_a_life_that_worked_is_no_reason_to_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_S_MAX", 0.01)
    lengths = iter([100.0, *[0.0] * 12])  # the first life works, then the broker is away for twelve
    clock = _Clock(lengths)
    monkeypatch.setattr(supervisor, "time", types.SimpleNamespace(monotonic=clock.now))
    watched = Watched(tmp_path, ",".join(["1", *["4"] * 11, "0"]))
    assert await watched.supervisor.run() == 0
    assert len(watched.lives()) == 13
    assert [gone.exit_code for gone in watched.reported] == [1], "a life without a broker held nothing"


async def test_a_key_that_was_taken_back_ends_it_also_after_a_life_that_worked(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "lost,9")
    assert await watched.supervisor.run() == 9
    assert len(watched.lives()) == 2


async def test_a_broker_that_was_reached_and_lost_is_waited_for_however_short_that_was(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "lost,4,lost,4,4,4,4,0")
    assert await watched.supervisor.run() == 0
    assert len(watched.lives()) == 8


class _Clock:
    """Tells each life its length: asked before it and after it."""

    def __init__(self, lengths: Iterator[float]) -> None:
        self._lengths, self._now, self._inside = lengths, 0.0, False

    def now(self) -> float:
        self._inside = not self._inside
        self._now += 0.0 if self._inside else next(self._lengths)
        return self._now


async def test_a_broker_that_is_away_does_not_keep_it_from_restarting(tmp_path: Path) -> None:
    def away(gone: Gone) -> None:
        raise BusUnavailable("nobody there")

    watched = Watched(tmp_path, "1,0", away)
    assert await watched.supervisor.run() == 0
    assert any("nobody there" in line for line in watched.said)


async def test_a_stop_is_passed_on_and_ends_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "wait")
    running = asyncio.create_task(watched.supervisor.run())
    await watched.until_ready()
    watched.supervisor.stop()
    watched.supervisor.stop()
    assert await running == 0
    assert watched.reported == []


async def test_one_that_does_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_EXTRA_S", 0.1)
    watched = Watched(tmp_path, "stubborn")
    running = asyncio.create_task(watched.supervisor.run())
    await watched.until_ready()
    watched.supervisor.stop()
    await running
    assert not psutil.pid_exists(watched.lives()[0])
    assert any("is killed" in line for line in watched.said)
