"""Packs as their readers want them: one stored message after the other, each with one record.

    tail or read -> message(pack of three) -> message(record), message(record), message(record)

All that came in one pack have its subject and sequence. A pack that can not be read goes on as it is: who decodes it
says what is wrong.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncIterator

from mesh import codec
from mesh.bus import Stored
from mesh.errors import Malformed


def split(message: Stored) -> list[Stored]:
    """The message, or one for each record of its pack."""
    try:
        rows = codec.rows(message.data)
    except Malformed:
        return [message]
    return [message] if rows == (message.data,) else [dataclasses.replace(message, data=row) for row in rows]


class Each:
    """An iterator of messages, with packs taken apart. Giving up a wait for the next one loses nothing."""

    def __init__(self, messages: AsyncIterator[Stored]) -> None:
        self._messages = messages
        self._waiting: deque[Stored] = deque()

    def __aiter__(self) -> AsyncIterator[Stored]:
        return self

    async def __anext__(self) -> Stored:
        while not self._waiting:
            self._waiting.extend(split(await anext(self._messages)))
        return self._waiting.popleft()
