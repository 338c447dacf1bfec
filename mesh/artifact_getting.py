"""Getting artifacts: from the local cache, else from the store into the cache, checked object by object.

    get    cached and whole? -> done.  else: a part folder -> objects in a window, from other artifacts in the cache or
           from the store -> each checked, written in place -> rename into the cache.  A large artifact: some of the
           lists of its objects at a time, each kept beside the files

A get that was cut off leaves its part behind; the next one, in this process or a later one, takes it over: what stands
in it is checked object by object, and only what is not right is fetched. So it is safe whatever a crash left there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mesh import cached_objects, codec, limits, metrics
from mesh.artifact_putting import Progress, Tracker
from mesh.cache import LocalCache, disk_errors, remove_folder, size_on_disk
from mesh.errors import ArtifactCorrupt, ArtifactMissing, DataRefused, DiskFull
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.object_lists import Portion, ReadList, batches, entry_of, parts_of, read_list
from mesh.object_traffic import Bytes, Traffic
from mesh.windows import all_of, in_window

ENTRIES_MAX = 32
"""Cached artifacts that are looked through for objects of another: a millisecond each."""


STRETCH_OBJECTS = 4
"""Objects of a stretch that are fetched together: 2 MiB for each reader."""


class Place(NamedTuple):
    """Where one object belongs."""

    file: Path
    offset: int
    digest: str
    base: str
    size: int


class Getting:
    """Gets of one store. One get of an artifact at a time."""

    def __init__(self, traffic: Traffic, cache: LocalCache) -> None:
        self._traffic, self._cache = traffic, cache
        self._checked: set[str] = set()

    async def is_cached(self, digest: str) -> bool:
        """Is it in the cache, and right? Checked once in each process; what is not right is removed."""
        data = self._cache.manifest(digest)
        if data is None:
            return False
        if digest not in self._checked:
            if not await asyncio.to_thread(
                _is_whole, self._cache.files(digest), self._cache.lists(digest), digest, data
            ):
                await asyncio.to_thread(self._cache.discard, digest)
                return False
            self._checked.add(digest)
        return True

    async def download(self, digest: str, data: bytes, progress: Progress | None) -> Path:
        """Fetch what is missing and take the artifact into the cache; the folder of its files. data: its manifest."""
        manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        with disk_errors("A downloaded artifact", self._cache.folder):
            part, begun = await asyncio.to_thread(self._cache.part_of, digest)
            try:
                await asyncio.to_thread(self._check_room, part, manifest.size_bytes)
                await self._fill(part, manifest, begun, Tracker(manifest.size_bytes, progress))
                path = await asyncio.to_thread(self._cache.admit, part, digest, data)
            except (OSError, DiskFull, ArtifactMissing, ArtifactCorrupt, DataRefused):
                remove_folder(part)  # room is short, or nobody will ask for this artifact again
                raise
            except BaseException:
                self._cache.leave(digest, part)
                raise
        self._checked.add(digest)
        return path

    async def read(self, entry: FileEntry) -> bytes:
        """The content of one file, which the caller has found small enough."""
        content = bytearray(entry.size_bytes)

        async def one(place: Place) -> None:
            def take(body: Bytes) -> None:
                content[place.offset : place.offset + place.size] = body

            await self._traffic.fetch(place.digest, place.base, place.size, take)

        async for batch in batches([entry], self._traffic.fetch_list):
            await in_window(_places(Path(), batch), one)
        return bytes(content)

    async def stretch(self, entry: FileEntry, start: int, stop: int) -> AsyncIterator[bytes]:
        """A part of one file in order, STRETCH_OBJECTS objects at a time."""
        async for batch in batches([entry], self._traffic.fetch_list):
            wanted = (one for one in _places(Path(), batch) if one.offset < stop and one.offset + one.size > start)
            while some := list(itertools.islice(wanted, STRETCH_OBJECTS)):
                for place, body in zip(some, await all_of(map(self._body, some)), strict=True):
                    yield body[max(0, start - place.offset) : stop - place.offset]

    async def _body(self, place: Place) -> bytes:
        found = list[bytes]()
        await self._traffic.fetch(place.digest, place.base, place.size, lambda body: found.append(bytes(body)))
        return found[0]

    def cached_list(self, digest: str) -> ReadList:
        """Reads the lists of a cached artifact. ArtifactMissing for one that is damaged or gone."""

        async def read(name: str) -> bytes:
            data = await asyncio.to_thread(cached_objects.list_bytes, self._cache.lists(digest), name)
            if data is None:
                raise ArtifactMissing(f"The list {name[:16]} is not in the cache.", digest=name)
            return data

        return read

    def _check_room(self, part: Path, size_bytes: int) -> None:
        wanted = size_bytes - size_on_disk(part)
        free = shutil.disk_usage(self._cache.folder).free
        if free < wanted:
            free = self._cache.make_room(wanted, keep=part)
        if free < wanted:
            raise DiskFull(f"{wanted} bytes are needed below {self._cache.folder} and {free} are free: make room.")

    async def _fill(self, part: Path, manifest: Manifest, begun: bool, tracker: Tracker) -> None:
        files, lists = part / "files", part / "lists"
        await asyncio.to_thread(_lay_out, files, manifest)
        here: dict[str, cached_objects.Place] = {}

        async def one(place: Place) -> None:
            stands = begun and await asyncio.to_thread(_stands, place)
            near = None if stands else here.get(place.digest)
            if near is not None and (stands := await asyncio.to_thread(_copied, near, place)):
                metrics.count("mesh_artifact_chunks_total", outcome="here")
            if not stands:
                await self._traffic.fetch(place.digest, place.base, place.size, _writer(place))
            tracker.add(place.size)

        async def fetch_list(digest: str) -> bytes:
            data = await asyncio.to_thread(cached_objects.list_bytes, lists, digest)
            if data is None:
                data = await self._traffic.fetch_list(digest)
                await asyncio.to_thread(_write_list, lists, digest, data)
            return data

        async for batch in batches(manifest.files, fetch_list):
            wanted = {digest for portion in batch for digest in portion.entry.objects}
            here = await asyncio.to_thread(cached_objects.find, self._cache, wanted, entries_max=ENTRIES_MAX)
            await in_window(_places(files, batch), one)


def _lay_out(files: Path, manifest: Manifest) -> None:
    """Every file in its size; what is there already keeps its bytes."""
    for entry in manifest.files:
        path = files / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(entry.size_bytes)


def _write_list(lists: Path, digest: str, data: bytes) -> None:
    lists.mkdir(exist_ok=True)
    (lists / digest).write_bytes(data)


def _places(files: Path, portions: Iterable[Portion]) -> Iterator[Place]:
    for entry, begin in portions:
        offset = begin
        for name, size in parts_of(entry):
            yield Place(files / entry.path, offset, name.digest, name.base, size)
            offset += size


def _writer(place: Place) -> Callable[[Bytes], None]:
    def write(body: Bytes) -> None:
        with place.file.open("r+b", buffering=0) as target:
            target.seek(place.offset)
            written = 0
            while written < len(body):
                written += target.write(memoryview(body)[written:])

    return write


def _copied(near: cached_objects.Place, place: Place) -> bool:
    """Take the right bytes from another artifact, if they are there."""
    try:
        body = cached_objects.read(near)
    except OSError:  # evicted meanwhile
        return False
    if len(body) != place.size or codec.digest(body) != place.digest:
        return False
    _writer(place)(body)
    return True


def _stands(place: Place) -> bool:
    """Are the right bytes in place already?"""
    with place.file.open("rb", buffering=0) as source:
        source.seek(place.offset)
        body = source.read(place.size)
    return len(body) == place.size and codec.digest(body) == place.digest


def _is_whole(files: Path, lists: Path, digest: str, manifest: bytes) -> bool:
    """True when a cached entry's bytes are what its digest says."""
    if codec.digest(manifest) != digest:
        return False
    entries = codec.decode(manifest, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX).files
    with contextlib.suppress(OSError, ArtifactCorrupt):
        sized = all((files / entry.path).stat().st_size == entry.size_bytes for entry in entries)
        return sized and all(_stands(place) for entry in entries for place in _places(files, _here(lists, entry)))
    return False


def _here(lists: Path, entry: FileEntry) -> Iterator[Portion]:
    """The objects of a file in the cache. ArtifactCorrupt when a list of them is damaged."""
    if not entry.lists:
        yield Portion(entry, 0)
    offset = 0
    for digest in entry.lists:
        data = cached_objects.list_bytes(lists, digest)
        if data is None:
            raise ArtifactCorrupt(f"The cached list {digest[:16]} is not whole.", digest=digest)
        portion = Portion(entry_of(entry.path, read_list(digest, data)), offset)
        yield portion
        offset += portion.entry.size_bytes
    if entry.lists and offset != entry.size_bytes:
        raise ArtifactCorrupt(f"The lists of {entry.path!r} do not add up.")
