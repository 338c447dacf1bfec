"""The processes of a system under test: brokers, schedulers, workers, each of which can be killed and started again.

A part keeps its command line, environment and log over its lives. It leads a process group of its own, dies with this
process, and carries the benchmark's home folder as its mark (benchmarks/processes.py), so that processor time counts
it and the frame's clean-up finds it. Brokers listen on a free loopback port that stays theirs over restarts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.frame import CHECKOUT, environment
from mesh import platform
from mesh.errors import BusUnavailable, EnvironmentUnfit
from mesh.server import find_program

HOST = "127.0.0.1"

LISTEN_S = 20.0
"""Patience with a broker's start; one that replays a large store needs a few seconds."""

STOP_S = 30.0
"""Patience with a part that was asked to stop; a worker gives its leases back first."""

POLL_S = 0.01


class Part:
    """One process, over all its lives."""

    def __init__(
        self, name: str, argv: Sequence[str], home: Path, *, env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        """env: more variables. port: where it listens; 0 when it does not."""
        self.name, self.argv, self.port = name, list(argv), port
        self.log = home / f"{name}.log"
        self.home = home
        self.env = {**environment(home), "PYTHONPATH": str(CHECKOUT), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Number of the present life's process. EnvironmentUnfit between two lives."""
        if self._process is None:
            raise EnvironmentUnfit(f"{self.name} does not run: start it first.")
        return self._process.pid

    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begin a life, and wait until a broker listens. BusUnavailable with its last words when it does not."""
        with self.log.open("ab") as log:
            self._process = platform.spawn_group(
                self.argv, env=self.env, cwd=self.home, stdout=log, stderr=log, die_with_parent=True
            )
        if self.port:
            self._wait_for_port()

    def _wait_for_port(self) -> None:
        give_up_at = time.monotonic() + LISTEN_S
        while time.monotonic() < give_up_at and self.running():
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(POLL_S)
        raise BusUnavailable(f"{self.name} does not listen on port {self.port}{self.last_words()}")

    def kill(self) -> None:
        """kill -9 for the whole group: the machine is gone."""
        self._end(hard=True)

    def kill_inner(self) -> bool:
        """kill -9 for the process below a supervisor, which stays; False when there is none at the moment."""
        if not self.running():
            return False
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                os.kill(child.pid, signal.SIGKILL)
                return True
        return False

    def stop(self) -> None:
        """Ask it to stop; kill it when it does not."""
        self._end(hard=False)

    def _end(self, *, hard: bool) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            platform.kill_group(self._process.pid, hard=hard)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                platform.kill_group(self._process.pid, hard=True)
                self._process.wait()
        self._process = None

    def last_words(self) -> str:
        """The end of its log, as a clause."""
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1].strip()[:300]}" if lines else ""


@contextlib.contextmanager
def running(*parts: Part) -> Iterator[None]:
    """All parts, started in order and stopped in the reverse one."""
    begun: list[Part] = []
    try:
        for part in parts:
            begun.append(part)
            part.start()
        yield
    finally:
        for part in reversed(begun):
            part.stop()


# -- brokers ----------------------------------------------------------------------------------------------------------


def nats_server(home: Path, *, sync_always: bool, name: str = "nats-server") -> Part:
    """A nats-server with its store on disk. sync_always: an fsync before every acknowledgement; else every two
    minutes, the server's own default."""
    folder, port = home / name, free_port()
    folder.mkdir()
    sync = ["sync_interval: always"] if sync_always else []
    lines = [f"listen: {HOST}:{port}", "jetstream {", f'store_dir: "{folder / "store"}"', *sync, "}"]
    config = folder / "server.conf"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Part(name, [str(find_program("")), "-c", str(config)], home, port=port)


def nats_url(server: Part) -> str:
    """Its address."""
    return f"nats://{HOST}:{server.port}"


def redis_server(home: Path, program: str) -> Part:
    """A Redis that appends every write to its log and syncs that once a second, its usual durable setting."""
    folder, port = home / "redis", free_port()
    folder.mkdir()
    argv = [program, "--port", str(port), "--bind", HOST, "--dir", str(folder)]
    return Part("redis", [*argv, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""], home, port=port)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
