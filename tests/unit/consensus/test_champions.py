"""What becomes of the champion's record after a verdict."""

from __future__ import annotations

import dataclasses

import pytest

from consensus.champions import LINEAGE_MAX, USES_MAX, next_champion, rolled_back, version_to_go_back_to
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


# -- uses, lineage, trees ---------------------------------------------------------------------------------------------


def promoted(current: Champion | None, right: int = 180, **changes: object) -> Champion:
    found = next_champion(said(right, current), current)
    assert found is not None
    return found.evolve(**changes)


def test_a_holdout_that_comes_back_is_as_tired_as_it_was_left() -> None:
    current = rounds.champion().evolve(holdout_uses=9)
    elsewhere = current.evolve(holdout="split-elsewhere", holdout_uses=1, uses={"split-holdout": 9})
    found = next_champion(said(150, elsewhere), elsewhere)
    assert found is not None
    assert (found.holdout, found.holdout_uses) == ("split-holdout", 10)
    assert found.uses == {"split-elsewhere": 1}
    assert found.uses_of("split-elsewhere") == 1
    assert found.uses_of("split-never-seen") == 0


def test_uses_are_counted_on_when_the_champion_changes() -> None:
    first_ = promoted(rounds.champion().evolve(holdout_uses=4))
    assert (first_.model, first_.holdout_uses) == ("model-evolver", 5)
    second = next_champion(said(195, first_, old=180), first_)
    assert second is not None
    assert second.holdout_uses == 6


def test_the_table_of_uses_stays_small() -> None:
    current = rounds.champion(holdout="split-x").evolve(uses={f"split-{number}": 1 for number in range(80)})
    found = next_champion(said(150, current), current)
    assert found is not None
    assert len(found.uses) == USES_MAX
    assert list(found.uses)[-1] == "split-x"


def test_the_lineage_says_what_was_changed_and_what_it_brought() -> None:
    one = promoted(None)
    assert (one.lineage, one.metric) == ((), "accuracy")
    two = promoted(one.evolve(model="model-first"))
    assert [(step.version_number, step.model, step.verdict) for step in two.lineage] == [
        (1, "model-first", "t1-verdict")
    ]
    assert (two.effect, two.metric, two.changed) == (0.15, "accuracy", "learning rate x 0.8")
    assert two.interval[0] < 0.15 < two.interval[1]
    old = two.evolve(lineage=two.lineage * (LINEAGE_MAX + 5))
    assert len(promoted(old, 200).lineage) == LINEAGE_MAX


def test_what_won_by_its_loss_alone_brought_that() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200), loss=[0.2 + 0.01 * (i % 5) for i in range(200)])
    current = rounds.champion()
    round_ = bench.round(champion=current, old=first(150, 200), loss=[0.4 + 0.01 * (i % 7) for i in range(200)])
    found = next_champion(verdict(recommend(round_, bench.read), current, 7, decided_at_ms=0), current)
    assert found is not None
    assert found.metric == "loss"
    assert found.effect == pytest.approx(0.21, abs=0.001)


def tree(flat: str) -> Verdict:
    bench = Bench()
    bench.line("merge", first(180, 200))
    bench.lines[0] = dataclasses.replace(bench.lines[0], flat=flat, settings={"top": 2})
    champion = rounds.champion().evolve(settings={"learning_rate": 0.1})
    recommendation = recommend(bench.round(champion=champion, old=first(150, 200)), bench.read)
    return verdict(recommendation, champion, recommendation.champion_revision, decided_at_ms=77)


def test_a_promoted_tree_keeps_the_flat_model_and_its_settings() -> None:
    current = rounds.champion().evolve(settings={"learning_rate": 0.1})
    found = next_champion(tree("model-old"), current)
    assert found is not None
    assert (found.line, found.flat, found.parent_model) == (Line.MERGE, "model-old", "model-old")
    assert found.settings == {"learning_rate": 0.1}, "what an evolver turns, who goes on from the flat model"
    other = next_champion(tree("model-other"), current)
    assert other is not None
    assert other.settings == {"top": 2}
    flat_again = promoted(found)
    assert (flat_again.line, flat_again.flat) == (Line.EVOLVER, ""), "no tree any more"


# -- going back -------------------------------------------------------------------------------------------------------


def test_going_back_keeps_what_was_used_and_says_why() -> None:
    one = rounds.champion().evolve(holdout_uses=3, verdict="t0-verdict")
    two = promoted(one, promoted_at_ms=5)
    back = rolled_back(two, one, reason="answers slowly", at_ms=99)
    assert (back.version_number, back.model, back.parent_model) == (3, "model-old", "model-evolver")
    assert (back.event, back.reason, back.promoted_at_ms) == ("rolled back", "answers slowly", 99)
    assert back.holdout_uses == two.holdout_uses == 4, "going back makes no holdout fresh"
    assert back.audit_looks == two.audit_looks == 1
    assert [step.version_number for step in back.lineage] == [1, 2]
    assert back.outcomes == one.outcomes, "later challengers are compared with its own"


def test_going_back_goes_back_to_what_an_adapter_adapts_and_what_was_rounded() -> None:
    one = rounds.champion(base="model-below").evolve(full="model-full")
    two = promoted(one)
    assert (two.base, two.full) == ("", "")
    back = rolled_back(two, one, reason="answers slowly", at_ms=99)
    assert (back.base, back.full, back.trainable) == ("model-below", "model-full", "model-full")


def test_which_version_to_go_back_to() -> None:
    one = rounds.champion()
    two = promoted(one)
    counted = two.evolve(holdout_uses=9)
    records = [one, two, counted]
    assert version_to_go_back_to(records, None) == one
    assert version_to_go_back_to(records, 2) == counted
    assert version_to_go_back_to(records, 7) is None
    assert version_to_go_back_to([one], None) is None
