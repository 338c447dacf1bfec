"""The gate agent on the bus in memory: one verdict, one promotion, whatever happens between the two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import gate
from agents.gate import Gate
from consensus.recommendation import recommend
from mesh import codec, virtual_time
from mesh.bus import Stored
from mesh.memory import Fate, Faults
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion, Choice, Recommendation, Verdict
from mesh.messages.results import RecommendationMade
from tests.support import rounds
from tests.support.memory_mesh import DEADLINE_S, MemoryMesh
from tests.support.outcomes import first
from tests.support.rounds import SPECIALIZATION
from tests.support.weighing import Bench

VERDICT = "mesh.results.t1.verdict.t1-verdict"


def made(
    right: int = 180, *, champion: Champion | None = None, revision: int = 0, topic: str = "t1"
) -> RecommendationMade:
    """The recommendation of a round whose evolver answers so many of 200 items right, the champion 150."""
    bench = Bench()
    bench.line("evolver", first(right, 200))
    found = recommend(bench.round(champion=champion, old=first(150, 200)), bench.read)
    return told(found, champion_revision=revision, topic=topic, id=f"{topic}-recommendation")


def told(recommendation: Recommendation, **changes: object) -> RecommendationMade:
    fields = {name: getattr(recommendation, name) for name in recommendation.__struct_fields__}
    changed = Recommendation(**{**fields, **changes})
    return RecommendationMade(
        topic=changed.topic, specialization=SPECIALIZATION, recommendation=changed, ledger_seq=1, at_ms=0
    )


async def verdict_of(mesh: MemoryMesh, topic: str = "t1") -> Verdict:
    subject = mesh.subjects.result(topic, "verdict", f"{topic}-verdict")
    return codec.decode((await mesh.first(mesh.subjects.stream("RESULTS"), subject)).data, Verdict)


async def until_champion(mesh: MemoryMesh, wanted: Callable[[Champion], bool]) -> Champion:
    """The first record of the champion that is as wanted."""
    subject = mesh.subjects.key("champions", SPECIALIZATION)
    async with asyncio.timeout(DEADLINE_S), mesh.leader.tail(mesh.subjects.bucket("champions"), subject) as stored:
        async for message in stored:
            champion = codec.decode(message.data, Champion)
            if wanted(champion):
                return champion
    raise AssertionError("the champion's records ended")


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path).start()


async def test_an_accepted_candidate_becomes_the_champion(mesh: MemoryMesh) -> None:
    node = Specialization(id=SPECIALIZATION, name="Handwritten digits")
    await mesh.leader.append(mesh.subjects.key("graph", node.id), codec.encode(node), subject_seq=0)
    async with mesh.running("gate", gate.body):
        await mesh.result(made())
        champion = await until_champion(mesh, lambda found: True)
        said = await verdict_of(mesh)
    assert said.accepted
    assert (champion.model, champion.version_number, champion.name) == ("model-evolver", 1, "Handwritten digits")
    assert champion.verdict == said.id
    assert champion.promoted_at_ms == said.decided_at_ms > 1_700_000_000_000


async def test_a_rejected_one_does_not(mesh: MemoryMesh) -> None:
    async with mesh.running("gate", gate.body):
        await mesh.result(told(made().recommendation, kpis=(("accuracy", 0.99, None),)))
        said = await verdict_of(mesh)
    assert not said.accepted
    assert said.why.startswith("1 of 9 checks failed: topic: accuracy: 0.9, at least 0.99 wanted by the topic")
    assert await mesh.champion(SPECIALIZATION) == (None, 0)


async def test_the_next_challenger_is_promoted_over_the_champion_or_counted(mesh: MemoryMesh) -> None:
    old = rounds.champion()
    revision = await mesh.promote(old)
    async with mesh.running("gate", gate.body):
        await mesh.result(made(151, champion=old, revision=revision))
        counted = await until_champion(mesh, lambda found: found.holdout_uses == 3)
        assert (counted.model, counted.version_number) == ("model-old", 1)
        _, revision = await mesh.champion(SPECIALIZATION)
        await mesh.result(made(180, champion=counted, revision=revision, topic="t2"))
        promoted = await until_champion(mesh, lambda found: found.version_number == 2)
        assert (await verdict_of(mesh)).choice is Choice.KEEP
        assert (await verdict_of(mesh, "t2")).champion_version == 2
    assert (promoted.model, promoted.parent_model, promoted.holdout_uses) == ("model-evolver", "model-old", 4)


async def test_the_same_recommendation_again_changes_nothing(mesh: MemoryMesh) -> None:
    handler, record = Gate(mesh.agent("gate")), made()
    for _ in range(3):
        await handler.on_recommendation(record, Stored("", b"", 1))
    assert len(await mesh.all(mesh.subjects.stream("RESULTS"), mesh.subjects.results())) == 1
    assert len(await mesh.all(mesh.subjects.bucket("champions"), mesh.subjects.keys("champions"))) == 1


async def test_a_verdict_without_its_promotion_is_driven_again(mesh: MemoryMesh) -> None:
    """The first life ended between the two writes."""
    record = made()
    handler = Gate(mesh.agent("gate"))
    said = await handler._verdict(record.recommendation)
    assert await mesh.champion(SPECIALIZATION) == (None, 0)
    await Gate(mesh.agent("gate")).on_recommendation(record, Stored("", b"", 1))
    champion, _ = await mesh.champion(SPECIALIZATION)
    assert champion is not None
    assert (champion.verdict, champion.promoted_at_ms) == (said.id, said.decided_at_ms)


async def test_a_champion_that_moved_before_the_verdict_rejects(mesh: MemoryMesh) -> None:
    old = rounds.champion()
    revision = await mesh.promote(old)
    newer = old.evolve(model="model-newer", version_number=2, verdict="t9-verdict")
    await mesh.promote(newer, revision=revision)
    handler = Gate(mesh.agent("gate"))
    await handler.on_recommendation(made(champion=old, revision=revision), Stored("", b"", 1))
    said = await verdict_of(mesh)
    assert not said.accepted
    assert (said.champion, said.champion_version) == ("model-newer", 2)
    assert (await mesh.champion(SPECIALIZATION))[0] == newer


async def test_a_champion_that_moves_after_the_verdict_supersedes_it(
    mesh: MemoryMesh, caplog: pytest.LogCaptureFixture
) -> None:
    old = rounds.champion()
    revision = await mesh.promote(old)
    record = made(champion=old, revision=revision)
    handler = Gate(mesh.agent("gate"))
    assert (await handler._verdict(record.recommendation)).accepted
    newer = old.evolve(model="model-newer", version_number=2, verdict="t9-verdict")
    await mesh.promote(newer, revision=revision)
    with caplog.at_level(logging.WARNING):
        await handler.on_recommendation(record, Stored("", b"", 1))
    assert "superseded by version 2 of verdict t9-verdict" in caplog.text
    assert (await mesh.champion(SPECIALIZATION))[0] == newer


async def test_a_champion_that_moves_between_reading_and_writing_is_not_overwritten(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = rounds.champion()
    revision = await mesh.promote(old)
    newer = old.evolve(model="model-newer", version_number=2, verdict="t9-verdict")
    handler = Gate(mesh.agent("gate"))

    async def overtaken(_: str) -> str:
        await mesh.promote(newer, revision=revision)
        return "digits"

    monkeypatch.setattr(handler, "_name", overtaken)
    with caplog.at_level(logging.WARNING):
        await handler.on_recommendation(made(champion=old, revision=revision), Stored("", b"", 1))
    assert (await mesh.champion(SPECIALIZATION))[0] == newer
    assert "superseded by version 2" in caplog.text


class Unlucky(Faults):
    """The first writes to some subjects have a fate of their own."""

    def __init__(self, fates: dict[str, Fate]) -> None:
        self.fates = fates

    def append(self, writer: str, subject: str) -> Fate:
        return self.fates.pop(subject, Fate.STORED) if writer == "gate" else Fate.STORED


@pytest.mark.parametrize("verdict_fate", Fate)
@pytest.mark.parametrize("champion_fate", Fate)
def test_lost_writes_and_lost_answers_end_in_one_verdict_and_one_champion(
    tmp_path: Path, verdict_fate: Fate, champion_fate: Fate
) -> None:
    faults = Unlucky({VERDICT: verdict_fate, f"$KV.mesh_champions.{SPECIALIZATION}": champion_fate})

    async def story() -> tuple[int, int]:
        mesh = await MemoryMesh(tmp_path, faults).start()
        async with mesh.running("gate", gate.body):
            await mesh.result(made())
            champion = await until_champion(mesh, lambda found: True)
            assert champion.version_number == 1
            await asyncio.sleep(60.0)
        verdicts = await mesh.all(mesh.subjects.stream("RESULTS"), VERDICT)
        champions = await mesh.all(mesh.subjects.bucket("champions"), mesh.subjects.keys("champions"))
        return len(verdicts), len(champions)

    assert virtual_time.run(story()) == (1, 1)
    assert faults.fates == {}
