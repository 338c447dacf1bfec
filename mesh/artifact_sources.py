"""The files of an artifact that is being put: how they are cut, what is known of their objects, what they become.

A source holds 32 bytes for each object (64 MB for a terabyte) and makes everything else when it is asked for. Digests
are known as pieces are read; a large file that was put before is recalled and not read (`mesh/put_memory.py`).
"""

from __future__ import annotations

import array
import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mesh import chunks, codec, coding
from mesh.chunks import Piece
from mesh.errors import DataRefused
from mesh.messages.artifacts import DIGEST_BYTES, FileEntry, ObjectList
from mesh.object_lists import Rules
from mesh.put_memory import PutMemory, Stamp, stamp_of

SAMPLE_BYTES = 16 * 1024
"""Of each piece, to see whether coding it pays: a thirtieth of the time of coding a piece that turns out not to."""

PAYS = 0.5
"""Share of a sample to which coding has to bring it. Texts and tables come to 0.1 to 0.4, and are fetched faster for
it; weights in bfloat16 (0.70) or float32 (0.85) would take twice the processor time of a put, and of a get."""

_UNKNOWN = bytes(DIGEST_BYTES)


@dataclasses.dataclass(slots=True)
class Source:
    """One file on its way into an artifact."""

    file: Path
    name: str
    """Its path inside the artifact."""
    pieces: Sequence[Piece]
    stamp: Stamp | None
    """What tells whether it changes; None: it is read whatever the stamp says."""
    digests: bytearray
    """Raw digests in the order of the pieces; zeros until they are known."""
    recalled: bool = False
    """Its objects are known without reading it."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.pieces[-1].offset + self.pieces[-1].size if self.pieces else 0

    def digest(self, index: int) -> str:
        """Of one piece; '' until it is known."""
        raw = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return "" if raw == _UNKNOWN else raw.hex()

    def know(self, index: int, digest: str) -> None:
        """The digest of one piece is known."""
        self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = bytes.fromhex(digest)

    def known(self) -> Iterator[tuple[str, int]]:
        """(digest, size) of all pieces that were read so far."""
        for index in range(len(self.pieces)):
            if digest := self.digest(index):
                yield digest, self.pieces[index].size

    def entry(self) -> FileEntry:
        """As the manifest names it with all its objects. DataRefused when it can not."""
        objects = tuple(self.digest(index) for index in range(len(self.pieces)))
        return self._entry(objects=objects, sizes=tuple(piece.size for piece in self.pieces))

    def listed_entry(self, lists: Sequence[str]) -> FileEntry:
        """As the manifest names it with its lists."""
        return self._entry(objects=(), sizes=(), lists=tuple(lists))

    def list_at(self, first: int, rows: int) -> bytes:
        """The bytes of the list of so many objects from this one on, fewer at the end."""
        raw = bytes(self.digests[first * DIGEST_BYTES : (first + rows) * DIGEST_BYTES])
        return codec.encode(ObjectList(digests=raw, sizes=tuple(p.size for p in self.pieces[first : first + rows])))

    def remember(self, memory: PutMemory) -> None:
        """Note a large file that did not change while it was read."""
        if self.stamp is not None and not self.recalled and _stamp(self.file) == self.stamp:
            memory.remember(self.stamp, bytes(self.digests), array.array("I", (piece.size for piece in self.pieces)))

    def _entry(self, *, objects: tuple[str, ...], sizes: tuple[int, ...], lists: tuple[str, ...] = ()) -> FileEntry:
        try:
            return FileEntry(path=self.name, size_bytes=self.size, objects=objects, sizes=sizes, lists=lists)
        except ValueError as error:
            raise DataRefused(f"{self.file} can not be stored in an artifact: {error}") from None


def sources_of(
    path: Path, memory: PutMemory | None, rules: Rules, only: Collection[str] | None = None
) -> tuple[list[Source], float]:
    """The files of a file or folder, all or `only` these, sorted by path, and above how many objects a file has lists
    of them. Those that are remembered have their objects. DataRefused for what can be no artifact."""
    if path.is_file():
        files = [(path, path.name)]
    else:
        named = _walk(path) if only is None else ((path / name, name) for name in only)
        files = sorted(named, key=lambda pair: pair[1])
    if not files:
        raise DataRefused(f"{path} was expected to be a file or a folder with files, and holds none.")
    sources = [_source(file, name, memory) for file, name in files]
    try:
        return sources, rules.listed_above([(source.name, len(source.pieces)) for source in sources])
    except DataRefused as error:
        raise DataRefused(f"{path} can not be stored: {error}") from None


def read_piece(source: Source, index: int) -> tuple[bytes, str, bytes]:
    """The stored bytes of a piece, its digest, and nothing; or nothing, the digest, and bytes that are worth coding.
    DataRefused when the file has become shorter."""
    piece = source.pieces[index]
    with source.file.open("rb", buffering=0) as file:
        file.seek(piece.offset)
        body = file.read(piece.size)
    if len(body) != piece.size:
        raise changed(source.file)
    if _pays(body, piece.item_bytes):
        return b"", codec.digest(body), body
    return coding.RAW_HEADER + body, codec.digest(body), b""


def changed(file: Path) -> DataRefused:
    """What is raised when a file is not what it was a moment ago."""
    return DataRefused(f"{file} changed while it was being stored: try again when nothing writes to it.")


def _source(file: Path, name: str, memory: PutMemory | None) -> Source:
    stamp = stamp_of(file)
    known = memory.recall(stamp) if memory is not None and stamp is not None else None
    if known is None:
        pieces = chunks.cut(file, file.stat().st_size)
        return Source(file, name, pieces, stamp, bytearray(DIGEST_BYTES * len(pieces)))
    digests, sizes = known
    found, offset = list[Piece](), 0
    for size in sizes:
        found.append(Piece(offset, size))
        offset += size
    return Source(file, name, found, stamp, bytearray(digests), recalled=True)


def _stamp(file: Path) -> Stamp | None:
    try:
        return stamp_of(file)
    except OSError:
        return None


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for base, _, names in os.walk(folder):
        for name in names:
            file = Path(base) / name
            if not file.is_file():
                raise DataRefused(f"{file} is no regular file: an artifact holds nothing else.")
            yield file, file.relative_to(folder).as_posix()


def _pays(body: bytes, item_bytes: int) -> bool:
    """Is coding worth its time? A sample from the middle tells; small pieces are their own sample."""
    middle = max(0, len(body) // 2 // 8 * 8 - SAMPLE_BYTES // 2)
    sample = body[middle : middle + SAMPLE_BYTES]
    width = item_bytes if len(sample) % item_bytes == 0 else 1
    return len(coding.encode(sample, item_bytes=width)) <= PAYS * len(sample)
