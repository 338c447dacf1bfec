"""Putting artifacts: files into objects, objects into the store, the manifest last.

    put      cut -> read, hash, code in threads -> store what is not there, in a window -> lists of a large artifact's
             objects -> settle -> manifest -> settle
    packed   objects and lists that a packer has made already: the same from "store" on

All files of an artifact share one window, so memory is bounded by CHUNKS_IN_FLIGHT objects whatever their number and
size, and 32 bytes for each object. A put that was cut off and is called again reads everything and sends only what is
missing. A large file that was put before is not even read (`mesh/put_memory.py`): its objects are looked for in the
store, and only what is gone is read and sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mesh import codec, coding, limits, object_lists
from mesh.artifact_sources import Source, changed, read_piece, sources_of
from mesh.cache import disk_errors
from mesh.errors import ArtifactCorrupt, ArtifactMissing, DataRefused, Malformed
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.messages.object_names import ObjectName
from mesh.object_lists import Rules, batches, list_names, parts_of
from mesh.object_traffic import NAMES_AT_ONCE, Asking, Pages, Resend, Traffic
from mesh.put_memory import PutMemory
from mesh.windows import in_window

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


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


class _Lists:
    """The lists of the sources that have more objects than a manifest should name."""

    def __init__(self, sources: Sequence[Source], above: float, rows: int) -> None:
        self._sources, self._above, self._rows = sources, above, rows

    def has(self, source: Source) -> bool:
        """Are the objects of this source in lists?"""
        return len(source.pieces) > self._above

    def places(self) -> Iterator[tuple[Source, int]]:
        """(source, its first object) of each list."""
        for source in filter(self.has, self._sources):
            yield from ((source, first) for first in range(0, len(source.pieces), self._rows))

    def data(self, place: tuple[Source, int]) -> bytes:
        """The bytes of a list, once its objects are known."""
        return place[0].list_at(place[1], self._rows)


class _Interim:
    """Manifests of a long upload on its way: they name what was sent so far, so that it is not collected as garbage.

    Each stays for a while without a name, as all uploads do; the next one names it all again.
    """

    def __init__(self, traffic: Traffic, sources: Sequence[Source], rules: Rules) -> None:
        self._traffic, self._sources, self._rules = traffic, sources, rules
        self._written_at = traffic.now()

    async def write_if_due(self) -> None:
        """Write one, if the last one, or the beginning, is UPLOAD_REFRESH_S ago."""
        if self._traffic.now() - self._written_at < limits.UPLOAD_REFRESH_S:
            return
        self._written_at = self._traffic.now()
        entry = await self._entry()
        data = codec.encode(Manifest(media="upload", files=(entry,)), bytes_max=limits.MANIFEST_BYTES_MAX)
        await self._traffic.put_manifest(codec.digest(data), data)

    async def _entry(self) -> FileEntry:
        """What was sent so far, as one file."""
        asking, size_bytes, lists, listing = Asking(), 0, list[str](), False
        rows = list[tuple[str, int]]()
        for row in (row for source in self._sources for row in source.known()):
            size_bytes += row[1]
            rows.append(row)
            listing = listing or len(rows) > self._rules.inline
            while listing and len(rows) >= self._rules.rows:  # cut as the file's own lists are, where it is one file
                lists.append(await self._put(rows[: self._rules.rows], asking))
                del rows[: self._rules.rows]
        if listing and rows:
            lists.append(await self._put(rows, asking))
            rows = []
        return FileEntry(
            path="sent",
            size_bytes=size_bytes,
            objects=tuple(digest for digest, _ in rows),
            sizes=tuple(size for _, size in rows),
            lists=tuple(lists),
        )

    async def _put(self, rows: list[tuple[str, int]], asking: Asking) -> str:
        await asyncio.sleep(0)
        body = object_lists.list_of([digest for digest, _ in rows], [size for _, size in rows])
        return await _store_list(self._traffic, body, asking)


class Putting:
    """Puts of one store."""

    def __init__(self, traffic: Traffic, memory: PutMemory, rules: Rules) -> None:
        self._traffic, self._memory, self._rules = traffic, memory, rules

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
            memory = None if fresh else self._memory
            sources, above = await asyncio.to_thread(sources_of, path, memory, self._rules, only)
        tracker = Tracker(sum(source.size for source in sources), progress)
        asking, interim = Asking(), _Interim(self._traffic, sources, self._rules)

        async def one(item: tuple[Source, int]) -> None:
            await self._store_piece(*item, asking)
            tracker.add(item[0].pieces[item[1]].size)
            await interim.write_if_due()

        unread = (source for source in sources if not source.recalled)
        await in_window(((source, index) for source in unread for index in range(len(source.pieces))), one)
        for source in sources:
            if source.recalled:
                tracker.add(source.size)
        digest, data = await self._seal(sources, _Lists(sources, above, self._rules.rows), media, facts)
        await asyncio.to_thread(self._remember, sources)
        return digest, data, sources

    async def _store_piece(self, source: Source, index: int, asking: Asking | None, *, over: bool = False) -> None:
        """Read a piece and store it unless it is there; without `asking` in any case."""
        with disk_errors("An artifact's file", source.file):
            stored, digest, body = await asyncio.to_thread(read_piece, source, index)
        if source.digest(index) not in ("", digest):
            if source.stamp is not None:
                self._memory.forget(source.stamp)
            raise changed(source.file)
        source.know(index, digest)
        name = object_names.whole(digest)
        if asking is None or not await self._traffic.is_there(name, asking):
            if body:
                item_bytes = source.pieces[index].item_bytes
                stored = await asyncio.to_thread(coding.encode, body, item_bytes=item_bytes)
            await self._traffic.send(name, stored, asking, over=over)

    async def _seal(self, sources: list[Source], lists: _Lists, media: str, facts: Facts | None) -> tuple[str, bytes]:
        """Store the lists, settle the objects and write the manifest."""
        asking, named = Asking(), dict[str, list[str]]()
        for place in lists.places():
            body = await asyncio.to_thread(lists.data, place)
            named.setdefault(place[0].name, []).append(await _store_list(self._traffic, body, asking))
        entries = [
            source.listed_entry(named[source.name]) if lists.has(source) else source.entry() for source in sources
        ]
        data = encoded(manifest_of(entries, media, facts))

        async def pages() -> AsyncIterator[tuple[Collection[ObjectName], Resend]]:
            of_lists = dict(zip((digest for some in named.values() for digest in some), lists.places(), strict=True))
            if of_lists:
                yield list_names(entries), self._list_again(of_lists, lists)
            for places in _pages((source, index) for source in sources for index in range(len(source.pieces))):
                yield places.keys(), self._piece_again(places)

        return await self._write(data, pages)

    def _piece_again(self, places: Mapping[ObjectName, tuple[Source, int]]) -> Resend:
        async def resend(name: ObjectName, over: bool) -> None:
            source, index = places[name]
            await self._store_piece(source, index, None, over=over)

        return resend

    def _list_again(self, places: Mapping[str, tuple[Source, int]], lists: _Lists) -> Resend:
        async def resend(name: ObjectName, over: bool) -> None:
            body = await asyncio.to_thread(lists.data, places[name.digest])
            await self._traffic.send(name, coding.RAW_HEADER + body, over=over)

        return resend

    async def packed(
        self, entries: Sequence[FileEntry], folder: Path, media: str, facts: Facts | None, progress: Progress | None
    ) -> tuple[str, bytes]:
        """Store what a packer has coded; see ArtifactStore.put_packed."""
        data = encoded(manifest_of(entries, media, facts))
        inline = sum(len(entry.objects) for entry in entries)
        if inline > self._rules.inline:
            raise DataRefused(
                f"a manifest names at most {self._rules.inline} objects itself, these files have {inline}: use lists."
            )
        tracker, parcel = Tracker(sum(entry.size_bytes for entry in entries), progress), _Parcel(self._traffic, folder)
        async for batch in batches(entries, parcel.list_bytes):
            sizes = {name: size for portion in batch for name, size in parts_of(portion.entry)}
            await parcel.send_all(sizes, tracker)

        async def pages() -> AsyncIterator[tuple[Collection[ObjectName], Resend]]:
            if lists := list_names(entries):
                yield lists, parcel.send
            async for batch in batches(entries, parcel.list_bytes):
                names = {name for portion in batch for name, _ in parts_of(portion.entry)}
                yield names | _bases(names), parcel.send

        return await self._write(data, pages)

    async def _write(self, data: bytes, pages: Pages) -> tuple[str, bytes]:
        digest = codec.digest(data)
        await self._traffic.seal_pages(pages, digest, data)
        return digest, data

    def _remember(self, sources: list[Source]) -> None:
        for source in sources:
            source.remember(self._memory)


class _Parcel:
    """What a packer has left in a folder: stored forms, in files called by the objects' names."""

    def __init__(self, traffic: Traffic, folder: Path) -> None:
        self._traffic, self._folder = traffic, folder
        self._asking = Asking()

    async def send_all(self, sizes: Mapping[ObjectName, int], tracker: Tracker) -> None:
        """Store these objects. ArtifactMissing when one is neither here nor in the store."""
        needed = sizes.keys() | _bases(sizes.keys())
        with disk_errors("A packed object", self._folder):
            here = await asyncio.to_thread(_packed_among, needed, self._folder)
        missing = await self._traffic.absent(needed - here)
        if missing:
            raise _not_packed(missing)

        async def one(name: ObjectName) -> None:
            if name in here and not await self._traffic.is_there(name, self._asking):
                await self.send(name, False)
            tracker.add(sizes[name])

        await in_window(sizes, one)

    async def send(self, name: ObjectName, over: bool) -> None:
        """Store one of them; what is not in the folder, and condemned, is written again from the store itself."""
        with disk_errors("A packed object", self._folder):
            stored = await asyncio.to_thread(_packed_bytes, name, self._folder)
        if stored is not None:
            await self._traffic.send(name, stored, self._asking, over=over)
        elif not (over and await self._traffic.renew(name)):
            raise _not_packed({name})

    async def list_bytes(self, digest: str) -> bytes:
        """A list of objects, checked: from the folder, else from the store."""
        with disk_errors("A packed object", self._folder):
            stored = await asyncio.to_thread(_packed_bytes, object_names.whole(digest), self._folder)
        if stored is None:
            return await self._traffic.fetch_list(digest)
        body = bytes(coding.decode(stored))
        if codec.digest(body) != digest:
            raise ArtifactCorrupt(f"The packed list {digest[:16]} does not match its digest.", digest=digest)
        return body


def _packed_among(names: Collection[ObjectName], folder: Path) -> set[ObjectName]:
    """Those of the names that a packer has left in a folder."""
    return {name for name in names if (folder / str(name)).exists()}


def _packed_bytes(name: ObjectName, folder: Path) -> bytes | None:
    """The stored form of an object that a packer has left in a folder; None when it has not."""
    try:
        return (folder / str(name)).read_bytes()
    except FileNotFoundError:
        return None


def manifest_of(entries: Sequence[FileEntry], media: str, facts: Facts | None) -> Manifest:
    """DataRefused when these can not be one artifact."""
    try:
        return Manifest(media=media, files=tuple(entries), facts=facts or {})
    except ValueError as error:
        raise DataRefused(f"these files can not be stored as an artifact: {error}") from None


def encoded(manifest: Manifest) -> bytes:
    """The bytes of a manifest. DataRefused when they would not fit into one message."""
    try:
        return codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
    except Malformed as error:
        raise DataRefused(f"the list of this artifact's files is too long ({error}): split it.") from None


async def _store_list(traffic: Traffic, body: bytes, asking: Asking) -> str:
    """Store a list of objects unless it is there; its digest."""
    name = object_names.whole(codec.digest(body))
    if not await traffic.is_there(name, asking):
        await traffic.send(name, coding.RAW_HEADER + body, asking)
    return name.digest


def _pages(places: Iterator[tuple[Source, int]]) -> Iterator[dict[ObjectName, tuple[Source, int]]]:
    """Objects of sources by name, a bounded number at a time; one empty page for no objects."""
    page = dict[ObjectName, tuple[Source, int]]()
    for source, index in places:
        page[object_names.whole(source.digest(index))] = (source, index)
        if len(page) >= NAMES_AT_ONCE:
            yield page
            page = {}
    yield page


def _bases(names: Collection[ObjectName]) -> set[ObjectName]:
    return {object_names.whole(name.base) for name in names if name.base}


def _not_packed(missing: set[ObjectName]) -> ArtifactMissing:
    name = min(missing)
    return ArtifactMissing(
        f"{len(missing)} objects were believed to be in the store and are not there (the first: {name.digest[:16]}): "
        "pack again with nothing left out.",
        missing=tuple(sorted(missing)),
        digest=name.digest,
    )
