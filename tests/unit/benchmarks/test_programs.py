"""Programs are timed, watched and ended, and leave nothing behind. Each program here is a few lines of Python."""

from __future__ import annotations

import os
import sys
import time

import psutil
import pytest

from benchmarks import processes, programs
from benchmarks.frame import Frame, environment

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_a_short_program_is_timed_with_its_output():
    ran = programs.timed(python("import sys; print('out'); sys.exit('err')"), timeout_s=30)
    assert (ran.code, ran.stdout.strip(), ran.stderr.strip(), ran.timed_out) == (1, "out", "err", False)
    assert ran.trouble == "it ended with code 1: err"
    assert ran.wall_s > 0


def test_a_short_program_costs_what_it_computes():
    busy = programs.timed(python("import time\nwhile time.process_time() < 0.3: pass"), timeout_s=30)
    assert 0.2 < busy.cpu_s <= busy.wall_s + 0.02  # counted in ticks


def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path):
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()"
    mark = str(tmp_path)
    ran = programs.timed(python(parent, "-c", SLEEPER, mark), timeout_s=0.5)
    assert ran.timed_out
    assert "did not end within" in ran.trouble
    wait_until(lambda: processes.family(mark) == [])


def test_a_started_program_is_seen_and_stopped(tmp_path):
    sign = tmp_path / "sign"
    touch = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); import time; time.sleep(60)"
    with programs.started(python(touch, str(sign)), mark=str(tmp_path)) as program:
        seen_s = program.wait(20, sign.exists)
        assert seen_s is not None
        assert seen_s <= program.wall_s
        assert [seen.pid for seen in program.tally.look()] == [program.pid]
        assert program.tally.rss_max_bytes > 1_000_000
        ran = program.stop(20)
    assert not ran.timed_out
    assert not psutil.pid_exists(program.pid)


def test_waiting_for_a_sign_ends_with_the_program(tmp_path):
    with programs.started(python("pass"), mark=str(tmp_path)) as program:
        assert program.wait(20, lambda: False) is None
        assert not program.running()


def test_a_stubborn_program_is_killed(tmp_path):
    with programs.started(python(STUBBORN), mark=str(tmp_path)) as program:
        wait_until(lambda: b"ready" in os.pread(program._out.fileno(), 10, 0))
        ran = program.stop(0.2)
    assert ran.timed_out
    assert ran.code != 0


def test_what_is_raised_beside_a_program_ends_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with programs.started(python(SLEEPER), mark=str(tmp_path)) as program:
            raise KeyboardInterrupt
    assert not psutil.pid_exists(program.pid)


def test_processor_time_counts_from_the_start_of_the_tally(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(60)"
    with programs.started(python(busy, str(tmp_path)), mark=str(tmp_path)) as program:
        wait_until(lambda: program.tally.look() and program.tally.cpu_s >= 0.2)  # counted in ticks
        later = processes.Tally(str(tmp_path), program.pid)
        later.look()
        assert later.cpu_s < program.tally.cpu_s


def test_a_child_without_the_mark_is_found_through_its_parent(tmp_path):
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], env={}).wait()"
    with programs.started(python(parent, SLEEPER), mark="nobody carries this", env=environment(tmp_path)):
        wait_until(lambda: len(processes.family(str(tmp_path))) == 2)


def test_a_home_takes_with_it_what_left_the_tree():
    leaver = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)"
    frame = Frame(quick=True)
    with frame.home() as home:
        (home / "kept").mkdir()
        ran = programs.timed(python(leaver, "-c", SLEEPER), timeout_s=20, env=environment(home))
        assert not ran.trouble
        orphans = processes.family(str(home))
        assert len(orphans) == 1
    assert not home.exists()
    assert not psutil.pid_exists(orphans[0].pid)
