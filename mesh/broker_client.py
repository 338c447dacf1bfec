"""The client library's client, less two of its detours: each costs turns of the loop, and a task's way is made of many.

    in    parsed -> ear                             the library: parsed -> queue -> a task per subscription -> ear
    out   sent -> socket, before `publish` returns  the library: sent -> list -> queue -> a task that writes -> socket

A socket that does not take everything at once is left to the library: its task waits until there is room, and what is
sent meanwhile counts in `pending_data_size`. The order of messages is the same on either way.
"""

from __future__ import annotations

import logging
from typing import Any

import nats.aio.client
from nats.aio.client import Client

from mesh.broker_parser import BlockParser, headers_of
from mesh.bus import Message

READ_BYTES = 1 << 20
"""Most bytes taken from the socket's buffer at once. The library's 32 KiB make a chunk of an artifact sixteen turns,
and have the socket paused and resumed for each."""

nats.aio.client.DEFAULT_BUFFER_SIZE = READ_BYTES

# The library reads TLS through a protocol that does not know of it: asyncio warns of that whenever a connection ends.
logging.getLogger("asyncio").addFilter(
    lambda record: not str(record.msg).startswith("returning true from eof_received")
)


class DirectClient(Client):
    """All its subscriptions are ears (mesh/broker_link.py): their `hear` takes a Message, waits for nothing and never
    raises, for an exception here would end the library's reader."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = BlockParser(self)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        found = headers_of(headers) if headers else None
        return await super()._process_headers(headers) if found is None else found

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        found: Any = self._subs.get(sid)
        if found is not None:
            given = await self._process_headers(headers) or {}
            await found._cb(Message(subject.decode(), data, reply.decode(), given))

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        writer = getattr(self._transport, "_io_writer", None)  # a WebSocket has none
        if force_flush or writer is None or not self.is_connected or writer.transport.get_write_buffer_size():
            return await super()._flush_pending(force_flush)
        data, self._pending, self._pending_data_size = self._pending, [], 0
        if data:
            writer.transport.write(b"".join(data))
        return None
