"""From plans to verdicts and audits with both agents on the bus in memory; a verdict computed again; a champion taken
back."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from agents import cli, consensus, gate
from agents.commands import verdicts, verdicts_replay
from agents.commands.reach import Reach
from agents.runtime import Agent
from mesh import codec
from mesh.errors import NotFound, SettingsInvalid
from mesh.messages.commands import Recommend, Submit
from mesh.messages.judgement import Audit, Champion, Choice, Outcomes, Verdict
from mesh.messages.results import Planned, RecommendationMade
from mesh.messages.tasks import Line, TaskSpec
from tests.support import rounds
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh
from tests.support.outcomes import first, outcomes
from tests.support.rounds import SPECIALIZATION, SPLITS, TOPIC

RIGHT = {"evolver": 150, "merge": 180, "old": 150}
"""Items of 200 that each model answers right, by the first word in its digest."""


class Mill:
    """Stands in for ledger and workers: plans, trains and evaluates whatever is submitted, and records what consensus
    recommends."""

    def __init__(self, mesh: MemoryMesh) -> None:
        self.mesh = mesh
        self.models: dict[str, int] = {}

    async def train(self, plan: Planned) -> None:
        await self.mesh.result(plan)
        for task in plan.tasks:
            claims = await self.mesh.artifact(outcomes(first(50, 60)))
            model = f"model-{task.line}"
            self.models[model] = RIGHT[str(task.line)]
            await self.mesh.result(rounds.ended(task, outputs={"model": model, "claims": claims}))

    async def grind(self) -> None:
        """Do what is asked for until cancelled."""
        async with self.mesh.commands() as commands:
            async for command in commands:
                if isinstance(command, Recommend):
                    await self._recommended(command)
                elif isinstance(command, Submit):
                    await self._submitted(command)

    async def _recommended(self, command: Recommend) -> None:
        made = command.recommendation
        await self.mesh.result(
            RecommendationMade(
                topic=made.topic, specialization=made.specialization, recommendation=made, ledger_seq=3, at_ms=0
            )
        )

    async def _submitted(self, submit: Submit) -> None:
        await self.mesh.result(rounds.accepted(submit))
        for task in submit.tasks:
            digest = await self.mesh.artifact(self._measured(task))
            kpis = {"latency_p95_ms": 2.0, "size_bytes": 1e6}
            await self.mesh.result(rounds.ended(task, outputs={"outcomes": digest}, kpis=kpis, incarnation="w2.bb"))

    def _measured(self, task: TaskSpec) -> Outcomes:
        model, split = task.inputs["model"], task.inputs["split"]
        right = first(50, 60) if split == SPLITS["validation"] else first(self.models[model], 200)
        return outcomes(right, model=model, split=split)


@contextlib.asynccontextmanager
async def both(mesh: MemoryMesh) -> AsyncIterator[tuple[Mill, Agent]]:
    """Two consensus agents, a gate, and the mill."""
    mill = Mill(mesh)
    async with (
        mesh.running("consensus", consensus.body),
        mesh.running("consensus", consensus.body),
        mesh.running("gate", gate.body) as agent,
    ):
        grinding = asyncio.create_task(mill.grind())
        try:
            yield mill, agent
        finally:
            grinding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await grinding


R = TypeVar("R", Verdict, Audit)


async def one(mesh: MemoryMesh, kind: type[R], id_: str) -> R:
    subject = mesh.subjects.result(TOPIC, kind.kind, id_)
    return codec.decode((await mesh.first(mesh.subjects.stream("RESULTS"), subject)).data, kind)


async def champion_of(mesh: MemoryMesh, version: int) -> Champion:
    """The champion's record of that version, waited for."""
    subject = mesh.subjects.key("champions", SPECIALIZATION)
    async with asyncio.timeout(DEADLINE_S), mesh.leader.tail(mesh.subjects.bucket("champions"), subject) as stored:
        async for message in stored:
            found = codec.decode(message.data, Champion)
            if found.version_number == version:
                return found
    raise AssertionError("the champion's records ended")


async def two_rounds(mesh: MemoryMesh) -> tuple[Verdict, Audit]:
    """A flat model becomes champion, and then a tree; the second verdict, and what the audit said of it."""
    async with both(mesh) as (mill, _):
        await mill.train(rounds.plan(lines=(Line.EVOLVER,), baseline=False))
        assert (await one(mesh, Verdict, "t1-verdict")).choice is Choice.EVOLVER
        await champion_of(mesh, 1)
        await mill.train(rounds.tree_plan({}, flat="model-evolver"))
        said = await one(mesh, Verdict, "t1-tree-verdict")
        await champion_of(mesh, 2)
        return said, await one(mesh, Audit, "t1-tree-audit")


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path).start()


@pytest.fixture
def there(mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """The commands' reach."""
    found = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)

    @contextlib.asynccontextmanager
    async def reach(*_: object) -> AsyncIterator[Reach]:
        yield found

    for module in (verdicts, verdicts_replay):
        monkeypatch.setattr(module, "reach_stored", reach)
    return found


async def test_a_tree_is_the_second_round_of_its_topic_and_its_promotion_is_audited_once(mesh: MemoryMesh) -> None:
    said, audit = await two_rounds(mesh)
    assert (said.accepted, said.choice, said.champion) == (True, Choice.MERGE, "model-merge")
    assert said.recommendation.holdout_uses == 1
    assert said.recommendation.tree["against"] == "baseline"
    champion, _ = await mesh.champion(SPECIALIZATION)
    assert champion is not None
    assert (champion.line, champion.flat, champion.audit_looks) == (Line.MERGE, "model-evolver", 1)
    assert [step.model for step in champion.lineage] == ["model-evolve"]
    assert (audit.before, audit.after, audit.looks, audit.worse) == ("model-evolver", "model-merge", 1, False)
    assert audit.comparisons[0].effect == pytest.approx(0.15)
    looks = await mesh.all(mesh.subjects.stream("RESULTS"), mesh.subjects.results("*", Audit.kind))
    assert len(looks) == 1, "none of the first champion, and one of two agents' is stored"
    put = await mesh.all(mesh.subjects.stream("COMMANDS"), mesh.subjects.commands())
    assert sorted(stored.subject.rpartition(".")[2] for stored in put) == [
        "t1-evaluate-evolver", "t1-recommendation", "t1-tree-audit", "t1-tree-evaluate-merge", "t1-tree-recommendation",
    ]  # fmt: skip


def parsed(*words: str) -> argparse.Namespace:
    return cli.parser_of("verdicts", cli.load("verdicts")).parse_args([*words])


def named(name: str) -> argparse.Namespace:
    given = parsed(name)
    given.name = name
    return given


@pytest.mark.parametrize("name", ["t1-verdict", "t1-tree-verdict", TOPIC, SPECIALIZATION])
async def test_a_verdict_computed_again_is_the_same(
    mesh: MemoryMesh, there: Reach, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    await two_rounds(mesh)
    assert await verdicts_replay.replay(named(name)) == 0
    assert "recommendation and verdict are the same" in capsys.readouterr().out


async def test_a_verdict_that_does_not_follow_from_its_evidence_is_told_field_by_field(
    mesh: MemoryMesh, there: Reach
) -> None:
    said, _ = await two_rounds(mesh)
    candidate = said.recommendation.candidates[0]
    better = msgspec.structs.replace(candidate, kpis={**candidate.kpis, "accuracy": 0.99})
    forged = msgspec.structs.replace(
        said, recommendation=msgspec.structs.replace(said.recommendation, candidates=(better,), effect=0.2)
    )
    found = {one.path: (one.stored, one.again) for one in await verdicts_replay.again(there, forged)}
    assert set(found) == {"recommendation.candidates[0].kpis.accuracy", "recommendation.effect"}
    assert found["recommendation.candidates[0].kpis.accuracy"] == ("0.99", "0.9")
    bounds = {**said.bounds, "latency p95": 1.0}
    slow = await verdicts_replay.again(there, msgspec.structs.replace(said, bounds=bounds))
    assert "accepted" in {one.path for one in slow}, "with another bound it would have been rejected"


async def test_what_is_no_longer_stored_is_named(mesh: MemoryMesh, there: Reach) -> None:
    said, _ = await two_rounds(mesh)
    with pytest.raises(NotFound, match="no verdict"):
        await verdicts_replay.find(there, "nobody")
    gone = msgspec.structs.replace(said.recommendation, champion_revision=9_999)
    with pytest.raises(NotFound, match="revision 9999 of digits-0a1b2c"):
        await verdicts_replay.again(there, msgspec.structs.replace(said, recommendation=gone))
    await mesh.leader.purge(mesh.subjects.stream("RESULTS"))
    with pytest.raises(NotFound, match="its plan is no longer among the topic's records"):
        await verdicts_replay.again(there, said)


async def test_the_list_shows_each_check_and_the_audit(
    mesh: MemoryMesh, there: Reach, capsys: pytest.CaptureFixture[str]
) -> None:
    await two_rounds(mesh)
    assert await verdicts.show(named("t1-tree-verdict")) == 0
    shown = capsys.readouterr().out
    assert "latency p95" in shown
    assert "2 ms, at most 1,000 ms wanted" in shown
    assert "merge - champion" in shown
    assert "betting e-value" in shown
    assert "audit (look 1 at this split): No harm is seen on the audit split: accuracy +0.1500" in shown
    everything = parsed()
    everything.name = ""
    assert await verdicts.show(everything) == 0
    assert capsys.readouterr().out.count("latency p95") == 2


@pytest.mark.parametrize("words", [["replay"], ["one", "two"], ["replay", "one", "two"]])
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(SettingsInvalid, match="expects nothing, one NAME, or replay NAME"):
        verdicts.run(parsed(*words))
