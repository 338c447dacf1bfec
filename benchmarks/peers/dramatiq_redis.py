"""Dramatiq with Redis as broker and result backend: one process with eight threads, its defaults.

python -m dramatiq benchmarks.peers.dramatiq_redis -p 1 -t 8      the worker
python -m benchmarks.peers.dramatiq_redis                         the driver
"""

from __future__ import annotations

import asyncio
import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.driving import PAYLOAD, drive

REDIS = os.environ["PEER_REDIS"]
RESULT_MS = 120_000

broker = RedisBroker(url=f"{REDIS}/0")
broker.add_middleware(Results(backend=RedisBackend(url=f"{REDIS}/1")))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, queue_name="noop")
def noop(number: int, payload: str) -> int:
    """Nothing."""
    return number


class Driver:
    """Publishes and reads back with Dramatiq's own calls."""

    async def open(self) -> None:
        """Dramatiq connects by itself."""

    async def one(self, number: int) -> int:
        """A send and a blocking read."""
        return int(noop.send(number, PAYLOAD).get_result(block=True, timeout=RESULT_MS))

    async def many(self, numbers: range) -> list[int]:
        """All sent, then all read."""
        sent = [noop.send(number, PAYLOAD) for number in numbers]
        return [int(one.get_result(block=True, timeout=RESULT_MS)) for one in sent]

    async def submit(self, numbers: range) -> None:
        """Not part of a durability run."""
        raise NotImplementedError("Dramatiq takes no part in the durability run")

    async def collect(self, numbers: range, within_s: float) -> int:
        """Not part of a durability run."""
        raise NotImplementedError("Dramatiq takes no part in the durability run")

    async def close(self) -> None:
        """Let go of the connections."""
        broker.close()


if __name__ == "__main__":
    # The worker knows the actor under the module's own name; as the main program it is another one.
    from benchmarks.peers.dramatiq_redis import Driver as ImportedDriver

    asyncio.run(drive(ImportedDriver()))
