"""Work that is not done twice: downloads that go on, files that are not read again, objects that were packed before."""

from __future__ import annotations

import array
import asyncio
import functools
import os
import random
from pathlib import Path

import pytest

from mesh import artifact_getting, artifact_putting, artifact_sources, codec, coding, limits, put_memory, windows
from mesh import cache as mesh_cache
from mesh.artifact_sources import Source
from mesh.cache import LocalCache
from mesh.errors import ArtifactCorrupt, ArtifactMissing, BusUnavailable, DataRefused, DiskFull
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry
from mesh.messages.object_names import ObjectName
from mesh.object_lists import Rules
from mesh.put_memory import REMEMBERED_BYTES_MIN, PutMemory, stamp_of
from tests.unit.mesh.test_artifacts import Shelf, contents, folder_of, store

BODY = random.Random(7).randbytes(6 * limits.CHUNK_BYTES + 99)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)


def left(cache: Path) -> list[Path]:
    """Parts of downloads."""
    return list(cache.glob(".part-*"))


# -- downloads --------------------------------------------------------------------------------------------------------


async def cut_off(shelf: Shelf, tmp_path: Path, after: int) -> str:
    """An artifact of which `after` objects were fetched, one by one, before the store went away; its digest."""
    digest = await store(shelf, tmp_path / "c1").put(folder_of(tmp_path / "in", a=BODY, b=b"small"), media="model")
    reader, fetch = store(shelf, tmp_path / "c2"), Shelf.get
    shelf.fetched.clear()

    async def some(self: Shelf, name: ObjectName) -> bytes | None:
        if len(self.fetched) >= after:
            raise BusUnavailable
        return await fetch(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shelf, "get", some)
        patch.setattr(artifact_getting, "in_window", functools.partial(windows.in_window, width=1))
        with pytest.raises(BusUnavailable):
            await reader.get(digest)
    assert len(shelf.fetched) == after
    return digest


def of_a_dead_process(part: Path) -> Path:
    """The same part, as another process would have left it."""
    _, pid, life, *rest = part.name.split("-")
    assert int(pid) == os.getpid()
    return part.rename(part.with_name("-".join((".part", "999999999", life, *rest))))


async def test_a_download_that_was_cut_off_goes_on_in_a_later_process(shelf: Shelf, tmp_path: Path) -> None:
    digest = await cut_off(shelf, tmp_path, 3)
    before = list(shelf.fetched)
    of_a_dead_process(*left(tmp_path / "c2"))
    seen: list[int] = []
    got = await store(shelf, tmp_path / "c2").get(digest, progress=lambda done, _: seen.append(done))
    assert contents(got) == {"a": BODY, "b": b"small"}
    assert set(shelf.fetched[len(before) :]).isdisjoint(before)
    assert len(shelf.fetched) == 8
    assert seen[-1] == len(BODY) + 5
    assert left(tmp_path / "c2") == []


async def test_the_same_process_goes_on_too(shelf: Shelf, tmp_path: Path) -> None:
    digest = await store(shelf, tmp_path / "c1").put(folder_of(tmp_path / "in", a=BODY), media="model")
    reader = store(shelf, tmp_path / "c2")
    shelf.failures = [BusUnavailable() for _ in range(200)]
    with pytest.raises(BusUnavailable):
        await reader.get(digest)
    shelf.failures = []
    getting = asyncio.create_task(reader.get(digest))
    while len(shelf.fetched) < 4:  # noqa: ASYNC110 - the shelf has no bell
        await asyncio.sleep(0)
    getting.cancel()
    await asyncio.gather(getting, return_exceptions=True)
    assert len(left(tmp_path / "c2")) == 1
    assert contents(await reader.get(digest)) == {"a": BODY}
    assert left(tmp_path / "c2") == []


async def test_what_a_crash_left_is_believed_object_by_object(shelf: Shelf, tmp_path: Path) -> None:
    digest = await cut_off(shelf, tmp_path, 5)
    part = of_a_dead_process(*left(tmp_path / "c2"))
    with (part / "files" / "a").open("r+b") as file:
        file.seek(10)
        file.write(b"torn")
    assert contents(await store(shelf, tmp_path / "c2").get(digest)) == {"a": BODY, "b": b"small"}


async def test_parts_are_swept_after_a_day_and_go_first_when_room_is_short(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cut_off(shelf, tmp_path, 3)
    part = of_a_dead_process(*left(tmp_path / "c2"))
    store(shelf, tmp_path / "c2")
    assert left(tmp_path / "c2") == [part]
    os.utime(part, (1, 1))
    store(shelf, tmp_path / "c2")
    assert left(tmp_path / "c2") == []
    await cut_off(shelf, tmp_path / "again", 3)
    of_a_dead_process(*left(tmp_path / "again" / "c2"))
    other = await store(shelf, tmp_path / "c1").put(folder_of(tmp_path / "other", o=b"o"), media="model")
    monkeypatch.setattr(mesh_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(DiskFull):
        await store(shelf, tmp_path / "again" / "c2").get(other)
    assert left(tmp_path / "again" / "c2") == []


# -- uploads ----------------------------------------------------------------------------------------------------------


async def test_an_upload_that_was_cut_off_sends_only_what_is_missing(shelf: Shelf, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", a=random.Random(8).randbytes(40 * limits.CHUNK_BYTES))
    put = Shelf.put

    async def some(self: Shelf, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        if len(self.sent) >= 30:
            raise BusUnavailable
        return await put(self, name, data, over=over)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shelf, "put", some)
        with pytest.raises(BusUnavailable):
            await store(shelf, tmp_path / "c").put(source, media="model")
    before, there = len(shelf.sent), len(shelf.objects)
    await store(shelf, tmp_path / "c").put(source, media="model")  # another process, which believes nothing
    # sent although they are there: those before the first answer, and those beside the first that is not there
    assert len(shelf.sent) - before <= 40 - there + 2 * (limits.CHUNKS_IN_FLIGHT - 1)
    assert len(shelf.objects) == 40


def settled(path: Path, data: bytes) -> Path:
    """A file that was left alone for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_000, 1_000))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pieces that were read; files that were written a moment ago count as left alone."""
    read, seen = artifact_putting.read_piece, []

    def noted(source: Source, index: int) -> tuple[bytes, str, bytes]:
        seen.append(source.file)
        return read(source, index)

    monkeypatch.setattr(artifact_putting, "read_piece", noted)
    monkeypatch.setattr(put_memory, "SETTLED_S", -1.0)
    return seen


LARGE = random.Random(9).randbytes(REMEMBERED_BYTES_MIN + 5)


async def test_a_large_file_that_did_not_change_is_not_read_again(
    shelf: Shelf, tmp_path: Path, reads: list[Path]
) -> None:
    source = settled(tmp_path / "in" / "large", LARGE)
    first = await store(shelf, tmp_path / "c").put(source, media="model")
    count = len(reads)
    seen: list[tuple[int, int]] = []
    later = store(shelf, tmp_path / "c")
    assert await later.put(source, media="model", progress=lambda *both: seen.append(both)) == first
    assert len(reads) == count
    assert seen == [(len(LARGE), len(LARGE))]
    assert await later.put(source, media="model", fresh=True) == first
    assert len(reads) == 2 * count
    assert await store(shelf, tmp_path / "c").put(tmp_path / "in", media="other") != first
    assert len(reads) == 2 * count


async def test_what_the_store_has_lost_of_it_is_read_and_sent_again(
    shelf: Shelf, tmp_path: Path, reads: list[Path]
) -> None:
    source = settled(tmp_path / "large", LARGE)
    digest = await store(shelf, tmp_path / "c").put(source, media="model")
    lost = sorted(shelf.objects)[:2]
    for name in lost:
        del shelf.objects[name]
    count = len(reads)
    assert await store(shelf, tmp_path / "c").put(source, media="model") == digest
    assert len(reads) == count + 2
    assert set(lost) <= shelf.objects.keys()


@pytest.mark.parametrize("change", ["content", "time", "name", "replaced"])
async def test_a_file_that_may_have_changed_is_read(
    shelf: Shelf, tmp_path: Path, reads: list[Path], change: str
) -> None:
    source = settled(tmp_path / "large", LARGE)
    digest = await store(shelf, tmp_path / "c").put(source, media="model")
    count, new = len(reads), bytes(reversed(LARGE))
    if change == "content":
        source.write_bytes(new)
        os.utime(source, (1_000, 1_000))  # only the time of change tells
    elif change == "time":
        os.utime(source, (2_000, 2_000))
    elif change == "name":
        source = source.rename(tmp_path / "other")
    else:
        settled(tmp_path / "new", new).replace(source)
    again = await store(shelf, tmp_path / "c").put(source, media="model")
    assert len(reads) > count
    assert (again == digest) == (change == "time")


async def test_a_memory_that_is_wrong_is_found_out_when_it_matters(
    shelf: Shelf, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = settled(tmp_path / "large", LARGE)
    stamp = stamp_of(source)
    await store(shelf, tmp_path / "c").put(source, media="model")
    source.write_bytes(bytes(reversed(LARGE)))
    monkeypatch.setattr(artifact_sources, "stamp_of", lambda _: stamp)  # a clock that was set back
    shelf.objects.clear()
    digest = await store(shelf, tmp_path / "c").put(source, media="model")
    got = await store(shelf, tmp_path / "c2").get(digest)
    assert contents(got) == {"large": bytes(reversed(LARGE))}


async def test_a_file_that_was_just_written_is_not_remembered(shelf: Shelf, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(LARGE)
    assert stamp_of(source) is None
    await store(shelf, tmp_path / "c").put(source, media="model")
    assert not (tmp_path / "c" / ".puts").exists()


def test_the_memory_is_bounded_and_never_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_memory, "SETTLED_S", -1.0)
    monkeypatch.setattr(put_memory, "FILES_MAX", 3)
    memory, sizes = PutMemory(tmp_path / "memory"), array.array("I", [len(LARGE) - 1, 1])
    stamps = [stamp_of(settled(tmp_path / f"{number}", LARGE)) for number in range(5)]
    for number, stamp in enumerate(stamps):
        assert stamp is not None
        memory.remember(stamp, bytes(64), sizes)
        os.utime(next(iter((tmp_path / "memory").glob(codec.digest(stamp.path.encode())[:32]))), (number, number))
    assert len(list((tmp_path / "memory").iterdir())) == 3
    assert [memory.recall(stamp) for stamp in stamps if stamp is not None] == [None] * 2 + [(bytes(64), sizes)] * 3
    monkeypatch.setattr(put_memory, "OBJECTS_MAX", 1)
    assert stamps[0] is not None
    memory.remember(stamps[0], bytes(64), sizes)
    assert memory.recall(stamps[0]) is None
    for path in (tmp_path / "memory").iterdir():
        path.write_bytes(b"rubbish")
    assert all(memory.recall(stamp) is None for stamp in stamps if stamp is not None)
    (tmp_path / "blocked").write_bytes(b"no folder")
    PutMemory(tmp_path / "blocked").remember(stamps[0], bytes(64), sizes)


# -- packed before ----------------------------------------------------------------------------------------------------


def packed(folder: Path, *bodies: tuple[bytes, bytes | None]) -> FileEntry:
    """(body, base) of each object, coded into the folder, as one file's entry. b"" as a base: it is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    objects, bases = [], []
    for body, base in bodies:
        digest, against = codec.digest(body), ""
        stored = coding.RAW_HEADER + body
        if base:
            stored = coding.encode(body, item_bytes=4, base=base, base_digest=codec.digest(base))
            against = coding.base_of(stored)
            assert against == codec.digest(base)
        if base != b"":
            (folder / str(object_names.of_part(digest, against))).write_bytes(stored)
        objects.append(digest)
        bases.append(against)
    sizes = tuple(len(body) for body, _ in bodies)
    return FileEntry(
        path="state", size_bytes=sum(sizes), objects=tuple(objects), sizes=sizes, bases=tuple(bases)
    )  # fmt: skip


class Names(Shelf):
    """A shelf that tells deltas from whole objects."""

    def _of(self, name: ObjectName) -> dict[str, bytes]:
        shelf = super()._of(name)
        return shelf if not name.base else self.deltas.setdefault(name.base, {})

    def __init__(self) -> None:
        super().__init__()
        self.deltas: dict[str, dict[str, bytes]] = {}


FIRST = random.Random(10).randbytes(20_000)
SECOND = bytes([FIRST[0] ^ 1, *FIRST[1:]])
FROZEN = b"frozen weights"


async def test_deltas_are_stored_under_their_own_names_and_come_back_with_their_bases(tmp_path: Path) -> None:
    shelf = Names()
    mine = store(shelf, tmp_path / "c")
    await mine.put_packed([packed(tmp_path / "p1", (FIRST, None), (FROZEN, None))], tmp_path / "p1", media="checkpoint")
    entry = packed(tmp_path / "p2", (SECOND, FIRST), (FROZEN, b""))
    assert len(list((tmp_path / "p2").iterdir())) == 1
    digest = await mine.put_packed([entry], tmp_path / "p2", media="checkpoint", facts={"step": 2})
    assert codec.digest(SECOND) not in shelf.objects
    assert len(shelf.deltas[codec.digest(FIRST)][codec.digest(SECOND)]) < len(SECOND) / 10
    reader = store(shelf, tmp_path / "c2")
    assert contents(await reader.get(digest)) == {"state": SECOND + FROZEN}
    assert (await reader.manifest(digest)).facts == {"step": 2}
    assert sorted(path.name[0] for path in (tmp_path / "p1").iterdir()) == ["c", "c"]


@pytest.mark.parametrize("believed", [True, False])
async def test_what_was_left_out_and_is_gone_is_named(tmp_path: Path, believed: bool) -> None:
    shelf = Names()
    mine = store(shelf, tmp_path / "c")
    await mine.put_packed([packed(tmp_path / "p1", (FIRST, None), (FROZEN, None))], tmp_path / "p1", media="checkpoint")
    manifests = set(shelf.manifests)
    shelf.objects.clear()
    if not believed:
        mine.forget_stored()
        with pytest.raises(ArtifactMissing) as caught:
            await mine.put_packed(
                [packed(tmp_path / "p2", (SECOND, FIRST), (FROZEN, b""))], tmp_path / "p2", media="checkpoint"
            )
        assert set(caught.value.missing) == {object_names.whole(codec.digest(body)) for body in (FIRST, FROZEN)}
        assert set(shelf.manifests) == manifests
    else:  # for a while it is believed; the collector tells who has to doubt it
        mine._traffic._clock = lambda: 10**9
        with pytest.raises(ArtifactMissing):
            await mine.put_packed(
                [packed(tmp_path / "p2", (SECOND, FIRST), (FROZEN, b""))], tmp_path / "p2", media="checkpoint"
            )


async def test_a_base_that_is_wrong_is_told_from_a_delta_that_is(tmp_path: Path) -> None:
    shelf = Names()
    reported: list[ObjectName] = []

    async def report(name: ObjectName) -> None:
        reported.append(name)

    mine = store(shelf, tmp_path / "c")
    await mine.put_packed([packed(tmp_path / "p1", (FIRST, None))], tmp_path / "p1", media="checkpoint")
    digest = await mine.put_packed([packed(tmp_path / "p2", (SECOND, FIRST))], tmp_path / "p2", media="checkpoint")
    base, delta = codec.digest(FIRST), shelf.deltas[codec.digest(FIRST)]
    right = shelf.objects[base]
    for wrong, name in (
        (lambda: shelf.objects.update({base: coding.RAW_HEADER + SECOND}), object_names.whole(base)),
        (lambda: delta.update({codec.digest(SECOND): delta[codec.digest(SECOND)][:-3]}),
         object_names.delta(codec.digest(SECOND), base)),
    ):  # fmt: skip
        wrong()
        reader = store(shelf, tmp_path / "c2")
        reader._traffic.report = report
        with pytest.raises(ArtifactCorrupt) as caught:
            await reader.get(digest)
        assert caught.value.name == name
        assert reported.pop() == name
        shelf.objects[base] = right
    assert reported == []


async def test_the_plain_files_of_a_checkpoint_are_taken_into_the_cache_and_dropped_at_once(tmp_path: Path) -> None:
    shelf = Names()
    mine = store(shelf, tmp_path / "c")
    plain = folder_of(tmp_path / "plain", state=FIRST)
    entry = packed(tmp_path / "p1", (FIRST, None))
    digest = await mine.put_packed([entry], tmp_path / "p1", media="checkpoint", plain=plain)
    assert contents(await mine.get(digest)) == {"state": FIRST}
    assert shelf.fetched == []
    with mine.hold(digest):
        mine.drop(digest)
        assert mine.cached(9) == [digest]
    mine.drop(digest)
    assert mine.cached(9) == []


async def test_a_packed_artifact_that_is_none_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    entry = packed(tmp_path / "p", (FIRST, None))
    with pytest.raises(DataRefused):
        await store(shelf, tmp_path / "c").put_packed([entry, entry], tmp_path / "p", media="checkpoint")
    assert shelf.objects == {}


# -- coded on the way -------------------------------------------------------------------------------------------------


async def test_what_codes_well_is_stored_coded_and_the_rest_as_it_is(shelf: Shelf, tmp_path: Path) -> None:
    text, noise = b"".join(b"%d bottles of beer\n" % count for count in range(60_000)), BODY
    digest = await store(shelf, tmp_path / "c").put(folder_of(tmp_path / "in", text=text, noise=noise), media="m")
    moved = sum(map(len, shelf.objects.values()))
    assert len(noise) < moved < len(noise) + len(text) // 4
    assert contents(await store(shelf, tmp_path / "c2").get(digest)) == {"text": text, "noise": noise}


# -- objects of other artifacts ---------------------------------------------------------------------------------------


async def test_what_another_artifact_in_the_cache_has_is_not_fetched(shelf: Shelf, tmp_path: Path) -> None:
    writer, reader = store(shelf, tmp_path / "c1"), store(shelf, tmp_path / "c2")
    first = await writer.put(folder_of(tmp_path / "one", frozen=BODY, head=b"1"), media="checkpoint")
    second = await writer.put(folder_of(tmp_path / "two", weights=BODY, head=b"2"), media="checkpoint")
    got = await reader.get(first)
    (got / "frozen").chmod(0o644)
    with (got / "frozen").open("r+b") as file:
        file.write(b"one chunk is no longer what it was")
    count = len(shelf.fetched)
    assert contents(await reader.get(second)) == {"weights": BODY, "head": b"2"}
    assert len(shelf.fetched) == count + 2


# -- room -------------------------------------------------------------------------------------------------------------


async def test_a_disk_without_room_costs_entries_that_nobody_uses_and_only_if_that_helps(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_cache, "GRACE_S", 0.0)
    writer, reader = store(shelf, tmp_path / "c1"), store(shelf, tmp_path / "c2")
    names = [await writer.put(folder_of(tmp_path / f"in{i}", a=os.urandom(10_000)), media="m") for i in range(4)]
    for at, name in enumerate(names[:3]):
        await reader.get(name)
        os.utime(tmp_path / "c2" / name / "manifest", (at, at))

    def free() -> int:
        return 22_000 - sum(path.stat().st_size for path in (tmp_path / "c2").glob("[0-9a-f]*/files/*"))

    monkeypatch.setattr(mesh_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free()}))
    with reader.hold(names[0]):
        await reader.get(names[3])
        assert set(reader.cached(9)) == {names[0], names[3]}
    large = await writer.put(folder_of(tmp_path / "large", a=os.urandom(60_000)), media="m")
    with pytest.raises(DiskFull):
        await reader.get(large)
    assert set(reader.cached(9)) == {names[0], names[3]}


async def test_parts_that_were_cut_off_count_with_the_cache(shelf: Shelf, tmp_path: Path) -> None:
    await cut_off(shelf, tmp_path, 3)
    of_a_dead_process(*left(tmp_path / "c2"))
    other = await store(shelf, tmp_path / "c1").put(folder_of(tmp_path / "other", o=b"o"), media="m")
    await store(shelf, tmp_path / "c2").get(other)
    assert len(left(tmp_path / "c2")) == 1
    LocalCache(tmp_path / "c2", 1_000).evict()
    assert left(tmp_path / "c2") == []


# -- too much for one manifest ----------------------------------------------------------------------------------------


async def test_what_can_not_be_listed_is_refused_before_anything_is_sent(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MANIFEST_BYTES_MAX", 5_000)
    rules = Rules(manifest_bytes=5_000)
    many = folder_of(tmp_path / "many", **{f"a-file-with-a-name-{number}": b"%d" % number for number in range(40)})
    with pytest.raises(DataRefused, match="fewer files"):
        await store(shelf, tmp_path / "c", rules=rules).put(many, media="m")
    entry = packed(tmp_path / "p", *((b"%d" % number * 9, None) for number in range(80)))
    with pytest.raises(DataRefused, match="split"):
        await store(shelf, tmp_path / "c").put_packed([entry], tmp_path / "p", media="m")
    assert shelf.sent == []
    few = folder_of(tmp_path / "few", **{f"a-file-with-a-name-{number}": b"%d" % number for number in range(30)})
    await store(shelf, tmp_path / "c", rules=rules).put(few, media="m")
