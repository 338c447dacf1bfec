"""Memory and processor time of a family of processes.

A family is one process, everything that carries a mark, and all their descendants. The mark is a unique text (the path
of a temporary home folder) in a command line or an environment: it finds what has left the tree, as a broker does that
outlives the command that started it. A child that was given a clean environment is found through its parent.

Processor time is read process by process; one that ended between two looks keeps what it had at the last one, so short
lives are underestimated by up to one interval. Memory is the resident set, shared pages counted for each process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

import psutil

MB = 1_000_000

KILL_PATIENCE_S = 10.0
"""How long processes that were asked to end are waited for before they are killed."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """One process at one moment."""

    pid: int
    started: float
    command: tuple[str, ...]
    rss_bytes: int
    cpu_s: float

    @property
    def identity(self) -> tuple[int, float]:
        """Number and start together: a number alone may be given again."""
        return (self.pid, self.started)


def family(mark: str, root: int | None = None) -> list[Seen]:
    """The process `root`, everything that carries `mark`, and all their descendants; never this process."""
    return [seen for process in _members(mark, root) if (seen := _look(process)) is not None]


def end(mark: str, patience_s: float = KILL_PATIENCE_S) -> int:
    """Ask the family of `mark` to end, kill what has not after `patience_s`; how many there were."""
    members = list(_members(mark, None))
    for process in members:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(members, timeout=patience_s)
    # What is started while its parent ends is caught by a second look.
    for process in [*left, *_members(mark, None)]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=patience_s)
    return len(members)


def _members(mark: str, root: int | None) -> Iterator[psutil.Process]:
    children: dict[int, list[psutil.Process]] = {}
    waiting: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
        if process.pid == root or _carries(process, mark):
            waiting.append(process)
    met = {os.getpid()}  # we may carry the mark ourselves; what we started counts only if it does too
    while waiting:
        process = waiting.pop()
        if process.pid not in met:
            met.add(process.pid)
            waiting += children.get(process.pid, [])
            yield process


def _carries(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if any(mark in argument for argument in process.cmdline()):
            return True
        return any(mark in value for value in process.environ().values())
    return False


def _look(process: psutil.Process) -> Seen | None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return Seen(
                process.pid,
                process.create_time(),
                tuple(process.cmdline()),
                int(process.memory_info().rss),
                float(times.user + times.system),
            )
    except psutil.Error:
        return None


class Tally:
    """What a family has used since the tally began, look by look."""

    def __init__(self, mark: str, root: int | None = None) -> None:
        self._mark, self.root = mark, root
        self._before = {seen.identity: seen.cpu_s for seen in family(mark, root)}
        self._last: dict[tuple[int, float], float] = {}
        self._started = time.perf_counter()
        self.rss_max_bytes = 0
        """Most memory that the family had at one look."""
        self.look()

    def look(self) -> list[Seen]:
        """Look again; the family as it is now."""
        members = family(self._mark, self.root)
        self._last.update({seen.identity: seen.cpu_s for seen in members})
        self.rss_max_bytes = max(self.rss_max_bytes, sum(seen.rss_bytes for seen in members))
        return members

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all members between the first and the last look."""
        return sum(cpu_s - self._before.get(identity, 0.0) for identity, cpu_s in self._last.items())

    @property
    def wall_s(self) -> float:
        """Seconds since the tally began."""
        return time.perf_counter() - self._started
