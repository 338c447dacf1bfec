"""The artifact store: files and folders by the digest of their content, in the mesh and in a local cache.

    put    mesh/artifact_putting.py    cut -> hash -> store each object that is not there -> ... -> manifest, last
    get    mesh/artifact_getting.py    cache, else manifest -> objects in a window -> check -> write in place -> rename
           mesh/object_traffic.py      one object's way: what is known to be there, patience, checks, garbage's rule
           mesh/objects.py             where objects lie: the broker, a shared folder, S3

           mesh/object_lists.py        the objects of a large artifact: lists of them, a few at a time

An artifact exists when its manifest does. Objects are put if absent, so a torn upload costs only what was not yet sent,
and equal tensors or files are sent once. Memory is bounded by CHUNKS_IN_FLIGHT objects, and 32 bytes for each object of
what is put, whatever the artifact's size.
Every object and every manifest is checked against its name before a byte of it is used; a cached entry is checked again
at its first use in a process. A store that does not answer is asked again a few times, then BusUnavailable goes to the
caller, who may simply call again: the work already done is not repeated, in either direction.

Not covered: a file that is changed while it is put is refused when its size changed, else stored as it was read.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from mesh import codec, coding, limits
from mesh.artifact_again import Again
from mesh.artifact_getting import Getting
from mesh.artifact_putting import Progress, Putting
from mesh.artifact_sources import Source
from mesh.bus import Log
from mesh.cache import LocalCache, remove_folder
from mesh.condemned import CondemnedLists
from mesh.errors import ArtifactCorrupt, ArtifactMissing, DataRefused
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.messages.object_names import ObjectName
from mesh.object_lists import Rules, batches, list_names, parts_of
from mesh.object_traffic import Report, Traffic
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.put_memory import PutMemory
from mesh.subjects import Subjects

__all__ = ["ArtifactStore", "Progress"]

MANIFESTS_MAX = 64
"""Decoded manifests kept in memory."""


class ArtifactStore:
    """Puts and gets artifacts. One per process and cache folder; for one event loop."""

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        *,
        cache: Path,
        cache_bytes_max: int,
        backend: ObjectBackend | None = None,
        condemned: CondemnedLists | None = None,
        report: Report | None = None,
        rules: Rules | None = None,
    ) -> None:
        """backend: where objects lie; the mesh's ARTIFACTS stream by default. condemned: the collector's lists;
        report: tells the mesh of a corrupt object; rules: when objects of what is put go into lists."""
        self._rules = rules or Rules()
        self._cache = LocalCache(cache, cache_bytes_max)
        self._traffic = Traffic(backend or JetStreamBackend(log, subjects), condemned=condemned, report=report)
        self._putting = Putting(self._traffic, PutMemory(cache / ".puts"), self._rules)
        self._getting = Getting(self._traffic, self._cache)
        self._again = Again(self._traffic, self._cache, self._getting)
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._busy: dict[str, asyncio.Lock] = {}

    @property
    def backend(self) -> ObjectBackend:
        """Where the objects lie."""
        return self._traffic.backend

    # -- put ----------------------------------------------------------------------------------------------------------

    async def put(
        self,
        path: Path,
        *,
        media: str,
        facts: Facts | None = None,
        progress: Progress | None = None,
        keep: bool = False,
        fresh: bool = False,
        only: Collection[str] | None = None,
    ) -> str:
        """Store a file or folder; its digest (64 hex). keep: also take it into the local cache (links the files).

        fresh: read also what seems unchanged since it was last put; only: of a folder's files these, by their paths
        inside it. DataRefused for what can not be an artifact, DiskFull, BusUnavailable.
        """
        try:
            digest, data, sources = await self._putting.put(path, media, facts, progress, fresh, only)
        except DataRefused:
            if fresh:
                raise  # else a file may not be what was remembered of it
            digest, data, sources = await self._putting.put(path, media, facts, progress, True, only)
        manifest = self._learn(digest, data)
        if keep:
            files = {source.name: source.file for source in sources}
            await asyncio.to_thread(self._adopt, files, digest, data, self._lists_of(manifest, sources))
        return digest

    def _lists_of(self, manifest: Manifest, sources: Sequence[Source]) -> dict[str, Callable[[], bytes]]:
        """How the lists of what was put are made."""
        by_name, rows = {source.name: source for source in sources}, self._rules.rows
        return {
            digest: functools.partial(by_name[entry.path].list_at, number * rows, rows)
            for entry in manifest.files
            for number, digest in enumerate(entry.lists)
        }

    async def put_packed(
        self,
        entries: Sequence[FileEntry],
        folder: Path,
        *,
        media: str,
        facts: Facts | None = None,
        progress: Progress | None = None,
        plain: Path | None = None,
    ) -> str:
        """Store an artifact whose objects were coded before; its digest.

        folder: the stored bytes of each new object, header and all, in a file called by the object's name; the files
        stay. What is named and not there is believed to be in the store, and looked for: ArtifactMissing with
        `.missing`, the names, when it is not; then everything has to be packed again. plain: a folder with the
        artifact's own files, taken into the local cache.
        """
        digest, data = await self._putting.packed(entries, folder, media, facts, progress)
        self._learn(digest, data)
        if plain is not None:
            files = {entry.path: plain / entry.path for entry in entries}
            lists = {name: functools.partial(_packed_list, folder, name) for entry in entries for name in entry.lists}
            await asyncio.to_thread(self._adopt, files, digest, data, lists)
        return digest

    def drop(self, digest: str) -> None:
        """Remove the local copy of an artifact, unless it is held. Blocks for as long as its files take."""
        self._cache.drop(digest)

    def forget_stored(self) -> None:
        """Ask for every object again: call it when the broker may have come back with an older store."""
        self._traffic.forget()

    async def missing(self, digest: str) -> bool:
        """Is the artifact, or any part of it, not in the store? Moves no bytes but the manifest's. BusUnavailable."""
        return await self._again.missing(digest)

    async def send_again(self, digest: str) -> bool:
        """Put what of an artifact an older store lacks, from the local cache; False when it is not here whole."""
        return await self._again.send_again(digest)

    def _adopt(
        self, files: dict[str, Path], digest: str, manifest: bytes, lists: Mapping[str, Callable[[], bytes]]
    ) -> None:
        """Take files (path in the artifact to file) that were just put into the cache, with the lists of their objects.
        Only a convenience: a failure leaves no entry."""
        if self._cache.manifest(digest) is not None:
            return
        part: Path | None = None
        try:
            part = self._cache.new_part()
            for name, file in files.items():
                target = part / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, target)
                except OSError:
                    shutil.copyfile(file, target)
            for name, data in lists.items():
                (part / "lists").mkdir(exist_ok=True)
                (part / "lists" / name).write_bytes(data())
            self._cache.admit(part, digest, manifest)
        except (OSError, ArtifactCorrupt):
            if part is not None:
                remove_folder(part)

    # -- get ----------------------------------------------------------------------------------------------------------

    async def manifest(self, digest: str) -> Manifest:
        """The manifest of an artifact. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""
        known = self._manifests.get(digest)
        if known is not None:
            self._manifests.move_to_end(digest)
            return known
        data = self._cache.manifest(digest)
        if data is None or codec.digest(data) != digest:
            data = await self._traffic.fetch_manifest(digest)
        return self._learn(digest, data)

    async def get(self, digest: str, *, progress: Progress | None = None) -> Path:
        """A read-only folder with the artifact's files. It stays at least while `hold` names the digest.

        ArtifactMissing and ArtifactCorrupt (`.name`: the object), DiskFull, BusUnavailable.
        """
        lock = self._busy.setdefault(digest, asyncio.Lock())
        try:
            async with lock:
                if await self._getting.is_cached(digest):
                    return self._cache.files(digest)
                data = await self._traffic.fetch_manifest(digest)
                self._learn(digest, data)
                return await self._getting.download(digest, data, progress)
        finally:
            if not lock.locked():
                self._busy.pop(digest, None)

    async def read_file(self, digest: str, path: str, *, bytes_max: int) -> bytes:
        """One small file of an artifact. ArtifactMissing when it names none such, DataRefused when it is larger."""
        entry = next((e for e in (await self.manifest(digest)).files if e.path == path), None)
        if entry is None:
            raise ArtifactMissing(f"The artifact {digest[:16]} has no file {path!r}.", digest=digest)
        if entry.size_bytes > bytes_max:
            raise DataRefused(f"{path!r} of {digest[:16]} may have {bytes_max} bytes and has {entry.size_bytes}.")
        return await self._getting.read(entry)

    def stretch(self, entry: FileEntry, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `stop` of a file that a manifest names, in order, checked, and never more
        than a few objects at a time. From the store: the local cache is not filled. ArtifactMissing, ArtifactCorrupt,
        BusUnavailable."""
        return self._getting.stretch(entry, start, stop)

    async def needs(self, digest: str, names: Collection[ObjectName]) -> bool:
        """Is a cached artifact stored under any of these names, bases of its deltas included? ArtifactMissing."""
        manifest, read = await self.manifest(digest), self._getting.cached_list(digest)
        own = {object_names.manifest(digest), *list_names(manifest.files)}
        if not own.isdisjoint(names):
            return True
        async for batch in batches(manifest.files, read):
            parts = (name for portion in batch for name, _ in parts_of(portion.entry))
            if any(name in names or (name.base and object_names.whole(name.base) in names) for name in parts):
                return True
        return False

    def hold(self, *digests: str) -> AbstractContextManager[None]:
        """Within this block the local copies of these artifacts are not evicted."""
        return self._cache.hold(*digests)

    def cached(self, count_max: int) -> list[str]:
        """Digests in the local cache, used last first."""
        return self._cache.newest(count_max)

    def _learn(self, digest: str, data: bytes) -> Manifest:
        """Decode and remember a manifest whose bytes are known to be right."""
        manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        self._manifests[digest] = manifest
        while len(self._manifests) > MANIFESTS_MAX:
            self._manifests.popitem(last=False)
        return manifest


def _packed_list(folder: Path, digest: str) -> bytes:
    """A list of objects as a packer has left it."""
    return bytes(coding.decode((folder / str(object_names.whole(digest))).read_bytes()))
