"""Artifacts whose store came back older: what is missing is seen without moving it, and put again from the cache."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from mesh import codec, coding, limits, windows
from mesh.errors import BusUnavailable
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry
from tests.unit.mesh.test_artifacts import Shelf, folder_of, store


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAUSE_S", 0.0)


BODY = random.Random(1).randbytes(5 * limits.CHUNK_BYTES // 2)
"""Two and a half chunks."""


async def kept(shelf: Shelf, folder: Path) -> str:
    """An artifact of two files, in the store and in the cache of `folder`."""
    made = folder_of(folder / "made", **{"a.bin": BODY, "b.txt": b"small"})
    return await store(shelf, folder / "cache").put(made, media="model", keep=True)


async def test_a_whole_artifact_is_not_missing_and_none_of_it_is_fetched(tmp_path: Path) -> None:
    shelf = Shelf()
    digest = await kept(shelf, tmp_path)
    assert not await store(shelf, tmp_path / "other").missing(digest)
    assert shelf.fetched == []


@pytest.mark.parametrize("lost", ["manifest", "chunk", "all"])
async def test_what_is_lost_is_missing_until_it_is_put_again(tmp_path: Path, lost: str) -> None:
    shelf = Shelf()
    digest = await kept(shelf, tmp_path)
    before = dict(shelf.objects)
    if lost != "chunk":
        shelf.manifests.clear()
    if lost == "all":
        shelf.objects.clear()
    elif lost == "chunk":
        del shelf.objects[sorted(shelf.objects)[0]]
    shelf.sent.clear()
    shelf.order.clear()
    again = store(shelf, tmp_path / "cache")
    assert await again.missing(digest)
    assert await again.send_again(digest)
    assert not await again.missing(digest)
    assert shelf.objects == before
    assert shelf.order[-1] == "manifest"
    assert len(shelf.sent) == {"manifest": 0, "chunk": 1, "all": len(before)}[lost]
    fetched = await store(shelf, tmp_path / "elsewhere").get(digest)
    assert (fetched / "a.bin").read_bytes() == BODY


async def test_what_this_process_has_put_before_is_put_again_too(tmp_path: Path) -> None:
    shelf = Shelf()
    mine = store(shelf, tmp_path / "cache")
    digest = await mine.put(folder_of(tmp_path / "made", **{"a.bin": BODY}), media="model", keep=True)
    shelf.objects.clear()
    assert await mine.send_again(digest)
    assert not await mine.missing(digest)


async def test_what_is_not_here_or_no_longer_right_is_not_put(tmp_path: Path) -> None:
    shelf = Shelf()
    digest = await kept(shelf, tmp_path)
    assert not await store(shelf, tmp_path / "other").send_again(digest)
    file = tmp_path / "cache" / digest / "files" / "a.bin"
    file.chmod(0o644)
    file.write_bytes(b"x" + BODY[1:])
    shelf.objects.clear()
    assert not await store(shelf, tmp_path / "cache").send_again(digest)
    assert shelf.objects == {}


async def test_a_store_that_is_away_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    shelf = Shelf()
    digest = await kept(shelf, tmp_path)
    shelf.failures += [BusUnavailable()] * 9
    with pytest.raises(BusUnavailable):
        await store(shelf, tmp_path / "cache").missing(digest)


async def test_an_upload_that_sees_the_store_come_back_older_looks_once_more_at_what_it_sent(tmp_path: Path) -> None:
    shelf = Shelf()
    mine = store(shelf, tmp_path / "cache")

    def come_back_older(done: int, total: int) -> None:
        if done == total:  # all objects are there, the manifest is not
            for digest in sorted(shelf.objects)[:2]:
                del shelf.objects[digest]
            mine.forget_stored()

    made = folder_of(tmp_path / "made", **{"a.bin": BODY})
    digest = await mine.put(made, media="model", progress=come_back_older)
    assert not await mine.missing(digest)
    assert len(shelf.sent) == len(shelf.objects) + 2


async def chained(shelf: Shelf, folder: Path) -> tuple[str, str]:
    """Two artifacts, in store and cache: the second one's object is a delta against the first one's."""
    mine = store(shelf, folder / "cache")
    before = BODY[: limits.CHUNK_BYTES]
    after = b"changed!" + before[8:]
    base, digest = codec.digest(before), codec.digest(after)
    first = await mine.put(folder_of(folder / "one", **{"a.bin": before}), media="checkpoint", keep=True)
    packed = folder / "packed"
    packed.mkdir()
    (packed / str(object_names.delta(digest, base))).write_bytes(coding.encode(after, base=before, base_digest=base))
    entry = FileEntry(path="a.bin", size_bytes=len(after), objects=(digest,), sizes=(len(after),), bases=(base,))
    second = await mine.put_packed([entry], packed, media="checkpoint")
    assert ((await mine.get(second)) / "a.bin").read_bytes() == after
    return first, second


@pytest.mark.parametrize("forgotten", [False, True], ids=["base in another entry", "base nowhere"])
async def test_a_delta_comes_back_with_its_base_or_whole(tmp_path: Path, forgotten: bool) -> None:
    shelf = Shelf()
    first, second = await chained(shelf, tmp_path)
    again = store(shelf, tmp_path / "cache")
    assert not await again.missing(second)
    shelf.objects.clear()
    shelf.manifests.clear()
    again.forget_stored()
    if forgotten:
        shutil.rmtree(tmp_path / "cache" / first, ignore_errors=True)
        assert not (tmp_path / "cache" / first / "manifest").exists()
    assert await again.missing(second)
    assert await again.send_again(second)
    again.forget_stored()
    assert not await again.missing(second)
    fetched = await store(shelf, tmp_path / "elsewhere").get(second)
    assert (fetched / "a.bin").read_bytes()[:8] == b"changed!"


async def test_a_delta_that_stands_without_its_base_is_missing(tmp_path: Path) -> None:
    shelf = Shelf()
    first, second = await chained(shelf, tmp_path)
    for name in list(shelf.objects):
        if name == codec.digest(BODY[: limits.CHUNK_BYTES]):
            del shelf.objects[name]
    shutil.rmtree(tmp_path / "cache" / first, ignore_errors=True)
    again = store(shelf, tmp_path / "cache")
    assert await again.missing(second)
    assert await again.send_again(second)
    again.forget_stored()
    assert not await again.missing(second)
