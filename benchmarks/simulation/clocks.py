"""The loop of a simulation: virtual time, blocking calls done in place, and every clock of the process bent to it.

Calls that a program puts into a thread are carried out at once, on the loop; their result arrives a moment later, so a
process can die between the disk's work and its return. Tasks hash by their number: a set of them has the same order in
every run. `time.monotonic` is the loop's time while a seed runs; `time.time` adds an offset that jumps.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from mesh.errors import InvariantBroken
from mesh.virtual_time import VirtualTimeLoop

T = TypeVar("T")

DISK_S = 0.002
"""How long a call that goes into a thread takes."""

WALL_S = 1_700_000_000.0
"""Where the wall clock starts: any date will do, but always the same."""


class NumberedTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    count = 0

    def __init__(self, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        NumberedTask.count += 1
        self._number = NumberedTask.count  # before the loop registers it in a set
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Soon(asyncio.Handle):
    """A handle that is made without a look at the debug mode: there is none here."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled, self._repr, self._source_traceback = False, None, None


class _Timer(asyncio.TimerHandle):
    """The same with a moment."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled, self._repr, self._source_traceback = False, None, None
        self._when, self._scheduled = when, False  # the heap keeps no account of what is cancelled


class SimulationLoop(VirtualTimeLoop):
    """Virtual time, without threads, sockets or signals: nothing outside is ever asked whether it is ready.

    A seed is some thousand turns of the loop, so it schedules by itself: timers lie on a heap of (when, number) pairs,
    which compare without a call into Python, and two timers of one moment fire in the order of their making. A timer
    that is cancelled stays there until its moment comes or the seed is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._soon: collections.deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """In the next turn."""
        handle = _Soon(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """So many virtual seconds from now."""
        when = self._jumping.now_s + delay
        handle = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """At this virtual time."""
        handle = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _run_once(self) -> None:
        """One turn, as the loop of asyncio takes it: what is due becomes ready, and all that is ready by now runs."""
        timers, soon, clock = self._timers, self._soon, self._jumping
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not (soon or self._stopping):  # type: ignore[attr-defined]
            if not timers:
                raise InvariantBroken("deadlock in virtual time: no task is ready and no timer is armed")
            clock.now_s = max(clock.now_s, timers[0][0])
        while timers and timers[0][0] <= clock.now_s:
            soon.append(heapq.heappop(timers)[2])
        for _ in range(len(soon)):
            handle = soon.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "a callback failed", "exception": error, "handle": handle})

    def close(self) -> None:
        """What is still armed never comes."""
        super().close()
        self._timers.clear()

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do it now; tell in DISK_S."""
        done: asyncio.Future[T] = self.create_future()

        def tell(error: BaseException | None, value: Any) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        try:
            value = func(*args)
        except Exception as error:
            self.call_later(DISK_S, tell, error, None)
        else:
            self.call_later(DISK_S, tell, None, value)
        return done


class WallClock:
    """The date of each machine, which may jump while durations do not."""

    def __init__(self, whose: Callable[[], str] = lambda: "") -> None:
        """whose: the machine that looks at it now."""
        self._whose = whose
        self._ahead_s: dict[str, float] = {}

    @property
    def offset_s(self) -> float:
        """What the machine that looks now adds to the loop's time."""
        return WALL_S + self._ahead_s.get(self._whose(), 0.0)

    def jump(self, seconds: float, machine: str = "") -> None:
        """Somebody sets a machine's clock."""
        self._ahead_s[machine] = self._ahead_s.get(machine, 0.0) + seconds


@contextlib.contextmanager
def bent_clocks(loop: asyncio.AbstractEventLoop, wall: WallClock) -> Iterator[None]:
    """While this holds, every clock of this process shows the loop's time."""
    names = ("monotonic", "monotonic_ns", "perf_counter", "time", "time_ns")
    real = {name: getattr(time, name) for name in names}

    def put(name: str, clock: Callable[[], float]) -> None:
        setattr(time, name, clock)

    put("monotonic", loop.time)
    put("monotonic_ns", lambda: int(loop.time() * 1e9))
    put("perf_counter", loop.time)
    put("time", lambda: loop.time() + wall.offset_s)
    put("time_ns", lambda: int((loop.time() + wall.offset_s) * 1e9))
    try:
        yield
    finally:
        for name, clock in real.items():
            setattr(time, name, clock)
