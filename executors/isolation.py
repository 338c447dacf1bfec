"""Running a task in a child process without trusting it: the worker's side of `executors/child.py`.

    start      a fresh interpreter, leader of its own group; `ready` within READY_S or it is killed
    run        one task at a time: frames come back; wall time, silence and memory are watched once a second
    ending     Finished or Halted; a failure as the error class that says what it means for the task
    close      told to leave, then the whole group is killed, inside a shield; afterwards nothing of it runs

What goes wrong, and what it is called: exit, signal, torn or foreign frames, silence over `stall_s`, life over
`wall_s`: ChildBroke. Memory over its bound, or a kill from outside while memory was short: OutOfMemory. What the kind
itself raised arrives as Reject, OutOfMemory or Retry. Output on stderr goes to the log in bounded lines at a bounded
rate, its end into the error.

Memory is the resident memory of the whole group, looked at once a second, because an address-space limit breaks torch:
a task that allocates faster than that can still push the machine into its memory killer. A process that left the group
(setsid) escapes the kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil

from executors import frames
from executors.frames import (
    Checkpointed,
    Consult,
    Failed,
    Finished,
    Frame,
    Halted,
    Heeds,
    Logged,
    Placed,
    Progressed,
    Ready,
    Snapshotted,
    Start,
)
from executors.port import Runtime
from mesh import limits, metrics, platform
from mesh.errors import (
    ArtifactCorrupt,
    ChildBroke,
    DeviceBroke,
    EnvironmentUnfit,
    OutOfMemory,
    RamifyError,
    Reject,
    Retry,
)
from mesh.messages.commands import FailureClass

READY_S = 120.0
"""Longest time until a child is ready: importing torch from a cold, slow disk takes up to a minute."""

LIGHT_RUNS_MAX = 20_000
"""Tasks of one light child, then a fresh one: whatever its libraries leak stays bounded. A new child costs as much
processor time as a thousand of the shortest tasks."""

WATCH_S = 1.0
"""How often deadlines and memory are looked at."""

LEAVE_S = 2.0
"""How long a child that was told to leave may take."""

KILL_S = 10.0
"""How long the system may take to bury a killed child; a process stuck in a driver is left behind after it."""

MEMORY_SLACK = 1.25
"""A task may take this much of its leased memory, on top of what the empty child took: estimates are estimates."""

MEMORY_LEAST_BYTES = 64 * 1024 * 1024
"""Granted to every task whatever its needs say."""

SHORT_BYTES = 256 * 1024 * 1024
"""Memory left on the machine below which an unexplained SIGKILL counts as the system's own."""

LINES_PER_S = 20.0
LINES_BURST = 200
"""Lines of a child's output that reach the log: a burst, then a rate; others are counted."""

TAIL_LINES = 12
"""Last lines of output that an error quotes."""

LINE_BYTES_MAX = 64 * 1024
"""Output without a line break is cut here."""

REPOSITORY = Path(__file__).resolve().parents[1]

ENVIRONMENT_KEPT_OUT = ("NATS_", "RAMIFY_")
"""A child has no business with the broker, its credentials or our settings."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What one task may take."""

    wall_s: float
    stall_s: float
    memory_bytes: int


class Child:
    """One child process. Made by `start`, ended by `close` or `kill`; runs one task at a time."""

    def __init__(self, process: asyncio.subprocess.Process, runtime: Runtime, say: Callable[[str], None]) -> None:
        self.runtime = runtime
        self.ready: Ready | None = None
        self.runs = 0
        """Tasks begun."""
        self.step = 0
        """Step of the running task's last progress."""
        self.heard = time.monotonic()
        """When the last frame came."""
        self._process = process
        self._about = contextvars.Context()
        """The running (or last) task's trace, and what its log lines are about: not those of who started the child."""
        self._output = _Output(lambda text: self._about.run(say, text))
        self._hear: Callable[[Frame], None] = lambda frame: None
        self._line: Callable[[Frame], None] | None = None
        self._line_broke: Callable[[Exception], None] = lambda error: None
        self._ending: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._baseline_bytes = 0
        self._memory_was_short = False
        self._memory_kills = platform.memory_kills()
        self._readers = [
            asyncio.create_task(work, name=f"{what} of child {process.pid}", context=contextvars.Context())
            for what, work in (("frames", self._read_frames()), ("output", self._read_output()))
        ]

    @classmethod
    async def start(
        cls,
        runtime: Runtime,
        *,
        folder: Path,
        threads: int,
        say: Callable[[str], None],
        ready_s: float = READY_S,
        low_priority: bool = False,
    ) -> Child:
        """A child that is ready. folder: its current folder; threads: most it will use; say: takes lines for the log.

        ChildBroke when it does not get ready, EnvironmentUnfit when it can not be started at all.
        """
        argv = [sys.executable, "-P", "-m", "executors.child", runtime.value, str(os.getpid())]
        if low_priority:
            argv.append("--low-priority")
        began = time.monotonic()
        try:
            process = await platform.spawn_group_async(
                argv,
                env=environment(threads),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                die_with_parent=False,  # the child asks for it itself: cheaper than doing it between fork and exec
            )
        except OSError as error:
            raise EnvironmentUnfit(f"No child process can be started here: {error}.") from error
        child = cls(process, runtime, say)
        try:
            async with asyncio.timeout(ready_s):
                frame = await asyncio.shield(child._ending)
            if not isinstance(frame, Ready):
                raise ChildBroke(f"A child was expected to say it is ready; it said {frame.name!r}.")
        except TimeoutError:
            metrics.count("mesh_child_kills_total", reason="not ready")
            await child.kill()
            raise ChildBroke(f"A {runtime} child was not ready after {ready_s:g} s. {child.last_words}") from None
        except BaseException:
            await child.kill()
            raise
        child.ready = frame
        metrics.observe("mesh_child_start_seconds", time.monotonic() - began)
        child._baseline_bytes = await asyncio.to_thread(group_bytes, process.pid)
        return child

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while it can take a task."""
        return self._process.returncode is None and not self._readers[0].done()

    @property
    def tired(self) -> bool:
        """True when it has run so many tasks that a fresh one should take over."""
        return self.runs >= LIGHT_RUNS_MAX

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame."""
        return time.monotonic() - self.heard

    @property
    def last_words(self) -> str:
        """The end of its output, for an error."""
        return self._output.tail()

    async def run(self, start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Finished | Halted:
        """Run one task. hear: called for every frame that does not end it, in order.

        start.run must be `runs` + 1. After an error, or a cancellation, the child is dead and its group too.
        """
        self.runs, self.step, self.heard = start.run, 0, time.monotonic()
        self._about, self._memory_kills = contextvars.copy_context(), platform.memory_kills()
        self._hear = lambda frame: self._about.run(hear, frame)
        if not self._ending.done() or self._ending.exception() is None:
            self._ending = asyncio.get_running_loop().create_future()
        try:
            await self._send(start)
            ending = await self._watched(bounds)
        except BaseException:
            await self.kill()
            raise
        finally:
            self._hear = lambda frame: None
        if isinstance(ending, Failed):
            await self.kill()
            raise error_of(ending)
        assert isinstance(ending, Finished | Halted)
        return ending

    # -- tasks in line (executors/lane.py) ----------------------------------------------------------------------------

    def attach(self, hear: Callable[[Frame], None], broke: Callable[[Exception], None]) -> None:
        """Hand every frame to `hear`, and the reason to `broke` when the child is no more, until `detach`."""
        self._line, self._line_broke = hear, broke

    def detach(self) -> None:
        """Run one task at a time again."""
        self._line, self._line_broke = None, lambda error: None

    def next_run(self) -> int:
        """The number of one more task."""
        self.runs += 1
        return self.runs

    def post(self, *sent: Frame) -> None:
        """Write frames without waiting. A child that is gone is noticed by its reader."""
        if self.alive and self._process.stdin is not None:
            self._process.stdin.write(b"".join(map(frames.encode, sent)))

    async def over_bounds(self, bounds: Bounds, since: float) -> ChildBroke | OutOfMemory | None:
        """What a task that began at `since` (monotonic) is to be killed for, if it is."""
        if time.monotonic() >= since + bounds.wall_s:
            metrics.count("mesh_child_kills_total", reason="wall time")
            return ChildBroke(f"The task was still running after its limit of {bounds.wall_s:g} s and was killed.")
        if self.silent_s >= bounds.stall_s:
            metrics.count("mesh_child_kills_total", reason="silence")
            return ChildBroke(
                f"The task gave no sign of life for {bounds.stall_s:g} s and was killed. {self.last_words}"
            )
        allowed = self._baseline_bytes + max(MEMORY_LEAST_BYTES, int(bounds.memory_bytes * MEMORY_SLACK))
        used = await asyncio.to_thread(group_bytes, self.pid)
        self._memory_was_short = used > 0.9 * allowed or platform.memory_available() < SHORT_BYTES
        if used > allowed:
            metrics.count("mesh_child_kills_total", reason="memory")
            return OutOfMemory(
                f"The task may take {allowed >> 20} MiB (leased {bounds.memory_bytes >> 20} MiB, with the program "
                f"itself and some slack) and took {used >> 20} MiB: it was killed."
            )
        return None

    # -- ending -------------------------------------------------------------------------------------------------------

    def halt(self, reason: str) -> None:
        """Ask the running task to stop ('stop') or to checkpoint and stop ('checkpoint'). Does not wait."""
        if self.alive and self._process.stdin is not None:
            self._process.stdin.write(frames.encode(frames.Halt(run=self.runs, reason=reason)))

    def save(self) -> None:
        """Ask the running task for a checkpoint; it goes on. Does not wait."""
        self.post(frames.Save(run=self.runs))

    def release(self, run: int, number: int, *, unreadable: bool = False, lacked_room: bool = False) -> None:
        """Tell the task of this run that its snapshot `number`, and all before it, will not be read again. unreadable:
        its memory can not be opened here; lacked_room: this one was not kept, because the disk is full."""
        self.post(frames.Released(run=run, number=number, unreadable=unreadable, lacked_room=lacked_room))

    async def close(self) -> None:
        """Tell it to leave, give it LEAVE_S, and end its group."""
        if self.alive and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(frames.encode(frames.End()))
                self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the whole group and wait until it is gone; a cancellation waits for that too."""
        await to_its_end(self._bury())

    async def _bury(self) -> None:
        platform.kill_group(self.pid, hard=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S):
                await self._process.wait()
        platform.kill_group(self.pid, hard=True)  # what was forked while the first kill was on its way
        _, pending = await asyncio.wait(self._readers, timeout=LEAVE_S)
        for task in pending:
            task.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._ending.done() and not self._ending.cancelled():
            self._ending.exception()  # seen

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _send(self, frame: Frame) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frames.encode(frame))
            await self._process.stdin.drain()
        except OSError:
            await asyncio.wait({self._ending}, timeout=LEAVE_S)  # the reader knows better why
            if not self._ending.done():
                raise ChildBroke("The child no longer reads what it is sent.") from None

    async def _watched(self, bounds: Bounds) -> Frame:
        """The frame that ends the task, unless a bound is reached first."""
        since = time.monotonic()
        while True:
            done, _ = await asyncio.wait({self._ending}, timeout=self._next_look_s(since + bounds.wall_s, bounds))
            if done:
                return self._ending.result()
            error = await self.over_bounds(bounds, since)
            if error is not None:
                raise error

    def _next_look_s(self, deadline: float, bounds: Bounds) -> float:
        now = time.monotonic()
        return max(0.0, min(WATCH_S, deadline - now, self.heard + bounds.stall_s - now))

    async def _read_frames(self) -> None:
        """Hand frames on until the pipe ends or breaks; then the ending says why."""
        assert self._process.stdout is not None
        try:
            while (frame := await frames.read_async(self._process.stdout, frames.FROM_CHILD)) is not None:
                self._take(frame)
            error: Exception = await self._death()
        except Exception as broken:  # whatever breaks the reader must end the task, not leave it waiting
            error = broken if isinstance(broken, ChildBroke) else ChildBroke(f"Reading a child failed: {broken!r}.")
        if self._ending.done():
            self._ending = asyncio.get_running_loop().create_future()
        self._ending.set_exception(error)
        self._ending.exception()  # a child that dies while idle has nobody who asks
        self._line_broke(error)

    def _take(self, frame: Frame) -> None:
        if self._line is not None and not isinstance(frame, Logged):
            self.heard = time.monotonic()
            if isinstance(frame, Progressed):
                self.step = frame.step
            self._line(frame)
            return
        if not isinstance(frame, Ready) and getattr(frame, "run", 0) != self.runs:
            return  # of an earlier task
        self.heard = time.monotonic()
        if isinstance(frame, Progressed):
            self.step = frame.step
        if isinstance(frame, Logged):
            self._output.line(frame.text)
        elif isinstance(frame, Placed | Progressed | Snapshotted | Checkpointed | Heeds | Consult):
            self._hear(frame)
        elif not self._ending.done():
            self._ending.set_result(frame)

    async def _death(self) -> Exception:
        """What the end of the pipe means: how the process ended, and its last words."""
        try:
            async with asyncio.timeout(LEAVE_S):
                code = await self._process.wait()
        except TimeoutError:
            return ChildBroke("The child closed its connection to the worker but lives on.")
        await asyncio.wait({self._readers[1]}, timeout=LEAVE_S)
        if code == -getattr(signal, "SIGKILL", 9):
            if platform.memory_kills() > self._memory_kills:
                return OutOfMemory(f"The system killed the child (signal 9) for lack of memory. {self.last_words}")
            if self._memory_was_short:
                return OutOfMemory(
                    f"The child was killed from outside (signal 9) while memory was short: likely by the system. "
                    f"{self.last_words}"
                )
            return ChildBroke(f"The child was killed from outside (signal 9). {self.last_words}")
        return ChildBroke(f"The child ended with {_in_words(code)} before its task did. {self.last_words}")

    async def _read_output(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(LINE_BYTES_MAX):
            self._output.feed(data)
        self._output.end()


class _Output:
    """What a child prints: bounded lines at a bounded rate into the log, and the last ones at hand."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._credit, self._at = float(LINES_BURST), time.monotonic()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self.line(line.decode("utf-8", "replace"))
        if len(self._rest) > LINE_BYTES_MAX:
            self.end()

    def end(self) -> None:
        """Take what is left without a line break."""
        rest, self._rest = self._rest, b""
        self.line(rest.decode("utf-8", "replace"))

    def line(self, text: str) -> None:
        """Take one line."""
        text = "".join(c if c.isprintable() else " " for c in text[: limits.CHILD_LOG_LINE_CHARS_MAX]).strip()
        if not text:
            return
        self._tail.append(text)
        now = time.monotonic()
        self._credit = min(float(LINES_BURST), self._credit + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._credit < 1.0:
            self._left_out += 1
            return
        self._credit -= 1.0
        if self._left_out:
            self._say(f"({self._left_out} lines left out)")
            self._left_out = 0
        self._say(text)

    def tail(self) -> str:
        """The last lines as part of an error; '' when nothing was printed."""
        return f"Its last output: {' | '.join(self._tail)[-600:]}" if self._tail else ""


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Read by model libraries when they are imported: no kind fetches anything while it runs."""


def environment(threads: int) -> dict[str, str]:
    """A child's environment: ours without what is none of its business, our code's place, and bounded threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_KEPT_OUT)}
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    return kept | dict.fromkeys(pools, str(threads)) | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | OFFLINE


def group_bytes(pid: int) -> int:
    """Resident bytes of a process and everything below it; 0 when it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def error_of(failed: Failed) -> RamifyError:
    """A failure frame as the error of its class. ArtifactCorrupt: the checkpoint to continue from is not usable."""
    if failed.resume_unusable:
        return ArtifactCorrupt(failed.reason)
    if failed.device:
        return DeviceBroke(failed.reason)
    classes = {FailureClass.REJECT: Reject, FailureClass.MEMORY: OutOfMemory, FailureClass.RETRY: Retry}
    return classes[failed.failure](failed.reason)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; a cancellation waits for it too, and is raised afterwards."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise
