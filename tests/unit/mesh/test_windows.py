"""Transfers under way: as many as the way takes, never more than the window, and every place is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mesh import virtual_time
from mesh.errors import BusUnavailable, DiskFull
from mesh.windows import Pace, in_window


class Way:
    """A line that carries so many transfers a second, one after the other; it notes how many were under way."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.free_at = 0.0
        self.under_way = 0
        self.seen: list[int] = []
        self.longest = 0.0

    async def transfer(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.under_way += 1
        self.seen.append(self.under_way)
        self.free_at = max(self.free_at, begun) + 1 / self.per_second
        await asyncio.sleep(self.free_at - begun)
        self.under_way -= 1
        self.longest = max(self.longest, loop.time() - begun)


def moved(way: Way, count: int) -> float:
    """Virtual seconds of so many transfers."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        pace = Pace(12, loop.time)
        await in_window(range(count), lambda _: pace.carry(way.transfer), 12)
        return loop.time()

    return virtual_time.run(run())


def test_a_fast_way_is_filled_soon() -> None:
    way = Way(per_second=400)
    assert moved(way, 200) == pytest.approx(200 / 400)
    assert way.seen[:30][-1] == 12
    assert max(way.seen) == 12


@pytest.mark.parametrize("per_second", [8, 2, 1, 0.5])
def test_a_slow_way_is_kept_busy_and_never_for_long(per_second: float) -> None:
    way = Way(per_second)
    assert moved(way, 60) == pytest.approx(60 / per_second)
    assert way.longest <= max(3.0, 2 / per_second)


def test_a_way_that_changes_is_followed() -> None:
    way = Way(per_second=400)

    async def run() -> None:
        pace = Pace(12, asyncio.get_running_loop().time)
        await in_window(range(100), lambda _: pace.carry(way.transfer), 12)
        way.per_second = 1
        await in_window(range(60), lambda _: pace.carry(way.transfer), 12)
        assert pace.width < 4
        way.per_second = 400
        await in_window(range(60), lambda _: pace.carry(way.transfer), 12)
        assert pace.width == 12

    virtual_time.run(run())


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_every_place_is_given_back(end: str) -> None:
    pace, held, go = Pace(2), list[asyncio.Task[None]](), asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise BusUnavailable

    def begin(work: Callable[[], object]) -> asyncio.Task[None]:
        held.append(asyncio.create_task(pace.carry(work)))  # type: ignore[arg-type]
        return held[-1]

    for _ in range(6):
        begin(fail)
    await asyncio.sleep(0)
    if end == "cancelled":
        for task in held:
            task.cancel()
    go.set()
    await asyncio.gather(*held, return_exceptions=True)

    async def fine() -> str:
        return "fine"

    async with asyncio.timeout(5):
        assert await asyncio.gather(*(pace.carry(fine) for _ in range(20))) == ["fine"] * 20


async def test_a_cancellation_wins_over_a_failure_of_the_same_moment() -> None:
    """Else whoever repeats what failed would never end, although he was told to."""
    begun, fails = asyncio.Event(), asyncio.Event()

    async def work(_: int) -> None:
        begun.set()
        await fails.wait()
        raise DiskFull("The stream is full.")

    task = asyncio.create_task(in_window([1], work, width=1))
    await begun.wait()
    fails.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
