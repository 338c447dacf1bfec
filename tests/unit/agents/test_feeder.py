"""The feeder on the bus in memory: it publishes while the queue is short, once, and nothing that nobody may afford."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.feeder import Feeder
from agents.runtime import Agent
from mesh import codec
from mesh.bus import Message
from mesh.errors import NotFound
from mesh.messages.graph import Specialization
from mesh.messages.results import TopicSettled
from mesh.messages.services import Status
from mesh.messages.topics import DataRef, Topic
from mesh.settings import load
from planner.fed import PUBLISHER
from tests.support.memory_mesh import MemoryMesh

NOW_MS = 1_800_000_000_000
NODES = ("digits-0a1b2c", "letters-3d4e5f", "words-6a7b8c")


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path).start()


async def grow(mesh: MemoryMesh) -> None:
    """Three specializations, each with data and one topic that is over."""
    for number, id_ in enumerate(NODES):
        topic = Topic(id=f"t{number}", text=id_, data=DataRef(source="builtin:digits"), published_at_ms=NOW_MS - 60_000)
        await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic))
        node = Specialization(
            id=id_, name=id_, parent="root", task="classify", data="builtin:digits", topics=(topic.id,)
        )
        await mesh.leader.append(mesh.subjects.key("graph", id_), codec.encode(node))
        await over(mesh, topic.id)


async def over(mesh: MemoryMesh, topic: str) -> None:
    record = TopicSettled(topic=topic, why="it is over", ledger_seq=1, at_ms=NOW_MS)
    await mesh.leader.append(mesh.subjects.result(topic, record.kind, "settled"), codec.encode(record))


async def lead(mesh: MemoryMesh, counts: dict[str, int]) -> None:
    """Answer as a leader with such a queue."""

    async def answer(message: Message) -> None:
        status = Status(leader="s1", term=1, generation=1, ledger_seq=1, commands_seq=1, counts=counts)
        await mesh.leader.publish(message.reply, codec.encode(status))

    await mesh.leader.subscribe(mesh.subjects.asked("scheduler"), answer)


def feeder(mesh: MemoryMesh, tmp_path: Path, name: str = "feeder", **flags: float) -> Feeder:
    told = {f"feeder.{key}": str(value) for key, value in flags.items()}
    settings = load({"home": str(tmp_path / "home"), **told}, {"HOME": str(tmp_path)}, tmp_path)
    return Feeder(Agent("feeder", name, settings, mesh.server.connect(name)), wall_ms=lambda: NOW_MS)


async def published(mesh: MemoryMesh) -> list[Topic]:
    stored = await mesh.leader.read(mesh.subjects.stream("TOPICS"), mesh.subjects.topics())
    return [topic for one in stored if (topic := codec.decode(one.data, Topic)).publisher == PUBLISHER]


async def test_a_short_queue_is_fed_a_burst_at_a_time_until_the_day_is_spent(mesh: MemoryMesh, tmp_path: Path) -> None:
    await grow(mesh)
    await lead(mesh, {"ready": 0, "leased": 9})
    one = feeder(mesh, tmp_path, burst=2, min_queue=9, priority=2, round_budget_s=100, day_budget_s=599)
    assert len(await one.turn()) == 2
    assert await one.turn() == []  # 199 s are left, and a round takes 200
    found = await published(mesh)
    assert {topic.node for topic in found} < set(NODES)
    assert {(topic.priority, topic.budget_s) for topic in found} == {(2, 100.0)}


async def test_a_long_queue_is_left_alone_and_own_topics_without_tasks_count(mesh: MemoryMesh, tmp_path: Path) -> None:
    await grow(mesh)
    counts = {"ready": 4}
    await lead(mesh, counts)
    one = feeder(mesh, tmp_path, burst=1)
    assert await one.turn() == []
    counts["ready"] = 3
    assert len(await one.turn()) == 1
    assert await one.turn() == []  # three wait, and the topic that nobody has planned yet is the fourth


async def test_a_specialization_is_not_fed_twice_at_once_and_again_when_it_is_over(
    mesh: MemoryMesh, tmp_path: Path
) -> None:
    await grow(mesh)
    await lead(mesh, {})
    one = feeder(mesh, tmp_path, burst=9, min_queue=99)
    first = await one.turn()
    assert {topic.node for topic in first} == set(NODES)
    assert await one.turn() == []
    await over(mesh, first[0].id)
    again = await one.turn()
    assert [topic.node for topic in again] == [first[0].node]
    assert again[0].id != first[0].id


class Together(Feeder):
    """A feeder that publishes only when another one has looked at the same state."""

    def __init__(self, agent: Agent, meeting: asyncio.Barrier) -> None:
        super().__init__(agent, wall_ms=lambda: NOW_MS)
        self._meeting = meeting

    async def _publish(self, topic: Topic) -> bool:
        await self._meeting.wait()
        return await super()._publish(topic)


async def test_two_feeders_that_saw_the_same_publish_one_topic(mesh: MemoryMesh, tmp_path: Path) -> None:
    await grow(mesh)
    await lead(mesh, {})
    settings = load({"home": str(tmp_path), "feeder.burst": "1"}, {"HOME": str(tmp_path)}, tmp_path)
    meeting = asyncio.Barrier(2)
    both = [Together(Agent("feeder", name, settings, mesh.server.connect(name)), meeting) for name in ("one", "other")]
    made = await asyncio.gather(*(feeder.turn() for feeder in both))
    assert sorted(map(len, made)) == [0, 1]
    assert len(await published(mesh)) == 1


async def test_a_restarted_feeder_knows_what_was_spent(mesh: MemoryMesh, tmp_path: Path) -> None:
    await grow(mesh)
    await lead(mesh, {})
    for name, fed in (("feeder", 1), ("restarted", 0)):
        one = feeder(mesh, tmp_path, name, burst=1, min_queue=9, round_budget_s=100, day_budget_s=399)
        assert len(await one.turn()) == fed


async def test_without_a_leader_nothing_is_fed(mesh: MemoryMesh, tmp_path: Path) -> None:
    await grow(mesh)
    with pytest.raises(NotFound):
        await feeder(mesh, tmp_path).turn()
    assert await published(mesh) == []


async def test_a_store_that_came_back_older_is_read_anew_before_anything_is_fed(
    mesh: MemoryMesh, tmp_path: Path
) -> None:
    await grow(mesh)
    await lead(mesh, {})
    one = feeder(mesh, tmp_path, burst=1, min_queue=9, round_budget_s=100, day_budget_s=399)
    assert len(await one.turn()) == 1
    one._last_seq[mesh.subjects.stream("RESULTS")] = 1_000  # as before the restore
    assert await one.turn() == []  # what was spent is still known
