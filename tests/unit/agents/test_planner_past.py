"""A planner that knows the past: it reads verdicts, champions and workers, plans by them, and tells it when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.commands import think
from agents.commands.reach import Reach
from mesh import codec
from mesh.bus import Message
from mesh.errors import BusUnavailable, Reject
from mesh.messages.base import derived_id
from mesh.messages.commands import Submit
from mesh.messages.judgement import Candidate, Champion, Choice, Comparison, Recommendation, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.services import Ask, Status, Think, WorkerRow
from mesh.messages.tasks import Line, Outcome, TaskState
from mesh.messages.topics import Topic
from tests.support.memory_mesh import MemoryMesh
from tests.unit.agents.test_planner import Stage, planner, topic


class Past(Stage):
    """A mesh in which a specialization has lived through a topic."""

    async def workers(self, **kinds: int) -> None:
        """A scheduler that knows one worker with these kinds, and one that is lost with all."""
        row = WorkerRow(
            name="w", incarnation="w.1", state="live", beat_age_s=0.1, cores_free=1.0, memory_free_bytes=1,
            gpus_free=0, labels=(), kinds=kinds, held=(),
        )  # fmt: skip
        lost = WorkerRow(
            name="l", incarnation="l.1", state="lost", beat_age_s=99.0, cores_free=1.0, memory_free_bytes=1,
            gpus_free=0, labels=(), kinds={"everything": 1}, held=(),
        )  # fmt: skip

        async def answered(message: Message) -> None:
            assert codec.decode(message.data, Ask).what == "workers"
            status = Status(
                leader="s", term=1, generation=1, ledger_seq=1, commands_seq=1, counts={}, workers=(row, lost)
            )
            await self.mesh.leader.publish(message.reply, codec.encode(status))

        await self.mesh.leader.subscribe(self.subjects.asked("scheduler"), answered)

    async def planned(self, one: Topic) -> Submit:
        """Publish, profile, and see the plan, which the ledger takes."""
        await self.publish(one)
        await self.profiled(one, await self.profile_task(one))
        submit: Submit = await self.command(Submit, derived_id(one.id, "plan"))
        plan = Planned(
            topic=one.id, specialization=submit.specialization, submit=submit.id, tasks=submit.tasks,
            facts=submit.facts, ledger_seq=2, at_ms=2,
        )  # fmt: skip
        await self.mesh.leader.append(self.subjects.result(one.id, Planned.kind, submit.id), codec.encode(plan))
        return submit

    async def judged(self, one: Topic, submit: Submit, champion_before: str, effect: float) -> None:
        """The reinventor ends with a curve that still falls; the verdict keeps the champion."""
        task = next(task for task in submit.tasks if task.line is Line.REINVENTOR)
        facts = {"steps": 100, "history": [[t, 0.3 + 2.0 * t**-0.5] for t in range(10, 110, 10)]}
        kpis = {"train_core_s": 100.0}
        ended = TaskEnded(
            topic=one.id, specialization=submit.specialization, task=task, state=TaskState.SUCCEEDED, ledger_seq=3,
            at_ms=3, outcome=Outcome(outputs={"model": "9" * 64}, kpis=kpis, facts=facts),
        )  # fmt: skip
        await self.mesh.leader.append(self.subjects.result(one.id, ended.kind, task.id), codec.encode(ended))
        candidates = (
            Candidate(line=Line.EVOLVER, task="e", model="8" * 64, settings={"dropout": 0.4}, changed="dropout 0.4"),
            Candidate(
                line=Line.REINVENTOR, task=task.id, model="9" * 64, settings={"hidden": [64]},
                kpis={**kpis, "validation_loss": 0.5},
            ),
        )  # fmt: skip
        compared = tuple(
            Comparison(a=a, b="champion", metric="loss", effect=e, low=e - 0.1, high=e + 0.1, p_value=0.1, items=9)
            for a, e in (("evolver", effect), ("reinventor", -effect))
        )
        recommendation = Recommendation(
            id="r", topic=one.id, specialization=submit.specialization, choice=Choice.KEEP, why="", effect=0.0,
            interval=(0.0, 0.0), candidates=candidates, comparisons=compared, champion_before=champion_before,
        )  # fmt: skip
        said = Verdict(
            id=f"{one.id}-verdict", topic=one.id, specialization=submit.specialization, accepted=True,
            choice=Choice.KEEP, checks=(), why="", recommendation=recommendation, champion=champion_before,
        )  # fmt: skip
        await self.mesh.leader.append(self.subjects.result(one.id, said.kind, said.id), codec.encode(said))

    async def champion(self, submit: Submit, one: Topic, **kpis: float) -> Champion:
        made = Champion(
            specialization=submit.specialization, version_number=1, model="c" * 64, topic=one.id, task="e",
            line=Line.EVOLVER, verdict="v", settings={"dropout": 0.3, "learning_rate": 0.001}, kpis=kpis,
        )  # fmt: skip
        await self.mesh.leader.append(self.subjects.key("champions", submit.specialization), codec.encode(made))
        return made


async def test_a_second_topic_is_planned_by_what_the_first_one_brought(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage = Past(mesh)
    await stage.workers(**{"classify": 1, "search-step": 1})
    async with planner(mesh):
        first = await stage.planned(topic(1))
        assert [task.purpose for task in first.tasks].count("trial") == 3
        await stage.champion(first, topic(1), train_core_s=70.0, validation_loss=0.45)
        await stage.judged(topic(1), first, "c" * 64, effect=0.2)
        second = await stage.planned(topic(2))
    facts = second.facts
    assert facts["account"]["evolver"]["inherited"] == 70.0
    assert facts["shares"]["evolver"] > 0.5
    assert [row["turned"] for row in facts["lineage"]] == [{"dropout": 1}, {}]
    assert facts["continued"]["model"] == "9" * 64
    reinventor = next(task for task in second.tasks if task.line is Line.REINVENTOR)
    assert (reinventor.executor, reinventor.inputs["champion"]) == ("classify", "9" * 64)
    assert reinventor.settings["hidden"] == [64]


async def test_without_a_scheduler_or_a_worker_that_can_nothing_is_searched(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage = Past(mesh)
    async with planner(mesh):
        alone = await stage.planned(topic(1))
        await stage.workers(classify=1)
        poor = await stage.planned(topic(2))
    for submit in (alone, poor):
        assert len(submit.tasks) == 3
        assert "no worker offers the kind search-step" in submit.facts["changed"]["reinventor"]


def doors(mesh: MemoryMesh) -> Reach:
    return Reach(mesh.settings, mesh.leader, mesh.subjects)


async def test_a_planner_tells_what_it_would_plan_and_what_it_has_planned(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    stage, there = Past(mesh), doors(mesh)
    with pytest.raises(BusUnavailable, match="no planner of the mesh"):
        await think.asked(there, Think(about="coins"))
    async with planner(mesh):
        submit = await stage.planned(topic(1))
        with pytest.raises(Reject, match="'fold'"):
            await think.asked(there, Think(about="zebras", task="fold"))
        before = await think.asked(there, Think(about="zebras", task="classify", modality="tabular", budget_s=90.0))
        after = await think.asked(there, Think(about="t-1"))
        await stage.champion(submit, topic(1), train_core_s=7.0)
        following = await think.asked(there, Think(about=submit.specialization))
    assert (before.specialization, before.planned, [one.budget_s for one in before.proposals]) == (
        "",
        False,
        [90.0] * 2,
    )
    assert (after.specialization, after.planned) == (submit.specialization, True)
    assert after.proposals[1].settings == submit.tasks[1].settings
    assert following.champion == "c" * 64
    assert following.proposals[0].base == "c" * 64
    assert (following.task, following.modality) == ("classify", "tabular")
    shown: Any = think.picture(following)
    assert "would be tried, as classify of tabular; champion cccccccccccc" in shown
    assert "evolver: classify from cccccccccccc, 180 s, charged 187 core seconds" in shown
    assert "account: amortised, as usual" in shown
