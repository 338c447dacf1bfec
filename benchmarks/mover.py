"""One transfer of one file through Ramify's artifact store, as a process of its own; and what such a process reports.

    python -m benchmarks.mover put FILE CACHE ADDRESS                 puts FILE; says its digest
    python -m benchmarks.mover get FILE CACHE ADDRESS DIGEST          gets it into CACHE, links it to FILE

ADDRESS is nats://… or the path of a shared folder. The last line on stdout is a JSON object: seconds and processor
seconds without imports and connection, peak memory of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mesh import broker, streams
from mesh.artifacts import ArtifactStore
from mesh.memory import MemoryServer
from mesh.nats_options import NatsOptions
from mesh.objects_folder import FolderBackend
from mesh.subjects import Subjects

MB = 1_000_000
STORE_BYTES_MAX = 16 << 30


class Timer:
    """Seconds of a `with` block, and this process's processor seconds in it."""

    seconds = cpu_s = 0.0

    def __enter__(self) -> Timer:
        self._begun, self._used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._begun, time.process_time() - self._used


def report(timer: Timer, **more: Any) -> None:
    """Tell the parent how it went."""
    found = {"seconds": timer.seconds, "cpu_s": timer.cpu_s, "peak_mb": peak_bytes() / MB, **more}
    sys.stdout.write(json.dumps(found) + "\n")


def peak_bytes() -> int:
    """Most memory that this process had at once; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


async def move(operation: str, file: Path, cache: Path, address: str, digest: str) -> None:
    """Connect, move, report."""
    subjects = Subjects("mesh")
    if "://" not in address:
        folder = FolderBackend(Path(address), subjects.prefix)
        unused = MemoryServer().connect("bench")
        await timed(
            ArtifactStore(unused, subjects, cache=cache, cache_bytes_max=STORE_BYTES_MAX, backend=folder),
            operation, file, digest,
        )  # fmt: skip
        return
    async with broker.connection(NatsOptions(servers=(address,)), subjects, name="bench") as connected:
        await streams.ensure_all(connected, streams.table(subjects, artifact_bytes_max=STORE_BYTES_MAX))
        store = ArtifactStore(connected, subjects, cache=cache, cache_bytes_max=STORE_BYTES_MAX)
        await timed(store, operation, file, digest)


async def timed(store: ArtifactStore, operation: str, file: Path, digest: str) -> None:
    """One put, and the same once more; or one get, synced."""
    if operation == "put":
        with Timer() as first:
            digest = await store.put(file, media="bytes")
        with Timer() as again:
            await store.put(file, media="bytes")
        report(first, digest=digest, again_s=again.seconds)
        return
    with Timer() as timer:
        found = next(path for path in (await store.get(digest)).iterdir())
        with found.open("rb") as got:
            os.fsync(got.fileno())
    file.hardlink_to(found)
    report(timer)


if __name__ == "__main__":
    asyncio.run(move(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], (sys.argv[5:] or [""])[0]))
