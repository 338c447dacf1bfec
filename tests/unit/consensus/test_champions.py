"""What becomes of the champion's record after a verdict."""

from __future__ import annotations

from consensus.champions import next_champion
from consensus.gate import verdict
from consensus.recommendation import recommend
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.tasks import Line
from tests.support import rounds
from tests.support.outcomes import first
from tests.support.weighing import Bench


def said(right: int, champion: Champion | None, *, old: int = 150, **more: object) -> Verdict:
    bench = Bench()
    bench.line("evolver", first(right, 200), **more)  # type: ignore[arg-type]
    recommendation = recommend(bench.round(champion=champion, old=first(old, 200)), bench.read)
    return verdict(recommendation, champion, recommendation.champion_revision, decided_at_ms=77)


def test_the_first_champion_is_version_one() -> None:
    found = next_champion(said(180, None), None, name="handwritten digits")
    assert found is not None
    assert (found.version_number, found.model, found.parent_model, found.name) == (
        1,
        "model-evolver",
        "",
        "handwritten digits",
    )
    assert (found.topic, found.task, found.line, found.verdict) == ("t1", "t1-evolver", Line.EVOLVER, "t1-verdict")
    assert (found.holdout, found.outcomes, found.holdout_uses) == ("split-holdout", "holdout-evolver", 0)
    assert (found.promoted_at_ms, found.settings, found.changed) == (77, {"width": 8}, "learning rate x 0.8")
    assert found.kpis["accuracy"] == 0.9


def test_a_promotion_keeps_the_lineage_and_counts_on() -> None:
    current = rounds.champion().evolve(name="digits", version_number=4)
    found = next_champion(said(180, current), current)
    assert found is not None
    assert (found.version_number, found.model, found.parent_model, found.name) == (
        5,
        "model-evolver",
        "model-old",
        "digits",
    )
    assert found.holdout_uses == 3


def test_a_challenger_that_lost_still_used_the_holdout() -> None:
    current = rounds.champion()
    kept = said(150, current)
    found = next_champion(kept, current)
    assert found == current.evolve(holdout_uses=3, outcomes="holdout-champion")
    assert next_champion(kept, found) is None, "counted once"


def test_a_challenger_that_the_gate_rejected_used_it_too() -> None:
    current = rounds.champion()
    rejected = said(180, current, size_bytes=9e9)
    assert not rejected.accepted
    found = next_champion(rejected, current)
    assert found is not None
    assert (found.model, found.holdout_uses) == ("model-old", 3)


def test_a_new_holdout_comes_with_its_outcomes() -> None:
    current = rounds.champion(holdout="split-elsewhere")
    found = next_champion(said(150, current), current)
    assert found is not None
    assert (found.holdout, found.outcomes, found.holdout_uses) == ("split-holdout", "holdout-champion", 1)
    assert (found.model, found.version_number, found.verdict) == ("model-old", 1, "t0-verdict")


def test_nothing_comes_of_nothing_and_nothing_of_another_champions_comparison() -> None:
    assert next_champion(said(150, None, reproduced=3), None) is None
    current = rounds.champion()
    assert next_champion(said(150, current), current.evolve(model="model-newer")) is None


def test_the_same_verdict_gives_the_same_record() -> None:
    current = rounds.champion()
    one = said(180, current)
    assert next_champion(one, current) == next_champion(one, current)
