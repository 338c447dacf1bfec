"""Objects that lie in the local cache already, as parts of whatever artifacts: decoded; who uses them checks them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mesh import codec, limits
from mesh.cache import LocalCache
from mesh.errors import ArtifactCorrupt, Malformed
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.object_lists import entry_of, parts_of, read_list

ROWS_MAX = 200_000
"""Objects of large artifacts that one search looks through, some 0.3 s: it is made for each batch of another one."""


class Place(NamedTuple):
    """Where the decoded bytes of an object lie."""

    file: Path
    offset: int
    size: int


def find(cache: LocalCache, wanted: Collection[str], *, entries_max: int) -> dict[str, Place]:
    """Where objects lie, by their digests, in the entries used last; of large ones ROWS_MAX objects are looked at."""
    found: dict[str, Place] = {}
    rows = 0
    for entry in cache.newest(entries_max):
        data = cache.peek(entry) if len(found) < len(wanted) else None
        if data is None:
            continue
        try:
            manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        except Malformed:
            continue
        listed = any(entry.lists for entry in manifest.files)
        for digest, place in _placed(manifest, cache.files(entry), cache.lists(entry)):
            if digest in wanted:
                found.setdefault(digest, place)
            rows += listed
            if rows >= ROWS_MAX:
                return found
    return found


def read(place: Place) -> bytes:
    """The bytes of an object, fewer when its file has become shorter. OSError when it has gone."""
    with place.file.open("rb", buffering=0) as source:
        source.seek(place.offset)
        return source.read(place.size)


def list_bytes(folder: Path, digest: str) -> bytes | None:
    """A list that lies in a folder under its digest; None when it is not there or damaged."""
    try:
        data = (folder / digest).read_bytes()
    except OSError:
        return None
    return data if codec.digest(data) == digest else None


def _placed(manifest: Manifest, files: Path, lists: Path) -> Iterator[tuple[str, Place]]:
    for entry in manifest.files:
        offset = 0
        for part in _parts(entry, lists):
            for name, size in parts_of(part):
                yield name.digest, Place(files / entry.path, offset, size)
                offset += size


def _parts(entry: FileEntry, lists: Path) -> Iterator[FileEntry]:
    """The entry, or its lists as far as they are here."""
    if not entry.lists:
        yield entry
    for digest in entry.lists:
        data = list_bytes(lists, digest)
        if data is None:
            return
        try:
            yield entry_of(entry.path, read_list(digest, data))
        except ArtifactCorrupt:
            return
