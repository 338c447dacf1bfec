"""The artifact store: files and folders by the digest of their content, in the mesh and in a local cache.

    put   cut -> hash -> store each object that is not known to be there -> ... -> manifest, last
    get   cache, else manifest -> objects in a window -> check each digest -> write in place -> rename into the cache

An artifact exists when its manifest does. Objects are put if absent, so a torn upload costs only what was not yet sent,
and equal tensors or files are sent once. Memory is bounded by CHUNKS_IN_FLIGHT objects whatever the artifact's size.
Every object and every manifest is checked against its name before a byte of it is used; a cached entry is checked again
at its first use in a process. A broker that does not answer is asked TRIES times, then BusUnavailable goes to the
caller, who may simply call again: the work already done is not repeated.

Not covered: a file that is changed while it is put is refused when its size changed, else stored as it was read.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from mesh import chunks, codec, limits, metrics
from mesh.bus import Log
from mesh.cache import LocalCache, disk_errors, remove_folder
from mesh.chunks import Piece
from mesh.errors import ArtifactCorrupt, ArtifactMissing, BusUnavailable, DataRefused, DiskFull, RamifyError
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.subjects import Subjects

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

TRIES = 3
"""Attempts at one object while the broker does not answer, PAUSE_S times 1, 2, … apart: bridges a reconnection."""
PAUSE_S = 0.5

KNOWN_MAX = 100_000
"""Digests known to be stored (9 MB of memory, 50 GB of chunks); all are forgotten when there are more."""

MANIFESTS_MAX = 64
"""Decoded manifests kept in memory."""

OBJECTS_MAX = 12_000
"""Objects of one artifact: 71 bytes each, so that the manifest stays one message."""


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
    ) -> None:
        """backend: where objects lie; the mesh's ARTIFACTS stream by default."""
        self._backend = backend or JetStreamBackend(log, subjects)
        self._cache = LocalCache(cache, cache_bytes_max)
        self._known: set[bytes] = set()
        self._checked: set[str] = set()
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._getting: dict[str, asyncio.Lock] = {}

    # -- put ----------------------------------------------------------------------------------------------------------

    async def put(
        self,
        path: Path,
        *,
        media: str,
        facts: Facts | None = None,
        progress: Progress | None = None,
        keep: bool = False,
    ) -> str:
        """Store a file or folder; its digest (64 hex). keep: also take it into the local cache (links the files).

        DataRefused for what can not be an artifact, DiskFull, BusUnavailable.
        """
        with disk_errors("An artifact's files", path):
            cuts = await asyncio.to_thread(_cut_all, path)
        tracker = _Tracker(sum(piece.size for _, _, pieces in cuts for piece in pieces), progress)
        entries = [await self._put_file(file, name, pieces, tracker) for file, name, pieces in cuts]
        try:
            manifest = Manifest(media=media, files=tuple(entries), facts=facts or {})
        except ValueError as error:
            raise DataRefused(f"{path} can not be stored as an artifact: {error}") from None
        data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        digest = codec.digest(data)
        await _patiently(lambda: self._backend.put(object_names.manifest(digest), data))
        self._remember(digest, manifest)
        if keep:
            await asyncio.to_thread(self._adopt, cuts, digest, data)
        return digest

    async def _put_file(self, file: Path, name: str, pieces: list[Piece], tracker: _Tracker) -> FileEntry:
        digests = [""] * len(pieces)

        async def one(item: tuple[int, Piece]) -> None:
            index, piece = item
            with disk_errors("An artifact's file", file):
                body, digest = await asyncio.to_thread(_read_piece, file, piece)
            await self._put_object(digest, body)
            digests[index] = digest
            tracker.add(piece.size)

        await _in_window(enumerate(pieces), one)
        sizes = tuple(piece.size for piece in pieces)
        try:
            return FileEntry(path=name, size_bytes=sum(sizes), objects=tuple(digests), sizes=sizes)
        except ValueError as error:
            raise DataRefused(f"{file} can not be stored in an artifact: {error}") from None

    async def _put_object(self, digest: str, body: bytes) -> None:
        key = bytes.fromhex(digest)
        if key in self._known:
            metrics.count("mesh_artifact_chunks_total", outcome="there")
            return
        wrapped = chunks.wrap(body)
        if await _patiently(lambda: self._backend.put(object_names.whole(digest), wrapped)):
            metrics.count("mesh_artifact_chunks_total", outcome="out")
            metrics.count("mesh_artifact_bytes_total", len(wrapped), direction="out")
        else:
            metrics.count("mesh_artifact_chunks_total", outcome="there")
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known.add(key)

    def forget_stored(self) -> None:
        """Ask for every object again: call it when the broker may have come back with an older store."""
        self._known.clear()

    def _adopt(self, cuts: list[tuple[Path, str, list[Piece]]], digest: str, manifest: bytes) -> None:
        """Take files that were just put into the cache. Only a convenience: a failure leaves no entry."""
        if self._cache.manifest(digest) is not None:
            return
        part = self._cache.new_part()
        try:
            for file, name, _ in cuts:
                target = part / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, target)
                except OSError:
                    shutil.copyfile(file, target)
            self._cache.admit(part, digest, manifest)
        except OSError:
            remove_folder(part)

    # -- after the store came back older ------------------------------------------------------------------------------

    async def missing(self, digest: str) -> bool:
        """Is the artifact, or any part of it, not in the store? Asks for names; moves no bytes but the manifest's."""
        data = await _patiently(lambda: self._backend.get(object_names.manifest(digest)))
        if data is None or codec.digest(data) != digest:
            return True
        lacking: list[str] = []

        async def one(part: str) -> None:
            if not lacking and not await self._has_object(part):
                lacking.append(part)

        manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        await _in_window((part for entry in manifest.files for part in entry.objects), one)
        return bool(lacking)

    async def send_again(self, digest: str) -> bool:
        """Put what of an artifact is not in the store, from the local cache, the manifest last; False when it is not
        here whole. BusUnavailable, DiskFull: call again, nothing is sent twice."""
        with self.hold(digest):
            if not await self._is_cached(digest):
                return False
            data, files = self._cache.manifest(digest), self._cache.files(digest)
            if data is None:
                return False

            async def one(part: tuple[Path, int, str, int]) -> None:
                file, offset, name, size = part
                if not await self._has_object(name):
                    with disk_errors("A cached artifact's file", file):
                        body, _ = await asyncio.to_thread(_read_piece, file, Piece(offset, size))
                    self._known.discard(bytes.fromhex(name))
                    await self._put_object(name, body)

            manifest = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
            placed = ((files / entry.path, *place) for entry in manifest.files for place in _placed(entry))
            await _in_window(placed, one)
            await _patiently(lambda: self._backend.put(object_names.manifest(digest), data))
        return True

    async def _has_object(self, digest: str) -> bool:
        return await _patiently(lambda: self._backend.has(object_names.whole(digest)))

    # -- get ----------------------------------------------------------------------------------------------------------

    async def manifest(self, digest: str) -> Manifest:
        """The manifest of an artifact. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""
        known = self._manifests.get(digest)
        if known is None:
            data = self._cache.manifest(digest)
            if data is None or codec.digest(data) != digest:
                data = await self._fetch_manifest(digest)
            known = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        self._remember(digest, known)
        return known

    async def get(self, digest: str, *, progress: Progress | None = None) -> Path:
        """A read-only folder with the artifact's files. It stays at least while `hold` names the digest."""
        lock = self._getting.setdefault(digest, asyncio.Lock())
        try:
            async with lock:
                if await self._is_cached(digest):
                    return self._cache.files(digest)
                manifest = await self.manifest(digest)
                return await self._download(digest, manifest, progress)
        finally:
            if not lock.locked():
                self._getting.pop(digest, None)

    async def read_file(self, digest: str, path: str, *, bytes_max: int) -> bytes:
        """One small file of an artifact. ArtifactMissing when it names none such, DataRefused when it is larger."""
        entry = next((e for e in (await self.manifest(digest)).files if e.path == path), None)
        if entry is None:
            raise ArtifactMissing(f"The artifact {digest[:16]} has no file {path!r}.", digest=digest)
        if entry.size_bytes > bytes_max:
            raise DataRefused(f"{path!r} of {digest[:16]} may have {bytes_max} bytes and has {entry.size_bytes}.")
        parts = [await self._fetch_object(o, s) for o, s in zip(entry.objects, entry.sizes, strict=True)]
        return b"".join(parts)

    def hold(self, *digests: str) -> AbstractContextManager[None]:
        """Within this block the local copies of these artifacts are not evicted."""
        return self._cache.hold(*digests)

    def cached(self, count_max: int) -> list[str]:
        """Digests in the local cache, used last first."""
        return self._cache.newest(count_max)

    async def _is_cached(self, digest: str) -> bool:
        data = self._cache.manifest(digest)
        if data is None:
            return False
        if digest not in self._checked:
            if not await asyncio.to_thread(_is_whole, self._cache.files(digest), digest, data):
                await asyncio.to_thread(self._cache.discard, digest)
                return False
            self._checked.add(digest)
        return True

    async def _download(self, digest: str, manifest: Manifest, progress: Progress | None) -> Path:
        folder = self._cache.folder
        if shutil.disk_usage(folder).free < manifest.size_bytes:
            raise DiskFull(f"{manifest.size_bytes} bytes are needed below {folder} and not free: make some room.")
        tracker = _Tracker(manifest.size_bytes, progress)
        with disk_errors("A downloaded artifact", folder):
            part = await asyncio.to_thread(self._cache.new_part)
            try:
                for entry in manifest.files:
                    await self._download_file(entry, part / "files" / entry.path, tracker)
                data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
                path = await asyncio.to_thread(self._cache.admit, part, digest, data)
            except BaseException:
                remove_folder(part)
                raise
        self._checked.add(digest)
        return path

    async def _download_file(self, entry: FileEntry, target: Path, tracker: _Tracker) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(entry.size_bytes)

        async def one(item: tuple[int, str, int]) -> None:
            offset, digest, size = item
            body = await self._fetch_object(digest, size)
            await asyncio.to_thread(_write_piece, target, offset, body)
            tracker.add(size)

        await _in_window(_placed(entry), one)

    async def _fetch_object(self, digest: str, size: int) -> bytes:
        stored = await _patiently(lambda: self._backend.get(object_names.whole(digest)))
        if stored is None:
            raise ArtifactMissing(f"The object {digest[:16]} is not in the store.", digest=digest)
        metrics.count("mesh_artifact_chunks_total", outcome="in")
        metrics.count("mesh_artifact_bytes_total", len(stored), direction="in")
        if len(stored) > chunks.OBJECT_BYTES_MAX:
            metrics.count("mesh_artifact_corrupt_total")
            raise ArtifactCorrupt(f"The object {digest[:16]} has {len(stored)} bytes, too many.", digest=digest)
        body = bytes(chunks.unwrap(stored))
        actual = await asyncio.to_thread(codec.digest, body)
        if actual != digest or len(body) != size:
            metrics.count("mesh_artifact_corrupt_total")
            raise ArtifactCorrupt(
                f"The object {digest[:16]} of {size} bytes was expected; found {actual[:16]} of {len(body)} bytes.",
                digest=digest,
            )
        return body

    async def _fetch_manifest(self, digest: str) -> bytes:
        data = await _patiently(lambda: self._backend.get(object_names.manifest(digest)))
        if data is None:
            raise ArtifactMissing(f"The artifact {digest[:16]} is not in the store.", digest=digest)
        if codec.digest(data) != digest:
            raise ArtifactCorrupt(f"The manifest {digest[:16]} does not match its digest.", digest=digest)
        return data

    def _remember(self, digest: str, manifest: Manifest) -> None:
        self._manifests[digest] = manifest
        self._manifests.move_to_end(digest)
        while len(self._manifests) > MANIFESTS_MAX:
            self._manifests.popitem(last=False)


class _Tracker:
    """Adds up bytes and tells the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


async def _in_window(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """`work` on every item, at most CHUNKS_IN_FLIGHT at a time; the first failure cancels the rest and is raised."""
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(limits.CHUNKS_IN_FLIGHT):
                lanes.create_task(lane())
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: one of ours if there is one."""
    return next((error for error in group.exceptions if isinstance(error, RamifyError)), group.exceptions[0])


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat an idempotent call while the broker does not answer, TRIES times in all."""
    for attempt in range(1, TRIES):
        try:
            return await call()
        except BusUnavailable:
            await asyncio.sleep(PAUSE_S * attempt)
    return await call()


def _cut_all(path: Path) -> list[tuple[Path, str, list[Piece]]]:
    """(file, path inside the artifact, pieces) of a file, or of all files below a folder, sorted by path."""
    files = [(path, path.name)] if path.is_file() else sorted(_walk(path), key=lambda pair: pair[1])
    if not files:
        raise DataRefused(f"{path} was expected to be a file or a folder with files, and holds none.")
    if len(files) > limits.ARTIFACT_FILES_MAX:
        raise DataRefused(f"{path} may hold {limits.ARTIFACT_FILES_MAX} files and holds {len(files)}: pack them.")
    cuts = [(file, name, chunks.cut(file, file.stat().st_size)) for file, name in files]
    count = sum(len(pieces) for _, _, pieces in cuts)
    if count > OBJECTS_MAX:
        raise DataRefused(f"{path} would need {count} objects and may have {OBJECTS_MAX}: split it into smaller parts.")
    return cuts


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for base, _, names in os.walk(folder):
        for name in names:
            file = Path(base) / name
            if not file.is_file():
                raise DataRefused(f"{file} is no regular file: an artifact holds nothing else.")
            yield file, file.relative_to(folder).as_posix()


def _read_piece(file: Path, piece: Piece) -> tuple[bytes, str]:
    """The bytes of a piece and their digest. DataRefused when the file has become shorter."""
    with file.open("rb") as source:
        source.seek(piece.offset)
        body = source.read(piece.size)
    if len(body) != piece.size:
        raise DataRefused(f"{file} changed while it was being stored: try again when nothing writes to it.")
    return body, codec.digest(body)


def _write_piece(file: Path, offset: int, body: bytes) -> None:
    with file.open("r+b") as target:
        target.seek(offset)
        target.write(body)


def _placed(entry: FileEntry) -> Iterator[tuple[int, str, int]]:
    """(offset, digest, size) of a file's objects."""
    offset = 0
    for digest, size in zip(entry.objects, entry.sizes, strict=True):
        yield offset, digest, size
        offset += size


def _is_whole(files: Path, digest: str, manifest: bytes) -> bool:
    """True when a cached entry's bytes are what its digest says."""
    if codec.digest(manifest) != digest:
        return False
    for entry in codec.decode(manifest, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX).files:
        try:
            with (files / entry.path).open("rb") as source:
                if any(codec.digest(source.read(size)) != name for _, name, size in _placed(entry)) or source.read(1):
                    return False
        except OSError:
            return False
    return True
