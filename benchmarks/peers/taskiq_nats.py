"""Taskiq on JetStream (taskiq-nats), results in the object store of the same server.

A task is acknowledged after its result was stored. Results are polled every 2 ms, a hundred times as often as by
default. Each read of a result leaves two consumers of its stream behind until the server removes them, and the server
allows a thousand: a run can not read more than some 400 results.

    python -m taskiq worker benchmarks.peers.taskiq_nats:broker …      the worker
    python -m benchmarks.peers.taskiq_nats                             the driver
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from benchmarks.peers.driving import PAYLOAD, drive

NATS = os.environ["PEER_NATS"]
RESULT_S = 120.0
POLL_S = 0.002
IN_FLIGHT = 64
PAUSE_S = 0.2

if REDIS := os.environ.get("PEER_REDIS", ""):
    from taskiq_redis import RedisAsyncResultBackend

    backend: Any = RedisAsyncResultBackend(f"{REDIS}/1")
else:
    backend = NATSObjectStoreResultBackend(NATS)
broker = PullBasedJetStreamBroker(NATS, pull_consume_batch=100, pull_consume_timeout=1.0).with_result_backend(backend)


@broker.task(task_name="noop")
async def noop(number: int, payload: str, seconds: float = 0.0) -> int:
    """Nothing, or a wait."""
    if seconds:
        await asyncio.sleep(seconds)
    return number


class Driver:
    """Publishes and reads back with Taskiq's own calls, so many at a time."""

    def __init__(self) -> None:
        self._sent: dict[int, Any] = {}
        self._limited = asyncio.Semaphore(IN_FLIGHT)

    async def open(self) -> None:
        """Connect the broker and the result backend."""
        await broker.startup()

    async def one(self, number: int) -> int:
        """A kiq and a wait."""
        return await self._result(await noop.kiq(number, PAYLOAD))

    async def many(self, numbers: range) -> list[int]:
        """All sent, then all read."""

        async def send(number: int) -> Any:
            async with self._limited:
                return await noop.kiq(number, PAYLOAD)

        async def read(sent: Any) -> int:
            async with self._limited:
                return await self._result(sent)

        sent = await asyncio.gather(*(send(number) for number in numbers))
        return list(await asyncio.gather(*(read(one) for one in sent)))

    async def _result(self, sent: Any) -> int:
        answer = await sent.wait_result(check_interval=POLL_S, timeout=RESULT_S)
        return int(answer.return_value)

    async def submit(self, numbers: range) -> None:
        """Each until JetStream has acknowledged it."""
        for number in numbers:
            while number not in self._sent:
                try:
                    self._sent[number] = await asyncio.wait_for(noop.kiq(number, PAYLOAD, pause_s(number)), 5.0)
                except Exception:  # whatever the broker's absence looks like today: try again
                    await asyncio.sleep(PAUSE_S)

    async def collect(self, numbers: range, within_s: float) -> int:
        """Look at all until they are there or the time is up."""
        waiting, give_up_at = set(numbers), time.monotonic() + within_s
        while waiting and time.monotonic() < give_up_at:
            for number in sorted(waiting):
                try:
                    if await asyncio.wait_for(self._sent[number].is_ready(), 5.0):
                        waiting.discard(number)
                except Exception:  # the broker is on its way back
                    break
            await asyncio.sleep(PAUSE_S)
        return len(waiting)

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()


def pause_s(number: int) -> float:
    """How long a task of the durability run lasts: every tenth one is caught in the middle of its work."""
    return 0.2 if number % 10 == 0 else 0.0


if __name__ == "__main__":
    asyncio.run(drive(Driver()))
