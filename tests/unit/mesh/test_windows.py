"""Transfers under way: as many as the way takes, never more than the window, and every place is given back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from mesh import limits, virtual_time
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


class Line:
    """An uplink of so many bytes a second that carries what was handed to it in order; it drops nothing."""

    def __init__(self, bytes_per_s: float, jitter_s: float = 0.0) -> None:
        self.bytes_per_s, self._jitter_s = bytes_per_s, jitter_s
        self.free_at = self.idle_s = 0.0
        self._chance = random.Random(7)

    async def carry(self, size: int) -> float:
        """Seconds until so many bytes are through, with all that is before them."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.idle_s += max(0.0, begun - self.free_at)
        self.free_at = max(self.free_at, begun) + size / self.bytes_per_s
        await asyncio.sleep(self.free_at - begun + self._chance.uniform(0.0, self._jitter_s))
        return loop.time() - begun


@pytest.mark.parametrize(
    ("mbit_s", "jitter_s"), [(1_000, 0.0), (100, 0.02), (20, 0.1), (8, 0.0), (8, 0.3), (4, 0.1), (2, 0.1)]
)
def test_signs_of_life_come_through_a_throttled_line(mbit_s: float, jitter_s: float) -> None:
    """The watchdog's question waits behind all chunks that are under way; after PONG_S without an answer the connection
    is given up. And the line is not left idle for it."""
    line = Line(mbit_s * 1e6 / 8, jitter_s)
    chunks, waits, ended = max(20, int(15 * mbit_s)), list[float](), 0.0

    async def pings() -> None:
        while True:
            await asyncio.sleep(limits.WATCH_S / 4)
            waits.append(await line.carry(20))

    async def run() -> None:
        nonlocal ended
        loop, pace = asyncio.get_running_loop(), Pace(clock=asyncio.get_running_loop().time)

        async def one(_: int) -> None:
            await pace.carry(lambda: line.carry(limits.CHUNK_BYTES))

        watching = asyncio.create_task(pings())
        await in_window(range(min(chunks, 400)), one)
        ended = loop.time()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    virtual_time.run(run())
    assert max(waits, default=0.0) < limits.PONG_S
    assert line.idle_s <= 0.2 * ended


def test_a_line_that_is_throttled_in_the_middle_is_got_used_to() -> None:
    """From 100 to 8 Mbit/s: what is under way in that moment, six megabytes, takes six seconds, and the connection may
    be lost once. What comes after it does not hold up a sign of life any more."""
    line, held_up = Line(100e6 / 8), list[tuple[int, float]]()

    async def run() -> None:
        pace = Pace(clock=asyncio.get_running_loop().time)

        async def one(number: int) -> None:
            if number == 100:
                line.bytes_per_s = 8e6 / 8

            async def transfer() -> None:
                held_up.append((number, await line.carry(limits.CHUNK_BYTES)))

            await pace.carry(transfer)

        await in_window(range(200), one)
        assert pace.width < limits.CHUNKS_IN_FLIGHT / 2

    virtual_time.run(run())
    worst = max(seconds for _, seconds in held_up)
    assert limits.PONG_S < worst < limits.CHUNKS_IN_FLIGHT * limits.CHUNK_BYTES / 1e6 + 1.0
    assert max(seconds for number, seconds in held_up if number > 100 + 2 * limits.CHUNKS_IN_FLIGHT) < limits.PONG_S
