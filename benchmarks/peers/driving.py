"""A driver's half of the conversation with a benchmark: one JSON line in, one JSON line out.

    {"do": "one", "count": 300}        -> {"seconds": [0.004, …]}      one task at a time, submitted to read back
    {"do": "many", "count": 2000}      -> {"seconds": 1.7}             as many as the peer takes at once
    {"do": "submit", "count": 100}     -> {"accepted": 100}            returns when the peer has acknowledged them
    {"do": "collect", "within_s": 60}  -> {"missing": 0}               tasks of `submit` without a result by then
    end of input                       the driver ends

The driver is the publisher: it lives in a process of its own, so that its processor time counts, and it checks every
result that it reads. The first line that it writes is {"ready": true}. Standard library only: it runs beside any peer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Protocol

PAYLOAD = "x" * 200
"""What a task carries: about as much as a small task's arguments."""


class Work(Protocol):
    """What a peer's driver can do. Task `number` carries PAYLOAD and answers with its number."""

    async def open(self) -> None:
        """Connect."""

    async def one(self, number: int) -> int:
        """Submit a task, wait for its result, return it."""

    async def many(self, numbers: range) -> list[int]:
        """Submit all, read all results back; in order."""

    async def submit(self, numbers: range) -> None:
        """Submit all, however long the broker is away; returns when they are acknowledged."""

    async def collect(self, numbers: range, within_s: float) -> int:
        """Wait for the results of submitted tasks; how many have none."""

    async def close(self) -> None:
        """Disconnect."""


async def drive(work: Work) -> None:
    """Answer the benchmark until its input ends."""
    loop = asyncio.get_running_loop()
    await work.open()
    say({"ready": True})
    submitted, number = 0, 1_000_000
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            wish: dict[str, Any] = json.loads(line)
            count = int(wish.get("count", 0))
            try:
                if wish["do"] == "one":
                    say({"seconds": [await timed_one(work, number + index) for index in range(count)]})
                elif wish["do"] == "many":
                    say({"seconds": await timed_many(work, range(number, number + count))})
                elif wish["do"] == "submit":
                    await work.submit(range(submitted, submitted + count))
                    submitted += count
                    say({"accepted": count})
                else:
                    say({"missing": await work.collect(range(submitted), float(wish["within_s"]))})
            except Exception as error:  # whatever the peer raises is the answer; the benchmark decides
                say({"error": f"{type(error).__name__}: {error}"[:500]})
            number += count
    finally:
        await work.close()


async def timed_one(work: Work, number: int) -> float:
    """Seconds of one round trip."""
    begun = time.perf_counter()
    expect([await work.one(number)], range(number, number + 1))
    return time.perf_counter() - begun


async def timed_many(work: Work, numbers: range) -> float:
    """Seconds from the first submit to the last result."""
    begun = time.perf_counter()
    got = await work.many(numbers)
    seconds = time.perf_counter() - begun
    expect(got, numbers)
    return seconds


def expect(got: list[int], numbers: range) -> None:
    """RuntimeError unless the results are those of the tasks."""
    if sorted(got) != list(numbers):
        raise RuntimeError(f"expected the results of {len(numbers)} tasks, got {len(set(got))} different ones")


def say(answer: dict[str, Any]) -> None:
    """One line for the benchmark."""
    print(json.dumps(answer), flush=True)
