"""The artifact store: same bytes back, nothing sent twice, nothing believed unchecked, nothing unbounded."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import cast

import pytest

from mesh import artifact_getting, codec, coding, limits, metrics, windows
from mesh import cache as mesh_cache
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.cache import LocalCache
from mesh.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    BusUnavailable,
    DataRefused,
    DiskFull,
    EnvironmentUnfit,
    Malformed,
)
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.object_lists import Rules
from mesh.subjects import Subjects


class Shelf:
    """An object backend in a dictionary that counts, and fails when told to."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.order: list[str] = []
        self.sent: list[str] = []
        self.fetched: list[str] = []
        self.failures: list[Exception] = []
        self.busy = self.busy_max = 0

    where = "a shelf"

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        await self._turn()
        self.order.append("manifest" if name.kind == MANIFEST else "object")
        shelf = self._of(name)
        if name.kind != MANIFEST:
            self.sent.append(name.digest)
        if name.digest in shelf and not over:
            return False
        shelf[name.digest] = data
        return True

    async def get(self, name: ObjectName) -> bytes | None:
        await self._turn()
        if name.kind != MANIFEST:
            self.fetched.append(name.digest)
        return self._of(name).get(name.digest)

    async def has(self, name: ObjectName) -> bool:
        await self._turn()
        return name.digest in self._of(name)

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        await self._turn()
        return {name for name in names if name.digest not in self._of(name)}

    async def names(self) -> AsyncIterator[ObjectName]:
        for digest in list(self.objects):
            yield object_names.whole(digest)

    async def mark(self) -> str:
        return ""

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        return self._of(name).pop(name.digest, None) is not None

    async def close(self) -> None:
        pass

    def _of(self, name: ObjectName) -> dict[str, bytes]:
        return self.manifests if name.kind == MANIFEST else self.objects

    async def _turn(self) -> None:
        self.busy += 1
        self.busy_max = max(self.busy, self.busy_max)
        await asyncio.sleep(0)
        self.busy -= 1
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)


def store(shelf: Shelf, cache: Path, bytes_max: int = 10**9, rules: Rules | None = None) -> ArtifactStore:
    return ArtifactStore(
        cast(Log, None), Subjects(), cache=cache, cache_bytes_max=bytes_max, backend=shelf, rules=rules
    )


def folder_of(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        target = path / name.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BIG = os.urandom(3 * limits.CHUNK_BYTES + 11)


async def test_a_folder_comes_back_byte_for_byte_elsewhere(shelf: Shelf, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", big=BIG, empty=b"", deep__er__small=b"small")
    seen: list[tuple[int, int]] = []
    digest = await store(shelf, tmp_path / "c1").put(source, media="dataset", facts={"rows": 3})
    other = store(shelf, tmp_path / "c2")
    got = await other.get(digest, progress=lambda done, total: seen.append((done, total)))
    assert contents(got) == contents(source)
    assert (await other.manifest(digest)).facts == {"rows": 3}
    assert seen[-1] == (len(BIG) + 5, len(BIG) + 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_a_single_file_is_a_folder_with_that_file(shelf: Shelf, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "in", one=b"1") / "one"
    digest = await store(shelf, tmp_path / "c1").put(path, media="dataset")
    assert contents(await store(shelf, tmp_path / "c2").get(digest)) == {"one": b"1"}


async def test_some_files_of_a_folder_are_an_artifact_too(shelf: Shelf, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", one=b"1", two=b"2", three=BIG)
    (folder / "two").unlink()
    (folder / "two").symlink_to(folder_of(tmp_path / "blobs", real=b"2") / "real")
    digest = await store(shelf, tmp_path / "c1").put(folder, media="model", only=["two", "one"])
    assert contents(await store(shelf, tmp_path / "c2").get(digest)) == {"one": b"1", "two": b"2"}
    whole = folder_of(tmp_path / "other", one=b"1", two=b"2")
    assert await store(Shelf(), tmp_path / "c3").put(whole, media="model") == digest


async def test_the_digest_depends_on_content_alone_and_the_manifest_is_last(shelf: Shelf, tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", a=b"a", b=BIG)
    two = folder_of(tmp_path / "elsewhere" / "two", b=BIG, a=b"a")
    first = await store(shelf, tmp_path / "c").put(one, media="model")
    assert shelf.order[-1] == "manifest"
    assert shelf.order.count("manifest") == 1
    assert await store(Shelf(), tmp_path / "c2").put(two, media="model") == first
    assert codec.digest(shelf.manifests[first]) == first


async def test_what_is_there_is_not_sent_again_and_is_asked_for_once_forgotten(shelf: Shelf, tmp_path: Path) -> None:
    ours = store(shelf, tmp_path / "c")
    await ours.put(folder_of(tmp_path / "one", a=BIG), media="dataset")
    sent = len(shelf.sent)
    await ours.put(folder_of(tmp_path / "two", copy=BIG, more=b"more"), media="dataset")
    assert len(shelf.sent) == sent + 1
    ours.forget_stored()
    await ours.put(tmp_path / "one", media="dataset")
    assert len(shelf.sent) == sent + 1
    lost = shelf.sent[0]
    del shelf.objects[lost]
    ours.forget_stored()
    await ours.put(tmp_path / "one", media="dataset")
    assert lost in shelf.objects


async def test_what_is_moved_is_counted(shelf: Shelf, tmp_path: Path) -> None:
    def seen() -> list[float]:
        chunks_ = [metrics.value("mesh_artifact_chunks_total", outcome=outcome) for outcome in ("out", "there", "in")]
        moved = [metrics.value("mesh_artifact_bytes_total", direction=direction) for direction in ("out", "in")]
        return [*chunks_, *moved, metrics.value("mesh_artifact_corrupt_total")]

    before, one = seen(), store(shelf, tmp_path / "c")
    digest = await one.put(folder_of(tmp_path / "in", a=b"moved"), media="dataset")
    await one.put(folder_of(tmp_path / "in", a=b"moved"), media="dataset")
    await store(shelf, tmp_path / "c2").get(digest)
    assert metrics.value("mesh_cache_bytes") > len(b"moved")
    size = len(shelf.objects[codec.digest(b"moved")])
    shelf.objects[codec.digest(b"moved")] = coding.RAW_HEADER + b"other"
    with pytest.raises(ArtifactCorrupt):
        await store(shelf, tmp_path / "c3").get(digest)
    other = len(coding.RAW_HEADER + b"other")
    assert [now - then for now, then in zip(seen(), before, strict=True)] == [1, 1, 2, size, size + other, 1]


async def test_transfers_are_parallel_and_bounded(shelf: Shelf, tmp_path: Path) -> None:
    body = os.urandom(40 * limits.CHUNK_BYTES)
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=body), media="dataset")
    await store(shelf, tmp_path / "c2").get(digest)
    assert 1 < shelf.busy_max <= limits.CHUNKS_IN_FLIGHT


async def test_a_flipped_bit_is_corrupt_and_leaves_nothing_behind(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=BIG), media="dataset")
    name = codec.digest(BIG[limits.CHUNK_BYTES : 2 * limits.CHUNK_BYTES])
    stored = bytearray(shelf.objects[name])
    stored[100] ^= 1
    shelf.objects[name] = bytes(stored)
    with pytest.raises(ArtifactCorrupt) as caught:
        await store(shelf, tmp_path / "c2").get(digest)
    assert caught.value.digest == name
    assert list((tmp_path / "c2").iterdir()) == []


@pytest.mark.parametrize("stored", [(coding.RAW_HEADER + b"short"), b"", coding.RAW_HEADER + BIG + BIG])
async def test_objects_of_a_wrong_size_are_corrupt(shelf: Shelf, tmp_path: Path, stored: bytes) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=b"right"), media="dataset")
    shelf.objects[codec.digest(b"right")] = stored
    with pytest.raises(ArtifactCorrupt):
        await store(shelf, tmp_path / "c2").get(digest)


async def test_missing_objects_and_manifests_are_named(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=b"a"), media="dataset")
    gone = codec.digest(b"a")
    del shelf.objects[gone]
    with pytest.raises(ArtifactMissing) as caught:
        await store(shelf, tmp_path / "c2").get(digest)
    assert caught.value.digest == gone
    with pytest.raises(ArtifactMissing):
        await store(shelf, tmp_path / "c2").get("0" * 64)


async def test_a_forged_manifest_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=b"a"), media="dataset")
    other = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in2", a=b"b"), media="dataset")
    shelf.manifests[digest] = shelf.manifests[other]
    with pytest.raises(ArtifactCorrupt):
        await store(shelf, tmp_path / "c2").get(digest)


async def test_short_outages_are_bridged_and_long_ones_reported(shelf: Shelf, tmp_path: Path) -> None:
    ours = store(shelf, tmp_path / "c")
    shelf.failures = [BusUnavailable(), BusUnavailable()]
    await ours.put(folder_of(tmp_path / "in", a=b"a"), media="dataset")
    shelf.failures = [BusUnavailable() for _ in range(100)]
    with pytest.raises(BusUnavailable):
        await ours.put(folder_of(tmp_path / "in2", a=BIG), media="dataset")
    shelf.failures = [DiskFull("the stream is full")]
    with pytest.raises(DiskFull):
        await ours.put(folder_of(tmp_path / "in2", a=BIG), media="dataset")
    assert len(shelf.manifests) == 1


async def test_a_cached_artifact_needs_no_store_but_is_checked_once_per_process(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=BIG), media="dataset")
    got = await store(shelf, tmp_path / "c2").get(digest)
    fetched = len(shelf.fetched)
    again = store(shelf, tmp_path / "c2")
    assert await again.get(digest) == got
    assert len(shelf.fetched) == fetched
    (got / "a").chmod(0o644)
    (got / "a").write_bytes(BIG[:-1] + b"?")
    repaired = await store(shelf, tmp_path / "c2").get(digest)
    assert (repaired / "a").read_bytes() == BIG
    assert len(shelf.fetched) == 2 * fetched


async def test_concurrent_gets_download_once(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=BIG), media="dataset")
    other = store(shelf, tmp_path / "c2")
    paths = await asyncio.gather(*(other.get(digest) for _ in range(5)))
    assert len(set(paths)) == 1
    assert len(shelf.fetched) == 4


async def test_kept_artifacts_are_in_the_cache_without_a_download(shelf: Shelf, tmp_path: Path) -> None:
    ours = store(shelf, tmp_path / "c")
    source = folder_of(tmp_path / "in", a=BIG, deep__b=b"b")
    digest = await ours.put(source, media="model", keep=True)
    assert ours.cached(10) == [digest]
    mesh_cache.remove_folder(source)
    assert contents(await ours.get(digest)) == {"a": BIG, "deep/b": b"b"}
    assert shelf.fetched == []


async def test_the_cache_evicts_the_longest_unused_and_never_what_is_held(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_cache, "GRACE_S", 0.0)
    writer = store(shelf, tmp_path / "c")
    names = [await writer.put(folder_of(tmp_path / f"in{i}", a=os.urandom(1_000)), media="m") for i in range(4)]
    reader = store(shelf, tmp_path / "c2", bytes_max=3_000)

    async def used(digest: str, at: int) -> None:
        await reader.get(digest)
        os.utime(tmp_path / "c2" / digest / "manifest", (at, at))

    await used(names[0], 1_000)
    with reader.hold(names[0]):
        await used(names[1], 1_001)
        await used(names[2], 1_002)
        assert set(reader.cached(9)) == {names[0], names[2]}
    await used(names[3], 1_003)
    assert reader.cached(9) == [names[3], names[2]]


async def test_entries_used_a_moment_ago_outlive_the_limit(shelf: Shelf, tmp_path: Path) -> None:
    writer = store(shelf, tmp_path / "c")
    names = [await writer.put(folder_of(tmp_path / f"in{i}", a=os.urandom(1_000)), media="m") for i in range(3)]
    reader = store(shelf, tmp_path / "c2", bytes_max=1)
    for name in names:
        await reader.get(name)
    assert set(reader.cached(9)) == set(names)


def test_half_made_parts_of_dead_processes_are_swept(tmp_path: Path) -> None:
    for name in (".part-999999999-aa-bb", f".part-{os.getpid()}-otherlife-bb", f".part-{os.getppid()}-aa-bb"):
        folder_of(tmp_path / name / "files", a=b"a")
    kept = LocalCache(tmp_path, 1).new_part()
    LocalCache(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {f".part-{os.getppid()}-aa-bb", kept.name}


async def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=BIG), media="dataset")

    def full(place: object) -> Callable[[object], None]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact_getting, "_writer", full)
    with pytest.raises(DiskFull, match="free some space"):
        await store(shelf, tmp_path / "c2").get(digest)
    assert list((tmp_path / "c2").iterdir()) == []


async def test_what_can_not_be_an_artifact_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    ours = store(shelf, tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused):
        await ours.put(tmp_path / "empty", media="m")
    with pytest.raises((DataRefused, EnvironmentUnfit)):
        await ours.put(tmp_path / "nothing", media="m")
    os.mkfifo(folder_of(tmp_path / "pipes", a=b"a") / "pipe")
    with pytest.raises(DataRefused, match="regular"):
        await ours.put(tmp_path / "pipes", media="m")
    with pytest.raises(DataRefused, match="plain"):
        await ours.put(folder_of(tmp_path / "odd", **{"back\\slash": b"a"}), media="m")
    small = store(shelf, tmp_path / "c3", rules=Rules(objects=3))
    with pytest.raises(DataRefused, match=r"may have 3 objects.*would have 4: split"):
        await small.put(folder_of(tmp_path / "large", a=BIG), media="m")
    assert shelf.manifests == {}


async def test_one_small_file_is_read_and_checked(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", a=BIG, b=b"bb"), media="m")
    other = store(shelf, tmp_path / "c2")
    assert await other.read_file(digest, "b", bytes_max=10) == b"bb"
    assert await other.read_file(digest, "a", bytes_max=10**7) == BIG
    with pytest.raises(ArtifactMissing):
        await other.read_file(digest, "c", bytes_max=10)
    with pytest.raises(DataRefused):
        await other.read_file(digest, "a", bytes_max=10)


async def test_manifests_with_paths_that_leave_the_folder_are_malformed(shelf: Shelf, tmp_path: Path) -> None:
    entry = {"path": "../../evil", "size_bytes": 0, "objects": [], "sizes": []}
    data = codec.pack({"kind": Manifest.kind, "v": 1, "media": "m", "files": [entry], "facts": {}})
    shelf.manifests[codec.digest(data)] = data
    with pytest.raises(Malformed):
        await store(shelf, tmp_path / "c").get(codec.digest(data))
