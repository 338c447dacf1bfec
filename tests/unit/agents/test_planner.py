"""The planner at work on the broker in memory: topics and ended profiles in, commands and nodes out."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agents.planner import WRITER, body
from agents.runtime import Agent
from mesh import codec, traced
from mesh.graph_bucket import GraphBucket
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import NodeEvent, NodeState, Specialization
from mesh.messages.judgement import Champion
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from planner import changes, seeds
from planner.profile import SPLITS
from tests.support.agents import make, running
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh

FACTS: dict[str, Any] = {
    "task": "classify", "modality": "tabular", "rows": 100, "examples": 100, "labels": 2, "label_names": ["a", "b"],
    "label_digest": "ab" * 32, "label_column": "label", "features": 3, "dropped": {}, "needs": {},
    "splits": {"train": 70, "validation": 15, "holdout": 10, "audit": 5},
}  # fmt: skip
SEEDS = {seed.id for seed in seeds.SEEDS}
PROFILE = Outcome(outputs={name: name[0] * 64 for name in SPLITS}, facts=FACTS)


def topic(number: int = 1, **wishes: Any) -> Topic:
    data = DataRef(source="d" * 64, name="coins.csv")
    return Topic(id=f"t-{number}", **{"text": "coins", "data": data, **wishes})


def planner(mesh: MemoryMesh) -> AbstractAsyncContextManager[Agent]:
    """A planner at work."""
    return running(make(mesh.server, "planner", mesh.settings.home), body)


class Stage:
    """What a test does to the planner, and what it hears back."""

    def __init__(self, mesh: MemoryMesh) -> None:
        self.mesh, self.subjects = mesh, mesh.subjects

    async def publish(self, one: Topic) -> None:
        await self.mesh.leader.append(self.subjects.topic(one.id), codec.encode(one), subject_seq=0)

    async def profiled(
        self, one: Topic, task: TaskSpec, state: TaskState = TaskState.SUCCEEDED, reason: str = "", number: int = 0,
        outcome: Outcome = PROFILE,
    ) -> None:  # fmt: skip
        ended = TaskEnded(
            topic=one.id, specialization="", task=task, state=state, reason=reason, ledger_seq=1, at_ms=1,
            outcome=outcome if state is TaskState.SUCCEEDED else None,
        )  # fmt: skip
        await self.mesh.leader.append(
            self.subjects.result(one.id, ended.kind, f"{task.id}-{number}"), codec.encode(ended)
        )

    async def command(self, wanted: type[Record], id_: str) -> Any:
        """The planner's command, as soon as it is there."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                stored = await self.mesh.leader.last(
                    self.subjects.stream("COMMANDS"), self.subjects.command(WRITER, wanted.kind, id_)
                )
                if stored is not None:
                    return codec.decode(stored.data, wanted)
                await asyncio.sleep(0.005)

    async def profile_task(self, one: Topic) -> TaskSpec:
        submit = await self.command(Submit, derived_id(one.id, "profile"))
        task: TaskSpec = submit.tasks[0]
        return task

    async def nodes(self) -> dict[str, Specialization]:
        stored = await self.mesh.leader.read(self.subjects.bucket("graph"), self.subjects.keys("graph"))
        return {node.id: node for node in (codec.decode(one.data, Specialization) for one in stored)}

    async def commands(self) -> int:
        return (await self.mesh.leader.state(self.subjects.stream("COMMANDS"))).messages


async def test_a_topic_becomes_a_profile_and_the_profile_a_plan(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, one = Stage(mesh), topic()
    async with planner(mesh):
        await stage.publish(one)
        await stage.profiled(one, await stage.profile_task(one))
        plan = await stage.command(Submit, derived_id(one.id, "plan"))
    assert [task.line for task in plan.tasks] == [Line.EVOLVER, Line.REINVENTOR, Line.BASELINE]
    asked = traced.of(one)
    assert asked is not None
    assert {trace.trace_id for task in plan.tasks if (trace := traced.of(task)) is not None} == {asked.trace_id}
    nodes = await stage.nodes()
    assert set(nodes) - SEEDS == {plan.specialization}
    assert set(nodes) > SEEDS
    assert nodes[plan.specialization].topics == ("t-1",)


async def test_the_champion_that_is_stored_is_continued_with_its_revision(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage = Stage(mesh)
    async with planner(mesh):
        await stage.publish(topic(1))
        await stage.profiled(topic(1), await stage.profile_task(topic(1)))
        first = await stage.command(Submit, "t-1-plan")
        champion = Champion(
            specialization=first.specialization, version_number=1, model="c" * 64, topic="t-1", task="t-1-evolver",
            line=Line.EVOLVER, verdict="t-1-verdict",
        )  # fmt: skip
        revision = await mesh.leader.append(
            mesh.subjects.key("champions", first.specialization), codec.encode(champion), subject_seq=0
        )
        await stage.publish(topic(2))
        await stage.profiled(topic(2), await stage.profile_task(topic(2)))
        second = await stage.command(Submit, "t-2-plan")
    assert second.specialization == first.specialization
    assert second.tasks[0].inputs["champion"] == "c" * 64
    assert (second.facts["champion"], second.facts["champion_revision"]) == ("c" * 64, revision)


async def test_with_an_encoder_the_splits_are_encoded_once_before_the_plan(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    encoder = DataRef(source="e" * 64, name="minilm", size_bytes=90_000_000)
    stage, one = Stage(mesh), topic(encoder=encoder)
    facts = {**FACTS, "modality": "text", "features": 0}
    vectors = {"train_vectors": "1" * 64, "validation_vectors": "2" * 64}
    async with planner(mesh):
        await stage.publish(one)
        await stage.profiled(one, await stage.profile_task(one), outcome=Outcome(outputs=PROFILE.outputs, facts=facts))
        embed = (await stage.command(Submit, "t-1-embed")).tasks[0]
        assert embed.inputs == {"encoder": "e" * 64, "train": "t" * 64, "validation": "v" * 64}
        assert embed.needs.memory_bytes > encoder.size_bytes
        await stage.profiled(one, embed, outcome=Outcome(outputs=vectors))
        plan = await stage.command(Submit, "t-1-plan")
    evolver, reinventor, baseline = plan.tasks
    for line in (evolver, reinventor):
        assert line.inputs == {"train": "t" * 64, "validation": "v" * 64, "encoder": "e" * 64, **vectors}
    assert set(baseline.inputs) == {"train", "validation"}
    assert plan.facts["encoder"] == "e" * 64
    assert plan.facts["splits"]["holdout"] == "h" * 64


async def test_an_encoder_that_can_not_be_used_refuses_the_topic(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, encoder = Stage(mesh), DataRef(source="e" * 64, name="minilm")
    table, broken = topic(1, encoder=encoder), topic(2, encoder=encoder)
    facts = {**FACTS, "modality": "text", "features": 0}
    async with planner(mesh):
        await stage.publish(table)
        await stage.profiled(table, await stage.profile_task(table))
        assert "reads texts" in (await stage.command(Refuse, "t-1-refused")).reason
        await stage.publish(broken)
        await stage.profiled(
            broken, await stage.profile_task(broken), outcome=Outcome(outputs=PROFILE.outputs, facts=facts)
        )
        embed = (await stage.command(Submit, "t-2-embed")).tasks[0]
        await stage.profiled(broken, embed, TaskState.PARKED, "it has no tokenizer.")
        assert (await stage.command(Refuse, "t-2-refused")).reason == "it has no tokenizer."


async def test_a_profile_that_was_set_aside_refuses_the_topic_with_its_sentence(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, one = Stage(mesh), topic()
    async with planner(mesh):
        await stage.publish(one)
        await stage.profiled(
            one, await stage.profile_task(one), TaskState.PARKED, "row 7 has 3 fields, 4 were expected."
        )
        refused = await stage.command(Refuse, "t-1-refused")
    assert refused.reason == "row 7 has 3 fields, 4 were expected."


async def test_a_topic_without_data_is_refused_or_uses_the_data_of_its_node(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage = Stage(mesh)
    async with planner(mesh):
        await stage.publish(topic(1, data=None))
        assert "--data" in (await stage.command(Refuse, "t-1-refused")).reason
        await stage.publish(topic(2, node="money"))
        await stage.profiled(topic(2), await stage.profile_task(topic(2)))
        await stage.command(Submit, "t-2-plan")
        await stage.publish(topic(3, data=None, node="money"))
        task = await stage.profile_task(topic(3))
        assert task.inputs == {"data": "d" * 64}
        await stage.profiled(topic(3), task)
        await stage.command(Submit, "t-3-plan")


async def test_the_same_input_twice_and_other_tasks_change_nothing(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, one = Stage(mesh), topic()
    async with planner(mesh):
        await stage.publish(one)
        task = await stage.profile_task(one)
        await stage.profiled(one, task)
        await stage.command(Submit, "t-1-plan")
        revisions = (await mesh.leader.state(mesh.subjects.bucket("graph"))).last_seq
        await stage.profiled(one, TaskSpec(id="t-1-evolver", topic="t-1", executor="classify", line=Line.EVOLVER))
        await stage.profiled(one, task, number=1)
        await stage.publish(topic(9, text="something else", data=None))
        await stage.command(Refuse, "t-9-refused")
        await settled(mesh)
    assert await stage.commands() == 4, "a profile, a plan, and two refusals"
    assert (await mesh.leader.state(mesh.subjects.bucket("graph"))).last_seq == revisions


async def settled(mesh: MemoryMesh) -> None:
    """Wait until every ended task was handled: they are handled in order, and the last one leads to a command."""
    task = TaskSpec(id="t-99-profile", topic="t-99", executor="profile")
    await Stage(mesh).profiled(topic(99), task, TaskState.PARKED, "the last one")
    await Stage(mesh).command(Refuse, "t-99-refused")


async def test_two_planners_at_once_make_one_plan_and_one_graph(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage = Stage(mesh)
    other = make(mesh.server, "planner", mesh.settings.home / "other", name="planner-2")
    async with planner(mesh), running(other, body):
        for number in range(1, 9):
            await stage.publish(topic(number, text=f"coins {number}"))
        for number in range(1, 9):
            await stage.profiled(topic(number), await stage.profile_task(topic(number)))
        plans = [await stage.command(Submit, f"t-{number}-plan") for number in range(1, 9)]
    assert await stage.commands() == 16
    assert set(await stage.nodes()) - SEEDS == {plan.specialization for plan in plans}


# -- the graph --------------------------------------------------------------------------------------------------------


async def test_seeds_are_written_once_and_stay_as_people_left_them(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, bucket = Stage(mesh), GraphBucket(mesh.leader, mesh.subjects)
    async with planner(mesh):
        await stage.publish(topic(1, data=None))
        await stage.command(Refuse, "t-1-refused")
    assert set(await stage.nodes()) == SEEDS
    await bucket.change(
        lambda found: changes.retired(found.nodes, "physics", by="ada", why="no need", below=True), lambda: 5
    )
    before = (await mesh.leader.state(mesh.subjects.bucket("graph"))).last_seq
    other = make(mesh.server, "planner", mesh.settings.home / "other", name="planner-2")
    async with planner(mesh), running(other, body):
        await stage.publish(topic(2, data=None))
        await stage.command(Refuse, "t-2-refused")
    assert (await mesh.leader.state(mesh.subjects.bucket("graph"))).last_seq == before
    assert (await stage.nodes())["physics"].state is NodeState.RETIRED


async def test_the_plan_says_what_is_near_and_the_node_when_it_was_made(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, one = Stage(mesh), topic(text="Bayesian inference for coin tosses")
    async with planner(mesh):
        await stage.publish(one)
        await stage.profiled(one, await stage.profile_task(one))
        plan = await stage.command(Submit, derived_id(one.id, "plan"))
    assert plan.facts["parent"] == "stats-bayesian"
    assert plan.facts["placed"][0][0] == "stats-bayesian"
    assert plan.facts["placed"][0][1] > 0.2
    assert "stats-bayesian" in plan.facts["why"]
    node = (await stage.nodes())[plan.specialization]
    assert (node.parent, node.by, node.event) == ("stats-bayesian", "t-1", NodeEvent.EXPANDED)
    assert node.changed_at_ms > 1_700_000_000_000
