"""Putting artifacts: files into objects, objects into the store, the manifest last.

    put      cut -> read, hash, code in threads -> store what is not there, in a window -> settle -> manifest -> settle
    packed   objects that a packer has coded already: the same from "store" on

All files of an artifact share one window, so memory is bounded by CHUNKS_IN_FLIGHT objects whatever their number and
size. A put that was cut off and is called again reads everything and sends only what is missing. A large file that was
put before is not even read (`mesh/put_memory.py`): its objects are looked for in the store, and only what is gone is
read and sent again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from mesh import chunks, codec, coding, limits
from mesh.cache import disk_errors
from mesh.chunks import Piece
from mesh.errors import ArtifactMissing, DataRefused, Malformed
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.messages.object_names import ObjectName
from mesh.object_traffic import Asking, Resend, Traffic
from mesh.put_memory import PutMemory, Stamp, stamp_of
from mesh.windows import in_window

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

OBJECTS_MAX = 12_000
"""Objects of one artifact: 71 bytes each, so that the manifest stays one message."""

ENTRY_BYTES, OBJECT_BYTES = 56, 71
"""In a manifest, of one file besides its path, and of one of its objects: a folder that can not be listed is refused
before anything of it is sent."""

SAMPLE_BYTES = 16 * 1024
"""Of each piece, to see whether coding it pays: a thirtieth of the time of coding a piece that turns out not to."""

PAYS = 0.5
"""Share of a sample to which coding has to bring it. Texts and tables come to 0.1 to 0.4, and are fetched faster for
it; weights in bfloat16 (0.70) or float32 (0.85) would take twice the processor time of a put, and of a get."""


class Tracker:
    """Adds up bytes and tells the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, size: int) -> None:
        """So many bytes more are done."""
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


@dataclasses.dataclass(slots=True)
class Source:
    """One file on its way into an artifact."""

    file: Path
    name: str
    """Its path inside the artifact."""
    pieces: list[Piece]
    stamp: Stamp | None
    """What tells whether it changes; None: it is read whatever the stamp says."""
    recalled: bool = False
    """Its objects are known without reading it."""
    objects: list[str] = dataclasses.field(default_factory=list)
    """Digests, in the order of the pieces; empty texts until they are known."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(piece.size for piece in self.pieces)

    def entry(self) -> FileEntry:
        """As the manifest names it. DataRefused when it can not."""
        sizes = tuple(piece.size for piece in self.pieces)
        try:
            return FileEntry(path=self.name, size_bytes=self.size, objects=tuple(self.objects), sizes=sizes)
        except ValueError as error:
            raise DataRefused(f"{self.file} can not be stored in an artifact: {error}") from None


class _Interim:
    """Manifests of a long upload on its way: they name what was sent so far, so that it is not collected as garbage.

    Each stays for a while without a name, as all uploads do; the next one names it all again.
    """

    def __init__(self, traffic: Traffic, sources: Sequence[Source]) -> None:
        self._traffic, self._sources = traffic, sources
        self._written_at = traffic.now()

    async def write_if_due(self) -> None:
        """Write one, if the last one, or the beginning, is UPLOAD_REFRESH_S ago."""
        if self._traffic.now() - self._written_at < limits.UPLOAD_REFRESH_S:
            return
        self._written_at = self._traffic.now()
        sent = [
            (digest, piece.size)
            for source in self._sources
            for digest, piece in zip(source.objects, source.pieces, strict=True)
            if digest
        ]
        objects, sizes = tuple(digest for digest, _ in sent), tuple(size for _, size in sent)
        entry = FileEntry(path="sent", size_bytes=sum(sizes), objects=objects, sizes=sizes)
        data = codec.encode(Manifest(media="upload", files=(entry,)), bytes_max=limits.MANIFEST_BYTES_MAX)
        await self._traffic.put_manifest(codec.digest(data), data)


class Putting:
    """Puts of one store."""

    def __init__(self, traffic: Traffic, memory: PutMemory) -> None:
        self._traffic, self._memory = traffic, memory

    async def put(
        self,
        path: Path,
        media: str,
        facts: Facts | None,
        progress: Progress | None,
        fresh: bool,
        only: Collection[str] | None = None,
    ) -> tuple[str, bytes, list[Source]]:
        """Store a file or folder: the digest, the manifest's bytes, and the files it was made from."""
        with disk_errors("An artifact's files", path):
            sources = await asyncio.to_thread(_sources, path, None if fresh else self._memory, only)
        tracker = Tracker(sum(source.size for source in sources), progress)
        asking, interim = Asking(), _Interim(self._traffic, sources)

        async def one(item: tuple[Source, int]) -> None:
            await self._store_piece(*item, asking)
            tracker.add(item[0].pieces[item[1]].size)
            await interim.write_if_due()

        unread = (source for source in sources if not source.recalled)
        await in_window(((source, index) for source in unread for index in range(len(source.pieces))), one)
        for source in sources:
            if source.recalled:
                tracker.add(source.size)
        digest, data = await self._seal(sources, media, facts)
        await asyncio.to_thread(self._remember, sources)
        return digest, data, sources

    async def _store_piece(self, source: Source, index: int, asking: Asking | None, *, over: bool = False) -> None:
        """Read a piece and store it unless it is there; without `asking` in any case."""
        with disk_errors("An artifact's file", source.file):
            stored, digest, body = await asyncio.to_thread(_read_piece, source.file, source.pieces[index])
        if source.objects[index] not in ("", digest):
            if source.stamp is not None:
                self._memory.forget(source.stamp)
            raise _changed(source.file)
        source.objects[index] = digest
        name = object_names.whole(digest)
        if asking is None or not await self._traffic.is_there(name, asking):
            if body:
                item_bytes = source.pieces[index].item_bytes
                stored = await asyncio.to_thread(coding.encode, body, item_bytes=item_bytes)
            await self._traffic.send(name, stored, asking, over=over)

    async def _seal(self, sources: list[Source], media: str, facts: Facts | None) -> tuple[str, bytes]:
        """Settle the objects and write the manifest."""
        places = {
            object_names.whole(digest): (source, index)
            for source in sources
            for index, digest in enumerate(source.objects)
        }

        async def resend(name: ObjectName, over: bool) -> None:
            source, index = places[name]
            await self._store_piece(source, index, None, over=over)

        data = encoded(manifest_of([source.entry() for source in sources], media, facts))
        return await self._write(data, places.keys(), resend)

    async def packed(
        self, entries: Sequence[FileEntry], folder: Path, media: str, facts: Facts | None, progress: Progress | None
    ) -> tuple[str, bytes]:
        """Store what a packer has coded; see ArtifactStore.put_packed."""
        data = encoded(manifest_of(entries, media, facts))
        sizes = {name: size for entry in entries for name, size in parts_of(entry)}
        bases = {object_names.whole(name.base) for name in sizes if name.base}
        files = await asyncio.to_thread(_packed_in, folder)
        tracker = Tracker(sum(sizes.values()), progress)
        asking = Asking()
        missing = await self._traffic.absent((sizes.keys() | bases) - files.keys())
        if missing:
            raise _not_packed(missing)

        async def send(name: ObjectName, over: bool) -> None:
            if name not in files:
                if over and await self._traffic.renew(name):
                    return
                raise _not_packed({name})
            with disk_errors("A packed object", folder):
                stored = await asyncio.to_thread(files[name].read_bytes)
            await self._traffic.send(name, stored, asking, over=over)

        async def one(name: ObjectName) -> None:
            if name in files and not await self._traffic.is_there(name, asking):
                await send(name, False)
            tracker.add(sizes[name])

        await in_window(sizes, one)
        return await self._write(data, sizes.keys() | bases, send)

    async def _write(self, data: bytes, names: Collection[ObjectName], resend: Resend) -> tuple[str, bytes]:
        digest = codec.digest(data)
        await self._traffic.seal(names, digest, data, resend)
        return digest, data

    def _remember(self, sources: list[Source]) -> None:
        """Note the large files that did not change while they were read."""
        for source in sources:
            if source.stamp is not None and not source.recalled and _stamp(source.file) == source.stamp:
                self._memory.remember(source.stamp, source.entry())


def parts_of(entry: FileEntry) -> Iterator[tuple[ObjectName, int]]:
    """(name, decoded size) of a file's objects."""
    bases = entry.bases or ("",) * len(entry.objects)
    for digest, base, size in zip(entry.objects, bases, entry.sizes, strict=True):
        yield object_names.of_part(digest, base), size


def manifest_of(entries: Sequence[FileEntry], media: str, facts: Facts | None) -> Manifest:
    """DataRefused when these can not be one artifact."""
    count = sum(len(entry.objects) for entry in entries)
    if count > OBJECTS_MAX:
        raise DataRefused(f"an artifact may have {OBJECTS_MAX} objects, this one has {count}: split it.")
    try:
        return Manifest(media=media, files=tuple(entries), facts=facts or {})
    except ValueError as error:
        raise DataRefused(f"these files can not be stored as an artifact: {error}") from None


def encoded(manifest: Manifest) -> bytes:
    """The bytes of a manifest. DataRefused when they would not fit into one message."""
    try:
        return codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
    except Malformed as error:
        raise DataRefused(f"the list of this artifact's objects is too long ({error}): split it.") from None


def _sources(path: Path, memory: PutMemory | None, only: Collection[str] | None = None) -> list[Source]:
    """The files of a file or folder, all or `only` these, sorted by path; those that are remembered with their
    objects."""
    if path.is_file():
        files = [(path, path.name)]
    else:
        named = _walk(path) if only is None else ((path / name, name) for name in only)
        files = sorted(named, key=lambda pair: pair[1])
    if not files:
        raise DataRefused(f"{path} was expected to be a file or a folder with files, and holds none.")
    if len(files) > limits.ARTIFACT_FILES_MAX:
        raise DataRefused(f"{path} may hold {limits.ARTIFACT_FILES_MAX} files and holds {len(files)}: pack them.")
    sources = [_source(file, name, memory) for file, name in files]
    count = sum(len(source.pieces) for source in sources)
    if count > OBJECTS_MAX:
        raise DataRefused(f"{path} would need {count} objects and may have {OBJECTS_MAX}: split it into smaller parts.")
    listed = (
        ENTRY_BYTES * len(sources) + sum(len(os.fsencode(source.name)) for source in sources) + OBJECT_BYTES * count
    )
    if listed > limits.MANIFEST_BYTES_MAX:
        raise DataRefused(
            f"{path} holds {len(sources)} files in {count} objects, and their list of {listed} bytes may have "
            f"{limits.MANIFEST_BYTES_MAX}: pack them into fewer files, or split them."
        )
    return sources


def _source(file: Path, name: str, memory: PutMemory | None) -> Source:
    stamp = stamp_of(file)
    known = memory.recall(stamp, name) if memory is not None and stamp is not None else None
    if known is None:
        pieces = chunks.cut(file, file.stat().st_size)
        return Source(file, name, pieces, stamp, objects=[""] * len(pieces))
    pieces, offset = [], 0
    for size in known.sizes:
        pieces.append(Piece(offset, size))
        offset += size
    return Source(file, name, pieces, stamp, recalled=True, objects=list(known.objects))


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


def _read_piece(file: Path, piece: Piece) -> tuple[bytes, str, bytes]:
    """The stored bytes of a piece, its digest, and nothing; or nothing, the digest, and bytes that are worth coding.
    DataRefused when the file has become shorter."""
    with file.open("rb", buffering=0) as source:
        source.seek(piece.offset)
        body = source.read(piece.size)
    if len(body) != piece.size:
        raise _changed(file)
    if _pays(body, piece.item_bytes):
        return b"", codec.digest(body), body
    return coding.RAW_HEADER + body, codec.digest(body), b""


def _pays(body: bytes, item_bytes: int) -> bool:
    """Is coding worth its time? A sample from the middle tells; small pieces are their own sample."""
    middle = max(0, len(body) // 2 // 8 * 8 - SAMPLE_BYTES // 2)
    sample = body[middle : middle + SAMPLE_BYTES]
    width = item_bytes if len(sample) % item_bytes == 0 else 1
    return len(coding.encode(sample, item_bytes=width)) <= PAYS * len(sample)


def _changed(file: Path) -> DataRefused:
    return DataRefused(f"{file} changed while it was being stored: try again when nothing writes to it.")


def _packed_in(folder: Path) -> dict[ObjectName, Path]:
    """The objects that a packer left in a folder, by name."""
    found = {}
    for path in folder.iterdir():
        name = object_names.parse(path.name)
        if name is not None:
            found[name] = path
    return found


def _not_packed(missing: set[ObjectName]) -> ArtifactMissing:
    name = min(missing)
    return ArtifactMissing(
        f"{len(missing)} objects were believed to be in the store and are not there (the first: {name.digest[:16]}): "
        "pack again with nothing left out.",
        missing=tuple(sorted(missing)),
        digest=name.digest,
    )
