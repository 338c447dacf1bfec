"""What a task's former checkpoints were made of, and how the next one becomes objects: the thinking half of the packer.

    cut -> hash -> in the last stored version, or twice in this one?   nothing is written
                   else: code it, alone or against this piece's base   one file, called as the object is
        -> all of them, when they are many: lists of objects           a file each, the same way

A version is what one checkpoint named. It is *pending* until the worker says what became of its objects (`settle`):
only a version that is stored is left out of, or used as a base for, the next one; pending ones may be given up in any
order.

A piece's cycle begins with a whole object, its base, which stays in the folder as it was stored. Deltas follow while
one more of them costs no more than the cycle's mean so far (the base's bytes included): the further away the base, the
larger they get, and the mean over a cycle is least where the next would be above it. At most CYCLE_MAX, so that no base
is referenced for ever.

Memory: one piece and its base at a time, and some 300 bytes for each piece of each version. Disk: the pieces' bases,
and the new objects of versions that are pending. Files are never synced: they are worth nothing after a crash.

Not covered: a buffer that changes while it is read; its writer waits for the release.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from executors.frames import Span
from mesh import chunks, codec, coding, object_lists
from mesh.chunks import Piece
from mesh.errors import ArtifactCorrupt, DataRefused, DiskFull
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry
from mesh.object_lists import Rules

CYCLE_MAX = 16
"""Checkpoints from one base to the next of the same piece."""

RULES = Rules(objects=100_000, inline=6_000)
"""Objects of one checkpoint (50 GB): what is remembered of them takes some 3 kB each. Above 6,000, twice as many
digests with those of their bases, they stand in lists (mesh/object_lists.py)."""


class Cycle(NamedTuple):
    """Where a piece stands between two bases."""

    base: str
    """Digest of the whole object that its deltas are made against."""
    sent_bytes: int
    """Of all its objects since then, the base's included."""
    sent_objects: int
    """How many those are."""
    crc32: int
    """Of the base's file: a disk that gives back other bytes must not spoil the deltas."""


NO_CYCLE = Cycle("", 0, 0, 0)


@dataclasses.dataclass(slots=True)
class Version:
    """One checkpoint in terms of objects."""

    cycles: dict[tuple[str, str], Cycle] = dataclasses.field(default_factory=dict)
    """By file and name of the piece."""
    objects: dict[str, str] = dataclasses.field(default_factory=dict)
    """Digest of each object to its base, '' for a whole one."""
    made: set[str] = dataclasses.field(default_factory=set)
    """Files that were written for it."""
    lists: set[str] = dataclasses.field(default_factory=set)
    """Those of them that are lists of its objects. They are written for each version, for its upload to read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A checkpoint as objects."""

    entries: tuple[FileEntry, ...]
    new_objects: int
    new_bytes: int
    """Bytes of the files written for it: what has to travel, but for its manifest."""
    copied: bool
    """All its files lie as they are in the folder that was asked for."""


class Lineage:
    """The checkpoints of one attempt at one task, in one folder. Blocking; for one thread."""

    def __init__(self, folder: Path, rules: Rules = RULES) -> None:
        self.folder, self._rules = folder, rules
        self._stored = Version()
        self._pending: dict[int, Version] = {}

    def pack(self, job: int, buffer: BinaryIO, files: Sequence[Span], plain: Path | None = None) -> Packed:
        """Write the new objects of a checkpoint. plain: a folder that gets its files as they are, too.

        DataRefused for files that can be no artifact or a buffer that is too short, DiskFull; nothing of it is left
        then.
        """
        version = self._pending[job] = Version()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            cut = [_cut(buffer, span) for span in files]
            above = self._rules.listed_above([(span.path, len(found)) for span, found in zip(files, cut, strict=True)])
            entries = [
                self._file(version, buffer, span, found, plain, listed=len(found) > above)
                for span, found in zip(files, cut, strict=True)
            ]
        except OSError as error:
            self.settle(job, stored=False)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"There is no room below {self.folder} for a checkpoint: free some space.") from None
            raise DataRefused(f"A snapshot could not be read or packed: {error}.") from None
        except BaseException:
            self.settle(job, stored=False)
            raise
        new = version.made - (version.lists & self._stored.lists)
        sizes = [(self.folder / name).stat().st_size for name in new]
        copied = plain is not None and all(_has_size(plain / entry.path, entry.size_bytes) for entry in entries)
        return Packed(tuple(entries), len(sizes), sum(sizes), copied)

    def settle(self, job: int, *, stored: bool) -> None:
        """The objects of this job are all in the store now, or it was given up. Unknown jobs change nothing."""
        version = self._pending.pop(job, None)
        if version is None:
            return
        if stored:
            self._stored = version
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that no version needs any more: no base of a living one, not new in a pending one."""
        live = [self._stored, *self._pending.values()]
        needed = {str(object_names.whole(cycle.base)) for version in live for cycle in version.cycles.values()}
        needed.update(*(version.made for version in self._pending.values()))
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in needed and path.is_file():
                path.unlink(missing_ok=True)

    # -- one file ---------------------------------------------------------------------------------------------------

    def _file(
        self,
        version: Version,
        buffer: BinaryIO,
        span: Span,
        pieces: Sequence[Piece],
        plain: Path | None,
        *,
        listed: bool,
    ) -> FileEntry:
        path = span.path
        with _Copy(None if plain is None else plain / path) as copied:
            digests = []
            for piece in pieces:
                body = _read(buffer, span, piece.offset, piece.size)
                if len(body) != piece.size:
                    raise DataRefused(f"{path} was announced with {span.size_bytes} bytes and ends before that.")
                copied.write(body)
                digests.append(self._object(version, path, piece, body))
        if listed:
            lists = self._lists(version, pieces, digests)
            return FileEntry(path=path, size_bytes=span.size_bytes, objects=(), sizes=(), lists=lists)
        bases = tuple(version.objects[digest] for digest in digests)
        return FileEntry(
            path=path,
            size_bytes=span.size_bytes,
            objects=tuple(digests),
            sizes=tuple(piece.size for piece in pieces),
            bases=bases if any(bases) else (),
        )

    def _lists(self, version: Version, pieces: Sequence[Piece], digests: Sequence[str]) -> tuple[str, ...]:
        """Write the lists of a file's objects; their digests."""
        found = list[str]()
        for first in range(0, len(digests), self._rules.rows):
            some = digests[first : first + self._rules.rows]
            sizes = [piece.size for piece in pieces[first : first + len(some)]]
            body = object_lists.list_of(some, sizes, [version.objects[digest] for digest in some])
            found.append(codec.digest(body))
            name = str(object_names.whole(found[-1]))
            self._write(version, name, coding.RAW_HEADER + body)
            version.lists.add(name)
        return tuple(found)

    def _object(self, version: Version, path: str, piece: Piece, body: bytes) -> str:
        """Digest of the piece; its stored bytes are in the folder unless they are in the store."""
        key, digest = (path, piece.name), codec.digest(body)
        before = self._stored.cycles.get(key, NO_CYCLE)
        if digest in version.objects or digest in self._stored.objects:
            version.objects.setdefault(digest, self._stored.objects.get(digest, ""))
            if before.base:
                version.cycles[key] = before
            return digest
        usable = bool(before.base) and before.sent_objects < CYCLE_MAX
        content = self._base(before) if usable else None
        if content is None:
            stored = coding.encode(body, item_bytes=piece.item_bytes)
        else:
            stored = coding.encode(
                body,
                item_bytes=piece.item_bytes,
                base=content,
                base_digest=before.base,
                delta_bytes_max=before.sent_bytes // before.sent_objects,
            )
        base = coding.base_of(stored)
        name = str(object_names.of_part(digest, base))
        self._write(version, name, stored)
        version.objects[digest] = base
        if base:
            version.cycles[key] = before._replace(
                sent_bytes=before.sent_bytes + len(stored), sent_objects=before.sent_objects + 1
            )
        else:
            version.cycles[key] = Cycle(digest, len(stored), 1, zlib.crc32(stored))
        return digest

    def _base(self, cycle: Cycle) -> memoryview | None:
        """The bytes of a piece's base; None when it is no longer here."""
        try:
            stored = (self.folder / str(object_names.whole(cycle.base))).read_bytes()
            return coding.decode(stored) if zlib.crc32(stored) == cycle.crc32 else None
        except (OSError, ArtifactCorrupt):
            return None

    def _write(self, version: Version, name: str, stored: bytes) -> None:
        """Whole or not at all: an upload of an earlier version may be reading a file of this name."""
        version.made.add(name)
        target = self.folder / name
        part = target.with_name("part")
        part.write_bytes(stored)
        part.replace(target)


def _cut(buffer: BinaryIO, span: Span) -> Sequence[Piece]:
    """The pieces of one file of the buffer."""
    path = _checked_path(span.path)
    if span.size_bytes < 0:
        raise DataRefused(f"{path} was announced with {span.size_bytes} bytes.")
    return chunks.cut_by(lambda offset, size: _read(buffer, span, offset, size), path, span.size_bytes)


def _checked_path(path: str) -> str:
    """A path that an artifact may have. DataRefused for others."""
    try:
        return FileEntry(path=path, size_bytes=0, objects=(), sizes=()).path
    except ValueError as error:
        raise DataRefused(f"A snapshot's file can not be stored: {error}.") from None


def _read(buffer: BinaryIO, span: Span, offset: int, size: int) -> bytes:
    """Bytes of one file of the buffer; fewer at its end."""
    size = min(size, span.size_bytes - offset)
    buffer.seek(span.offset + offset)
    data = buffer.read(size) or b""
    while 0 < len(data) < size and (more := buffer.read(size - len(data))):
        data += more
    return data


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


class _Copy:
    """A file that is written beside the objects; given up at the first error: it is only a convenience."""

    def __init__(self, path: Path | None) -> None:
        self._file: BinaryIO | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("wb")

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def write(self, body: bytes) -> None:
        """Append, unless it was given up."""
        if self._file is not None:
            try:
                self._file.write(body)
            except OSError:
                self._give_up()

    def _give_up(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
