"""Ray core on one node with one slot: tasks, or one actor (PEER_RAY=actor). Not durable: tasks die with the driver.

python -m benchmarks.peers.ray_core      the driver; Ray starts what else it needs
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import ray

from benchmarks.peers.driving import PAYLOAD, drive


@ray.remote
def noop(number: int, payload: str) -> int:
    """Nothing."""
    return number


@ray.remote
class Actor:
    """The same in one process that stays."""

    def noop(self, number: int, payload: str) -> int:
        """Nothing."""
        return number


class Driver:
    """Publishes and reads back with Ray's own calls."""

    def __init__(self) -> None:
        self._call: Callable[[int, str], Any] = noop.remote

    async def open(self) -> None:
        """Start a node."""
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=os.environ["PEER_RAY_FOLDER"],
            object_store_memory=100_000_000,
            logging_level="ERROR",
            log_to_driver=False,
        )
        if os.environ.get("PEER_RAY") == "actor":
            actor: Any = Actor
            self._call = actor.remote().noop.remote

    async def one(self, number: int) -> int:
        """A call and a get."""
        return int(ray.get(self._call(number, PAYLOAD)))

    async def many(self, numbers: range) -> list[int]:
        """All called, then one get."""
        return [int(value) for value in ray.get([self._call(number, PAYLOAD) for number in numbers])]

    async def submit(self, numbers: range) -> None:
        """Not part of a durability run."""
        raise NotImplementedError("Ray's tasks die with their driver")

    async def collect(self, numbers: range, within_s: float) -> int:
        """Not part of a durability run."""
        raise NotImplementedError("Ray's tasks die with their driver")

    async def close(self) -> None:
        """End the node."""
        ray.shutdown()


if __name__ == "__main__":
    asyncio.run(drive(Driver()))
