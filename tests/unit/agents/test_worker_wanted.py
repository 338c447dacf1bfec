"""A worker that has the bytes of a removed object gives them back; a reader of corrupt bytes tells the leader."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest

from agents.scheduler import body
from agents.worker_wanted import WantedBack
from mesh import codec, coding, streams
from mesh.bus import Message
from mesh.errors import ArtifactCorrupt, ArtifactMissing
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.collecting import CorruptFound, Wanted
from mesh.objects import JetStreamBackend
from mesh.settings import load
from mesh.stores import open_store
from mesh.subjects import Subjects
from tests.support import agents
from tests.support.agents import until
from tests.unit.agents.test_scheduler import ready

SUBJECTS = Subjects()
BODY = random.Random(1).randbytes(2_000)
NAME = object_names.whole(codec.digest(BODY))


class Stage:
    """A worker's store, another reader's, and the place where the objects lie."""

    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer(SUBJECTS)
        self.hand = self.server.connect("hand")
        self.backend = JetStreamBackend(self.hand, SUBJECTS)
        settings = load({"home": str(folder / "home")}, {"HOME": str(folder)}, folder)
        self.worker = open_store(self.server.connect("w1"), SUBJECTS, settings, cache=folder / "w1")
        self.reader = open_store(self.server.connect("w2"), SUBJECTS, settings, cache=folder / "w2")
        self.folder = folder

    async def put(self) -> str:
        await streams.ensure_all(self.hand, streams.table(SUBJECTS, artifact_bytes_max=1 << 30))
        (self.folder / "model.bin").write_bytes(BODY)
        return await self.worker.put(self.folder / "model.bin", media="model", keep=True)


async def test_a_removed_object_is_given_back_from_the_cache(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    digest = await stage.put()
    await stage.backend.remove(NAME)
    wanted = WantedBack(stage.worker, logging.getLogger())
    looking = asyncio.create_task(wanted.run())
    try:
        await wanted.hear(Message(SUBJECTS.wanted(), b"nonsense"))
        await wanted.hear(Message(SUBJECTS.wanted(), codec.encode(Wanted(names=("c.x", str(NAME))))))
        async with asyncio.timeout(20):
            while not await stage.backend.has(NAME):  # noqa: ASYNC110 - looked at, with a deadline
                await asyncio.sleep(0.01)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert (await stage.reader.get(digest) / "model.bin").read_bytes() == BODY


async def test_what_nobody_has_cached_stays_away(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.put()
    await stage.backend.remove(NAME)
    wanted = WantedBack(stage.reader, logging.getLogger())
    looking = asyncio.create_task(wanted.run())
    await wanted.hear(Message(SUBJECTS.wanted(), codec.encode(Wanted(names=(str(NAME),)))))
    await until(lambda: not wanted._heard.is_set(), "the look at the cache")
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert not await stage.backend.has(NAME)


async def test_a_reader_of_corrupt_bytes_tells_the_leader(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    digest = await stage.put()
    await stage.backend.put(NAME, coding.RAW_HEADER + BODY[::-1], over=True)
    told: list[CorruptFound] = []

    async def hear(message: Message) -> None:
        told.append(codec.decode(message.data, CorruptFound))

    await stage.hand.subscribe(SUBJECTS.asked("scheduler"), hear)
    with pytest.raises(ArtifactCorrupt):
        await stage.reader.get(digest)
    await until(lambda: bool(told), "the report")
    assert told[0].names == (str(NAME),)


async def test_a_corrupt_object_is_mended_by_leader_and_cache_together(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    digest = await stage.put()
    await stage.backend.put(NAME, coding.RAW_HEADER + BODY[::-1], over=True)
    wanted = WantedBack(stage.worker, logging.getLogger())
    await stage.server.connect("w3").subscribe(SUBJECTS.wanted(), wanted.hear)
    looking = asyncio.create_task(wanted.run())
    async with agents.running(agents.make(stage.server, "scheduler", tmp_path / "scheduler"), body):
        await ready(stage.hand)
        with pytest.raises(ArtifactCorrupt):
            await stage.reader.get(digest)
        async with asyncio.timeout(20):
            while (path := await _get(stage, digest)) is None:  # noqa: ASYNC110 - looked at, with a deadline
                await asyncio.sleep(0.02)
        assert (path / "model.bin").read_bytes() == BODY
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def _get(stage: Stage, digest: str) -> Path | None:
    try:
        return await stage.reader.get(digest)
    except (ArtifactCorrupt, ArtifactMissing):
        return None
