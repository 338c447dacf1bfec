"""The web server's side of connections, where the library's own manners are not ours.

bytes that are no HTTP           a problem document like any other refusal, and no traceback in the log
a head that does not come        the connection ends after HEAD_S
more than CONNECTIONS_MAX        the newest is closed at once; those who are in stay in
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web

from agents import gateway_problems as problems
from agents.gateway_problems import refuse

HEAD_S = 10.0
"""For the first request's line and headers, once connected (and TLS is agreed on)."""

CONNECTIONS_MAX = 4_096
"""Connections at a time, streams and idle ones included: some 100 MB at worst."""

log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One connection."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: now a request has to come."""
        super().connection_made(transport)
        self._patience = asyncio.get_running_loop().call_later(HEAD_S, self._look)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Over."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self._request_count == 0 and isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What can not be parsed, as a problem. A defect of the library's is logged; what strangers send is not."""
        if request.writer.output_size > 0:
            raise ConnectionError("the head of an answer was sent already")
        if status >= 500:
            log.error("a request met a defect of the web server", exc_info=exc)
            refused = refuse("defect", "this is not your fault; the gateway's log tells more.")
        else:
            log.debug("bytes that are no request: %s", exc)
            refused = refuse("malformed", "these bytes are no HTTP request, or its head is too long.")
        response = problems.response(refused)
        response.headers["Server"] = "ramify"
        response.force_close()
        return response


class Full(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class Server(web.Server):
    """Makes connections."""

    def __call__(self) -> Any:
        """A new one, or none when there are too many."""
        if len(self.connections) >= CONNECTIONS_MAX:
            return Full()
        return Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)


class Runner(web.AppRunner):
    """An application's runner, with these connections."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        made.__class__ = Server  # the library offers no place to say which kind of connections it makes
        return made
