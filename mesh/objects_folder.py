"""Objects as files in a shared folder: a disk that all machines of the mesh mount.

    <folder>/<mesh>/c/ab/ab34…            whole objects, below the first two digits of their digests
    <folder>/<mesh>/d/ab/ab34….<base>     deltas
    <folder>/<mesh>/m/ab/ab34…            manifests
    <folder>/<mesh>/identity              32 random digits, written once: the same for all who reach this folder
    <folder>/<mesh>/tmp/…                 what is being written, by whom it may be

A file is written under a name of its own, synced, and then linked under its digest: only one writer wins, a reader sees
the whole file or none, and what was reported as stored is on the disk. That holds for several machines on one local or
network file system with atomic links (NFS, CephFS, Lustre, SMB with Unix extensions); where links are not to be had a
rename takes their place, by which two writers of one object replace each other's equal bytes.

The folder itself is never made here: when its disk is not mounted it is missing, and that is an outage. Not covered: a
network disk that drops what it has reported as synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from mesh.errors import BusUnavailable, DiskFull, EnvironmentUnfit
from mesh.messages import object_names
from mesh.messages.object_names import DELTA, MANIFEST, WHOLE, ObjectName
from mesh.platform import sync_folder

T = TypeVar("T")

WEIGHED = 64
"""Objects of each of the 256 shelves of a kind whose sizes are looked at while they are listed: a network disk answers
for each by itself."""

STALE_S = 24 * 3_600.0
"""After this time a file that is still being written has no writer any more."""

IDENTITY_CHARS = 32
"""Of what tells one folder from another."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


class FolderBackend:
    """`mesh.objects.ObjectBackend` in a folder. Every call works in a thread."""

    def __init__(self, folder: Path, prefix: str, bytes_max: int = 0) -> None:
        """folder: exists; prefix: the mesh's, so that several may share it; bytes_max: what it should hold, 0: what
        the disk has room for."""
        self._folder, self._bytes_max = folder, bytes_max
        self._root = folder / prefix
        self._size_bytes = -1
        """Of all objects, when they were last listed; -1: not yet."""

    @property
    def where(self) -> str:
        """The folder."""
        return f"the folder {self._root}"

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        """Store if absent, or over what is there."""
        return await self._do(lambda: self._put(self._path(name), data, over))

    async def get(self, name: ObjectName) -> bytes | None:
        """The stored bytes, or None."""
        return await self._do(lambda: self._get(self._path(name)))

    async def has(self, name: ObjectName) -> bool:
        """Is it there?"""
        return await self._do(lambda: self._has(self._path(name)))

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """Those that are not there."""
        return await self._do(lambda: {name for name in names if not self._has(self._path(name))})

    async def names(self) -> AsyncIterator[ObjectName]:
        """Everything that is stored now, a folder at a time."""
        size = 0
        for shelf in await self._do(lambda: list(self._shelves())):
            names, bytes_ = await self._do(lambda shelf=shelf: _weighed(shelf))  # type: ignore[misc]
            size += bytes_
            for name in names:
                yield name
        self._size_bytes = size

    async def use(self) -> tuple[int, int]:
        """About what was there when all was last listed, and what the folder should hold, or could on its disk."""
        if self._size_bytes < 0:
            return -1, -1
        if self._bytes_max:
            return self._size_bytes, self._bytes_max
        free = await self._do(lambda: shutil.disk_usage(self._folder).free)
        return self._size_bytes, self._size_bytes + free

    async def mark(self) -> str:
        """The disk's own time now, in nanoseconds: what a file gets that is written now."""
        return await self._do(lambda: str(self._mark()))

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        """Remove; with a mark only what was last written before it."""
        return await self._do(lambda: self._remove(self._path(name), int(mark) if mark else None))

    async def identity(self) -> str:
        """Tells this folder from another one of the same path; made by the first who asks."""
        return await self._do(self._identity)

    async def close(self) -> None:
        """Nothing is held."""

    # -- in threads ---------------------------------------------------------------------------------------------------

    def _path(self, name: ObjectName) -> Path:
        return self._root / name.kind / name.digest[:2] / (f"{name.digest}.{name.base}" if name.base else name.digest)

    def _put(self, path: Path, data: bytes, over: bool) -> bool:
        if not over and self._has(path):
            return False
        part = self._write(data)
        try:
            _made(path.parent, self._root)
            placed = _replaced(part, path) if over else _linked(part, path)
            sync_folder(path.parent)
            return placed
        finally:
            part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> Path:
        """A synced file of its own name."""
        part = self._new("part")
        try:
            with part.open("xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def _identity(self) -> str:
        path = self._root / "identity"
        if not self._has(path):
            self._put(path, secrets.token_hex(16).encode(), over=False)
        return path.read_text(encoding="ascii", errors="replace")[:IDENTITY_CHARS]

    def _new(self, what: str) -> Path:
        folder = self._root / "tmp"
        _made(folder, self._root)
        return folder / f"{what}-{os.getpid()}-{secrets.token_hex(8)}"

    def _get(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self._check_mounted()
            return None

    def _has(self, path: Path) -> bool:
        if path.exists():
            return True
        self._check_mounted()
        return False

    def _check_mounted(self) -> None:
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is missing", str(self._folder))

    def _shelves(self) -> Iterator[Path]:
        self._check_mounted()
        self._sweep()
        for kind in (WHOLE, DELTA, MANIFEST):
            with contextlib.suppress(FileNotFoundError):
                yield from (path for path in (self._root / kind).iterdir() if path.is_dir())

    def _sweep(self) -> None:
        """Remove what dead writers left. By the disk's own time: the clocks of its users may differ."""
        with contextlib.suppress(FileNotFoundError):
            parts = list((self._root / "tmp").iterdir())
            now_ns = self._mark() if parts else 0
            for part in parts:
                with contextlib.suppress(FileNotFoundError):
                    if now_ns - part.stat().st_mtime_ns > STALE_S * 1e9:
                        part.unlink()

    def _mark(self) -> int:
        probe = self._write(b"")
        try:
            os.utime(probe)
            return probe.stat().st_mtime_ns
        finally:
            probe.unlink(missing_ok=True)

    def _remove(self, path: Path, mark_ns: int | None) -> bool:
        gone = self._new("gone")
        try:
            if mark_ns is not None and path.stat().st_mtime_ns >= mark_ns:
                return False
            path.rename(gone)  # nobody writes to it any more: a second look is the last one
        except FileNotFoundError:
            self._check_mounted()
            return False
        written_again = mark_ns is not None and gone.stat().st_mtime_ns >= mark_ns
        if written_again:
            _linked(gone, path)
        gone.unlink(missing_ok=True)
        return not written_again

    # -- errors -------------------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise self._in_our_words(error) from error

    def _in_our_words(self, error: OSError) -> Exception:
        if error.errno in _FULL:
            return DiskFull(f"There is no room left in {self.where}: free some space, or raise its quota.")
        if error.errno in _DENIED:
            return EnvironmentUnfit(
                f"This user may not work in {self.where} ({error.strerror}): give it the right to read and write there."
            )
        if not self._folder.is_dir():
            return BusUnavailable(
                f"The folder {self._folder} for artifacts is not there: mount its disk, or make it for a new mesh."
            )
        return BusUnavailable(f"{self.where} does not answer ({error}): look after its disk; it is tried again.")


def _made(folder: Path, root: Path) -> None:
    """Make a folder below the root; the folder that holds the root has to be there."""
    if not folder.is_dir():
        root.mkdir(exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, folder.parent, root, root.parent):
            sync_folder(made)


def _linked(part: Path, path: Path) -> bool:
    """Give a file its name if nobody has it; False when somebody has."""
    try:
        os.link(part, path)
    except FileExistsError:
        if part.stat().st_nlink == 1:
            return False  # else it is ours: a network disk has done it and lost its answer
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        part.rename(path)
    _stamped(path)
    return True


def _replaced(part: Path, path: Path) -> bool:
    part.replace(path)
    _stamped(path)
    return True


def _stamped(path: Path) -> None:
    """Its time is that of its name, not of its bytes, which may have been written long before."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)


def _weighed(shelf: Path) -> tuple[list[ObjectName], int]:
    """The objects of a shelf, and about how many bytes they have: as many as the first WEIGHED have in the mean."""
    names, sizes = list[ObjectName](), list[int]()
    with contextlib.suppress(FileNotFoundError), os.scandir(shelf) as entries:
        for entry in entries:
            name = object_names.parse(f"{shelf.parent.name}.{entry.name}")
            if name is None:
                continue
            names.append(name)
            if len(sizes) < WEIGHED:
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(entry.stat().st_size)
    return names, round(sum(sizes) / len(sizes) * len(names)) if sizes else 0
