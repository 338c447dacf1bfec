"""Artifacts after the store came back older: is one there whole, and putting it again from the local cache.

    missing      the manifest -> are all its objects there, and the bases of its deltas? Moves only it and its lists
    send_again   the cached files hold every object decoded: what is not there is put, the manifest last

A delta is put under its name with its bytes whole: a reader decodes what it finds. Its base may be a part of another
cached artifact, an earlier checkpoint of the same training; if nobody has it, the deltas above it are put over, whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from mesh import cached_objects, codec, coding, limits
from mesh.artifact_getting import Getting
from mesh.cache import LocalCache, disk_errors
from mesh.cached_objects import Place
from mesh.errors import ArtifactCorrupt, ArtifactMissing
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.object_names import ObjectName
from mesh.object_lists import Portion, batches, list_names, parts_of
from mesh.object_traffic import Resend, Traffic, is_delta
from mesh.windows import in_window, patiently

ENTRIES_MAX = 1_000
"""Cached artifacts that are looked through for the bases of deltas, used last first."""


class Again:
    """The second putting of one store."""

    def __init__(self, traffic: Traffic, cache: LocalCache, getting: Getting) -> None:
        self._traffic, self._cache, self._getting = traffic, cache, getting

    async def missing(self, digest: str) -> bool:
        """Is the artifact, or any part of it, not in the store? BusUnavailable when that can not be known."""
        data = await patiently(lambda: self._traffic.backend.get(object_names.manifest(digest)))
        if data is None or codec.digest(data) != digest:
            return True
        manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        try:
            async for batch in batches(manifest.files, self._traffic.fetch_list):
                if await self._lacks(_parts(batch)):
                    return True
        except (ArtifactCorrupt, ArtifactMissing):  # of a list
            return True
        return False

    async def _lacks(self, parts: set[ObjectName]) -> bool:
        """Can any of these objects not be read?"""
        absent = await self._traffic.absent(_with_bases(parts))
        if absent.intersection(parts):
            return True
        needing: list[ObjectName] = []

        async def look(name: ObjectName) -> None:
            stored = None if needing else await patiently(lambda: self._traffic.backend.get(name))
            if stored is None or is_delta(stored):
                needing.append(name)

        await in_window(_on_top_of(parts, absent), look)
        return bool(needing)

    async def send_again(self, digest: str) -> bool:
        """Put what of an artifact is not in the store; False when it is not here whole. BusUnavailable, DiskFull: call
        again, nothing is sent twice. A delta whose base nobody has is put over with its bytes whole."""
        with self._cache.hold(digest):
            data = self._cache.manifest(digest) if await self._getting.is_cached(digest) else None
            if data is None:
                return False
            manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
            sending = _Sending(self._traffic, self._cache, self._getting, digest, manifest)
            try:
                await sending.send_absent()
                await self._traffic.seal_pages(sending.pages, digest, data)
            except (ArtifactCorrupt, ArtifactMissing):  # of a base in an entry that nobody has checked; of a list
                return False
        return True


class _Sending:
    """One artifact on its way back from the cache, a batch of its objects at a time."""

    def __init__(self, traffic: Traffic, cache: LocalCache, getting: Getting, digest: str, manifest: Manifest) -> None:
        self._traffic, self._cache, self._manifest = traffic, cache, manifest
        self._files, self._list = cache.files(digest), getting.cached_list(digest)
        self._bases: set[ObjectName] = set()
        """Bases that are neither stored nor here: what is above them is put whole."""

    async def send_absent(self) -> None:
        """Put what is not there."""
        async for batch in batches(self._manifest.files, self._list):
            parts = _parts(batch)
            absent = await self._traffic.absent(_with_bases(parts))
            places = _places(self._files, batch)
            if elsewhere := {name.digest for name in absent} - places.keys():
                places |= await asyncio.to_thread(self._find, elsewhere)
            bases = {name for name in absent if name.digest not in places}
            alone = _on_top_of(parts, bases)
            self._bases |= bases
            await self._put_all(absent - bases - alone, self._putting(places), over=False)
            await self._put_all(alone, self._putting(places), over=True)

    async def pages(self) -> AsyncIterator[tuple[Collection[ObjectName], Resend]]:
        """All names, and how each is put again."""
        if lists := list_names(self._manifest.files):
            yield lists, self._put_list
        async for batch in batches(self._manifest.files, self._list):
            names = _with_bases(_parts(batch))
            yield names - self._bases, self._putting(_places(self._files, batch))

    async def _put_all(self, names: set[ObjectName], put: Resend, *, over: bool) -> None:
        await in_window(sorted(names), lambda name: put(name, over))

    def _putting(self, places: dict[str, Place]) -> Resend:
        async def put(name: ObjectName, over: bool) -> None:
            if name.digest not in places:  # it was there a moment ago
                places.update(await asyncio.to_thread(self._find, {name.digest}))
            place = places.get(name.digest)
            if place is None:
                if over and await self._traffic.renew(name):
                    return
                raise ArtifactMissing(f"The object {name.digest[:16]} is not in the cache.", digest=name.digest)
            with disk_errors("A cached artifact's file", place.file):
                body = await asyncio.to_thread(cached_objects.read, place)
            if codec.digest(body) != name.digest:
                raise ArtifactMissing(f"The cached object {name.digest[:16]} is damaged.", digest=name.digest)
            await self._traffic.send(name, coding.RAW_HEADER + body, over=over)

        return put

    async def _put_list(self, name: ObjectName, over: bool) -> None:
        await self._traffic.send(name, coding.RAW_HEADER + await self._list(name.digest), over=over)

    def _find(self, wanted: set[str]) -> dict[str, Place]:
        """Where these objects lie in other entries of the cache."""
        return cached_objects.find(self._cache, wanted, entries_max=ENTRIES_MAX)


def _places(files: Path, batch: Sequence[Portion]) -> dict[str, Place]:
    """Where the objects of an artifact lie in its own files."""
    places = dict[str, Place]()
    for entry, begin in batch:
        offset = begin
        for name, size in parts_of(entry):
            places.setdefault(name.digest, Place(files / entry.path, offset, size))
            offset += size
    return places


def _parts(batch: Sequence[Portion]) -> set[ObjectName]:
    """Objects of the artifact itself."""
    return {name for portion in batch for name, _ in parts_of(portion.entry)}


def _with_bases(names: set[ObjectName]) -> set[ObjectName]:
    """These objects, and the bases without which they can not be read."""
    return names | {object_names.whole(name.base) for name in names if name.base}


def _on_top_of(names: set[ObjectName], absent: set[ObjectName]) -> set[ObjectName]:
    """The deltas whose base is absent."""
    return {name for name in names if name.base and object_names.whole(name.base) in absent}
