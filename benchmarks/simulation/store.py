"""A stand-in for the artifact store of a worker: no files, all else as in the mesh.

Objects and manifests are real ones and lie on the simulated ARTIFACTS stream, which goes back with the broker's store.
What is believed to be there, asked and sent again is decided by the real traffic (mesh/object_traffic.py). Only the
local cache is a dictionary: it outlives the processes that use it, until somebody empties the machine's folder. So a
worker can die between any two calls of an upload.

An artifact has two objects: one that all artifacts of its task share, as frozen weights are, and one of its own. What a
task makes is the same bytes whoever makes it, or others in each life: half of the tasks are of either kind.

A test holds it to the real store, operation by operation.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from mesh import codec, coding, limits
from mesh.artifact_putting import manifest_of
from mesh.bus import Broker
from mesh.condemned import CondemnedLists
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.messages.object_names import ObjectName
from mesh.object_lists import parts_of
from mesh.object_traffic import Asking, Bytes, Traffic
from mesh.objects import JetStreamBackend
from mesh.subjects import Subjects
from mesh.windows import patiently


@dataclasses.dataclass(frozen=True, slots=True)
class Cached:
    """An artifact on a machine's disk: the manifest, and the bytes of its objects by digest."""

    manifest: bytes
    bodies: dict[str, bytes]


Cache = dict[str, Cached]


class Store:
    """`mesh.artifacts.ArtifactStore` for one life of a worker."""

    def __init__(self, broker: Broker, subjects: Subjects, incarnation: str, cache: Cache) -> None:
        self._traffic = Traffic(JetStreamBackend(broker, subjects), condemned=CondemnedLists(broker, subjects))
        self._incarnation, self._cache = incarnation, cache
        self._held = Counter[str]()

    async def put(self, path: Path, *, media: str, facts: Facts | None = None, keep: bool = False) -> str:
        """Store what a task has made at a path <task>.<epoch>/<name>."""
        bodies = {"weights": self._shared(path), "own": self._own(path)}
        entries = [
            FileEntry(path=name, size_bytes=len(body), objects=(codec.digest(body),), sizes=(len(body),))
            for name, body in sorted(bodies.items())
        ]
        objects = {object_names.whole(codec.digest(body)): body for body in bodies.values()}
        asking = Asking()

        async def resend(name: ObjectName, over: bool) -> None:
            await self._traffic.send(name, coding.RAW_HEADER + objects[name], asking, over=over)

        for name in sorted(objects):
            if not await self._traffic.is_there(name, asking):
                await resend(name, False)
        data = codec.encode(manifest_of(entries, media, facts), bytes_max=limits.MANIFEST_BYTES_MAX)
        digest = codec.digest(data)
        await self._traffic.seal(objects.keys(), digest, data, resend)
        if keep:
            self._cache[digest] = Cached(data, {name.digest: body for name, body in objects.items()})
        return digest

    @staticmethod
    def _shared(path: Path) -> bytes:
        return f"weights of {_task(path)}".encode()

    def _own(self, path: Path) -> bytes:
        """What is made anew is the same, or is not."""
        task = _task(path)
        same = sum(task.encode()) % 2 == 0
        return f"{task} {path.name} {'' if same else self._incarnation}".encode()

    async def get(self, digest: str, *, progress: Callable[[int, int], None] | None = None) -> Path:
        """ArtifactMissing when it, or a part of it, is neither here nor in the store."""
        if digest not in self._cache:
            data = await self._traffic.fetch_manifest(digest)
            here = {name: body for cached in self._cache.values() for name, body in cached.bodies.items()}
            bodies = dict[str, bytes]()
            for name, size in parts(data):
                if name.digest in here:  # a part of another artifact
                    bodies[name.digest] = here[name.digest]
                    continue

                def take(body: Bytes, digest: str = name.digest) -> None:
                    bodies[digest] = bytes(body)

                await self._traffic.fetch(name.digest, name.base, size, take)
            self._cache[digest] = Cached(data, bodies)
        return Path(digest)

    async def missing(self, digest: str) -> bool:
        """Is it, or any part of it, not in the store?"""
        data = await patiently(lambda: self._traffic.backend.get(object_names.manifest(digest)))
        return data is None or bool(await self._traffic.absent(name for name, _ in parts(data)))

    async def send_again(self, digest: str) -> bool:
        """Put what of it is not in the store, from the cache; False when it is not here."""
        cached = self._cache.get(digest)
        if cached is None:
            return False

        async def resend(name: ObjectName, over: bool) -> None:
            await self._traffic.send(name, coding.RAW_HEADER + cached.bodies[name.digest], over=over)

        await self._traffic.seal({name for name, _ in parts(cached.manifest)}, digest, cached.manifest, resend)
        return True

    @contextlib.contextmanager
    def hold(self, *digests: str) -> Iterator[None]:
        """Within this block these are not dropped."""
        self._held.update(digests)
        try:
            yield
        finally:
            self._held.subtract(digests)

    def drop(self, digest: str) -> None:
        """Remove the local copy, unless it is held."""
        if not self._held[digest]:
            self._cache.pop(digest, None)

    def cached(self, count_max: int) -> list[str]:
        """What is here, newest first."""
        return list(reversed(self._cache))[:count_max]

    def forget_stored(self) -> None:
        """Believe nothing any more."""
        self._traffic.forget()


def parts(manifest: bytes) -> list[tuple[ObjectName, int]]:
    """(name, size) of what an artifact consists of."""
    entries = codec.decode(manifest, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX).files
    return [part for entry in entries for part in parts_of(entry)]


def _task(path: Path) -> str:
    """`<task>.<epoch>/<name>`, or the name alone for what no task has made."""
    return path.parent.name.partition(".")[0]
