"""Many readers of the event stream in a process of their own: `python -m benchmarks.gateway_watchers PORT TOKEN COUNT`.

Each is one connection that is read and thrown away, which is the least that a watcher costs. A line says when all are
connected; the process lasts until its input is closed.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.parts import HOST

AT = "/api/v1/events"


async def watch(port: int, token: str, begun: asyncio.Semaphore) -> None:
    """One watcher, until the stream ends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    head = f"GET {AT} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(head.encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"a watcher was refused: {status!r}")
    begun.release()
    while await reader.read(1 << 16):
        pass
    raise SystemExit("a watcher's stream ended")


async def watchers(port: int, token: str, count: int) -> None:
    """All of them."""
    begun = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as all_of_them:
        tasks = [all_of_them.create_task(watch(port, token, begun)) for _ in range(count)]
        for _ in range(count):
            await begun.acquire()
        print('{"open": true}', flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(watchers(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
