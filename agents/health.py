"""`/health` and `/metrics` of every agent, on loopback by default.

/health   200 {"status": "ok", …} or 503 {"status": "unwell", "problems": {…}}
/metrics  the Prometheus text format

The port is free to choose by the system (0) unless set; it is written to `<home>/run/<role>-<pid>.json`, where a person
finds it, and to a file beside it that Prometheus' file discovery reads (agents/scraping.py).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from agents.scraping import ScrapeNote
from mesh import metrics
from mesh.errors import EnvironmentUnfit

if TYPE_CHECKING:
    from agents.runtime import Agent

SHUTDOWN_S = 1.0
"""How long an open scrape may keep the agent from leaving."""


class HealthServer:
    """The small HTTP server of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._runner: web.AppRunner | None = None
        self._note: Path | None = None
        self._scrape = ScrapeNote(agent.settings.home, agent.role, agent.name)
        self.port = 0

    async def start(self) -> None:
        """Listen. EnvironmentUnfit when the chosen port is taken."""
        app = web.Application()
        app.add_routes([web.get("/health", self._health), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        http = self._agent.settings.http
        try:
            await web.TCPSite(self._runner, http.host, http.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EnvironmentUnfit(
                f"Port {http.port} on {http.host} was wanted for /health and can not be used "
                f"({os.strerror(error.errno or 0)}): choose another with --http-port, or 0 for a free one."
            ) from None
        self.port = self._runner.addresses[0][1]
        self._write_note(http.host)
        self._scrape.write(http.host, self.port)

    async def close(self) -> None:
        """Stop listening and remove the note."""
        self._scrape.remove()
        if self._note is not None:
            self._note.unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def _write_note(self, host: str) -> None:
        agent = self._agent
        self._note = agent.settings.home / "run" / f"{agent.role}-{os.getpid()}.json"
        note = {"role": agent.role, "name": agent.name, "pid": os.getpid(), "url": f"http://{host}:{self.port}"}
        with contextlib.suppress(OSError):  # the note is a convenience: a read-only home must not stop an agent
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(json.dumps(note))

    async def _health(self, _: web.Request) -> web.Response:
        agent = self._agent
        problems = agent.problems()
        body = {
            "status": "unwell" if problems else "ok",
            "role": agent.role,
            "incarnation": agent.incarnation,
            "uptime_s": round(agent.uptime_s(), 1),
            "problems": problems,
        }
        return web.json_response(body, status=503 if problems else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = metrics.rendered((self._agent.metrics, metrics.PROCESS))  # the agent's own, and what its process counts
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
