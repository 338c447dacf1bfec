"""The collector on both brokers: marks, lists and removals mean the same to a real stream; and where objects lie in a
folder or a bucket, whose marks are times."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import cast

import pytest

from agents import scheduler_collecting
from agents.runtime import Agent
from agents.scheduler_collecting import Collecting
from agents.scheduler_history import History
from mesh import codec, coding, limits, streams
from mesh.condemned import CondemnedLists
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.ledger import Entry, LeaderChosen
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.object_traffic import Asking, Traffic
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.setting_tree import ArtifactSettings
from mesh.settings import load
from mesh.stores import open_backend
from tests.contract.conftest import World, until
from tests.support.collecting import SUBJECTS, CollectingStage, StagedHistory, listed, manifest_of

BODIES = [bytes([number]) * 1_000 for number in range(6)]

LEADER = Entry(
    term=1, generation=1, commands_seq=0, previous="0" * 64, at_ms=0, events=(LeaderChosen(name="s", term=1),)
)


def whole(body: bytes) -> ObjectName:
    return object_names.whole(codec.digest(body))


async def test_writing_over_keeps_one_version_and_outlives_an_older_mark(world: World) -> None:
    broker = await world.connect()
    await streams.ensure_all(broker, streams.table(world.subjects, artifact_bytes_max=1 << 28))
    backend, stream = JetStreamBackend(broker, world.subjects), world.subjects.stream(streams.ARTIFACTS)
    name = whole(BODIES[0])
    assert await backend.put(name, b"one")
    assert not await backend.put(name, b"two")
    mark = await backend.mark()
    assert await backend.put(name, b"three", over=True)
    assert (await broker.state(stream)).messages == 1
    assert not await backend.remove(name, mark=mark)
    assert await backend.get(name) == b"three"
    assert await backend.remove(name, mark=await backend.mark())
    assert not await backend.has(name)
    assert (await broker.state(stream)).limit_bytes == 1 << 28


async def test_a_round_on_this_broker(world: World, tmp_path: Path) -> None:
    subjects = world.subjects
    broker, hand = await world.connect("scheduler"), await world.connect("hand")
    await streams.ensure_all(hand, streams.table(subjects, artifact_bytes_max=1 << 28))
    flags = {
        "home": str(tmp_path), "prefix": subjects.prefix, "scheduler.collect_every_s": 1.0,
        "scheduler.collect_wait_s": 0.5, "scheduler.unnamed_keep_s": 3_600.0,
    }  # fmt: skip
    agent = Agent("scheduler", "scheduler", load(flags, {}, tmp_path), broker)
    collector = Collecting(agent, cast(History, StagedHistory(tmp_path)))
    traffic = Traffic(JetStreamBackend(hand, subjects), condemned=CondemnedLists(hand, subjects))
    manifest = manifest_of(tuple(BODIES[:3]))
    data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
    by_name = {whole(body): body for body in BODIES[:3]}

    async def send(name: ObjectName, over: bool) -> None:
        await traffic.send(name, coding.RAW_HEADER + by_name[name], Asking(), over=over)

    for body in BODIES:  # all of them garbage, until an upload relies on the first three
        await traffic.send(whole(body), coding.RAW_HEADER + body)
    running = asyncio.create_task(collector.run())
    try:
        async with hand.tail(subjects.stream(streams.CONDEMNED), subjects.condemned()) as lists:
            async with asyncio.timeout(30):
                await anext(aiter(lists))
        assert all([await traffic.is_there(name, Asking()) for name in by_name])
        await traffic.seal(by_name.keys(), codec.digest(data), data, send)
        await until(lambda: collector.use().removed == 3)
    finally:
        agent.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    there = {name async for name in traffic.backend.names()}
    assert there == {*by_name, object_names.manifest(codec.digest(data))}


@pytest.mark.parametrize("count", [0, 300])
async def test_names_are_all_told(world: World, count: int) -> None:
    broker = await world.connect()
    await streams.ensure_all(broker, streams.table(world.subjects, artifact_bytes_max=1 << 28))
    backend = JetStreamBackend(broker, world.subjects)
    wanted = {whole(b"%d" % number) for number in range(count)}
    for name in wanted:
        await backend.put(name, b"x")
    assert {name async for name in backend.names()} == wanted


@pytest.mark.parametrize("home", ["folder", pytest.param("s3", marks=pytest.mark.process)])
async def test_rounds_in_a_folder_and_in_a_bucket(
    tmp_path: Path, home: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage goes; what an upload relies on meanwhile, and what a list names, stays; the owner's word is left."""
    monkeypatch.setattr(scheduler_collecting, "LOOK_S", 0.1)
    (tmp_path / "disk").mkdir()
    chosen = ArtifactSettings(backend="folder", folder=str(tmp_path / "disk"))
    if home == "s3":
        chosen = request.getfixturevalue("s3_server").chosen()
    stage = await CollectingStage(tmp_path).start()
    flags = {f"artifacts.{field.name}": getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    settings = load({"home": str(tmp_path), "prefix": SUBJECTS.prefix, **flags}, {}, tmp_path)
    backend = open_backend(stage.hand, SUBJECTS, settings)
    await stage.hand.append(SUBJECTS.ledger(), codec.encode(LEADER))
    traffic = Traffic(backend, condemned=CondemnedLists(stage.hand, SUBJECTS))
    lists = listed(BODIES[:3], 2)
    bodies = {whole(body): body for body in (*BODIES[:3], *lists)}
    data = codec.encode(manifest_of(tuple(BODIES[:3]), lists=tuple(map(codec.digest, lists))))

    async def send(name: ObjectName, over: bool) -> None:
        await traffic.send(name, coding.RAW_HEADER + bodies[name], Asking(), over=over)

    for body in BODIES:  # all of them garbage, until an upload relies on the first three
        await traffic.send(whole(body), coding.RAW_HEADER + body)
    times = {"scheduler.collect_every_s": 1.0, "scheduler.collect_wait_s": 0.3}
    async with stage.collecting(home, **times, **flags) as collector:
        await until(lambda: collector.use().garbage >= 3)
        stage.open_task("t", inputs={"data": codec.digest(data)})
        await traffic.seal(bodies.keys(), codec.digest(data), data, send)
        needed = {*bodies, object_names.manifest(codec.digest(data))}
        async with asyncio.timeout(30):
            while {name for name in await stored_in(backend) if name.kind != MANIFEST} != set(bodies):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        done = collector._agent.metrics.value("mesh_collections_total", outcome="done")
        await until(lambda: collector._agent.metrics.value("mesh_collections_total", outcome="done") >= done + 2)
        there = await stored_in(backend)
        assert needed <= there
        (owner,) = there - needed
        found = codec.decode(await backend.get(owner) or b"", Manifest)
        assert found.media == "owner"
        assert collector._agent.metrics.value("mesh_collections_total", outcome="broken off") == 0
        assert collector.use().removed >= 3
        for name, body in bodies.items():
            assert await backend.get(name) == coding.RAW_HEADER + body
    await backend.close()


async def stored_in(backend: ObjectBackend) -> set[ObjectName]:
    return {name async for name in backend.names()}
