"""The warm pool: children that are ready before their task is there.

    take   a ready child of the runtime: an idle one, the coming spare, or a new one; then a new spare begins
    give   a light child goes back for the next task; every other one is closed: only a fresh process has clean memory
    tidy   (called every few seconds) closes spares and light children that nobody needed for IDLE_S

A runtime gets a spare only after it was used, and at most one: an idle machine holds no torch. `close` ends them all.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from executors.isolation import Child
from executors.port import Runtime
from mesh.errors import RamifyError

IDLE_S = 120.0
"""How long a spare waits: the tasks of one topic follow each other within seconds; a torch child holds 250 MB."""

LIGHT_IDLE_MAX = 4
"""Light children kept: each holds 20 MB."""


class Pool:
    """Children by runtime. For one event loop."""

    def __init__(self, *, folder: Path, threads: int, say: Callable[[str], None], low_priority: bool = False) -> None:
        """folder: current folder of children without a task; threads: most that any task will use."""
        self._folder, self._threads, self._say, self._low_priority = folder, threads, say, low_priority
        self._idle: dict[Runtime, list[tuple[float, Child]]] = defaultdict(list)
        self._spares: dict[Runtime, asyncio.Task[Child]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, runtime: Runtime) -> Child:
        """A ready child. ChildBroke or EnvironmentUnfit when none can be had."""
        idle = self.take_idle(runtime)
        if idle is not None:
            return idle
        child = await self._start_or_spare(runtime)
        self._want_spare(runtime)
        return child

    def take_idle(self, runtime: Runtime) -> Child | None:
        """A child that is ready now, if there is one."""
        while self._idle[runtime]:
            _, child = self._idle[runtime].pop()
            if child.alive:
                self._want_spare(runtime)
                return child
            self._end(child)
        return None

    def expect(self, runtime: Runtime) -> None:
        """A task of this runtime is likely to come soon: get a child ready."""
        self._want_spare(runtime)

    def give(self, child: Child) -> None:
        """Take back a child whose task has ended."""
        idle = self._idle[child.runtime]
        reusable = child.runtime is Runtime.LIGHT and child.alive and not child.tired
        if reusable and len(idle) < LIGHT_IDLE_MAX and not self._closed:
            idle.append((time.monotonic(), child))
        else:
            self._end(child)

    def tidy(self, now: float | None = None) -> None:
        """Close what has been idle too long. now: monotonic seconds."""
        limit = (time.monotonic() if now is None else now) - IDLE_S
        for runtime, idle in self._idle.items():
            for since, child in idle:
                if since < limit or not child.alive:
                    self._end(child)
            self._idle[runtime] = [(since, child) for since, child in idle if since >= limit and child.alive]

    async def close(self) -> None:
        """End all idle and coming children; those that are taken belong to their takers."""
        self._closed = True
        spares = list(self._spares.values())
        for spare in spares:
            spare.cancel()
        await asyncio.gather(*spares, return_exceptions=True)
        for idle in self._idle.values():
            for _, child in idle:
                self._end(child)
            idle.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _start(self, runtime: Runtime) -> Child:
        return await Child.start(
            runtime, folder=self._folder, threads=self._threads, say=self._say, low_priority=self._low_priority
        )

    async def _start_or_spare(self, runtime: Runtime) -> Child:
        """The spare that is on its way, or a new child."""
        spare = self._spares.pop(runtime, None)
        if spare is None:
            return await self._start(runtime)
        try:
            return await spare
        except asyncio.CancelledError:
            spare.cancel()
            raise

    def _want_spare(self, runtime: Runtime) -> None:
        """Begin a spare unless one is here or coming. A light child is ready in a blink and comes back: no spare."""
        if self._closed or runtime is Runtime.LIGHT or self._idle[runtime] or runtime in self._spares:
            return
        spare = asyncio.create_task(
            self._start(runtime), name=f"spare {runtime} child", context=contextvars.Context()
        )  # it is nobody's yet: what is logged of it belongs to no task's trace
        self._spares[runtime] = spare
        spare.add_done_callback(lambda task: self._shelve(runtime, task))

    def _shelve(self, runtime: Runtime, spare: asyncio.Task[Child]) -> None:
        """A spare is ready (or failed): keep it, unless somebody is already waiting for just this one."""
        if self._spares.get(runtime) is not spare:
            return
        del self._spares[runtime]
        if spare.cancelled():
            return
        error = spare.exception()
        if error is None:
            self._idle[runtime].append((time.monotonic(), spare.result()))
        elif isinstance(error, RamifyError):
            self._say(f"a spare {runtime} child could not be made: {error}")
        else:
            raise error

    def _end(self, child: Child) -> None:
        """Close a child in the background; `close` waits for it."""
        task = asyncio.create_task(child.close(), name=f"closing child {child.pid}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
