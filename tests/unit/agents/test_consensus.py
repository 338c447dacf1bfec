"""The consensus agent on the bus in memory: from plan to recommendation, repeated inputs, restarts, lost answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import consensus
from agents.consensus import Consensus
from mesh import codec, virtual_time
from mesh.bus import Stored
from mesh.errors import Retry
from mesh.memory import Fate, Faults
from mesh.messages.base import Record
from mesh.messages.commands import Missed, Recommend, Submit
from mesh.messages.judgement import Choice, Outcomes, Recommendation
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.messages.tasks import Line, TaskSpec, TaskState
from tests.support import rounds
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh
from tests.support.outcomes import first, outcomes

RIGHT = {Line.EVOLVER: 160, Line.REINVENTOR: 180, Line.BASELINE: 150, None: 140}
"""Holdout items of 200 that each one answers right; None: the champion."""


class Workers:
    """Stands in for ledger and workers: everything that is submitted is planned and done at once."""

    def __init__(self, mesh: MemoryMesh) -> None:
        self.mesh = mesh

    async def train(self, plan: Planned) -> list[TaskEnded]:
        """The plan is recorded, and all its tasks end."""
        await self.mesh.result(plan)
        done = [rounds.ended(task, outputs=await self._trained(task)) for task in plan.tasks]
        for record in done:
            await self.mesh.result(record)
        return done

    async def serve(self) -> Recommendation:
        """Do what is submitted until the recommendation is there."""
        async with asyncio.timeout(DEADLINE_S), self.mesh.commands() as commands:
            async for command in commands:
                if isinstance(command, Recommend):
                    return command.recommendation
                await self.evaluate(command)
        raise AssertionError("the commands ended")

    async def evaluate(self, submit: Submit) -> None:
        await self.mesh.result(rounds.accepted(submit))
        for task in submit.tasks:
            digest = await self.mesh.artifact(self._measured(task))
            kpis = {"latency_p95_ms": 2.0, "size_bytes": 1e6}
            record = rounds.ended(task, outputs={"outcomes": digest}, kpis=kpis, incarnation="w2.bb")
            await self.mesh.result(record)

    async def _trained(self, task: TaskSpec) -> dict[str, str]:
        claims = await self.mesh.artifact(outcomes(first(50, 60)))
        return {"model": f"model-{task.line}", "claims": claims}

    def _measured(self, task: TaskSpec) -> Outcomes:
        right = first(50, 60) if task.purpose.startswith("check") else first(RIGHT[task.line], 200)
        return outcomes(right, model=task.inputs["model"], split=task.inputs["split"])


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path).start()


async def test_a_plan_ends_in_a_recommendation(mesh: MemoryMesh) -> None:
    workers = Workers(mesh)
    async with mesh.running("consensus", consensus.body):
        await workers.train(rounds.plan())
        found = await workers.serve()
    assert found.choice is Choice.REINVENTOR
    assert found.tree["value"] == 0.9
    assert found.tree["baseline_linear"] == 0.75
    assert [candidate.evidence is not None and candidate.evidence.rate for candidate in found.candidates] == [1.0, 1.0]
    assert found.candidates[0].kpis["latency_p95_ms"] == 2.0
    assert sorted(put.subject for put in await commands(mesh)) == [
        "mesh.cmd.consensus.recommend.t1-recommendation",
        "mesh.cmd.consensus.submit.t1-evaluate-baseline",
        "mesh.cmd.consensus.submit.t1-evaluate-evolver",
        "mesh.cmd.consensus.submit.t1-evaluate-reinventor",
    ]


async def commands(mesh: MemoryMesh) -> list[Stored]:
    return await mesh.all(mesh.subjects.stream("COMMANDS"), mesh.subjects.commands())


async def test_a_champion_of_another_holdout_is_measured_before_anything_is_trained(mesh: MemoryMesh) -> None:
    champion = rounds.champion(holdout="split-elsewhere")
    revision = await mesh.promote(champion)
    workers = Workers(mesh)
    async with mesh.running("consensus", consensus.body):
        await mesh.result(rounds.plan())
        async with asyncio.timeout(DEADLINE_S), mesh.commands() as put:
            submit = await anext(aiter(put))
        assert [task.id for task in submit.tasks] == ["t1-holdout-champion-model-ol"]  # type: ignore[union-attr]
        for task in rounds.plan().tasks:
            await mesh.result(rounds.ended(task, outputs=await workers._trained(task)))
        found = await workers.serve()
    assert found.choice is Choice.REINVENTOR
    assert (found.champion_before, found.champion_revision) == ("model-old", revision)
    assert found.holdout_uses == 2


async def test_the_same_records_again_put_nothing_new(mesh: MemoryMesh) -> None:
    workers, plan = Workers(mesh), rounds.plan()
    async with mesh.running("consensus", consensus.body):
        done = await workers.train(plan)
        await workers.serve()
    before = await commands(mesh)
    handlers = Consensus(mesh.agent("consensus"))
    stored = before[0]
    await handlers.on_planned(plan, stored)
    for record in done:
        await handlers.on_task_ended(record, stored)
    assert await commands(mesh) == before


async def test_another_one_takes_over_in_the_middle_and_comes_to_the_same(mesh: MemoryMesh) -> None:
    workers = Workers(mesh)
    async with mesh.running("consensus", consensus.body):
        await workers.train(rounds.plan())
        async with asyncio.timeout(DEADLINE_S), mesh.commands() as put:
            submit = await anext(aiter(put))
    assert isinstance(submit, Submit)
    async with mesh.running("consensus", consensus.body):
        found = await workers.serve()
    assert found.choice is Choice.REINVENTOR


async def test_nothing_is_weighed_once_the_recommendation_is_put_or_recorded(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = rounds.plan(baseline=False)
    await mesh.result(plan)
    for task in plan.tasks:
        await mesh.result(rounds.ended(task, state=TaskState.PARKED, reason="poison"))
    handlers = Consensus(mesh.agent("consensus"))
    await handlers.on_planned(plan, Stored("", b"", 1))
    (put,) = await commands(mesh)
    recommendation = codec.decode(put.data, Recommend).recommendation
    assert recommendation.choice is Choice.KEEP
    assert "poison" in recommendation.why

    def unexpected(*_: object) -> Recommendation:
        raise AssertionError("what was put is not weighed again")

    monkeypatch.setattr(consensus, "recommend", unexpected)
    await handlers.on_planned(plan, Stored("", b"", 1))
    await mesh.leader.purge(mesh.subjects.stream("COMMANDS"))
    await mesh.result(
        RecommendationMade(
            topic="t1", specialization=plan.specialization, recommendation=recommendation, ledger_seq=3, at_ms=0
        )
    )
    await handlers.on_planned(plan, Stored("", b"", 1))
    assert await commands(mesh) == []


async def test_lost_outcomes_are_asked_for_and_waited_for_and_then_a_reason_and_no_obstacle(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consensus, "ASKED_MAX", 3)
    monkeypatch.setattr(consensus, "ASKED_EACH", 2)
    plan = rounds.plan(baseline=False, lines=(Line.EVOLVER,))
    handlers = Consensus(mesh.agent("consensus"))
    await mesh.result(plan)
    (task,) = plan.tasks
    trained = rounds.ended(task, outputs={"model": "model-evolver", "claims": "0" * 64})
    await mesh.result(trained)
    await handlers.on_task_ended(trained, Stored("", b"", 1))
    submit = codec.decode((await commands(mesh))[0].data, Submit)
    await Workers(mesh).evaluate(submit)
    checked = rounds.ended(submit.tasks[0])
    for asked in (1, 1, 2):
        with pytest.raises(Retry, match="not in the store"):
            await handlers.on_task_ended(checked, Stored("", b"", 1))
        missed = [codec.decode(one.data, Missed) for one in (await commands(mesh))[1:]]
        assert [(one.topic, one.digest) for one in missed] == [("t1", "0" * 64)] * asked
    await handlers.on_task_ended(checked, Stored("", b"", 1))
    found = codec.decode((await commands(mesh))[-1].data, Recommend).recommendation
    assert found.choice is Choice.KEEP
    assert "its claims can not be read" in found.why


async def test_tasks_of_no_line_are_not_even_looked_up(mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Consensus(mesh.agent("consensus"))

    async def unexpected(*_: object) -> list[Record]:
        raise AssertionError("a benchmark's ten thousand tasks would be read ten thousand times")

    monkeypatch.setattr("agents.records.results", unexpected)
    task = TaskSpec(id="t1-noop-1", topic="t1", executor="noop")
    await handlers.on_task_ended(rounds.ended(task, outputs={}), Stored("", b"", 1))
    await handlers.on_planned(rounds.planned("t1-noop", (task,), {}), Stored("", b"", 1))


class LostAnswer(Faults):
    """The first command is stored, but its writer never hears."""

    def __init__(self) -> None:
        self.lost = 0

    def append(self, writer: str, subject: str) -> Fate:
        if ".cmd.consensus." in subject and not self.lost:
            self.lost += 1
            return Fate.REPLY_LOST
        return Fate.STORED


def test_an_answer_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async def story() -> list[str]:
        mesh = await MemoryMesh(tmp_path, faults).start()
        async with mesh.running("consensus", consensus.body):
            plan = rounds.plan()
            await mesh.result(plan)
            await mesh.result(rounds.ended(plan.tasks[0]))
            await mesh.result(rounds.ended(plan.tasks[2]))
            await mesh.first(mesh.subjects.stream("COMMANDS"), "mesh.cmd.consensus.submit.t1-evaluate-baseline")
        return sorted(put.subject for put in await commands(mesh))

    faults = LostAnswer()
    put = virtual_time.run(story())
    assert faults.lost == 1
    assert put == [f"mesh.cmd.consensus.submit.t1-evaluate-{name}" for name in ("baseline", "evolver")]
