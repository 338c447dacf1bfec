"""Programs that are started, timed, watched and ended.

    timed      a short program: exact wall time, nothing else runs meanwhile
    started    a long one: look at its family, wait for a sign of it, end it and everything it left

Every program leads a process group of its own and dies with this one. Its output goes to files, never to a pipe that
could fill; the last part of it is kept for the sentence that says why it failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from benchmarks.processes import Tally
from mesh import platform

OUTPUT_BYTES_MAX = 1_000_000
"""Of each output stream, the last part that is kept."""

POLL_S = 0.02
"""Between two looks for a sign: its error in a time of seconds."""

LOOK_S = 1.0
"""Between two looks at the family. One look costs some 10 ms, so it takes about 1 % of a core from what it measures."""

STOP_S = 60.0
"""Patience with a program that was asked to stop: a mesh hands leases back and writes checkpoints."""


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a program ended."""

    argv: tuple[str, ...]
    code: int
    """Exit code; negative: ended by that signal."""
    wall_s: float
    cpu_s: float
    """Processor seconds of it and of what it waited for; steadier than wall time on a busy machine."""
    stdout: str
    stderr: str
    timed_out: bool = False

    @property
    def trouble(self) -> str:
        """Why this run is no measurement, in a sentence; empty when it is one."""
        if self.timed_out:
            return f"it did not end within {self.wall_s:.0f} s"
        if self.code == 0:
            return ""
        lines = self.stderr.strip().splitlines()
        return f"it ended with code {self.code}" + (f": {lines[-1].strip()[:300]}" if lines else "")


def timed(
    argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ran:
    """Run a program to its end; its group is killed after `timeout_s`. OSError when it can not be started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        cpu_s, begun = cpu_of_children_s(), time.perf_counter()
        process = platform.spawn_group(argv, env=env, cwd=cwd, stdout=out, stderr=err, die_with_parent=True)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            platform.kill_group(process.pid, hard=True)

        # A wait with a timeout of its own polls, up to 50 ms apart; a blocking one ends with the program.
        watch = threading.Timer(timeout_s, give_up)
        watch.start()
        try:
            code = process.wait()
            wall_s, cpu_s = time.perf_counter() - begun, cpu_of_children_s() - cpu_s
        finally:
            watch.cancel()
            watch.join()
            if process.poll() is None:  # interrupted
                platform.kill_group(process.pid, hard=True)
                process.wait()
        return Ran(tuple(argv), code, wall_s, cpu_s, _tail(out), _tail(err), late.is_set())


def cpu_of_children_s() -> float:
    """Processor seconds of all children that were waited for. 0 on Windows, which does not count them."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


class Program:
    """A program that runs."""

    def __init__(
        self, argv: Sequence[str], process: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes], tally: Tally
    ) -> None:
        self._argv, self._process, self._out, self._err = tuple(argv), process, out, err
        self._begun = time.perf_counter()
        self._wall_s: float | None = None
        self.tally = tally

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def wall_s(self) -> float:
        """Seconds since its start; after its end, its whole life."""
        return self._wall_s if self._wall_s is not None else time.perf_counter() - self._begun

    def running(self) -> bool:
        """True until it has ended."""
        if self._process.poll() is None:
            return True
        if self._wall_s is None:
            self._wall_s = time.perf_counter() - self._begun
        return False

    def wait(self, timeout_s: float, until: Callable[[], bool] | None = None) -> float | None:
        """Seconds since the start at which `until()` was true (without: at which it had ended); None when it was not.

        Not after `timeout_s` from now, and not when the program ended without the sign.
        """
        give_up_at = time.perf_counter() + timeout_s
        look_at = time.perf_counter() + LOOK_S
        while True:
            ended = not self.running()
            if until is None and ended:
                return self.wall_s
            if until is not None and until():
                return self.wall_s if ended else time.perf_counter() - self._begun
            now = time.perf_counter()
            if ended or now >= give_up_at:
                return None
            if now >= look_at:
                self.tally.look()
                look_at = time.perf_counter() + LOOK_S
            time.sleep(POLL_S)

    def stop(self, patience_s: float = STOP_S) -> Ran:
        """Ask it to stop, kill its group when it does not; how it ended."""
        late = False
        if self.running():
            self.tally.look()
            platform.kill_group(self.pid, hard=False)
            late = self.wait(patience_s) is None
        if late:
            platform.kill_group(self.pid, hard=True)
            self._process.wait()
            self.running()
        return Ran(
            self._argv,
            self._process.returncode,
            self.wall_s,
            self.tally.cpu_s,
            _tail(self._out),
            _tail(self._err),
            late,
        )


@contextlib.contextmanager
def started(
    argv: Sequence[str], *, mark: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Program]:
    """A program that runs inside the `with`, stopped at its end. OSError when it can not be started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        tally = Tally(mark)  # what is there already counts from here, the program from its first moment
        process = platform.spawn_group(argv, env=env, cwd=cwd, stdout=out, stderr=err, die_with_parent=True)
        tally.root = process.pid
        try:
            program = Program(argv, process, out, err, tally)
            yield program
            program.stop()
        finally:
            if process.poll() is None:  # something was raised: no patience
                platform.kill_group(process.pid, hard=True)
                process.wait()


def _tail(file: IO[bytes]) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - OUTPUT_BYTES_MAX))
    return file.read().decode("utf-8", "replace")
