"""What this machine has to offer, and how much of it the settings give away. Blocking calls; no framework is loaded.

GPUs are asked of `nvidia-smi`; a machine without it, or one whose driver does not answer in SMI_S, offers none.
CUDA_VISIBLE_DEVICES, where it lists numbers, limits them.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

from agents.holdings import Capacity
from executors.breaker import BreakerPolicy
from mesh import limits, platform
from mesh.settings import WorkerSettings

SMI_S = 10.0
"""Patience with nvidia-smi: a cold driver takes seconds, a broken one hangs."""

MEMORY_SHARE, DISK_SHARE = 0.75, 0.5
"""Of what is free at the start, where the settings say auto: the owner's programs need room to grow."""

LIGHT_EXTRA = 512
"""Leases beyond one per core, where the settings say auto: only tasks that cost no cores can use them, and how many of
them are offered follows how long such tasks last (executors/lane.py)."""


def gpu_memory(environ: dict[str, str] | None = None) -> list[tuple[int, int]]:
    """(number, memory in bytes) of each GPU that may be used here; empty when there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    argv = [program, "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(argv, capture_output=True, text=True, timeout=SMI_S, check=True)
        found = [tuple(map(int, line.split(","))) for line in asked.stdout.strip().splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    visible = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    allowed = None if visible is None else {int(part) for part in visible.split(",") if part.strip().isdigit()}
    return [(number, mib << 20) for number, mib in found if allowed is None or number in allowed]


def breaker_policy(settings: WorkerSettings) -> BreakerPolicy:
    """When a GPU is left alone, and for how long."""
    return BreakerPolicy(settings.gpu_errors_max, settings.gpu_timeout_s, settings.gpu_pause_s)


def capacity(settings: WorkerSettings, folder: Path, gpus: list[tuple[int, int]], kinds: dict[str, int]) -> Capacity:
    """What the worker offers: the settings, or for 'auto' what the machine has now."""
    cores = settings.cores or platform.cores()
    memory = settings.memory_bytes or int(platform.memory_available() * MEMORY_SHARE)
    disk = settings.disk_bytes or int(platform.disk_free(folder) * DISK_SHARE)
    given = gpus if settings.gpus < 0 else gpus[: settings.gpus]
    return Capacity(
        cores=cores,
        memory_bytes=memory,
        disk_bytes=disk,
        leases_max=min(settings.max_tasks or math.ceil(cores) + LIGHT_EXTRA, limits.HELD_PER_BEAT_MAX),
        gpu_memory_bytes=tuple(size for _, size in given),
        labels=settings.labels,
        share_gpus=settings.share_gpus,
        kinds=kinds,
    )
