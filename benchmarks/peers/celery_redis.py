"""Celery with Redis as broker and result backend: one prefork child, late acknowledgement, JSON.

The visibility timeout is after how long Redis hands a task out again whose worker vanished; Celery's own is an hour, in
which no benchmark could wait for it. PEER_VISIBILITY_S says another.

    python -m celery -A benchmarks.peers.celery_redis worker …      the worker
    python -m benchmarks.peers.celery_redis                         the driver
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from celery import Celery
from celery.result import AsyncResult, ResultSet

from benchmarks.peers.driving import PAYLOAD, drive

REDIS = os.environ["PEER_REDIS"]
VISIBILITY_S = float(os.environ.get("PEER_VISIBILITY_S", "3600"))
RESULT_S = 120.0
PAUSE_S = 0.2

app = Celery("peer", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=128,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY_S},
    result_backend_transport_options={"visibility_timeout": VISIBILITY_S},
)


@app.task(name="noop")  # the worker imports this module, the driver runs it: its own name would differ
def noop(number: int, payload: str, seconds: float = 0.0) -> int:
    """Nothing, or a wait."""
    if seconds:
        time.sleep(seconds)
    return number


class Driver:
    """Publishes and reads back with Celery's own calls."""

    def __init__(self) -> None:
        self._results: dict[int, AsyncResult] = {}

    async def open(self) -> None:
        """Celery connects by itself."""

    async def one(self, number: int) -> int:
        """A delay and a get."""
        return int(noop.delay(number, PAYLOAD).get(timeout=RESULT_S))

    async def many(self, numbers: range) -> list[int]:
        """One producer for all, one join for all."""
        with app.producer_pool.acquire(block=True) as producer:
            handles = [noop.apply_async((number, PAYLOAD), producer=producer) for number in numbers]
        return [int(value) for value in ResultSet(handles).join_native(timeout=RESULT_S)]

    async def submit(self, numbers: range) -> None:
        """Each until Celery says that it was sent."""
        for number in numbers:
            while number not in self._results:
                try:
                    self._results[number] = noop.apply_async((number, PAYLOAD, pause_s(number)), retry=False)
                except Exception:  # whatever the broker's absence looks like today: try again
                    await asyncio.sleep(PAUSE_S)

    async def collect(self, numbers: range, within_s: float) -> int:
        """Look at all until they are there or the time is up."""
        waiting, give_up_at = set(numbers), time.monotonic() + within_s
        while waiting and time.monotonic() < give_up_at:
            with contextlib.suppress(Exception):  # Redis is on its way back
                waiting = {number for number in waiting if not self._results[number].ready()}
            await asyncio.sleep(PAUSE_S)
        return len(waiting)

    async def close(self) -> None:
        """Celery disconnects by itself."""


def pause_s(number: int) -> float:
    """How long a task of the durability run lasts: every tenth one is caught in the middle of its work."""
    return 0.2 if number % 10 == 0 else 0.0


if __name__ == "__main__":
    asyncio.run(drive(Driver()))
