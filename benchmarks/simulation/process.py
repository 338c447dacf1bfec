"""A process in the simulation: a group of tasks that can be killed at any await, or stopped and continued.

    create_task -> the loop's task factory wraps the coroutine into Steps of the process in whose context it was made
    step        -> the process lives: the coroutine goes on        killed: it never goes on, no `finally` runs
                                                                   stopped: it goes on when the process does

That is what kill -9 and SIGSTOP do: timers and the network go on, the program does not. A cancellation or an answer
that arrives meanwhile is seen when the process goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any

from benchmarks.simulation.clocks import NumberedTask

CLOSES_MAX = 50
"""Times that a dead coroutine is closed: each one gets past one await of its endings."""


class Process:
    """One process, or a thread of one."""

    def __init__(self, name: str, parent: Process | None = None) -> None:
        """parent: this is a thread of it, which dies with it and may be stopped alone."""
        self.name = name
        self.killed = False
        self.stopped = False
        self.steps = 0
        self.dies_at = 0
        """Step at which it is killed; 0: never."""
        self.on_kill: list[Callable[[], None]] = []
        self.threads: list[Process] = []
        self._parent = parent
        self._held: list[asyncio.Future[None]] = []
        if parent is not None:
            parent.threads.append(self)

    @property
    def machine(self) -> str:
        """Name of the machine on which it runs."""
        return self.name.partition(".")[0]

    @property
    def runs(self) -> bool:
        """True while its tasks go on."""
        return not (self.killed or self.stopped)

    def kill(self) -> None:
        """As kill -9 does."""
        if self.killed:
            return
        if self._parent is not None and not self._parent.killed:
            self._parent.kill()
            return
        self.killed = True
        for thread in self.threads:
            thread.kill()
        for call in self.on_kill:
            call()

    def stop(self) -> None:
        """As SIGSTOP does to a process; a thread alone stands still when it is wedged."""
        self.stopped = True
        for thread in self.threads:
            thread.stop()

    def go_on(self) -> None:
        """As SIGCONT does."""
        self.stopped = False
        for thread in self.threads:
            thread.go_on()
        if self.killed:
            return
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)

    def step(self) -> bool:
        """Count one step of a task; True when it may be taken."""
        if self.killed or self.stopped:
            return False
        self.steps += 1
        if self.steps == self.dies_at:
            self.kill()
            return False
        return True

    def hold(self) -> asyncio.Future[None]:
        """What a task waits for that may not go on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append(future)
        return future

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Tasks that are made in this block belong to this process."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a task of this process."""
        with self.inside():
            return asyncio.get_running_loop().create_task(work, name=name)


WORLD = Process("world")
"""Whoever is no process of the mesh: it is never killed."""

_CURRENT: contextvars.ContextVar[Process] = contextvars.ContextVar("process", default=WORLD)


def machine_now() -> str:
    """Name of the machine whose program runs now."""
    return _CURRENT.get().machine


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose steps its process allows."""

    __slots__ = ("__name__", "__qualname__", "_coro", "_error", "_process")

    def __init__(self, coro: Coroutine[Any, Any, Any], process: Process) -> None:
        self._coro, self._process = coro, process
        self._error: BaseException | None = None
        self.__name__ = self.__qualname__ = getattr(coro, "__qualname__", "coroutine")

    def send(self, value: Any) -> Any:
        """The next step."""
        if not self._process.step():
            return self._wait()
        if self._error is None:
            return self._coro.send(value)
        error, self._error = self._error, None
        return self._coro.throw(error)

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """The next step, with an error: kept while the process may not go on."""
        error = kind if isinstance(kind, BaseException) else value if isinstance(value, BaseException) else kind()
        if not self._process.step():
            self._error = error
            return self._wait()
        self._error = None
        return self._coro.throw(error)

    def _wait(self) -> Any:
        future = self._process.hold()
        future._asyncio_future_blocking = True
        return future

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("steps are taken by a task")

    def close(self) -> None:
        """End it for good."""
        for _ in range(CLOSES_MAX):
            try:
                self._coro.close()
                return
            except RuntimeError:  # an ending that awaits: past it
                continue
            except Exception:  # an ending that fails without its loop: it is past, too
                return


def task_factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
    """Makes every task of the loop a task of the process in whose context it is made."""
    return NumberedTask(Steps(coro, _CURRENT.get()), loop=loop, **options)


def bury(loop: asyncio.AbstractEventLoop) -> None:
    """Close what never ended: tasks of killed processes hold on to what they waited for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what a dead task was made for was never awaited
        for task in sorted(asyncio.all_tasks(loop), key=hash):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro = task.get_coro()
            assert isinstance(coro, Steps)
            coro.close()
