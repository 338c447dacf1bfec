"""One file to a store and back, in ways that are not Ramify's: each transfer is a process of its own.

    chunks     512 KiB chunks, WINDOW publishes in flight, pipelined by hand over nats-py; back through a standing pull
    objects    nats-py's object store, as its documentation uses it
    http       one PUT and one GET, streamed, against benchmarks/peers/http_upload.py
    copy       no network: read, SHA-256, write

Every way computes the SHA-256 of what it moves, and syncs what it writes. Imports and connections are not timed.

    python -m benchmarks.peers.moving WAY put|get FILE ADDRESS      FILE: the source, or the target
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

from benchmarks.mover import Timer, report

CHUNK_BYTES = 512 * 1024
WINDOW = 16
BLOCK_BYTES = 1 << 20


def synced(file: IO[bytes]) -> None:
    """On the disk."""
    file.flush()
    os.fsync(file.fileno())


async def chunks(operation: str, file: Path, address: str) -> Timer:
    """A publisher and a reader without anything that could be left out."""
    import nats
    from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

    from benchmarks.peers.raw_nats import Publisher, Pull

    client = await nats.connect(address)
    stream, digest = client.jetstream(), hashlib.sha256()
    if operation == "put":
        await stream.add_stream(StreamConfig(name="CHUNKS", subjects=["chunks.>"], storage=StorageType.FILE))
        publisher, places = await Publisher(client).open(), asyncio.Semaphore(WINDOW)

        async def stored() -> None:
            places.release()

        with Timer() as timer, file.open("rb") as source:
            while data := source.read(CHUNK_BYTES):
                await places.acquire()
                digest.update(data)
                await publisher.publish("chunks.file", data, stored)
            for _ in range(WINDOW):
                await places.acquire()
    else:
        size = (await stream.stream_info("CHUNKS")).state.bytes
        count = (await stream.stream_info("CHUNKS")).state.messages
        await stream.add_consumer("CHUNKS", ConsumerConfig(durable_name="reader", ack_policy=AckPolicy.NONE))
        done, left = asyncio.Event(), count
        with Timer() as timer, file.open("wb") as target:

            async def take(message: Any) -> None:
                nonlocal left
                digest.update(message.data)
                target.write(message.data)
                left -= 1
                if not left:
                    done.set()

            await Pull(client, "CHUNKS", "reader", take, WINDOW).open()
            async with asyncio.timeout(600 + size / 1e6):
                await done.wait()
            synced(target)
    await client.close()
    return timer


async def objects(operation: str, file: Path, address: str) -> Timer:
    """nats-py's object store with chunks of 512 KiB."""
    import nats
    from nats.js.api import ObjectMeta, ObjectMetaOptions

    client = await nats.connect(address)
    stream = client.jetstream()
    if operation == "put":
        store = await stream.create_object_store("files")
        meta = ObjectMeta(name="file", options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
        with Timer() as timer, file.open("rb") as source:
            await store.put("file", source, meta=meta)
    else:
        store = await stream.object_store("files")
        with Timer() as timer, file.open("wb") as target:
            await store.get("file", writeinto=target)
            synced(target)
    await client.close()
    return timer


async def http(operation: str, file: Path, address: str) -> Timer:
    """A plain upload and download."""
    import aiohttp

    digest = hashlib.sha256()

    async def blocks() -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            while data := source.read(BLOCK_BYTES):
                digest.update(data)
                yield data

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        with Timer() as timer:
            if operation == "put":
                async with session.put(f"{address}/file", data=blocks()) as answer:
                    assert (await answer.text()) == digest.hexdigest()
            else:
                async with session.get(f"{address}/file") as answer:
                    with file.open("wb") as target:
                        async for data in answer.content.iter_chunked(BLOCK_BYTES):
                            digest.update(data)
                            target.write(data)
                        synced(target)
    return timer


async def copy(operation: str, file: Path, address: str) -> Timer:
    """Read, hash, write; `address` is the other file."""
    source_path, target_path = (file, Path(address)) if operation == "put" else (Path(address), file)
    digest = hashlib.sha256()
    with Timer() as timer, source_path.open("rb") as source, target_path.open("wb") as target:
        while data := source.read(BLOCK_BYTES):
            digest.update(data)
            target.write(data)
        synced(target)
    return timer


WAYS = {"chunks": chunks, "objects": objects, "http": http, "copy": copy}

if __name__ == "__main__":
    way, operation, file, address = sys.argv[1:5]
    if way == "http":
        import aiohttp  # noqa: F401 - imports are not part of the transfer
    elif way != "copy":
        import nats.js.api  # noqa: F401
    report(asyncio.run(WAYS[way](operation, Path(file), address)))
