"""One agent in a process of its own, as `bin/agent ROLE` starts it: its doors, its output, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from agents.together import with_checkout

DEADLINE_S = 60.0
"""Far beyond what anything here takes on a machine that others use as well."""


def environ(home: Path, **settings: str) -> dict[str, str]:
    """An environment with these settings and no others of ours: RAMIFY_WORKER_CORES="1", NATS_URL=…"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAMIFY_", "NATS_"))}
    base = {"RAMIFY_HOME": str(home), "RAMIFY_WORKER_CORES": "1", "RAMIFY_WORKER_NAME": "w1", "OMP_NUM_THREADS": "1"}
    return with_checkout(clean) | base | settings


class AgentProcess:
    """A running agent."""

    def __init__(self, process: asyncio.subprocess.Process, role: str, home: Path, output: Path) -> None:
        self.process, self.role = process, role
        self._home, self._output = home, output

    @classmethod
    async def start(cls, role: str, home: Path, *arguments: str, **settings: str) -> AgentProcess:
        """Start it; `home` is its own or a shared one."""
        home.mkdir(parents=True, exist_ok=True)
        output = home / f"{role}-output.log"
        with output.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "agents", role, *arguments,
                env=environ(home, **settings), stdout=file, stderr=file, cwd=home,
            )  # fmt: skip
        return cls(process, role, home, output)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def note(self) -> Path:
        """The file in which it says where /health is."""
        return self._home / "run" / f"{self.role}-{self.pid}.json"

    def output(self) -> str:
        """Everything it wrote."""
        return self._output.read_text()

    def sentences(self) -> list[str]:
        """The complaints for people."""
        return [line for line in self.output().splitlines() if line.startswith(f"bin/agent {self.role}:")]

    async def get(self, path: str) -> tuple[int, str]:
        """GET one of its pages; (0, '') while it does not listen."""
        with contextlib.suppress(OSError, ValueError, aiohttp.ClientError):
            url = json.loads(self.note.read_text())["url"]
            async with aiohttp.ClientSession() as http, http.get(url + path) as answer:
                return answer.status, await answer.text()
        return 0, ""

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Status and document of /health; (0, {}) while it does not listen."""
        status, text = await self.get("/health")
        return status, json.loads(text) if text else {}

    async def until_health(self, status: int, problem: str = "") -> dict[str, Any]:
        """Wait until /health answers like that, naming this problem; the document."""
        last: object = "nothing"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    last = found, document = await self.health()
                    if found == status and (not problem or problem in document["problems"]):
                        return document
                    assert self.process.returncode is None, self.output()[-3_000:]
                    await asyncio.sleep(0.02)
        raise AssertionError(f"/health of {self.role} never said {status} {problem}, at last {last}: {self.output()}")

    async def metric(self, line_start: str) -> float:
        """The value in the first line of /metrics that starts so; 0 when there is none."""
        _, text = await self.get("/metrics")
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(line_start)]
        return float(values[0]) if values else 0.0

    def cpu_s(self) -> float:
        """Processor seconds of the process so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def mapped(self) -> str:
        """The files mapped into its memory: every shared library that it has loaded (Linux)."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def stop(self) -> int:
        """Ask it to stop, as a system does; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """End it in any case."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
