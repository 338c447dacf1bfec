"""Gateway: a way into the mesh over HTTP, for people and machines without NATS.

In:    requests with bearer tokens (docs/http.md)
Out:   questions to the leader and to planners, topics, changes of the graph; what a seat of a worker owes
Keeps: no state that matters: tokens stand in a file, results in their stream, leases in the ledger
Loses: on a crash, the requests that were going on; watchers come back with the id of the last event that they saw
Not:   decides nothing: rights aside, every answer is another agent's

The routes are rows that parts bring (agents/gateway_routes.py tells how one is added); what all requests have in common
happens at the door (agents/gateway_door.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from agents.gateway_claims import Claims
from agents.gateway_door import Door
from agents.gateway_downloads import Downloads
from agents.gateway_events import Events
from agents.gateway_front import Front
from agents.gateway_limits import Limits
from agents.gateway_network import Network
from agents.gateway_routes import Part, Route
from agents.gateway_server import Runner
from agents.gateway_tls import Tls
from agents.gateway_tokens import Tokens
from agents.gateway_topics import Topics
from agents.gateway_uploads import Uploads
from agents.runtime import Agent, now_s
from mesh.errors import EnvironmentUnfit

PARTS: tuple[Callable[[Agent], Part], ...] = (Network, Topics, Events, Claims, Uploads, Downloads)
"""Everything that can be asked of the mesh, beside the front."""

SHUTDOWN_S = 2.0
"""How long requests that are going on may keep the gateway from leaving."""

KEEP_ALIVE_S = 30.0
"""How long a connection without a request stays open."""

LINE_BYTES_MAX = 8_190
"""Of the request line and of one header: what other servers take, and room for a long path."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""On every answer that does not say otherwise."""


class Gateway:
    """The web server of one gateway agent."""

    def __init__(self, agent: Agent, *makers: Callable[[Agent], Part]) -> None:
        """makers: of the parts that it has, in place of all."""
        chosen = agent.settings.gateway
        self._agent = agent
        self._settings = chosen
        self.tokens = Tokens(agent.settings.home)
        self.limits = Limits(
            per_s=chosen.requests_per_s, requests=chosen.requests_max, streams=chosen.streams_max, clock=now_s
        )
        self.parts: tuple[Part, ...] = (Front(agent, lambda: self.routes), *(make(agent) for make in makers or PARTS))
        self.routes: tuple[Route, ...] = tuple(row for part in self.parts for row in part.routes())
        self._tls = Tls(agent)
        self._runner: web.AppRunner | None = None
        self._note: Path | None = None
        self.port = 0

    def application(self) -> web.Application:
        """All rows behind the door."""
        door = Door(self._agent, self.tokens, self.limits, behind_proxy=self._settings.behind_proxy)
        app = web.Application(middlewares=[door.outside])
        for row in self.routes:
            path = row.path.replace("{path}", "{path:.+}")
            app.router.add_route(row.method, path, door.handler(row))
        app.on_response_prepare.append(_add_headers)
        return app

    async def start(self) -> None:
        """Listen, off loopback with TLS. SettingsInvalid for a certificate that can not be used, EnvironmentUnfit when
        the port is taken."""
        chosen = self._settings
        await self._tls.start()
        context = self._tls.context
        self._runner = Runner(
            self.application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=KEEP_ALIVE_S, lingering_time=1.0, auto_decompress=False,
            max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX,
        )  # fmt: skip
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, chosen.host, chosen.port, ssl_context=context).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EnvironmentUnfit(
                f"port {chosen.port} on {chosen.host} was wanted for the gateway and can not be used "
                f"({os.strerror(error.errno or 0)}): choose another with --listen HOST:PORT."
            ) from None
        self.port = self._runner.addresses[0][1]
        self._write_note()
        verify = f"; clients verify with {self._tls.authority}" if self._tls.authority else ""
        self._agent.log.info("the gateway listens on %s%s", self.url, verify)
        if not await asyncio.to_thread(self.tokens.listed):
            self._agent.log.info("nobody has a token yet: `bin/agent token issue --role publisher` makes one")

    async def work(self, agent: Agent) -> None:
        """Run what the parts do beside answering, until the agent stops."""
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(self._tls.run(), name="certificate")]
            tasks += [running.create_task(part.run(), name=type(part).__name__) for part in self.parts]
            await agent.stopping.wait()
            for task in tasks:
                task.cancel()

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._tls.context is not None else 'http'}://{host}:{self.port}"

    def _write_note(self) -> None:
        """Where it listens, for people and scripts: the port may be any."""
        agent = self._agent
        self._note = agent.settings.home / "run" / f"gateway-http-{os.getpid()}.json"
        authority = str(self._tls.authority) if self._tls.authority else ""
        note = {"role": agent.role, "name": agent.name, "pid": os.getpid(), "api": self.url, "authority": authority}
        with contextlib.suppress(OSError):  # the note is a convenience: a read-only home must not stop the gateway
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_bytes(msgspec.json.encode(note))

    async def close(self) -> None:
        """End what is open, in order: streams, requests, connections."""
        for part in self.parts:
            await part.close()
        if self._note is not None:
            self._note.unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "ramify"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    gateway = Gateway(agent)
    await gateway.start()
    try:
        await gateway.work(agent)
    finally:
        await gateway.close()
