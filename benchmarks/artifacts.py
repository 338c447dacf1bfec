"""A large file to the store and back: rates and memory of the client, beside other ways to move it.

    file ──put──> store ──get──> file       each arrow a process of its own, against a fresh server each time

The brokers sync every write before they acknowledge it, as Ramify's embedded one does; what is received is synced too.
The source is in the page cache. One round asks all ways one after the other, so that a busy moment of the machine hits
neighbours alike; shares are taken within rounds. The store of this program does more than its peers: it cuts, names
every chunk by its digest, asks before it sends, checks each chunk before it writes it.

Not covered: other networks than loopback, S3 (the server that tests use is no measure of one), several clients at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.document import SHARE
from benchmarks.frame import CHECKOUT, Frame, environment
from benchmarks.parts import HOST, Part, free_port, nats_server, nats_url, running
from mesh.errors import RamifyError
from mesh.put_memory import SETTLED_S

NAME = "artifacts"
WHY = "How fast a large file goes to the artifact store and back, in how much memory, beside other ways to move it."

MIB, QUICK_MIB = 512, 24
LARGE_MIB = 2_048
"""Moved once in a full run, to see that memory does not grow with the size."""

ROUNDS = 3
MB = 1_000_000
TRANSFER_S = 300.0
"""Patience with one transfer; the slowest way needs 10 s for 512 MiB on two cores."""

RAMIFY, FOLDER = "Ramify", "Ramify, in a folder"
CHUNKS, OBJECTS, HTTP, COPY = "chunks by hand", "nats-py object store", "HTTP upload server", "file copy with SHA-256"


@dataclasses.dataclass(frozen=True)
class Moved:
    """One way's transfers in one round: what each process reported."""

    put: dict[str, Any]
    get: dict[str, Any]
    again: dict[str, Any] | None = None
    """A second put by a new process."""


def run(frame: Frame) -> None:
    """All ways, round by round; then one larger file for the memory."""
    with frame.home() as home:
        mib = QUICK_MIB if frame.quick else MIB
        source = made(home / "source", mib)
        found: dict[str, list[Moved]] = {who: [] for who in WAYS}
        for number in range(frame.runs(ROUNDS)):
            for who, way in WAYS.items():
                attempt(frame, who, functools.partial(way, home, source, number), found[who])
        for who, rounds in found.items():
            rates(frame, who, rounds, mib)
        peaks = [peak(moved) for moved in found[RAMIFY]]
        if not frame.quick:
            large: list[Moved] = []
            attempt(frame, RAMIFY, lambda: ramify(home, made(home / "large", LARGE_MIB), 0), large)
            if large:
                frame.row(RAMIFY, f"peak memory at {LARGE_MIB} MiB", [peak(large[0])], "MB")
                peaks.append(peak(large[0]))
        aims(frame, found, peaks)


def attempt(frame: Frame, who: str, work: Callable[[], Moved], into: list[Moved]) -> None:
    """One round of one way; a failure is a row that says why."""
    try:
        into.append(work())
    except (RamifyError, OSError, RuntimeError) as error:
        frame.fail(who, "put and get", "MB/s", str(error))


def made(path: Path, mib: int) -> Path:
    """A file of random bytes, in the page cache, left alone for long enough to count as unchanged."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    time.sleep(SETTLED_S + 0.5)
    return path


# -- the ways ---------------------------------------------------------------------------------------------------------


def ramify(home: Path, source: Path, number: int) -> Moved:
    """The artifact store on a broker."""
    with store_folder(home, number) as folder:
        server = nats_server(folder, sync_always=True)
        with running(server):
            return through_store(home, folder, source, nats_url(server))


def ramify_folder(home: Path, source: Path, number: int) -> Moved:
    """The artifact store in a shared folder."""
    with store_folder(home, number) as folder:
        shared = folder / "shared"
        shared.mkdir()
        return through_store(home, folder, source, str(shared))


def through_store(home: Path, folder: Path, source: Path, address: str) -> Moved:
    """Put, put again by a new process, get into an empty cache."""
    put = moved(home, "benchmarks.mover", "put", str(source), str(folder / "mine"), address)
    again = moved(home, "benchmarks.mover", "put", str(source), str(folder / "mine"), address)
    target = folder / "got"
    got = moved(home, "benchmarks.mover", "get", str(target), str(folder / "other"), address, put["digest"])
    return checked(source, target, Moved(put, got, again))


def by_nats(way: str) -> Callable[[Path, Path, int], Moved]:
    """A way over a broker of its own."""

    def move(home: Path, source: Path, number: int) -> Moved:
        with store_folder(home, number) as folder:
            server = nats_server(folder, sync_always=True)
            with running(server):
                return there_and_back(home, folder, source, way, nats_url(server))

    return move


def by_http(home: Path, source: Path, number: int) -> Moved:
    """An upload server."""
    with store_folder(home, number) as folder:
        port = free_port()
        argv = [sys.executable, "-P", "-m", "benchmarks.peers.http_upload", str(port), str(folder)]
        with running(Part("http-upload", argv, folder, port=port)):
            return there_and_back(home, folder, source, "http", f"http://{HOST}:{port}")


def by_copy(home: Path, source: Path, number: int) -> Moved:
    """Copies."""
    with store_folder(home, number) as folder:
        return there_and_back(home, folder, source, "copy", str(folder / "copy"))


def there_and_back(home: Path, folder: Path, source: Path, way: str, address: str) -> Moved:
    """Put and get with a peer."""
    put = moved(home, "benchmarks.peers.moving", way, "put", str(source), address)
    target = folder / "got"
    got = moved(home, "benchmarks.peers.moving", way, "get", str(target), address)
    return checked(source, target, Moved(put, got))


WAYS: dict[str, Callable[[Path, Path, int], Moved]] = {
    RAMIFY: ramify,
    CHUNKS: by_nats("chunks"),
    OBJECTS: by_nats("objects"),
    HTTP: by_http,
    FOLDER: ramify_folder,
    COPY: by_copy,
}


@contextlib.contextmanager
def store_folder(home: Path, number: int) -> Iterator[Path]:
    """An empty folder for one round of one way, removed afterwards: disks fill up otherwise."""
    folder = home / f"round-{number}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def moved(home: Path, module: str, *arguments: str) -> dict[str, Any]:
    """One transfer in a process of its own; what it reported. RuntimeError with its last words when it failed."""
    argv = [sys.executable, "-P", "-m", module, *arguments]
    env = {**environment(home), "PYTHONPATH": str(CHECKOUT)}
    ran = programs.timed(argv, timeout_s=TRANSFER_S, env=env, cwd=home)
    if ran.trouble:
        raise RuntimeError(f"{' '.join(arguments[:2])}: {ran.trouble}")
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def checked(source: Path, target: Path, done: Moved) -> Moved:
    """RuntimeError when what came back is something else."""
    if not filecmp.cmp(source, target, shallow=False):
        raise RuntimeError("what came back is not what was sent")
    return done


# -- rows and aims ----------------------------------------------------------------------------------------------------


def rates(frame: Frame, who: str, rounds: list[Moved], mib: int) -> None:
    """MB/s both ways, processor seconds, memory."""
    if not rounds:
        return
    megabytes = mib * (1 << 20) / MB
    frame.row(who, "put", [megabytes / one.put["seconds"] for one in rounds], "MB/s")
    frame.row(who, "get", [megabytes / one.get["seconds"] for one in rounds], "MB/s")
    frame.row(who, "client's processor time, put", [one.put["cpu_s"] for one in rounds], "s")
    frame.row(who, "client's processor time, get", [one.get["cpu_s"] for one in rounds], "s")
    frame.row(who, "peak memory of the client", [peak(one) for one in rounds], "MB")
    again = [one.again for one in rounds if one.again is not None]
    if again:
        frame.row(who, "second put, same process", [one.put["again_s"] for one in rounds], "s")
        frame.row(who, "second put, next process", [one["seconds"] for one in again], "s")


def peak(one: Moved) -> float:
    """The larger of both ways."""
    return float(max(one.put["peak_mb"], one.get["peak_mb"]))


def aims(frame: Frame, found: dict[str, list[Moved]], peaks: list[float]) -> None:
    """What was wanted."""
    ours = found[RAMIFY]

    def shares(other: str, way: Callable[[Moved], dict[str, Any]]) -> list[float]:
        pairs = zip(ours, found[other], strict=False)
        return [way(theirs)["seconds"] / way(mine)["seconds"] for mine, theirs in pairs]

    frame.at_least("put, of the publisher by hand", 0.9, SHARE, shares(CHUNKS, lambda one: one.put))
    frame.at_least("get, of the reader by hand", 0.9, SHARE, shares(CHUNKS, lambda one: one.get))
    frame.at_least("get, over nats-py's object store", 3, SHARE, shares(OBJECTS, lambda one: one.get))
    faster = [one.put["seconds"] / one.again["seconds"] for one in ours if one.again is not None]
    frame.at_least("a second put of the same file, times faster", 10, SHARE, faster)
    frame.at_most("memory of the client, whatever the size", 150, "MB", [max(peaks)] if peaks else [])
