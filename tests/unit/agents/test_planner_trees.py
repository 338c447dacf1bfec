"""The planner after a verdict, on the broker in memory: branches, topics, tree, ends; crashes, and two planners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.planner import WRITER, body
from agents.planner_books import Books as Written
from agents.planner_trees import Trees
from mesh import codec
from mesh.errors import BusUnavailable
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Cancel, Settle, Submit
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Champion, Choice, Version
from mesh.messages.results import Planned, TaskEnded, TopicSettled
from mesh.messages.tasks import Line, TaskSpec, TaskState
from mesh.messages.topics import Topic
from planner import trees
from planner.branches import child_node_id
from tests.support.agents import make, running
from tests.support.memory_mesh import MemoryMesh
from tests.support.trees import NODE, TOPIC, Books, digest


class Stage:
    """The ledger's and the gate's hands; what the planner has put."""

    def __init__(self, mesh: MemoryMesh) -> None:
        self.mesh, self.subjects, self._told, self._count = mesh, mesh.subjects, 0, 0

    async def topic(self, one: Topic) -> None:
        await self.mesh.leader.append(self.subjects.topic(one.id), codec.encode(one), subject_seq=0)

    async def tell(self, books: Books) -> None:
        """Put what the books have more than the stream."""
        for record in books.records[self._told :]:
            await self.put(record)
        self._told = len(books.records)

    async def put(self, record: Record) -> None:
        self._count += 1
        topic = str(getattr(record, "topic", ""))
        subject = self.subjects.result(topic, record.kind, f"r{self._count}")
        await self.mesh.leader.append(subject, codec.encode(record))

    async def command(self, wanted: type[Record], id_: str) -> Any:
        subject = self.subjects.command(WRITER, wanted.kind, id_)
        stored = await self.there(self.subjects.stream("COMMANDS"), subject)
        return codec.decode(stored, wanted)

    async def published(self, id_: str) -> Topic:
        return codec.decode(await self.there(self.subjects.stream("TOPICS"), self.subjects.topic(id_)), Topic)

    async def there(self, stream: str, subject: str) -> bytes:
        return (await self.mesh.first(stream, subject)).data

    async def nodes(self) -> dict[str, Specialization]:
        stored = await self.mesh.leader.read(self.subjects.bucket("graph"), self.subjects.keys("graph"))
        return {node.id: node for node in (codec.decode(one.data, Specialization) for one in stored)}

    async def child_is_over(self, index: int, **facts: object) -> None:
        id_ = f"{TOPIC}-b{index}"
        await self.put(TopicSettled(topic=id_, why="over", facts=facts, ledger_seq=1, at_ms=1))


async def flat(stage: Stage, books: Books) -> None:
    """A topic up to the verdict on its flat model."""
    await stage.topic(books.topic)
    books.profiled()
    books.trained()
    books.judged()
    await stage.tell(books)


async def grown(stage: Stage, books: Books) -> None:
    """A topic up to the topics of its branches."""
    await flat(stage, books)
    books.planned(await stage.command(Submit, f"{TOPIC}-branch"))
    books.branched()
    await stage.tell(books)


async def test_from_the_verdict_to_the_end_of_a_tree(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books()
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await grown(stage, books)
        children = [await stage.published(f"{TOPIC}-b{index}") for index in range(3)]
        assert {child.parent for child in children} == {TOPIC}
        for index, child in enumerate(children):
            profile = await stage.command(Submit, f"{child.id}-profile")
            assert profile.tasks[0].inputs == {"data": digest(f"branch-{index}")}
            await stage.child_is_over(index, champion=digest(f"m{index}"))
        tree = await stage.command(Submit, f"{TOPIC}-tree")
        assert {f"member-{index}" for index in range(3)} <= set(tree.tasks[0].inputs)
        books.planned(tree)
        books.judged_tree(accepted=True)
        await stage.tell(books)
        settle = await stage.command(Settle, f"{TOPIC}-settled")
    assert settle.facts["tree"]["accepted"]
    nodes = await stage.nodes()
    found = [nodes[child_node_id(NODE, name)] for name in ("cards", "transfers", "cards (2)")]
    assert {(node.state, node.parent) for node in found} == {(NodeState.ACTIVE, NODE)}


async def test_a_topic_without_branches_gets_its_end_and_a_withdrawn_profile_too(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books(branches=1)
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await flat(stage, books)
        settle = await stage.command(Settle, f"{TOPIC}-settled")
        task = TaskSpec(id="t2-profile", topic="t2", executor="profile", purpose="profile")
        await stage.put(
            TaskEnded(
                topic="t2", specialization="", task=task, state=TaskState.CANCELED, reason="enough", ledger_seq=1,
                at_ms=1,
            )
        )  # fmt: skip
        withdrawn = await stage.command(Settle, "t2-settled")
    assert (settle.facts["champion"], settle.facts["branches"]) == (digest("flat"), 1)
    assert withdrawn.why == "Its profile was withdrawn: enough"


async def test_a_topic_that_a_person_ends_takes_its_branches_along(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books()
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await grown(stage, books)
        await stage.published(f"{TOPIC}-b2")
        books.settled(**{trees.ENDED: True})
        await stage.tell(books)
        for index in range(3):
            cancel = await stage.command(Cancel, f"{TOPIC}-b{index}-canceled")
            assert cancel.topic == f"{TOPIC}-b{index}"
            settle = await stage.command(Settle, f"{TOPIC}-b{index}-settled")
            assert settle.facts[trees.ENDED]
        late = Topic(id=f"{TOPIC}-b9", text="late", parent=TOPIC, node="late-1", data=books.topic.data)
        await stage.topic(late)
        assert "was ended before it began" in (await stage.command(Settle, f"{TOPIC}-b9-settled")).why
    assert {node.state for node in (await stage.nodes()).values() if node.parent == NODE} == {NodeState.MERGED}


@pytest.mark.parametrize("loss", [1.0, 2.0])
async def test_the_router_of_the_champions_tree_is_tried_again_unless_a_branch_became_worse(
    tmp_path: Path, loss: float
) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books()
    old = Champion(
        specialization=NODE, version_number=2, model=digest("old tree"), topic="t0", task="t0-tree", line=Line.MERGE,
        verdict="v", flat=digest("old flat"), holdout=digest("compared on since"),
    )  # fmt: skip
    await mesh.promote(old)
    await of_topic(stage, "t0", "holdout", [1.0, 1.0])
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await stage.topic(books.topic)
        books.profiled()
        books.trained()
        books.evaluated("old tree", [1.0, loss])
        books.judged(champion="old tree", choice=Choice.KEEP)
        await stage.tell(books)
        submit = await stage.command(Submit, f"{TOPIC}-branch")
    assert submit.tasks[0].inputs.get("router", "") == (digest("router") if loss == 1.0 else "")
    assert ("the loss of 'b1' rose" in submit.facts["why"]) is (loss > 1.0)


async def of_topic(stage: Stage, topic: str, holdout: str, losses: list[float]) -> None:
    """An earlier topic that found branches, and in which the tree was asked about a holdout of this name."""
    books, splits = Books(), {digest("holdout"): digest(holdout)}
    books.profiled()
    books.branched()
    books.evaluated("old tree", losses)
    for record in books.records:
        if isinstance(record, TaskEnded):
            inputs = {name: splits.get(value, value) for name, value in record.task.inputs.items()}
            task = record.task.evolve(id=record.task.id.replace(TOPIC, topic), topic=topic, inputs=inputs)
            await stage.put(record.evolve(topic=topic, task=task))
        elif isinstance(record, Planned):
            facts = {**record.facts, "splits": {"holdout": digest(holdout)}}
            await stage.put(record.evolve(topic=topic, facts=facts))


@pytest.mark.parametrize("since", ["t0", "t1-more"])
async def test_other_examples_are_remembered_by_the_topics_that_come_after_the_one_that_brought_them(
    tmp_path: Path, since: str
) -> None:
    """The tree was kept on the examples that `t1-more` brought, where it had become worse: it is asked no more."""
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books()
    first = "first examples" if since == "t1-more" else "holdout"
    old = Champion(
        specialization=NODE, version_number=2, model=digest("old tree"), topic="t0", task="t0-tree", line=Line.MERGE,
        verdict="v", flat=digest("old flat"), holdout=digest("holdout"), outcomes=digest("outcomes"),
    )  # fmt: skip
    await mesh.promote(old)
    node = Specialization(id=NODE, name="questions", parent="root", topics=("t0", "t1-more", TOPIC))
    await mesh.leader.append(stage.subjects.key("graph", NODE), codec.encode(node))
    await of_topic(stage, "t0", first, [1.0, 1.0])
    if since == "t1-more":
        await of_topic(stage, "t1-more", "holdout", [1.0, 2.0])
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await stage.topic(books.topic)
        books.profiled()
        books.trained()
        books.judged(champion="old tree", choice=Choice.KEEP)
        await stage.tell(books)
        submit = await stage.command(Submit, f"{TOPIC}-branch")
    worse = since == "t1-more"
    assert submit.tasks[0].inputs.get("router", "") == ("" if worse else digest("router"))
    assert ("the loss of 'b1' rose from 1.000 to 2.000" in submit.facts["why"]) is worse


@pytest.mark.parametrize("before", ["tree", "soup"])
async def test_a_line_that_has_just_replaced_a_tree_keeps_its_branches_while_they_fit(
    tmp_path: Path, before: str
) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, books = Stage(mesh), Books()
    version = Version(version_number=2, model=digest(before)[:12], line=Line.MERGE, topic="t0", verdict="v")
    now = Champion(
        specialization=NODE, version_number=3, model=digest("flat"), topic=TOPIC, task=f"{TOPIC}-evolver",
        line=Line.EVOLVER, verdict="w", holdout=digest("holdout"), parent_model=digest(before), lineage=(version,),
    )  # fmt: skip
    await mesh.promote(now)
    await of_topic(stage, "t0", "holdout", [1.0, 1.0])
    earlier = Books()
    earlier.judged_tree(accepted=True, soup=before == "soup")
    await stage.put(earlier.records[-1].evolve(topic="t0"))
    async with running(make(mesh.server, "planner", mesh.settings.home), body):
        await flat(stage, books)
        submit = await stage.command(Submit, f"{TOPIC}-branch")
    assert submit.tasks[0].inputs.get("router", "") == (digest("router") if before == "tree" else "")
    assert submit.facts["flat"]["model"] == digest("flat")


async def test_a_planner_that_dies_after_any_write_is_followed_by_one_that_writes_the_rest(tmp_path: Path) -> None:
    """One planner after the other dies after its first write; two finish. What is there in the end is the same."""
    whole = await lived(tmp_path / "whole", 1_000)
    broken = await lived(tmp_path / "broken", 1)
    assert broken == whole
    assert {f"{TOPIC}-b0", f"{TOPIC}-b1", f"{TOPIC}-b2"} <= set(whole)


class Mortal(Written):
    """Writes so often, and dies."""

    writes_left = 0

    async def _spend(self) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise BusUnavailable("dead")

    async def publish(self, topic: Topic) -> None:
        await self._spend()
        await super().publish(topic)

    async def command(self, command: Any) -> None:
        await self._spend()
        await super().command(command)


async def lived(folder: Path, writes: int) -> dict[str, object]:
    """A topic's whole life, each step begun by a planner that dies after so many writes and finished by two others
    side by side; every topic and command that is there in the end."""
    folder.mkdir()
    mesh = await MemoryMesh(folder).start()
    stage, books = Stage(mesh), Books()
    await stage.topic(books.topic)
    agent = make(mesh.server, "planner", mesh.settings.home)

    async def step() -> None:
        await stage.tell(books)
        mortal = Mortal(agent)
        for again in range(8):
            mortal.writes_left = writes * (again + 1)
            try:
                await Trees(agent, mortal).advance(TOPIC)
                break
            except BusUnavailable:
                continue
        await asyncio.gather(*(Trees(agent, Written(agent)).advance(TOPIC) for _ in range(2)))

    acts: list[Callable[[], None]] = [books.profiled, books.trained, books.judged]
    for act in acts:
        act()
        await step()
    books.planned(await stage.command(Submit, f"{TOPIC}-branch"))
    books.branched()
    await step()
    for index in range(3):
        await stage.child_is_over(index, champion=digest(f"m{index}"))
        await step()
    books.planned(await stage.command(Submit, f"{TOPIC}-tree"))
    books.judged_tree(accepted=False)
    await step()
    found: dict[str, object] = {}
    for name, kinds in (("TOPICS", (Topic,)), ("COMMANDS", (Submit, Settle, Cancel))):
        every = mesh.subjects.topics() if name == "TOPICS" else mesh.subjects.commands()
        for stored in await mesh.all(mesh.subjects.stream(name), every):
            found[stored.subject.rpartition(".")[2]] = codec.decode(stored.data, *kinds)
    assert derived_id(TOPIC, "settled") in found
    await agent.broker.close()
    return found
