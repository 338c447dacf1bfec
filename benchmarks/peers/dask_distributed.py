"""Dask distributed: a scheduler and one worker of one thread. Not durable: tasks live in the scheduler's memory.

python -m benchmarks.peers.dask_distributed      the driver
"""

from __future__ import annotations

import asyncio
import os

from distributed import Client

from benchmarks.peers.driving import PAYLOAD, drive

ADDRESS = os.environ.get("PEER_DASK", "")


def noop(number: int, payload: str) -> int:
    """Nothing."""
    return number


class Driver:
    """Publishes and reads back with Dask's own calls."""

    def __init__(self) -> None:
        self._client: Client | None = None

    async def open(self) -> None:
        """Connect to the scheduler."""
        self._client = await Client(ADDRESS, asynchronous=True)

    async def one(self, number: int) -> int:
        """A submit and a wait."""
        assert self._client is not None
        return int(await self._client.submit(noop, number, PAYLOAD, pure=False))

    async def many(self, numbers: range) -> list[int]:
        """One map, one gather."""
        assert self._client is not None
        futures = self._client.map(noop, list(numbers), [PAYLOAD] * len(numbers), pure=False)
        return [int(value) for value in await self._client.gather(futures)]

    async def submit(self, numbers: range) -> None:
        """Not part of a durability run."""
        raise NotImplementedError("Dask keeps its tasks in memory")

    async def collect(self, numbers: range, within_s: float) -> int:
        """Not part of a durability run."""
        raise NotImplementedError("Dask keeps its tasks in memory")

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.close()


if __name__ == "__main__":
    # The worker imports the function from this module; as the main program it would have to travel as bytes.
    from benchmarks.peers.dask_distributed import Driver as ImportedDriver

    asyncio.run(drive(ImportedDriver()))
