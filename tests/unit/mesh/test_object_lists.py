"""Large artifacts: their objects stand in lists. Same bytes back, same promises, small ones as they always were."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import cast

import pytest

from mesh import chunks, codec, coding, limits, object_lists, windows
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.errors import ArtifactCorrupt, ArtifactMissing, BusUnavailable, DataRefused
from mesh.messages import object_names
from mesh.messages.artifacts import LISTS_MAX, FileEntry, Manifest, ObjectList
from mesh.messages.object_names import ObjectName
from mesh.object_lists import Rules
from mesh.objects import ObjectBackend
from mesh.objects_folder import FolderBackend
from mesh.subjects import Subjects
from tests.unit.mesh.test_artifacts import Shelf, contents, folder_of, store

CHUNK = 64
RULES = Rules(inline=6, rows=4)
LARGE = random.Random(3).randbytes(21 * CHUNK + 5)
"""22 objects: six lists."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def ours(shelf: ObjectBackend, cache: Path) -> ArtifactStore:
    return ArtifactStore(cast(Log, None), Subjects(), cache=cache, cache_bytes_max=10**9, backend=shelf, rules=RULES)


def source(tmp_path: Path, **more: bytes) -> Path:
    return folder_of(tmp_path / "in", large=LARGE, small=b"small", empty=b"", **more)


async def lists_of(store: ArtifactStore, digest: str) -> dict[str, tuple[str, ...]]:
    return {entry.path: entry.lists for entry in (await store.manifest(digest)).files}


# -- what becomes a list ----------------------------------------------------------------------------------------------


def test_what_fits_into_one_manifest_has_no_lists() -> None:
    rules = Rules(inline=100, rows=10)
    assert rules.listed_above([("a", 60), ("b", 40)]) == math.inf
    assert rules.listed_above([("a", 61), ("b", 40)]) == 8
    assert rules.listed_above([("a", 100_000), ("b", 90)]) == limits.LIST_ROWS_MAX
    assert rules.listed_above([(f"{n}", 30) for n in range(4)]) == 8


def test_what_is_too_much_is_said_in_a_sentence() -> None:
    with pytest.raises(DataRefused, match=r"may have 2000000 objects, some 0 GB, and this one would have 2000001"):
        Rules().listed_above([("a", 2_000_001)])
    assert Rules().listed_above([("a", 2_000_000)]) < math.inf
    with pytest.raises(DataRefused, match="10001: pack them"):
        Rules().listed_above([(f"{n}", 1) for n in range(10_001)])
    with pytest.raises(DataRefused, match="fewer files"):
        Rules().listed_above([(f"{n:050}", 2) for n in range(9_000)])


def test_a_list_says_what_it_was_made_of() -> None:
    objects, bases = [codec.digest(b"%d" % n) for n in range(3)], ["", codec.digest(b"base"), ""]
    for some in (bases, ["", "", ""], []):
        data = object_lists.list_of(objects, [1, 2, 3], some)
        entry = object_lists.entry_of("f", object_lists.read_list(codec.digest(data), data))
        assert (entry.objects, entry.sizes, entry.size_bytes) == (tuple(objects), (1, 2, 3), 6)
        assert entry.bases == (tuple(bases) if any(some) else ())


@pytest.mark.parametrize(
    ("digests", "sizes", "bases"),
    [
        (b"", (), b""),
        (bytes(32), (0,), b""),
        (bytes(31), (1,), b""),
        (bytes(64), (1,), b""),
        (bytes(32), (1,), bytes(31)),
        (bytes(32) * 3_001, (1,) * 3_001, b""),
    ],
)
def test_a_list_that_can_not_be_is_none(digests: bytes, sizes: tuple[int, ...], bases: bytes) -> None:
    with pytest.raises(ValueError, match="a list"):
        ObjectList(digests=digests, sizes=sizes, bases=bases)


def test_the_bytes_of_a_large_artifacts_manifest_and_list_are_what_they_were() -> None:
    data = object_lists.list_of(["ab" * 32, "cd" * 32], [524_288, 5], ["", "ef" * 32])
    assert data == (
        b"\x85\xa4kind\xabobject-list\xa1v\x01"
        b"\xa7digests\xc4\x40" + b"\xab" * 32 + b"\xcd" * 32 + b"\xa5sizes\x92\xce\x00\x08\x00\x00\x05"
        b"\xa5bases\xc4\x40" + bytes(32) + b"\xef" * 32
    )
    entry = FileEntry(path="f", size_bytes=524_293, objects=(), sizes=(), lists=(codec.digest(data),))
    manifest = codec.encode(Manifest(media="dataset", files=(entry,)))
    assert manifest == (
        b"\x85\xa4kind\xa8manifest\xa1v\x01\xa5media\xa7dataset\xa5files\x91\x85\xa4path\xa1f"
        b"\xaasize_bytes\xce\x00\x08\x00\x05\xa7objects\x90\xa5sizes\x90\xa5lists\x91\xd9\x40"
        + codec.digest(data).encode() + b"\xa5facts\x80"
    )  # fmt: skip


def test_a_list_is_a_record_of_its_usual_size() -> None:
    rows = limits.LIST_ROWS_MAX
    data = object_lists.list_of(["ab" * 32] * rows, [limits.CHUNK_BYTES * 8_192] * rows, ["cd" * 32] * rows)
    assert len(data) <= ObjectList.bytes_max


def test_a_manifest_with_lists_is_refused_by_who_does_not_know_them() -> None:
    entry = FileEntry(path="f", size_bytes=5, objects=(), sizes=(), lists=("ab" * 32,))
    with pytest.raises(ValueError, match="add up"):
        FileEntry(path="f", size_bytes=5, objects=(), sizes=())
    for size_bytes, objects in ((0, ()), (5, ("ab" * 32,))):
        with pytest.raises(ValueError, match="in lists"):
            FileEntry(path="f", size_bytes=size_bytes, objects=objects, sizes=(5,) * len(objects), lists=entry.lists)
    many = FileEntry(path="f", size_bytes=5, objects=(), sizes=(), lists=("ab" * 32,) * (LISTS_MAX + 1))
    with pytest.raises(ValueError, match="lists of objects"):
        Manifest(media="m", files=(many,))


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["shelf", "folder"])
async def test_a_large_artifact_comes_back_byte_for_byte(shelf: Shelf, tmp_path: Path, where: str) -> None:
    (tmp_path / "disk").mkdir()
    backend: ObjectBackend = shelf if where == "shelf" else FolderBackend(tmp_path / "disk", "mesh")
    digest = await ours(backend, tmp_path / "c1").put(source(tmp_path), media="dataset")
    other, seen = ours(backend, tmp_path / "c2"), list[tuple[int, int]]()
    got = await other.get(digest, progress=lambda *both: seen.append(both))
    assert contents(got) == contents(tmp_path / "in")
    assert seen[-1] == (len(LARGE) + 5, len(LARGE) + 5)
    lists = await lists_of(other, digest)
    assert (len(lists["large"]), lists["small"], lists["empty"]) == (6, (), ())
    assert await other.read_file(digest, "large", bytes_max=10**6) == LARGE
    assert await store(shelf, tmp_path / "c3").put(tmp_path / "in", media="dataset") != digest  # other rules
    assert not await other.missing(digest)


async def test_small_artifacts_keep_their_digest(shelf: Shelf, tmp_path: Path) -> None:
    few = folder_of(tmp_path / "few", a=LARGE[: 5 * CHUNK], b=b"b")
    digest = await ours(shelf, tmp_path / "c1").put(few, media="dataset")
    assert digest == await store(shelf, tmp_path / "c2").put(few, media="dataset")
    entry = {"path": "a", "size_bytes": 320, "objects": [], "sizes": [CHUNK] * 5}
    entry["objects"] = [codec.digest(LARGE[at : at + CHUNK]) for at in range(0, 320, CHUNK)]
    other = {"path": "b", "size_bytes": 1, "objects": [codec.digest(b"b")], "sizes": [1]}
    tree = {"kind": "manifest", "v": 1, "media": "dataset", "files": [entry, other], "facts": {}}
    assert shelf.manifests[digest] == codec.pack(tree)


async def test_a_second_put_sends_nothing_and_a_changed_chunk_sends_itself_and_its_list(
    shelf: Shelf, tmp_path: Path
) -> None:
    first = await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset")
    count = len(shelf.objects)
    assert await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset") == first
    assert len(shelf.objects) == count
    (tmp_path / "in" / "large").write_bytes(LARGE[:-1] + b"!")
    assert await ours(shelf, tmp_path / "c").put(tmp_path / "in", media="dataset") != first
    assert len(shelf.objects) == count + 2


async def test_equal_lists_in_two_artifacts_are_one(shelf: Shelf, tmp_path: Path) -> None:
    ours_ = ours(shelf, tmp_path / "c")
    one = await ours_.put(source(tmp_path), media="dataset")
    two = await ours_.put(folder_of(tmp_path / "longer", large=LARGE[: 16 * CHUNK] + b"more"), media="dataset")
    lists = [set((await lists_of(ours_, digest))["large"]) for digest in (one, two)]
    assert len(lists[0] & lists[1]) == 4


async def test_a_cached_large_artifact_is_checked_and_used_without_the_store(shelf: Shelf, tmp_path: Path) -> None:
    digest = await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset", keep=True)
    shelf.failures = [BusUnavailable()] * 99
    assert contents(await ours(shelf, tmp_path / "c").get(digest)) == contents(tmp_path / "in")
    shelf.failures = []
    damaged = next((tmp_path / "c" / digest / "lists").iterdir())
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    shelf.fetched.clear()
    again = ours(shelf, tmp_path / "c")
    assert contents(await again.get(digest)) == contents(tmp_path / "in")
    assert shelf.fetched


async def test_a_download_that_was_cut_off_goes_on(shelf: Shelf, tmp_path: Path) -> None:
    digest = await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset")
    reader, count = ours(shelf, tmp_path / "c2"), 0

    def cut_off(done: int, total: int) -> None:
        nonlocal count
        count += 1
        if count == 15:
            raise BusUnavailable

    with pytest.raises(BusUnavailable):
        await reader.get(digest, progress=cut_off)
    shelf.fetched.clear()
    assert contents(await reader.get(digest)) == contents(tmp_path / "in")
    assert len(shelf.fetched) <= len(shelf.objects) - 10


async def test_what_another_artifact_has_in_the_cache_is_not_fetched(shelf: Shelf, tmp_path: Path) -> None:
    ours_ = ours(shelf, tmp_path / "c")
    one = await ours_.put(source(tmp_path), media="dataset")
    two = await ours_.put(folder_of(tmp_path / "longer", large=LARGE + b"!"), media="dataset")
    reader = ours(shelf, tmp_path / "c2")
    await reader.get(one)
    shelf.fetched.clear()
    assert contents(await reader.get(two)) == contents(tmp_path / "longer")
    lists = await lists_of(reader, two)
    assert len(set(shelf.fetched) - set(lists["large"])) == 1


# -- what may happen to a part ----------------------------------------------------------------------------------------


async def test_no_manifest_without_its_lists(shelf: Shelf, tmp_path: Path) -> None:
    await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset")
    assert shelf.order[-1] == "manifest"
    assert shelf.order.count("manifest") == 1


@pytest.mark.parametrize("harm", ["lost", "other bytes", "cut", "no list", "wrong list"])
async def test_a_part_that_is_not_right_is_never_used(shelf: Shelf, tmp_path: Path, harm: str) -> None:
    writer = ours(shelf, tmp_path / "c")
    digest = await writer.put(source(tmp_path), media="dataset")
    part = (await lists_of(writer, digest))["large"][2]
    reported = list[ObjectName]()

    async def report(name: ObjectName) -> None:
        reported.append(name)

    right = shelf.objects[part]
    if harm == "lost":
        del shelf.objects[part]
    elif harm == "cut":
        shelf.objects[part] = right[:-1]
    else:
        shelf.objects[part] = coding.RAW_HEADER + b"other bytes"
    if harm in ("no list", "wrong list"):  # the manifest itself was made wrongly: digests are all right
        body = b"no list at all" if harm == "no list" else object_lists.list_of([codec.digest(b"x")], [5])
        shelf.objects[codec.digest(body)] = coding.RAW_HEADER + body
        manifest = await writer.manifest(digest)
        files = tuple(
            entry if entry.path != "large" else _with_list(entry, 2, codec.digest(body)) for entry in manifest.files
        )
        data = codec.encode(manifest.evolve(files=files))
        digest = codec.digest(data)
        shelf.manifests[digest] = data
        shelf.objects[codec.digest(b"x")] = coding.RAW_HEADER + b"x"
    reader = ArtifactStore(
        cast(Log, None), Subjects(), cache=tmp_path / "c2", cache_bytes_max=10**9, backend=shelf, report=report
    )
    with pytest.raises(ArtifactMissing if harm == "lost" else ArtifactCorrupt) as caught:
        await reader.get(digest)
    if harm in ("other bytes", "cut"):
        assert reported == [object_names.whole(part)]
        assert caught.value.facts["name"] == object_names.whole(part)
    assert await reader.missing(digest)
    assert not (tmp_path / "c2" / digest).exists()
    shelf.objects[part] = right
    if harm in ("lost", "other bytes", "cut"):
        assert contents(await reader.get(digest)) == contents(tmp_path / "in")
        assert not await reader.missing(digest)


def _with_list(entry: FileEntry, at: int, digest: str) -> FileEntry:
    lists = (*entry.lists[:at], digest, *entry.lists[at + 1 :])
    return FileEntry(path=entry.path, size_bytes=entry.size_bytes, objects=(), sizes=(), lists=lists)


async def test_a_missing_object_of_a_list_is_missed(shelf: Shelf, tmp_path: Path) -> None:
    ours_ = ours(shelf, tmp_path / "c")
    digest = await ours_.put(source(tmp_path), media="dataset")
    ours_.forget_stored()
    del shelf.objects[codec.digest(LARGE[20 * CHUNK : 21 * CHUNK])]
    assert await ours_.missing(digest)


async def test_what_a_list_names_and_the_store_has_lost_is_sent_again(shelf: Shelf, tmp_path: Path) -> None:
    ours_ = ours(shelf, tmp_path / "c")
    digest = await ours_.put(source(tmp_path), media="dataset", keep=True)
    for lost in (0, 7, 21):
        del shelf.objects[codec.digest(LARGE[lost * CHUNK : (lost + 1) * CHUNK])]
    for part in (await lists_of(ours_, digest))["large"][1:3]:
        del shelf.objects[part]
    del shelf.manifests[digest]
    ours_.forget_stored()
    assert await ours_.send_again(digest)
    assert not await ours(shelf, tmp_path / "c2").missing(digest)
    assert contents(await ours(shelf, tmp_path / "c3").get(digest)) == contents(tmp_path / "in")


async def test_an_artifact_knows_what_it_is_stored_under(shelf: Shelf, tmp_path: Path) -> None:
    ours_ = ours(shelf, tmp_path / "c")
    digest = await ours_.put(source(tmp_path), media="dataset", keep=True)
    part = (await lists_of(ours_, digest))["large"][3]
    for name in (
        object_names.manifest(digest),
        object_names.whole(part),
        object_names.whole(codec.digest(LARGE[21 * CHUNK :])),
        object_names.whole(codec.digest(b"small")),
    ):
        assert await ours_.needs(digest, {name, object_names.whole("ef" * 32)}), name
    assert not await ours_.needs(digest, {object_names.whole("ef" * 32)})


async def test_a_file_that_is_put_again_is_recalled(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.put_memory.SETTLED_S", -1.0)
    monkeypatch.setattr("mesh.put_memory.REMEMBERED_BYTES_MIN", 100)
    digest = await ours(shelf, tmp_path / "c").put(source(tmp_path), media="dataset")

    def unread(*_: object) -> tuple[bytes, str, bytes]:
        raise AssertionError

    (tmp_path / "in" / "small").unlink()
    second = await ours(shelf, tmp_path / "c").put(tmp_path / "in", media="dataset")
    monkeypatch.setattr("mesh.artifact_putting.read_piece", unread)
    assert await ours(shelf, tmp_path / "c").put(tmp_path / "in", media="dataset") == second != digest


async def test_packed_checkpoints_may_have_lists(shelf: Shelf, tmp_path: Path) -> None:
    folder, bodies = tmp_path / "packed", [LARGE[at : at + CHUNK] for at in range(0, 9 * CHUNK, CHUNK)]
    folder.mkdir()
    lists = [
        object_lists.list_of([codec.digest(body) for body in some], [CHUNK] * len(some))
        for some in (bodies[:5], bodies[5:])
    ]
    for body in (*bodies, *lists):
        (folder / str(object_names.whole(codec.digest(body)))).write_bytes(coding.RAW_HEADER + body)
    plain = folder_of(tmp_path / "plain", state=b"".join(bodies))
    entry = FileEntry(path="state", size_bytes=9 * CHUNK, objects=(), sizes=(), lists=tuple(map(codec.digest, lists)))
    seen: list[tuple[int, int]] = []
    ours_ = ours(shelf, tmp_path / "c")
    digest = await ours_.put_packed(
        [entry], folder, media="checkpoint", plain=plain, progress=lambda *both: seen.append(both)
    )
    assert seen[-1] == (9 * CHUNK, 9 * CHUNK)
    assert shelf.objects.keys() == {codec.digest(body) for body in (*bodies, *lists)}
    assert contents(await ours(shelf, tmp_path / "c2").get(digest)) == {"state": b"".join(bodies)}
    shelf.fetched.clear()
    assert contents(await ours(shelf, tmp_path / "c").get(digest)) == {"state": b"".join(bodies)}
    assert shelf.fetched == []
    gone = codec.digest(bodies[7])
    (folder / str(object_names.whole(gone))).unlink()
    del shelf.objects[gone]
    with pytest.raises(ArtifactMissing) as caught:
        await ours(shelf, tmp_path / "c4").put_packed([entry], folder, media="checkpoint")
    assert caught.value.facts["missing"] == (object_names.whole(gone),)
    inline = FileEntry(path="s", size_bytes=7, objects=tuple(codec.digest(b"%d" % n) for n in range(7)), sizes=(1,) * 7)
    with pytest.raises(DataRefused, match="use lists"):
        await ours_.put_packed([inline], folder, media="checkpoint")


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_terabyte_cost_nothing_until_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES", 512 * 1024)
    pieces = chunks.cut_by(lambda offset, size: b"", "file.bin", 10**12)
    assert len(pieces) == 1_907_349
    assert pieces[-1].offset + pieces[-1].size == 10**12
    assert pieces[1_000_000].offset == 1_000_000 * 512 * 1024
    with pytest.raises(IndexError):
        pieces[len(pieces)]


async def test_readers_hold_a_few_lists_at_a_time() -> None:
    held = [object_lists.list_of([codec.digest(b"%d" % n)], [1]) for n in range(100)]
    by_digest = {codec.digest(data): data for data in held}
    read = list[str]()

    async def fetch(digest: str) -> bytes:
        read.append(digest)
        return by_digest[digest]

    entry = FileEntry(path="f", size_bytes=100, objects=(), sizes=(), lists=tuple(by_digest))
    offsets = list[int]()
    async for batch in object_lists.batches([entry], fetch):
        assert len(read) - len(offsets) <= object_lists.LISTS_AT_ONCE
        offsets += [portion.offset for portion in batch]
    assert offsets == list(range(100))


async def test_nothing_is_written_beyond_a_files_end(shelf: Shelf, tmp_path: Path) -> None:
    """A manifest that says less than its lists do is corrupt before a byte is written."""
    body = b"x" * 10
    data = object_lists.list_of([codec.digest(body)], [10])
    for stored in (body, data):
        shelf.objects[codec.digest(stored)] = coding.RAW_HEADER + stored
    entry = FileEntry(path="f", size_bytes=9, objects=(), sizes=(), lists=(codec.digest(data),))
    manifest = codec.encode(Manifest(media="m", files=(entry,)))
    shelf.manifests[codec.digest(manifest)] = manifest
    with pytest.raises(ArtifactCorrupt, match="add up"):
        await ours(shelf, tmp_path / "c").get(codec.digest(manifest))
    assert codec.digest(body) not in shelf.fetched
