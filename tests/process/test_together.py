"""Several roles under one supervisor: started in order, started again, given up with a sentence, stopped in order."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from agents import together as together_
from agents.together import Together
from mesh.errors import EnvironmentUnfit, RamifyError
from tests.support.agents import until

pytestmark = pytest.mark.process

LIVE = """
import os, signal, sys, time
role, folder = sys.argv[1:]
def stop(*_):
    print(role, file=open(folder + "/stopped", "a"))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print(os.getpid(), file=open(folder + "/" + role + ".pids", "a"))
while True:
    time.sleep(0.01)
"""
STUBBORN = """
import os, signal, sys, time
role, folder = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), file=open(folder + "/" + role + ".pids", "a"))
time.sleep(600)
"""


@contextlib.asynccontextmanager
async def running(folder: Path, program: str, *roles: str, **options: object) -> AsyncIterator[Together]:
    """Children that run a small program instead of an agent."""
    folder.mkdir(exist_ok=True)
    found = Together(
        folder / "home", os.environ, worker_grace_s=0.0,
        argv=lambda role: [sys.executable, "-c", program, role, str(folder)], **options,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        await found.start(roles)
        yield found
    finally:
        await found.stop()


def pids(folder: Path, role: str) -> list[int]:
    try:
        return [int(line) for line in (folder / f"{role}.pids").read_text().splitlines()]
    except FileNotFoundError:
        return []


async def test_the_worker_stops_first_and_the_scheduler_last(tmp_path: Path) -> None:
    async with running(tmp_path, LIVE, "worker", "gate", "scheduler") as found:
        await until(lambda: all(pids(tmp_path, role) for role in found.roles), "it")
        assert found.roles == ["scheduler", "gate", "worker"]
    assert (tmp_path / "stopped").read_text().split() == ["worker", "gate", "scheduler"]
    assert not any(psutil.pid_exists(pid) for role in together_.ROLES for pid in pids(tmp_path, role))


async def test_a_killed_child_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together_, "PAUSE_S_FIRST", 0.01)
    said: list[str] = []
    async with running(tmp_path, LIVE, "gate", say=said.append) as found:
        await until(lambda: len(pids(tmp_path, "gate")) == 1, "it")
        psutil.Process(pids(tmp_path, "gate")[0]).kill()
        await until(lambda: len(pids(tmp_path, "gate")) == 2, "it")
        found.check()
    assert said[0].startswith("gate ended with code -9 and starts again")


async def test_a_child_that_dies_at_once_five_times_ends_it_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together_, "PAUSE_S_FIRST", 0.001)
    async with running(tmp_path, "print('the sky fell down.'); raise SystemExit(9)", "gate") as found:
        await until(lambda: found.failure is not None, "it")
        with pytest.raises(
            EnvironmentUnfit, match=r"gate .* 5 times in a row .* code 9 \(the sky fell down\)"
        ) as raised:
            found.check()
    assert str(found.log_of("gate")) in str(raised.value)


async def test_what_a_restart_can_not_mend_is_not_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    async with running(tmp_path, "raise SystemExit(3)", "gate", say=said.append) as found:
        await until(lambda: found.failure is not None, "it")
    assert "once" in str(found.failure)
    assert said == []


async def test_a_role_that_somebody_else_fills_is_let_go(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    async def needed(role: str, code: int) -> bool:
        asked.append((role, code))
        return False

    async with running(tmp_path, "raise SystemExit(3)", "scheduler", needed=needed) as found:
        await until(lambda: found.roles == [], "it")
        found.check()
    assert asked == [("scheduler", 3)]


async def test_a_question_that_can_not_be_asked_is_a_failure_and_not_a_silence(tmp_path: Path) -> None:
    async def needed(role: str, code: int) -> bool:
        raise RamifyError("the broker speaks in tongues")

    async with running(tmp_path, "raise SystemExit(3)", "scheduler", needed=needed) as found:
        await until(lambda: found.failure is not None, "it")
        with pytest.raises(RamifyError, match="tongues"):
            found.check()


async def test_a_child_that_will_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together_, "STOP_S", 0.05)
    async with running(tmp_path, STUBBORN, "gate"):
        await until(lambda: len(pids(tmp_path, "gate")) == 1, "it")
    assert not psutil.pid_exists(pids(tmp_path, "gate")[0])


async def test_a_home_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    found = Together(tmp_path / "home", os.environ, worker_grace_s=0.0)
    with pytest.raises(EnvironmentUnfit, match="--home"):
        await found.start(["gate"])
    await found.stop()


def test_a_large_log_is_set_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together_, "LOG_BYTES_MAX", 10)
    log = tmp_path / "gate.log"
    together_.set_aside(log)
    for content in ("a" * 20, "b" * 20, "c"):
        log.write_text(content)
        together_.set_aside(log)
    assert log.read_text() == "c"
    assert (tmp_path / "gate.log.1").read_text() == "b" * 20


def test_children_find_the_program_from_any_folder() -> None:
    environ = together_.with_checkout({"PYTHONPATH": "/elsewhere"})
    assert environ["PYTHONPATH"].split(os.pathsep) == [str(together_.CHECKOUT), "/elsewhere"]
