"""The receiving half of a subscription: a bounded queue, and one task that calls the handler, one message at a time.

The connection puts messages in without waiting, so a slow or broken handler never holds up its read loop. Full means
that the oldest message is dropped and counted, and where many subjects are heard, the newest one of whoever fills more
than its part: core messages are at most once, and the newest beat is worth more than
the oldest. Both brokers use it, so that they behave alike. A handler runs in the span that its message names, if any.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
from collections.abc import AsyncGenerator

from mesh import limits, metrics, tracing
from mesh.bus import Handler, Message

log = logging.getLogger(__name__)


class Listener:
    """Calls `handler` for every message that is put in, in order, until closed."""

    def __init__(
        self,
        subject: str,
        handler: Handler,
        *,
        messages_max: int = limits.WAITING_MESSAGES_MAX,
        bytes_max: int = limits.WAITING_BYTES_MAX,
    ) -> None:
        self.subject = subject
        self.dropped = 0
        self._handler = handler
        self._messages_max, self._bytes_max = messages_max, bytes_max
        self._waiting: collections.deque[Message] = collections.deque()
        self._waiting_bytes = 0
        self._waiting_on: collections.Counter[str] | None = collections.Counter() if "*" in subject else None
        """Messages that wait by their subject; None where there is one subject."""
        self._arrived = asyncio.Event()
        self._closed = False
        # In nobody's span: whoever subscribes inside one does not ask for what others send.
        self._task = asyncio.create_task(self._run(), name=f"handler of {subject}", context=contextvars.Context())

    def put(self, message: Message) -> None:
        """Queue a message; drops the oldest ones when there is no room."""
        if self._closed:
            return
        if self._waiting_on is not None:
            if self._waiting_on[message.subject] >= limits.WAITING_OF_ONE_MAX:
                self._drop()
                return
            self._waiting_on[message.subject] += 1
        self._waiting.append(message)
        self._waiting_bytes += len(message.data)
        while len(self._waiting) > self._messages_max or (
            self._waiting_bytes > self._bytes_max and len(self._waiting) > 1
        ):
            self._next()
            self._drop()
        self._arrived.set()

    def _next(self) -> Message:
        """Take the oldest message out of the queue."""
        message = self._waiting.popleft()
        self._waiting_bytes -= len(message.data)
        if self._waiting_on is not None:
            self._waiting_on[message.subject] -= 1
            if not self._waiting_on[message.subject]:
                del self._waiting_on[message.subject]
        return message

    def _drop(self) -> None:
        self.dropped += 1
        metrics.count("mesh_bus_dropped_total")
        if self.dropped.bit_count() == 1:  # 1, 2, 4, 8, …: a flood must not flood the log too
            log.warning("the handler of %s is too slow: %d messages dropped", self.subject, self.dropped)

    async def _run(self) -> None:
        while not self._closed:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            message = self._next()
            try:
                with tracing.within(tracing.from_headers(message.headers) if message.headers else None):
                    await self._handler(message)
            except Exception:
                log.exception("the handler of %s failed on a message to %s", self.subject, message.subject)

    def shut(self) -> None:
        """No handler call begins after this."""
        self._closed = True
        self._waiting.clear()
        self._arrived.set()

    async def close(self) -> None:
        """Shut; a running handler may end in peace, within a deadline. One that closes itself ends after its return."""
        self.shut()
        if self._task is asyncio.current_task():
            return
        done, _ = await asyncio.wait({self._task}, timeout=limits.HANDLER_END_S)
        if not done:
            log.warning("the handler of %s did not end in %g s and is cancelled", self.subject, limits.HANDLER_END_S)
            self._task.cancel()
            await asyncio.wait({self._task})


class Names:
    """A bounded queue of names, and the iterator over it: whose connections have closed."""

    def __init__(self) -> None:
        self._waiting: collections.deque[str] = collections.deque(maxlen=limits.DISCONNECTS_WAITING_MAX)
        self._arrived = asyncio.Event()

    def put(self, name: str) -> None:
        """One more; the oldest goes when there is no room."""
        if name:
            self._waiting.append(name)
            self._arrived.set()

    async def follow(self) -> AsyncGenerator[str, None]:
        """The names in order, for ever."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._arrived.clear()
            await self._arrived.wait()
