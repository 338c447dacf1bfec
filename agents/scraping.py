"""Where Prometheus finds this machine's agents: one small file each, in the form that its file discovery reads.

    <home>/run/scrape/<role>-<pid>.json     [{"targets": ["127.0.0.1:41873"], "labels": {"role": …, "agent": …}}]

deploy/prometheus/prometheus.yml names the folder. Files appear whole (written beside, then renamed), go with their
agent in an ordered stop, and after a kill with the next agent that starts in the same home; until then Prometheus finds
the target down, which is what it should say. A home that can not be written costs discovery, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from mesh import platform

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
"""Who listens everywhere is asked on loopback."""


class ScrapeNote:
    """The file of one agent."""

    def __init__(self, home: Path, role: str, name: str) -> None:
        self._folder, self._labels = home / "run" / "scrape", {"role": role, "agent": name}
        self._path = self._folder / f"{role}-{os.getpid()}.json"

    def write(self, host: str, port: int) -> None:
        """Tell where this agent is asked; files of agents that are gone are removed."""
        groups = [{"targets": [target(host, port)], "labels": self._labels}]
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            beside = self._path.with_suffix(".new")
            beside.write_text(json.dumps(groups), "utf-8")
            beside.replace(self._path)

    def remove(self) -> None:
        """The agent leaves."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        for path in self._folder.glob("*-*.json"):
            pid = path.stem.rpartition("-")[2]
            if pid.isdigit() and not platform.is_running(int(pid)):
                path.unlink(missing_ok=True)


def target(host: str, port: int) -> str:
    """Host and port as Prometheus wants them."""
    host = EVERYWHERE.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
