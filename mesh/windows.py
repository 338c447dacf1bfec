"""Bounded parallel work on one event loop: a window over many items, as many at a time as the way there takes, and
patience with a broker that is away."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from mesh import limits
from mesh.errors import BusUnavailable, RamifyError

T = TypeVar("T")

TRIES = 3
"""Attempts at one call while the broker does not answer, PAUSE_S times 1, 2, … apart: bridges a reconnection."""
PAUSE_S = 0.5


QUICK_S, SLOW_S = 1.0, 2.0
"""A transfer within the first says that there is room for one more, beyond the second that there are too many: a sign
of life waits behind all that is under way, and after 4 s of silence the connection is given up."""

PACE_FIRST = 2
"""Transfers that are begun with: a megabyte, which a home's uplink carries in a second or two."""


class Pace:
    """How many transfers may be under way in one direction: so many that each is done within a second or two.

    A fast way is filled after some ten transfers; on a slow one a single chunk is left, which takes its time. Additive
    increase, multiplicative decrease, once in each round of transfers.
    """

    def __init__(self, most: int = limits.CHUNKS_IN_FLIGHT, clock: Callable[[], float] = time.monotonic) -> None:
        self.width = float(min(PACE_FIRST, most))
        self._most, self._clock = most, clock
        self._busy = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._slowed_at = 0.0

    async def carry(self, transfer: Callable[[], Awaitable[T]]) -> T:
        """Run a transfer when there is room for it."""
        if self._busy >= int(self.width) or self._waiting:
            await self._turn()
        self._busy += 1
        begun = self._clock()
        try:
            done = await transfer()
        except BusUnavailable:
            self._learn(begun, SLOW_S + 1)
            raise
        finally:
            self._busy -= 1
            self._wake()
        self._learn(begun, self._clock() - begun)
        return done

    async def _turn(self) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._busy -= 1
                self._wake()
            raise
        self._busy -= 1  # it was counted for us until now

    def _wake(self) -> None:
        while self._waiting and self._busy < int(self.width):
            following = self._waiting.popleft()
            if not following.done():
                self._busy += 1
                following.set_result(None)

    def _learn(self, begun: float, took_s: float) -> None:
        if took_s < QUICK_S:
            self.width = min(float(self._most), self.width + 1)
        elif took_s > SLOW_S and begun >= self._slowed_at:  # what was begun before the last change says nothing of it
            self.width = max(1.0, self.width / 2)
            self._slowed_at = self._clock()
        self._wake()


async def in_window(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], width: int = limits.CHUNKS_IN_FLIGHT
) -> None:
    """`work` on every item, at most `width` at a time; the first failure cancels the rest and is raised.

    Items are taken one by one as places become free, so an endless or large iterable costs no memory.
    """
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await work(item)

    await all_of(lane() for _ in range(width))


async def together(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Both results; when one fails, the other is cancelled and the failure raised."""
    results = await all_of((one, other))
    return results[0], results[1]


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; when one fails, the others are cancelled and the failure is raised, ours if there are several.

    No `asyncio.TaskGroup`: until Python 3.13 it forgets a cancellation from outside when a task fails in the same
    moment, and who was told to end would try on for ever.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if errors:
        raise next((error for error in errors if isinstance(error, RamifyError)), errors[0])
    return [task.result() for task in tasks]


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end although whoever waits for it is cancelled: he hears of that afterwards."""
    doing = asyncio.create_task(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait({doing})
        raise


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat an idempotent call while the broker does not answer, TRIES times in all."""
    for attempt in range(1, TRIES):
        try:
            return await call()
        except BusUnavailable:
            await asyncio.sleep(PAUSE_S * attempt)
    return await call()
