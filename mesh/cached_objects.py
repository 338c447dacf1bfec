"""Objects that lie in the local cache already, as parts of whatever artifacts: decoded; who uses them checks them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mesh import codec, limits
from mesh.artifact_putting import parts_of
from mesh.cache import LocalCache
from mesh.errors import Malformed
from mesh.messages.artifacts import Manifest


class Place(NamedTuple):
    """Where the decoded bytes of an object lie."""

    file: Path
    offset: int
    size: int


def find(cache: LocalCache, wanted: Collection[str], *, entries_max: int, first: str = "") -> dict[str, Place]:
    """Where objects lie, by their digests, in the entries used last; `first`: the entry to look into before them."""
    found: dict[str, Place] = {}
    entries = ([first] if first else []) + cache.newest(entries_max)
    for entry in entries:
        data = cache.peek(entry) if len(found) < len(wanted) else None
        if data is None:
            continue
        try:
            manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        except Malformed:
            continue
        for digest, place in _placed(manifest, cache.files(entry)):
            if digest in wanted:
                found.setdefault(digest, place)
    return found


def read(place: Place) -> bytes:
    """The bytes of an object, fewer when its file has become shorter. OSError when it has gone."""
    with place.file.open("rb", buffering=0) as source:
        source.seek(place.offset)
        return source.read(place.size)


def _placed(manifest: Manifest, files: Path) -> Iterator[tuple[str, Place]]:
    for entry in manifest.files:
        offset = 0
        for name, size in parts_of(entry):
            yield name.digest, Place(files / entry.path, offset, size)
            offset += size
