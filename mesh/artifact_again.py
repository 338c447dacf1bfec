"""Artifacts after the store came back older: is one there whole, and putting it again from the local cache.

    missing      the manifest -> are all its objects there, and the bases of its deltas? Only the manifest is moved
    send_again   the cached files hold every object decoded: what is not there is put, the manifest last

A delta is put under its name with its bytes whole: a reader decodes what it finds. Its base may be a part of another
cached artifact, an earlier checkpoint of the same training; if nobody has it, the deltas above it are put over, whole.
"""

from __future__ import annotations

import asyncio

from mesh import cached_objects, codec, coding, limits
from mesh.artifact_getting import Getting
from mesh.artifact_putting import parts_of
from mesh.cache import LocalCache, disk_errors
from mesh.cached_objects import Place
from mesh.errors import ArtifactMissing
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.object_names import ObjectName
from mesh.object_traffic import Traffic, is_delta
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
        absent = await self._traffic.absent(_needed(manifest))
        if absent.intersection(_parts(manifest)):
            return True
        needing: list[ObjectName] = []

        async def look(name: ObjectName) -> None:
            stored = None if needing else await patiently(lambda: self._traffic.backend.get(name))
            if stored is None or is_delta(stored):
                needing.append(name)

        await in_window(_on_top_of(_parts(manifest), absent), look)
        return bool(needing)

    async def send_again(self, digest: str) -> bool:
        """Put what of an artifact is not in the store; False when it is not here whole. BusUnavailable, DiskFull: call
        again, nothing is sent twice. A delta whose base nobody has is put over with its bytes whole."""
        with self._cache.hold(digest):
            data = self._cache.manifest(digest) if await self._getting.is_cached(digest) else None
            if data is None:
                return False
            manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
            needed = _needed(manifest)
            absent = await self._traffic.absent(needed)
            places = await asyncio.to_thread(self._find, digest, {name.digest for name in absent})
            bases = {name for name in absent if name.digest not in places}
            alone = _on_top_of(needed, bases)

            async def put(name: ObjectName, over: bool = False) -> None:
                if name.digest not in places:  # it was there a moment ago
                    places.update(await asyncio.to_thread(self._find, digest, {name.digest}))
                if name.digest not in places:
                    if over and await self._traffic.renew(name):
                        return
                    raise ArtifactMissing(f"The object {name.digest[:16]} is not in the cache.", digest=name.digest)
                with disk_errors("A cached artifact's file", places[name.digest].file):
                    body = await asyncio.to_thread(cached_objects.read, places[name.digest])
                if codec.digest(body) != name.digest:
                    raise ArtifactMissing(f"The cached object {name.digest[:16]} is damaged.", digest=name.digest)
                await self._traffic.send(name, coding.RAW_HEADER + body, over=over)

            try:
                await in_window(sorted(absent - bases - alone), put)
                await in_window(sorted(alone), lambda name: put(name, True))
                await self._traffic.seal(needed - bases, digest, data, put)
            except ArtifactMissing:  # of a base in an entry that nobody has checked
                return False
        return True

    def _find(self, digest: str, wanted: set[str]) -> dict[str, Place]:
        """Where these objects lie: in the artifact itself, else in another entry of the cache."""
        return cached_objects.find(self._cache, wanted, entries_max=ENTRIES_MAX, first=digest)


def _needed(manifest: Manifest) -> set[ObjectName]:
    """Objects and bases without which the artifact can not be read."""
    names = _parts(manifest)
    return names | {object_names.whole(name.base) for name in names if name.base}


def _parts(manifest: Manifest) -> set[ObjectName]:
    """Objects of the artifact itself."""
    return {name for entry in manifest.files for name, _ in parts_of(entry)}


def _on_top_of(names: set[ObjectName], absent: set[ObjectName]) -> set[ObjectName]:
    """The deltas whose base is absent."""
    return {name for name in names if name.base and object_names.whole(name.base) in absent}
