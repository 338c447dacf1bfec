"""Bounded parallel work on one event loop: a window over many items, and patience with a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from mesh import limits
from mesh.errors import BusUnavailable, RamifyError

T = TypeVar("T")

TRIES = 3
"""Attempts at one call while the broker does not answer, PAUSE_S times 1, 2, … apart: bridges a reconnection."""
PAUSE_S = 0.5


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

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(width):
                lanes.create_task(lane())
    except BaseExceptionGroup as group:
        raise first(group) from None


async def together(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Both results; when one fails, the other is cancelled and the failure raised."""
    try:
        async with asyncio.TaskGroup() as both:
            tasks = both.create_task(one), both.create_task(other)
    except BaseExceptionGroup as group:
        raise first(group) from None
    return tasks[0].result(), tasks[1].result()


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: one of ours if there is one."""
    return next((error for error in group.exceptions if isinstance(error, RamifyError)), group.exceptions[0])


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat an idempotent call while the broker does not answer, TRIES times in all."""
    for attempt in range(1, TRIES):
        try:
            return await call()
        except BusUnavailable:
            await asyncio.sleep(PAUSE_S * attempt)
    return await call()
