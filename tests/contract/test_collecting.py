"""The collector on both brokers: marks, lists and removals mean the same to a real stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from agents.runtime import Agent
from agents.scheduler_collecting import Collecting
from agents.scheduler_history import History
from mesh import codec, coding, limits, streams
from mesh.condemned import CondemnedLists
from mesh.messages import object_names
from mesh.messages.object_names import ObjectName
from mesh.object_traffic import Asking, Traffic
from mesh.objects import JetStreamBackend
from mesh.settings import load
from tests.contract.conftest import World, until
from tests.support.collecting import StagedHistory, manifest_of

BODIES = [bytes([number]) * 1_000 for number in range(6)]


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
