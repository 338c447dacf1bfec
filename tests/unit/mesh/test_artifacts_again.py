"""Artifacts whose store came back older: what is missing is seen without moving it, and put again from the cache."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mesh import limits, windows
from mesh.errors import BusUnavailable
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
