"""The floor: durable task, scheduler's hop, durable result, pipelined by hand over nats-py, and nothing else.

    driver --SUBMIT--> scheduler --TASKS--> worker --RESULTS--> driver

Each stage stores its message before it acknowledges the one that it came from. One inbox takes all acknowledgements of
publishes, one standing pull is topped up at half. It keeps no lease, no epoch, no ledger: what a system does beyond
this is what it does for its user, and its price is the distance to this floor.

    python -m benchmarks.peers.raw_nats scheduler|worker|driver
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig

from benchmarks.peers.driving import PAYLOAD, drive

NATS = os.environ.get("PEER_NATS", "")
CREDIT = 512
"""Messages that a standing pull asks for."""

PULL_EXPIRES_NS = 300 * 1_000_000_000
RESULT_S = 120.0
DIGITS = 8

Then = Callable[[], Awaitable[None]]


class Publisher:
    """JetStream publishes with one inbox for all acknowledgements; `then` runs when a message is stored."""

    def __init__(self, client: Any) -> None:
        self._client, self._count, self._waiting = client, 0, dict[str, Then | None]()
        self._inbox = client.new_inbox()

    async def open(self) -> Publisher:
        """Listen for acknowledgements."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._stored)
        return self

    async def publish(self, subject: str, data: bytes, then: Then | None = None) -> None:
        """Send, and do not wait."""
        self._count += 1
        key = str(self._count)
        self._waiting[key] = then
        await self._client.publish(subject, data, reply=f"{self._inbox}.{key}")

    async def _stored(self, message: Any) -> None:
        if b'"error"' in message.data:
            raise RuntimeError(f"a message was not stored: {message.data!r}")
        then = self._waiting.pop(message.subject.rpartition(".")[2])
        if then is not None:
            await then()


class Pull:
    """A standing request for messages, topped up at half."""

    def __init__(
        self, client: Any, stream: str, durable: str, handle: Callable[[Any], Awaitable[None]], credit: int = CREDIT
    ) -> None:
        self._client, self._handle, self._credit, self._most = client, handle, 0, credit
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = client.new_inbox()

    async def open(self) -> None:
        """Begin."""
        await self._client.subscribe(self._inbox, cb=self._on_message)
        await self._ask(self._most)

    async def _ask(self, count: int) -> None:
        self._credit += count
        wish = json.dumps({"batch": count, "expires": PULL_EXPIRES_NS}).encode()
        await self._client.publish(self._next, wish, self._inbox)

    async def _on_message(self, message: Any) -> None:
        if message.headers and "Status" in message.headers:
            return
        self._credit -= 1
        if self._credit <= self._most // 2:
            await self._ask(self._most - self._credit)
        await self._handle(message)


async def stage(stream: str, durable: str, target: str, cut: int | None) -> None:
    """Take from a stream, store in the next, then acknowledge; for ever. cut: only so many first bytes go on."""
    client = await nats.connect(NATS)
    publisher = await Publisher(client).open()

    async def on_message(message: Any) -> None:
        async def acknowledge() -> None:
            await client.publish(message.reply, b"+ACK")

        await publisher.publish(target, message.data[:cut], acknowledge)

    await Pull(client, stream, durable, on_message).open()
    await asyncio.Event().wait()


class Driver:
    """Publishes to SUBMIT, hears RESULTS."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[int]] = {}

    async def open(self) -> None:
        """Make streams and consumers, and listen to results."""
        self._client = await nats.connect(NATS)
        jetstream = self._client.jetstream()
        for name in ("SUBMIT", "TASKS", "RESULTS"):
            keep = RetentionPolicy.LIMITS if name == "RESULTS" else RetentionPolicy.WORK_QUEUE
            await jetstream.add_stream(
                StreamConfig(name=name, subjects=[name.lower()], storage=StorageType.FILE, retention=keep)
            )
        for stream, durable in (("SUBMIT", "scheduler"), ("TASKS", "worker")):
            config = ConsumerConfig(durable_name=durable, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=5_000)
            await jetstream.add_consumer(stream, config)
        inbox = self._client.new_inbox()
        await self._client.subscribe(inbox, cb=self._on_result)
        listen = ConsumerConfig(
            deliver_subject=inbox, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
        )
        await jetstream.add_consumer("RESULTS", listen)
        self._publisher = await Publisher(self._client).open()

    async def _on_result(self, message: Any) -> None:
        future = self._futures.pop(int(message.data), None)
        if future is not None:
            future.set_result(int(message.data))

    async def _send(self, number: int) -> asyncio.Future[int]:
        future = self._futures[number] = asyncio.get_running_loop().create_future()
        await self._publisher.publish("submit", f"{number:0{DIGITS}d}{PAYLOAD}".encode())
        return future

    async def one(self, number: int) -> int:
        """One message, three streams."""
        return await asyncio.wait_for(await self._send(number), RESULT_S)

    async def many(self, numbers: range) -> list[int]:
        """All sent at once."""
        futures = [await self._send(number) for number in numbers]
        return list(await asyncio.wait_for(asyncio.gather(*futures), RESULT_S))

    async def submit(self, numbers: range) -> None:
        """Not part of a durability run."""
        raise NotImplementedError("the floor keeps no promises")

    async def collect(self, numbers: range, within_s: float) -> int:
        """Not part of a durability run."""
        raise NotImplementedError("the floor keeps no promises")

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "driver":
        asyncio.run(drive(Driver()))
    elif role == "scheduler":
        asyncio.run(stage("SUBMIT", "scheduler", "tasks", None))
    else:
        asyncio.run(stage("TASKS", "worker", "results", DIGITS))
