"""The local cache of artifacts: bounded, used longest ago goes first, never what is in use.

    <folder>/<digest>/manifest      the manifest's bytes; its modification time says when the entry was last used
    <folder>/<digest>/files/…       the artifact's files, read-only
    <folder>/.part-<pid>-<life>-…   a download in progress; renamed when complete, swept when its process is gone

An entry exists when its folder exists: it is made under another name and renamed. Whether its bytes are still right
is checked by the artifact store at the first use in each process, so nothing is synced here and a power cut costs a
download. Calls block for milliseconds (removing large folders: more): the store makes them in a thread. The limit may
be exceeded while everything is in use. Processes may share a folder: all of them keep entries used within GRACE_S.
"""

from __future__ import annotations

import contextlib
import errno
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

_LIFE = secrets.token_hex(4)
"""Tells this process's parts from those of an earlier one with the same process id."""


class LocalCache:
    """Artifacts by digest in one folder. Thread-safe."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnfit(f"The cache folder {folder} can not be made ({error.strerror}).") from None
        self._sweep()

    def files(self, digest: str) -> Path:
        """Where an entry's files are, or would be."""
        return self.folder / digest / "files"

    def manifest(self, digest: str) -> bytes | None:
        """The manifest's bytes of an entry, None when it is not here; marks the entry as used now."""
        path = self.folder / digest / "manifest"
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def new_part(self) -> Path:
        """An empty folder in which an entry's files are put together."""
        part = self.folder / f".part-{os.getpid()}-{_LIFE}-{secrets.token_hex(4)}"
        (part / "files").mkdir(parents=True)
        return part

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
        gone = self.folder / f".part-{os.getpid()}-{_LIFE}-{secrets.token_hex(4)}"
        try:
            (self.folder / digest).rename(gone)
        except OSError:
            return
        remove_folder(gone)

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

    def evict(self, keep: str = "") -> None:
        """Remove the entries used longest ago until the rest is within the limit."""
        with self._lock:
            entries = sorted(self._entries())
            sizes = {digest: _size_bytes(self.folder / digest) for _, digest in entries}
            total = sum(sizes.values())
            for used_at, digest in entries:
                if total <= self._bytes_max:
                    break
                if digest == keep or self._held[digest] or time.time() - used_at < GRACE_S:
                    continue
                self.discard(digest)
                total -= sizes[digest]
            metrics.set("mesh_cache_bytes", total)

    def _entries(self) -> list[tuple[float, str]]:
        """(last use, digest) of all entries."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith("."):
                    found.append(((path / "manifest").stat().st_mtime, path.name))
        return found

    def _sweep(self) -> None:
        """Remove what dead processes left half-made."""
        for path in self.folder.glob(".part-*"):
            pid, life = path.name.split("-")[1:3]
            mine = int(pid) == os.getpid()
            if (mine and life != _LIFE) or (not mine and not psutil.pid_exists(int(pid))):
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
