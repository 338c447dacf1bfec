"""A link that can be cut: what stands between one worker and the broker, in a thread of its own.

worker ──> 127.0.0.1:port ──(bytes, both ways)──> broker
                 cut, closed    connections are closed, new ones are refused: a cable is pulled, a router restarts
                 cut, silent    nothing moves and nothing is closed: a sleeping laptop, a firewall that forgot. What
                                was on its way arrives when the link is mended: news from long ago
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine

from benchmarks.parts import HOST, free_port

BLOCK_BYTES = 64 * 1024

ANSWER_S = 10.0
"""Patience with the link's own thread."""


class Link:
    """One link, mended at first. Use it in a `with`."""

    def __init__(self, name: str, broker_port: int) -> None:
        self.name, self.port = name, free_port()
        self.down = False
        self._broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link {name}", daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._sides: set[asyncio.StreamWriter] = set()
        self._lives: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What the worker is told the broker's address is."""
        return f"nats://{HOST}:{self.port}"

    def __enter__(self) -> Link:
        self._thread.start()
        self._do(self._mend())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    def cut(self, *, silent: bool) -> None:
        """Cut it, in one of the two ways."""
        self.down = True
        self._do(self._stall() if silent else self._close())

    def mend(self) -> None:
        """Let it work again."""
        self._do(self._mend())
        self.down = False

    def _do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    # -- in the thread ------------------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, HOST, self.port)

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._lives:
            task.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        for side in self._sides:
            side.transport.abort()
        self._sides.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the worker, until either side ends it or the link is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._lives.add(task)
        sides = {writer}
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(HOST, self._broker_port)
            sides.add(far_writer)
            self._sides |= sides
            ways = {
                asyncio.create_task(self._carry(reader, far_writer)),
                asyncio.create_task(self._carry(far_reader, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the broker is away, or the link was cut: the worker's connection ends
        finally:
            for side in sides:
                side.transport.abort()
            self._sides -= sides
            self._lives.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                await self._flowing.wait()
                writer.write(block)
                await writer.drain()
