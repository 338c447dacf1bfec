"""What was published from a home folder: remembered for a day, and put again when an older store has lost it."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
from pathlib import Path

from agents.commands import published
from agents.commands.display import Lines
from agents.commands.following import follow
from agents.commands.reach import Reach
from agents.commands.story import Ending, Story
from mesh import codec
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh
from tests.unit.agents.test_cli_following import reached


def topic(name: str, source: str = "builtin:digits") -> Topic:
    return Topic(id=name, text="digits", data=DataRef(source=source, name="digits.csv"), published_at_ms=5)


async def stored(there: Reach, name: str) -> bool:
    return await there.broker.last(there.stream("TOPICS"), there.subjects.topic(name)) is not None


async def test_what_is_lost_is_named_and_put_again_with_its_data(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there, said = reached(mesh), list[str]()
    data = tmp_path / "digits.csv"
    data.write_text("a,b\n1,2\n")
    digest = await mesh.store.put(data, media="dataset", facts={"name": data.name})
    for one in (topic("t-1", digest), topic("t-2")):
        published.keep(there.settings, one, str(data))
        await there.broker.append(there.subjects.topic(one.id), codec.encode(one))
    assert await published.lost(there) == []
    await there.broker.purge(there.stream("TOPICS"), subject=there.subjects.topic("t-1"))
    await there.broker.purge(there.stream("ARTIFACTS"))
    (lost,) = await published.lost(there)
    assert lost == published.Published(topic("t-1", digest), str(data))
    assert await published.publish_again(there, lost, said.append)
    mesh.store.forget_stored()
    assert not await mesh.store.missing(digest)
    assert await stored(there, "t-1")
    assert await published.publish_again(there, lost, said.append)  # once more changes nothing
    assert said == ["t-1 was lost with the broker's store, and is published again"] * 2
    await there.broker.close()


async def test_data_that_are_gone_or_changed_are_said_and_nothing_is_published(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there, said = reached(mesh), list[str]()
    data = tmp_path / "digits.csv"
    lost = published.Published(topic("t-1", "ab" * 32), str(data))
    assert not await published.publish_again(there, lost, said.append)
    data.write_text("a,b\n1,2\n")
    assert not await published.publish_again(there, lost, said.append)
    assert "can not be read again" in said[0]
    assert "is not what it was then" in said[1]
    assert not await stored(there, "t-1")
    await there.broker.close()


async def test_what_is_remembered_is_bounded_and_forgotten_in_time(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    settings = mesh.settings
    for number in range(3):
        published.keep(settings, topic(f"t-{number}"), "")
        file = settings.home / "published" / settings.prefix / f"t-{number}"
        os.utime(file, (file.stat().st_mtime - 10 * (3 - number),) * 2)
    assert [one.topic.id for one in published.kept(settings)] == ["t-2", "t-1", "t-0"]
    (settings.home / "published" / settings.prefix / "t-1").write_bytes(b"rubbish")
    short = dataclasses.replace(settings, scheduler=dataclasses.replace(settings.scheduler, receipt_keep_s=25.0))
    assert [one.topic.id for one in published.kept(short)] == ["t-2"]
    assert [one.topic.id for one in published.kept(settings)] == ["t-2"]


async def test_who_follows_a_topic_puts_it_again_and_begins_anew(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there, story, text = reached(mesh), Story("t-1"), io.StringIO()
    published.keep(there.settings, topic("t-1"), "")
    task = TaskSpec(id="t-1-evolver", topic="t-1", executor="classify")
    await mesh.result(
        TaskEnded(topic="t-1", specialization="", task=task, state=TaskState.PARKED, reason="no", ledger_seq=1, at_ms=1)
    )
    older = mesh.server.copy()
    other = TaskSpec(id="t-1-other", topic="t-1", executor="classify")
    await mesh.result(
        TaskEnded(topic="t-1", specialization="", task=other, state=TaskState.PARKED, ledger_seq=2, at_ms=1)
    )
    stop = asyncio.Event()
    following = asyncio.create_task(
        follow(there, story, Lines(text), from_seq=1, stop=stop, quiet_s=1e9, look_every_s=0.01)
    )
    async with asyncio.timeout(DEADLINE_S):
        while "t-1-other" not in story.ended:  # noqa: ASYNC110 - the follower has no event
            await asyncio.sleep(0.01)
        mesh.server.crash()
        mesh.server.restart(older)
        while not await stored(there, "t-1") or "t-1-evolver" not in story.ended:  # noqa: ASYNC110 - neither has he
            await asyncio.sleep(0.01)
        assert "t-1-other" not in story.ended
        stop.set()
        assert await following is Ending.INTERRUPTED
    assert "older store" in text.getvalue()
    await there.broker.close()
