"""What large files were cut into when they were last put, so that putting them again reads nothing.

    <folder>/<digest of the path>     one file per remembered file: its stamp and its objects

A file is taken to be unchanged when its path, size, modification time, change time, inode and device are what they
were, to the nanosecond, and had been left alone for SETTLED_S when its bytes began to be read (else a later write
within the clock's grain would go unseen). What is trusted with that: that nobody sets the system's clock back and then
writes a file of the same size, and that no program writes through a memory map all the time (the system stamps such
writes with a delay, on Linux of up to a minute). Whoever can not trust that puts with `fresh=True`.

Only a convenience: what can not be read or written here is as if it were not remembered. Files are small, there are at
most FILES_MAX of them, the longest unused go first.
"""

from __future__ import annotations

import array
import contextlib
import os
import secrets
import time
from pathlib import Path

import msgspec

from mesh import codec, limits
from mesh.errors import Malformed
from mesh.messages.artifacts import DIGEST_BYTES

REMEMBERED_BYTES_MIN = 4 * 1024 * 1024
"""Smaller files are read again: that takes milliseconds."""

SETTLED_S = 2.0
"""How long a file must have been left alone: twice the coarsest clock of a file system in use (FAT; network disks)."""

FILES_MAX = 256
"""Remembered files: 36 bytes for each of their objects, 9 MB when all of them are 500 MB large."""

OBJECTS_MAX = 100_000
"""Objects of a remembered file (50 GB); a larger one is read again."""

FILE_BYTES_MAX = 4 * 1024 * 1024
"""What is read of it."""


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one state of a file from another without reading it."""

    path: str
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int
    chunk_bytes: int = limits.CHUNK_BYTES
    """How it was cut; a program that cuts otherwise starts anew."""


class _Remembered(msgspec.Struct, frozen=True, kw_only=True):
    stamp: Stamp
    digests: bytes
    """Raw, 32 bytes each."""
    sizes: bytes
    """Bytes of each object, four bytes each as this machine writes them: the folder is nobody else's."""


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a large file that was left alone for a while; None for any other."""
    found = path.stat()
    settled_at = time.time() - SETTLED_S
    if found.st_size < REMEMBERED_BYTES_MIN or max(found.st_mtime, found.st_ctime) > settled_at:
        return None
    return Stamp(
        path=str(path.absolute()),
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
        inode=found.st_ino,
        device=found.st_dev,
    )


class PutMemory:
    """Remembered files, in one folder. Thread-safe, and safe for several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, stamp: Stamp) -> tuple[bytes, array.array[int]] | None:
        """The raw digests and the sizes of the objects of a file with exactly this stamp."""
        path = self._path(stamp)
        try:
            tree = codec.unpack(path.read_bytes(), bytes_max=FILE_BYTES_MAX)
            found = msgspec.convert(tree, _Remembered)
            sizes = array.array("I", found.sizes)
            if (
                found.stamp != stamp
                or len(found.digests) != DIGEST_BYTES * len(sizes)
                or sum(sizes) != stamp.size
                or min(sizes) < 1
            ):
                return None
            os.utime(path)
            return found.digests, sizes
        except (OSError, Malformed, msgspec.ValidationError, ValueError):
            return None

    def remember(self, stamp: Stamp, digests: bytes, sizes: array.array[int]) -> None:
        """Note what a file was cut into. Forgets the longest unused when there are too many."""
        if len(sizes) > OBJECTS_MAX:
            return
        found = _Remembered(stamp=stamp, digests=digests, sizes=sizes.tobytes())
        part = self._folder / f".{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(codec.pack(msgspec.to_builtins(found, builtin_types=(bytes,))))
            part.replace(self._path(stamp))
            self._prune()
        except (OSError, Malformed):
            with contextlib.suppress(OSError):
                part.unlink()

    def forget(self, stamp: Stamp) -> None:
        """It was not as remembered."""
        with contextlib.suppress(OSError):
            self._path(stamp).unlink()

    def _path(self, stamp: Stamp) -> Path:
        return self._folder / codec.digest(os.fsencode(stamp.path))[:32]

    def _prune(self) -> None:
        files = list(self._folder.iterdir())
        if len(files) > FILES_MAX:
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[: len(files) - FILES_MAX]:
                path.unlink(missing_ok=True)
