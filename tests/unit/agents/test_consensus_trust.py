"""Trust on the bus in memory: who is trusted is checked by draw, who would become champion always, and one failure
calls back what was let through."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import consensus
from agents.consensus import Consensus
from agents.consensus_trust import TrustBook
from consensus import checking
from mesh import codec
from mesh.bus import Stored
from mesh.messages.commands import Recommend, Submit
from mesh.messages.judgement import Choice, Outcomes, Recommendation
from mesh.messages.results import Kept, Planned, RecommendationMade, TaskEnded
from mesh.messages.tasks import Line, TaskSpec, TaskState
from mesh.messages.trust import Streak, Trust, Unchecked
from mesh.setting_tree import ConsensusSettings
from tests.support import rounds
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh
from tests.support.outcomes import first, outcomes

RIGHT = {Line.EVOLVER: 160, Line.REINVENTOR: 180, Line.BASELINE: 150}
STORED = Stored("", b"", 1)
CLAIMED = 50
"""Items of 60 that every claim has right."""


class Workers:
    """Ledger and workers: w1 trains the evolver and the baseline, w3 the reinventor, w2 measures."""

    def __init__(
        self, mesh: MemoryMesh, *, lies: frozenset[Line] = frozenset(), found: Mapping[str, Any] | None = None
    ) -> None:
        """lies: lines whose claims no check reproduces; found: facts of checks (`structure`) and replays (`ok`) by
        line."""
        self.mesh, self.lies, self.found = mesh, lies, found or {}
        self.done: list[str] = []

    async def train(self, plan: Planned, *, checkpoints: tuple[Kept, ...] = ()) -> None:
        await self.mesh.result(plan)
        for task in plan.tasks:
            claims = await self.mesh.artifact(outcomes(first(CLAIMED, 60)))
            by = "w3.cc" if task.line is Line.REINVENTOR else "w1.aa"
            ended = rounds.ended(
                task, outputs={"model": f"model-{task.line}", "claims": claims}, incarnation=by
            ).evolve(checkpoints=checkpoints)
            await self.mesh.result(ended)

    async def serve(self) -> Recommendation:
        """Do what is submitted until the recommendation is there; it is recorded then."""
        async with asyncio.timeout(DEADLINE_S), self.mesh.commands() as commands:
            async for command in commands:
                if isinstance(command, Recommend):
                    return command.recommendation
                await self.do(command)
        raise AssertionError("the commands ended")

    async def do(self, submit: Submit) -> list[TaskEnded]:
        await self.mesh.result(rounds.accepted(submit))
        ended = [await self._ended(task) for task in submit.tasks]
        for record in ended:
            self.done.append(record.task.id)
            await self.mesh.result(record)
        return ended

    async def _ended(self, task: TaskSpec) -> TaskEnded:
        name = f"{task.purpose.split()[0]}_{task.line}"
        record = rounds.ended(task, outputs={}, incarnation="w2.bb")
        assert record.outcome is not None
        if name in self.found:
            return record.evolve(outcome=msgspec.structs.replace(record.outcome, facts=self.found[name]))
        digest = await self.mesh.artifact(self._measured(task))
        return record.evolve(outcome=msgspec.structs.replace(record.outcome, outputs={"outcomes": digest}))

    def _measured(self, task: TaskSpec) -> Outcomes:
        assert task.line is not None
        if task.purpose.startswith("check"):
            right = first(CLAIMED - 30, 60) if task.line in self.lies else first(CLAIMED, 60)
        else:
            right = first(RIGHT[task.line], 200)
        return outcomes(right, model=task.inputs["model"], split=task.inputs["split"])


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path).start()


@pytest.fixture
def never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check is drawn: what is checked is checked for another reason."""
    monkeypatch.setattr(checking, "drawn", lambda *_: 0.999)


async def trusted(mesh: MemoryMesh, *workers: str, streak: int = 40, **more: Any) -> None:
    for worker in workers:
        record = Trust(worker=worker, streaks=(Streak(executor="classify", streak=streak, **more),))
        await mesh.leader.append(mesh.subjects.key("trust", worker), codec.encode(record), subject_seq=0)


async def trust_in(mesh: MemoryMesh, worker: str) -> Trust:
    stored = await mesh.leader.last(mesh.subjects.bucket("trust"), mesh.subjects.key("trust", worker))
    assert stored is not None
    return codec.decode(stored.data, Trust)


async def recorded(mesh: MemoryMesh, made: Recommendation, seq: int = 9) -> None:
    await mesh.result(
        RecommendationMade(
            topic=made.topic, specialization=made.specialization, recommendation=made, ledger_seq=seq, at_ms=0
        )
    )


async def played(mesh: MemoryMesh, workers: Workers, plan: Planned, **more: Any) -> Recommendation:
    async with mesh.running("consensus", consensus.body):
        await workers.train(plan, **more)
        return await workers.serve()


async def test_strangers_are_checked_and_their_clean_checks_are_counted(mesh: MemoryMesh) -> None:
    made = await played(mesh, Workers(mesh), rounds.plan())
    assert [one.unchecked for one in made.candidates] == [False, False]
    await recorded(mesh, made)
    for _ in range(2):  # a second agent counts the same
        known = await TrustBook(mesh.agent("consensus")).known()
        assert {key: row.streak for key, row in known.items()} == {
            ("w1", "classify", 1): 1, ("w3", "classify", 1): 1
        }  # fmt: skip
    assert (await trust_in(mesh, "w3")).streaks[0].clean == 1


@pytest.mark.usefixtures("never_drawn")
async def test_of_the_trusted_only_the_would_be_champion_is_checked(mesh: MemoryMesh) -> None:
    await trusted(mesh, "w1", "w3")
    workers = Workers(mesh)
    made = await played(mesh, workers, rounds.plan())
    assert made.choice is Choice.REINVENTOR
    evolver, reinventor = made.candidates
    assert (evolver.unchecked, evolver.evidence) == (True, None)
    assert reinventor.evidence is not None
    assert reinventor.evidence.rate == 1.0
    assert workers.done.count("t1-check-reinventor") == 1
    assert "t1-check-evolver" not in workers.done
    await recorded(mesh, made)
    await TrustBook(mesh.agent("consensus")).known()
    assert [one.task for one in (await trust_in(mesh, "w1")).streaks[0].unchecked] == ["t1-evolver"]
    assert (await trust_in(mesh, "w3")).streaks[0].streak == 41


@pytest.mark.usefixtures("never_drawn")
async def test_when_the_would_be_champion_has_lied_the_next_best_is_checked_and_taken(mesh: MemoryMesh) -> None:
    await trusted(mesh, "w1", "w3")
    workers = Workers(mesh, lies=frozenset({Line.REINVENTOR}))
    made = await played(mesh, workers, rounds.plan())
    assert made.choice is Choice.EVOLVER
    assert "the reinventor can not be chosen: 30 of 60 claims were reproduced" in made.why
    assert [one.unchecked for one in made.candidates] == [False, False]
    await recorded(mesh, made)
    await TrustBook(mesh.agent("consensus")).known()
    row = (await trust_in(mesh, "w3")).streaks[0]
    assert (row.streak, row.failed) == (0, 1)


async def test_a_drawn_check_is_asked_for_after_the_holdout(mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "drawn", lambda what, *_: 0.0 if what == "check" else 0.999)
    await trusted(mesh, "w1", "w3")
    workers = Workers(mesh)
    made = await played(mesh, workers, rounds.plan())
    assert [one.unchecked for one in made.candidates] == [False, False]
    assert workers.done.index("t1-holdout-evolver") < workers.done.index("t1-check-evolver")


async def test_a_structural_fault_is_told_and_counted(mesh: MemoryMesh) -> None:
    found = {"check_reinventor": {"structure": "the model is one of 'lora', its task trains 'classify'"}}
    made = await played(mesh, Workers(mesh, found=found), rounds.plan())
    assert made.choice is Choice.EVOLVER
    assert "the reinventor can not be chosen: structure: the model is one of 'lora'" in made.why
    evidence = made.candidates[1].evidence
    assert evidence is not None
    assert evidence.fault.startswith("structure: ")
    await recorded(mesh, made)
    await TrustBook(mesh.agent("consensus")).known()
    assert (await trust_in(mesh, "w3")).streaks[0].why.startswith("structure: ")


@pytest.mark.parametrize("ok", [True, False, None])
async def test_a_strangers_would_be_champion_is_replayed_where_the_topic_requires_anothers_word(
    mesh: MemoryMesh, ok: bool | None
) -> None:
    why = "trained again, steps 0 to 10 end 0.7 of their way from where they were recorded"
    found = {"replay_reinventor": {"ok": ok, "why": why}, "replay_evolver": {"ok": True, "why": "fine"}}
    workers = Workers(mesh, found=found)
    kept = (Kept(number=1, step=10, manifest=bytes(32)),)
    made = await played(mesh, workers, rounds.plan(independent="require"), checkpoints=kept)
    assert "t1-replay-reinventor" in workers.done
    assert made.choice is (Choice.EVOLVER if ok is False else Choice.REINVENTOR)
    assert ("t1-replay-evolver" in workers.done) == (ok is False)
    assert (f"replay: {why}" in made.why) == (ok is False)


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_the_settings_say_which_share_is_replayed_without_a_reason(mesh: MemoryMesh, share: float) -> None:
    mesh.settings = dataclasses.replace(mesh.settings, consensus=ConsensusSettings(replay_share=share))
    workers = Workers(mesh, found={"replay_reinventor": {"ok": True, "why": "fine"}})
    await played(mesh, workers, rounds.plan(), checkpoints=(Kept(number=1, step=10, manifest=bytes(32)),))
    assert ("t1-replay-reinventor" in workers.done) == (share == 1.0)


@pytest.mark.usefixtures("never_drawn")
async def test_one_failure_calls_back_what_was_let_through(mesh: MemoryMesh) -> None:
    claims = await mesh.artifact(outcomes(first(CLAIMED, 60)))
    results = [
        Unchecked(
            topic=f"t{number}", specialization="s", task=f"t{number}-evolver", line=Line.EVOLVER, incarnation="w3.bb",
            model=f"model-{number}", claims=claims, split="split-validation",
        )
        for number in (7, 8)
    ]  # fmt: skip
    await trusted(mesh, "w1", streak=0)
    await trusted(mesh, "w3", unchecked=tuple(results))
    workers = Workers(mesh, lies=frozenset({Line.REINVENTOR}))
    made = await played(mesh, workers, rounds.plan())
    await recorded(mesh, made)
    handlers = Consensus(mesh.agent("consensus"))
    await handlers.on_planned(rounds.plan(), STORED)
    put = await mesh.all(mesh.subjects.stream("COMMANDS"), mesh.subjects.commands())
    back = [
        codec.decode(one.data, Submit) for one in put if ".submit.t7-" in one.subject or ".submit.t8-" in one.subject
    ]
    assert [one.tasks[0].purpose for one in back] == ["check evolver again"] * 2
    assert back[0].tasks[0].avoid == ("w3.bb", "w3")
    (clean,) = await workers.do(back[0])
    workers.lies = frozenset({Line.EVOLVER})
    (lied,) = await workers.do(back[1])
    await handlers.on_task_ended(clean, STORED)
    row = (await trust_in(mesh, "w3")).streaks[0]
    assert (row.streak, row.failed, [one.topic for one in row.owed]) == (1, 1, ["t8"])
    for _ in range(2):  # told twice, it counts once
        await handlers.on_task_ended(lied, STORED)
    row = (await trust_in(mesh, "w3")).streaks[0]
    assert (row.streak, row.failed, row.owed) == (0, 2, ())


async def test_what_can_not_be_looked_back_at_is_let_go(mesh: MemoryMesh) -> None:
    result = Unchecked(
        topic="t7", specialization="s", task="t7-evolver", line=Line.EVOLVER, incarnation="w3.bb", model="model-7",
        claims="", split="split-validation",
    )  # fmt: skip
    await trusted(mesh, "w3", streak=0, owed=(result,), failed=1)
    handlers = Consensus(mesh.agent("consensus"))
    await handlers.on_planned(rounds.plan(), STORED)
    put = await mesh.all(mesh.subjects.stream("COMMANDS"), mesh.subjects.commands())
    (submit,) = [codec.decode(one.data, Submit) for one in put if ".submit.t7-" in one.subject]
    await handlers.on_task_ended(rounds.ended(submit.tasks[0], state=TaskState.PARKED, reason="gone"), STORED)
    row = (await trust_in(mesh, "w3")).streaks[0]
    assert (row.owed, row.failed, row.streak) == ((), 1, 0)


async def test_a_record_that_nobody_can_read_is_counted_anew(mesh: MemoryMesh) -> None:
    made = await played(mesh, Workers(mesh), rounds.plan())
    await recorded(mesh, made)
    await mesh.leader.append(mesh.subjects.key("trust", "w3"), b"torn")
    known = await TrustBook(mesh.agent("consensus")).known()
    assert known[("w3", "classify", 1)].streak == 1
    assert (await trust_in(mesh, "w3")).streaks[0].streak == 1
