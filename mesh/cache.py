"""The local cache of artifacts: bounded, used longest ago goes first, never what is in use.

    <folder>/<digest>/manifest      the manifest's bytes; its modification time says when the entry was last used
    <folder>/<digest>/files/…       the artifact's files, read-only
    <folder>/<digest>/lists/…       the lists of a large one's objects (mesh/object_lists.py), called by their digests
    <folder>/.part-<pid>-<life>-<digest>-…   a download in progress; renamed when complete
    <folder>/.part-<pid>-<life>-…            another folder in the making; swept when its process is gone

A download that was cut off leaves its part: the next one of the same artifact takes it over, when its process is gone
or has let go of it (`leave`). It is swept after LEFT_S, and goes first when room is needed.

An entry exists when its folder exists: it is made under another name and renamed. Whether its bytes are still right
is checked by the artifact store at the first use in each process, so nothing is synced here and a power cut costs a
download. Calls block for milliseconds (removing large folders: more): the store makes them in a thread. The limit may
be exceeded while everything is in use. Processes may share a folder: all of them keep entries used within GRACE_S.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from mesh import metrics
from mesh.errors import DiskFull, EnvironmentUnfit

GRACE_S = 600.0
"""An entry used this lately is not evicted: it may have been handed out a moment ago, here or in another process."""

LEFT_S = 24 * 3_600.0
"""How long a part that was cut off is kept for a download to go on with: until the day after an outage."""

_LIFE = secrets.token_hex(4)
"""Tells this process's parts from those of an earlier one with the same process id."""


class LocalCache:
    """Artifacts by digest in one folder. Thread-safe."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._held: Counter[str] = Counter()
        self._left: dict[str, Path] = {}  # parts of ours that were cut off, by digest
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnfit(f"The cache folder {folder} can not be made ({error.strerror}).") from None
        self._sweep()

    def files(self, digest: str) -> Path:
        """Where an entry's files are, or would be."""
        return self.folder / digest / "files"

    def lists(self, digest: str) -> Path:
        """Where the lists of an entry's objects are, if it has any."""
        return self.folder / digest / "lists"

    def manifest(self, digest: str) -> bytes | None:
        """The manifest's bytes of an entry, None when it is not here; marks the entry as used now."""
        path = self.folder / digest / "manifest"
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def peek(self, digest: str) -> bytes | None:
        """The manifest's bytes of an entry, None when it is not here; it does not count as used."""
        try:
            return (self.folder / digest / "manifest").read_bytes()
        except OSError:
            return None

    def new_part(self) -> Path:
        """An empty folder in which an entry's files are put together."""
        part = self._part_path()
        (part / "files").mkdir(parents=True)
        return part

    def part_of(self, digest: str) -> tuple[Path, bool]:
        """A folder in which this artifact is put together, and whether something of it may be there already."""
        for found in self._abandoned(digest):
            mine = self._part_path(f"{digest}-")
            try:
                found.rename(mine)  # only one can do that
                (mine / "files").mkdir(exist_ok=True)
                os.utime(mine)
            except OSError:
                continue
            with self._lock:
                self._left.pop(digest, None)
            return mine, True
        part = self._part_path(f"{digest}-")
        (part / "files").mkdir(parents=True)
        return part, False

    def leave(self, digest: str, part: Path) -> None:
        """Let go of a part that was cut off."""
        with self._lock:
            self._left[digest] = part

    def make_room(self, size_bytes: int, *, keep: Path) -> int:
        """Free so many bytes of the disk where that can be: first parts that were cut off (but for `keep`), then the
        entries used longest ago. What is free then."""
        for part in self._abandoned():
            if part != keep:
                remove_folder(part)
        self.evict(free_bytes=size_bytes)
        return shutil.disk_usage(self.folder).free

    def _abandoned(self, digest: str = "") -> list[Path]:
        """Parts (of one artifact, or of any) that nobody works on."""
        with self._lock:
            ours = [part for name, part in self._left.items() if digest in ("", name)]
        foreign = self.folder.glob(f".part-*-*-{digest or '?' * 64}-*")
        return ours + [path for path in foreign if not _is_alive(path)]

    def _part_path(self, what: str = "") -> Path:
        return self.folder / f".part-{os.getpid()}-{_LIFE}-{what}{secrets.token_hex(4)}"

    def admit(self, part: Path, digest: str, manifest: bytes) -> Path:
        """Make a complete part the entry of `digest`; the folder of its files. Then evict what is over the limit."""
        for path in _files_below(part / "files"):
            path.chmod(0o444)
        (part / "manifest").write_bytes(manifest)
        try:
            part.rename(self.folder / digest)
        except OSError:
            if not self.files(digest).is_dir():
                raise
            remove_folder(part)  # another process was first
        self.evict(keep=digest)
        return self.files(digest)

    def discard(self, digest: str) -> None:
        """Remove an entry, at once for all who look."""
        gone = self._part_path()
        try:
            (self.folder / digest).rename(gone)
        except OSError:
            return
        remove_folder(gone)

    def drop(self, digest: str) -> None:
        """Remove an entry that this process does not hold."""
        with self._lock:
            if not self._held[digest]:
                self.discard(digest)

    @contextlib.contextmanager
    def hold(self, *digests: str) -> Iterator[None]:
        """Within this block these entries are not evicted by this process."""
        with self._lock:
            self._held.update(digests)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(digests)
                self._held += Counter()  # drops the zeros

    def newest(self, count_max: int) -> list[str]:
        """Digests of the entries, used last first."""
        return [digest for _, digest in sorted(self._entries(), reverse=True)[:count_max]]

    def evict(self, keep: str = "", free_bytes: int = 0) -> None:
        """Remove the entries used longest ago until the rest is within the limit and so many bytes of the disk are free
        (unless they can not be), and parts that were cut off if they do not fit beside it."""
        left = {part: size_on_disk(part) for part in self._abandoned()}
        with self._lock:
            entries = sorted(self._entries())
            sizes = {digest: _size_bytes(self.folder / digest) for _, digest in entries}
            old = [digest for used_at, digest in entries if digest != keep and self._is_old(digest, used_at)]
            missing = free_bytes - shutil.disk_usage(self.folder).free
            if missing > sum(sizes[digest] for digest in old):
                missing = 0  # to empty the cache would be in vain
            total = sum(sizes.values())
            for digest in old:
                if total <= self._bytes_max and missing <= 0:
                    break
                self.discard(digest)
                total -= sizes[digest]
                missing -= sizes[digest]
            for part, size in left.items():
                total += size
                if total > self._bytes_max:
                    remove_folder(part)
            metrics.set("mesh_cache_bytes", total)

    def _is_old(self, digest: str, used_at: float) -> bool:
        return not self._held[digest] and time.time() - used_at >= GRACE_S

    def _entries(self) -> list[tuple[float, str]]:
        """(last use, digest) of all entries."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith("."):
                    found.append(((path / "manifest").stat().st_mtime, path.name))
        return found

    def _sweep(self) -> None:
        """Remove what dead processes left half-made, but for downloads that may go on."""
        for path in self.folder.glob(".part-*"):
            if not _is_alive(path) and not (len(path.name.split("-")) == 5 and _age_s(path) < LEFT_S):
                remove_folder(path)


@contextlib.contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn a full disk into DiskFull; other errors of the operating system into EnvironmentUnfit."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"There is no room left below {folder} for {what}: free some space.") from None
        raise EnvironmentUnfit(f"{what} can not be read or written below {folder}: {error}.") from error


def _is_alive(part: Path) -> bool:
    """Does the process that made this part still run? Another one may have its number."""
    pid, life = part.name.split("-")[1:3]
    return life == _LIFE if int(pid) == os.getpid() else psutil.pid_exists(int(pid))


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def size_on_disk(folder: Path) -> int:
    """Bytes that a folder's files take on the disk, where the system says so; holes take none."""
    total = 0
    for path in _files_below(folder):
        with contextlib.suppress(OSError):
            total += getattr(path.stat(), "st_blocks", 0) * 512
    return total


def remove_folder(folder: Path) -> None:
    """Remove a folder with read-only files; what can not be removed stays for the next sweep."""
    for path in _files_below(folder):
        with contextlib.suppress(OSError):
            path.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)


def _files_below(folder: Path) -> list[Path]:
    return [Path(base) / name for base, _, names in os.walk(folder) for name in names]


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in _files_below(folder):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
