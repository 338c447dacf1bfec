"""Manifests in parts: the objects of large artifacts stand in lists, and the lists are objects.

    small     manifest -> objects                            as it always was, byte for byte
    large     manifest -> lists of up to `rows` objects -> objects

Which files have lists follows from the numbers of their objects alone (`Rules.listed_above`), so that equal content
has one digest whoever puts it: an artifact whose manifest fits into one message has none, else the largest files get
them. A list is named by its digest like every object, put before the manifest, collected, reported and sent again like
every object; equal stretches of two artifacts share theirs. Whoever follows a manifest takes its objects in batches
(`batches`): inline ones first, then some lists at a time, so that memory is bounded whatever the artifact's size.

Not covered: a manifest whose files alone, each with one list, do not fit into one message (some 9,000 files).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from mesh import codec, limits
from mesh.errors import ArtifactCorrupt, DataRefused, Malformed
from mesh.messages import object_names
from mesh.messages.artifacts import NO_BASE, FileEntry, ObjectList
from mesh.messages.object_names import ObjectName
from mesh.windows import all_of

OBJECTS_MAX = limits.ARTIFACT_OBJECTS_MAX

INLINE_OBJECTS_MAX = 12_000
"""Objects that a manifest names itself: 71 bytes each, so that it stays one message."""

ENTRY_BYTES, OBJECT_BYTES, LIST_BYTES = 56, 71, 67
"""In a manifest: of one file besides its path, of one of its objects, of one list."""

_ABOVE = (limits.LIST_ROWS_MAX, limits.LIST_ROWS_MAX // 8, 64, 8, 1)
"""Files with more objects than this have lists; the first that lets the manifest fit counts. All inline comes before.
"""

LISTS_AT_ONCE = 8
"""Lists that are read in parallel, and held: 24,000 rows, some 8 MB."""

ReadList = Callable[[str], Awaitable[bytes]]
"""The bytes of a list by its digest, checked. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""


class Portion(NamedTuple):
    """Some consecutive objects of one file."""

    entry: FileEntry
    """As a file of its own: under the file's path, with its objects here."""
    offset: int
    """Where its bytes begin in the file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What an artifact may have, and when its objects go into lists. Whoever changes these changes digests."""

    objects: int = OBJECTS_MAX
    """Most objects in all."""
    inline: int = INLINE_OBJECTS_MAX
    """Most that the manifest names itself."""
    rows: int = limits.LIST_ROWS_MAX
    """Most objects of one list."""
    manifest_bytes: int = limits.MANIFEST_BYTES_MAX

    def listed_above(self, files: Collection[tuple[str, int]]) -> float:
        """Files with more objects than this have lists; infinite: none has. files: (path, number of objects) of each.

        DataRefused, with a sentence, for what can not be one artifact.
        """
        count = sum(objects for _, objects in files)
        if count > self.objects:
            raise DataRefused(
                f"an artifact may have {self.objects} objects, some {self.objects * limits.CHUNK_BYTES / 1e9:,.0f} GB, "
                f"and this one would have {count}: split it into smaller ones."
            )
        if len(files) > limits.ARTIFACT_FILES_MAX:
            raise DataRefused(
                f"an artifact may have {limits.ARTIFACT_FILES_MAX} files, this one has {len(files)}: pack them."
            )
        for above in (math.inf, *_ABOVE):
            inline = sum(objects for _, objects in files if objects <= above)
            if inline <= self.inline and self._size(files, above) <= self.manifest_bytes:
                return above
        raise DataRefused(
            f"{len(files)} files in {count} objects can not be listed in {self.manifest_bytes} bytes: pack them into "
            "fewer files, or split them."
        )

    def _size(self, files: Collection[tuple[str, int]], above: float) -> int:
        """Bytes of the manifest, about."""
        return sum(
            ENTRY_BYTES
            + len(os.fsencode(path))
            + (OBJECT_BYTES * objects if objects <= above else LIST_BYTES * -(-objects // self.rows))
            for path, objects in files
        )


def parts_of(entry: FileEntry) -> Iterator[tuple[ObjectName, int]]:
    """(name, decoded size) of the objects that an entry names itself."""
    bases = entry.bases or ("",) * len(entry.objects)
    for digest, base, size in zip(entry.objects, bases, entry.sizes, strict=True):
        yield object_names.of_part(digest, base), size


def list_names(entries: Sequence[FileEntry]) -> set[ObjectName]:
    """The names of all lists."""
    return {object_names.whole(digest) for entry in entries for digest in entry.lists}


def read_list(digest: str, data: bytes) -> ObjectList:
    """The list that an object of this digest holds. ArtifactCorrupt when it holds none."""
    try:
        return codec.decode(data, ObjectList)
    except Malformed as error:
        raise ArtifactCorrupt(
            f"The object {digest[:16]} should be a list of objects, and is none that this program can read: {error}",
            digest=digest,
        ) from None


def entry_of(path: str, found: ObjectList) -> FileEntry:
    """The objects of a list as an entry that names them itself."""
    return FileEntry(
        path=path,
        size_bytes=found.size_bytes,
        objects=tuple(digest for digest, _ in found.parts()),
        sizes=found.sizes,
        bases=tuple(base for _, base in found.parts()) if found.bases else (),
    )


def list_of(objects: Sequence[str], sizes: Sequence[int], bases: Sequence[str] = ()) -> bytes:
    """The bytes of a list of these objects."""
    raw = b"".join(bytes.fromhex(base) or NO_BASE for base in bases) if any(bases) else b""
    return codec.encode(ObjectList(digests=bytes.fromhex("".join(objects)), sizes=tuple(sizes), bases=raw))


async def batches(entries: Sequence[FileEntry], read: ReadList) -> AsyncIterator[list[Portion]]:
    """All objects of these files, in order within each file, a bounded number at a time.

    ArtifactCorrupt when a file's lists do not add up to its size, and what `read` raises.
    """
    inline = [Portion(entry, 0) for entry in entries if not entry.lists]
    if inline:
        yield inline
    offsets = {entry.path: 0 for entry in entries if entry.lists}
    lists = ((entry, digest) for entry in entries for digest in entry.lists)
    while some := list(itertools.islice(lists, LISTS_AT_ONCE)):
        found = await all_of(_read(read, digest) for _, digest in some)
        batch = []
        for (entry, digest), (size, rows) in zip(some, found, strict=True):
            offset, offsets[entry.path] = offsets[entry.path], offsets[entry.path] + size
            if offset + size > entry.size_bytes:
                raise _does_not_add_up(entry, digest)
            batch.append(Portion(entry_of(entry.path, rows), offset))
        yield batch
    for entry in entries:
        if entry.lists and offsets[entry.path] != entry.size_bytes:
            raise _does_not_add_up(entry, entry.lists[-1])


async def _read(read: ReadList, digest: str) -> tuple[int, ObjectList]:
    rows = read_list(digest, await read(digest))
    return rows.size_bytes, rows


def _does_not_add_up(entry: FileEntry, digest: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"The lists of {entry.path!r} do not add up to its {entry.size_bytes} bytes: it was stored wrongly.",
        digest=digest,
    )
