"""Manifests: the small records that make an artifact or a checkpoint exist. Written last, immutable, named by digest.

artifact digest = SHA-256 of the manifest's bytes (canonical msgpack: the codec writes fields in declared order)
object digest   = SHA-256 of the object's decoded bytes; the stored bytes begin with a four-byte header

stored object:  'R' 'O' | format 1 | coding | …        mesh/coding.py draws it: 0 raw, 1 byte planes, 2 delta to a base

A file of many objects names lists of them instead (mesh/object_lists.py); a list is an object like any other:

    manifest -> file -> objects                            up to some 12,000 in all
    manifest -> file -> lists -> objects                   up to ARTIFACT_OBJECTS_MAX
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from mesh import limits
from mesh.messages.base import Facts, Part, Record

OBJECT_MAGIC = b"RO"
OBJECT_FORMAT = 1
CODING_RAW = 0
CODING_PLANES = 1
CODING_DELTA = 2

DIGEST_BYTES = 32
NO_BASE = bytes(DIGEST_BYTES)

LISTS_MAX = limits.ARTIFACT_OBJECTS_MAX // limits.LIST_ROWS_MAX + limits.ARTIFACT_FILES_MAX
"""Lists of one artifact: all full but one of each file."""


class FileEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One file: its path inside the artifact and the objects whose bytes, in order, are its content.

    Defaults are left out, so that a manifest without deltas has the bytes, and the digest, that it always had.
    """

    path: str
    """Relative, '/'-separated, no '..', no leading '/'."""
    size_bytes: int
    objects: tuple[str, ...]
    """Object digests (64 hex) in order."""
    sizes: tuple[int, ...]
    """Decoded size of each object in bytes, same length as `objects`."""
    bases: tuple[str, ...] = ()
    """Empty, or as many as `objects`: the digest of the whole object that a delta is decoded with, '' for a whole one.
    What is collected as garbage, and what a reader fetches, follows from here without reading an object."""
    lists: tuple[str, ...] = ()
    """Digests of the lists whose rows, one list after the other, are the file's objects; `objects`, `sizes` and `bases`
    are empty then. Who does not know this field finds objects that do not add up, and refuses the manifest."""

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path or self.path.startswith("/") or "\\" in self.path or any(p in ("", ".", "..") for p in parts):
            raise ValueError(f"a path inside an artifact is relative and plain, got {self.path!r}")
        if self.lists:
            if self.objects or self.sizes or self.bases or self.size_bytes <= 0:
                raise ValueError(f"{self.path!r} has its objects in lists, and then not here too")
            return
        if len(self.objects) != len(self.sizes) or sum(self.sizes) != self.size_bytes:
            raise ValueError(f"the objects of {self.path!r} do not add up to its size")
        if self.bases and len(self.bases) != len(self.objects):
            raise ValueError(f"{self.path!r} has {len(self.objects)} objects and bases for {len(self.bases)}")


class Manifest(Record, frozen=True, kw_only=True):
    """An immutable file or folder. `media` says what it is: dataset, split, model, checkpoint, outcomes, document."""

    kind: ClassVar[str] = "manifest"

    media: str
    files: tuple[FileEntry, ...]
    facts: Facts = {}
    """For a checkpoint: task, epoch, number, step, fingerprint. For a split: examples, task kind, labels."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.files) <= limits.ARTIFACT_FILES_MAX:
            raise ValueError(f"an artifact has 1 to {limits.ARTIFACT_FILES_MAX} files, got {len(self.files)}")
        if len({entry.path for entry in self.files}) != len(self.files):
            raise ValueError("an artifact names each path once")
        lists = sum(len(entry.lists) for entry in self.files)
        if lists > LISTS_MAX:
            raise ValueError(f"an artifact has at most {LISTS_MAX} lists of objects, got {lists}")

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(entry.size_bytes for entry in self.files)


class ObjectList(Record, frozen=True, kw_only=True):
    """A part of a manifest: some of the objects of one file, in order. Stored as an object, named by its digest."""

    kind: ClassVar[str] = "object-list"

    digests: bytes
    """Raw digests of the objects, 32 bytes each."""
    sizes: tuple[int, ...]
    """Decoded size of each object in bytes."""
    bases: bytes = b""
    """Empty, or as long as `digests`: the raw digest of each delta's base, zeros for a whole object."""

    def __post_init__(self) -> None:
        count = len(self.sizes)
        if not 1 <= count <= limits.LIST_ROWS_MAX or min(self.sizes) < 1:
            raise ValueError(f"a list names 1 to {limits.LIST_ROWS_MAX} objects of a byte or more, got {count}")
        if len(self.digests) != count * DIGEST_BYTES or len(self.bases) not in (0, len(self.digests)):
            raise ValueError(
                f"a list of {count} objects has {count * DIGEST_BYTES} bytes of digests and none or as many of bases, "
                f"got {len(self.digests)} and {len(self.bases)}"
            )

    @property
    def size_bytes(self) -> int:
        """Sum of the objects' sizes."""
        return sum(self.sizes)

    def parts(self) -> Iterator[tuple[str, str]]:
        """(digest, base) of each object, as file entries spell them."""
        for at in range(0, len(self.digests), DIGEST_BYTES):
            base = self.bases[at : at + DIGEST_BYTES]
            yield self.digests[at : at + DIGEST_BYTES].hex(), base.hex() if base != NO_BASE[: len(base)] else ""
