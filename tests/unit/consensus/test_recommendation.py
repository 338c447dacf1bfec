"""Which line is taken, and what is said about it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from consensus.recommendation import recommend
from consensus.rounds import Run
from mesh import codec
from mesh.messages.commands import Recommend
from mesh.messages.judgement import Choice, Recommendation
from mesh.messages.tasks import Line
from tests.support import rounds
from tests.support.outcomes import first, items
from tests.support.weighing import Bench


def of(bench: Bench, **more: object) -> Recommendation:
    return recommend(bench.round(**more), bench.read)  # type: ignore[arg-type]


def test_without_a_champion_the_better_line_is_taken() -> None:
    bench = Bench()
    bench.line("evolver", first(160, 200))
    bench.line("reinventor", first(180, 200))
    bench.linear(first(150, 200))
    found = of(bench)
    assert found.choice is Choice.REINVENTOR
    assert found.effect == pytest.approx(0.10)
    assert found.interval[0] > 0.0
    assert found.why.startswith("There is no champion yet. The evolver answers 0.8000 of 200 holdout items right")
    assert found.tree == {
        "metric": "accuracy",
        "value": 0.9,
        "baseline": 0.9,
        "baseline_linear": 0.75,
        "interval": pytest.approx([0.15 - 0.05, 0.15 + 0.05], abs=0.002),
        "against": "baseline_linear",
        "holdout_examples": 200,
    }
    assert (found.id, found.topic, found.champion_before, found.holdout_uses) == ("t1-recommendation", "t1", "", 0)
    assert [(c.a, c.b) for c in found.comparisons] == [
        ("evolver", "reinventor"), ("evolver", "baseline"), ("reinventor", "baseline"),
    ]  # fmt: skip


def test_a_candidate_carries_what_was_measured_item_by_item() -> None:
    bench = Bench()
    bench.line("evolver", first(160, 200))
    (candidate,) = of(bench).candidates
    assert candidate.line is Line.EVOLVER
    assert candidate.kpis["accuracy"] == 0.8, "not the 0.123 that the worker said"
    assert candidate.kpis["loss"] == pytest.approx(0.8 * 0.2 + 0.2 * 1.5)
    assert candidate.kpis["validation_accuracy"] == 1.0
    assert candidate.kpis["majority_accuracy"] == pytest.approx(67 / 200)
    assert candidate.kpis["chance_loss"] == pytest.approx(math.log(3), abs=1e-3)
    assert candidate.kpis["size_bytes"] == 1e6
    assert candidate.evidence is not None
    assert (candidate.evidence.claims, candidate.evidence.reproduced, candidate.evidence.independent) == (60, 60, True)
    assert (candidate.stopped_by, candidate.changed, candidate.holdout) == (
        "budget",
        "learning rate x 0.8",
        "holdout-evolver",
    )


@pytest.mark.parametrize(("evolver_size", "taken"), [(5e6, Choice.REINVENTOR), (1e5, Choice.EVOLVER)])
def test_a_tie_goes_to_the_smaller_model(evolver_size: float, taken: Choice) -> None:
    bench = Bench()
    bench.line("evolver", [i % 10 != 0 for i in range(400)], size_bytes=evolver_size)
    bench.line("reinventor", [i % 10 != 1 for i in range(400)])
    found = of(bench)
    assert found.choice is taken
    assert "a tie, so the smaller model is taken" in found.why


def test_some_bytes_make_no_model_smaller() -> None:
    bench = Bench()
    bench.line("evolver", [i % 10 != 0 for i in range(400)], size_bytes=1e6 + 20)
    bench.line("reinventor", [i % 10 != 1 for i in range(399)] + [False], size_bytes=1e6)
    found = of(bench)
    assert found.choice is Choice.EVOLVER
    assert "a tie between equally large models" in found.why


def test_a_tie_of_equal_size_goes_to_the_lower_loss() -> None:
    bench = Bench()
    bench.line("evolver", first(90, 100), loss=[0.30] * 100)
    bench.line("reinventor", first(90, 100), loss=[0.25] * 100)
    assert of(bench).choice is Choice.REINVENTOR


def test_a_small_difference_that_is_certain_is_no_tie() -> None:
    bench = Bench()
    bench.line("evolver", first(4_012, 5_000), size_bytes=9e9)
    bench.line("reinventor", first(4_000, 5_000), size_bytes=1.0)
    assert of(bench).choice is Choice.EVOLVER


def test_a_line_that_nobody_could_reproduce_is_not_taken() -> None:
    bench = Bench()
    bench.line("evolver", first(199, 200), reproduced=40)
    bench.line("reinventor", first(150, 200))
    bench.linear(first(140, 200))
    found = of(bench)
    assert found.choice is Choice.REINVENTOR
    assert "the evolver can not be chosen: 40 of 60 claims were reproduced" in found.why
    assert len(found.candidates) == 2
    assert found.effect == pytest.approx(0.05), "against the linear baseline, when there is no other line"


def test_a_check_by_the_same_incarnation_does_not_do_where_independence_is_required() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200), checked_by="w1.aa")
    assert of(bench).choice is Choice.EVOLVER
    found = of(bench, required=True)
    assert found.choice is Choice.KEEP
    assert "the topic requires another one" in found.why
    assert found.candidates[0].evidence is not None
    assert not found.candidates[0].evidence.independent


def test_structural_faults_exclude_a_line_and_say_why() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200))
    bench.line("reinventor", first(150, 200))
    bench.read["holdout-evolver"] = items(first(150, 200), loss=[math.nan] * 200)
    bench.read["check-reinventor"] = "the outcomes check-reinve can not be read: a chunk is missing"
    found = of(bench)
    assert found.choice is Choice.KEEP
    assert "expected finite losses, got nan for item 0 of 200" in found.why
    assert "a chunk is missing" in found.why
    assert found.tree["value"] is None
    assert found.candidates[1].evidence is None


def test_outcomes_of_another_model_or_split_do_not_count() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200))
    bench.read["holdout-evolver"] = items(first(150, 200), model="model-other")
    assert "expected outcomes of model model-evolve" in of(bench).why
    bench.read["holdout-evolver"] = items(first(150, 200), split="split-other")
    assert "on split split-holdou" in of(bench).why


def test_lines_that_failed_are_reasons() -> None:
    bench = Bench()
    bench.lines = [
        Run(name="evolver", missing="its task t1-evolver (train) was parked: out of memory"),
        Run(name="reinventor", missing="its training brought no model"),
    ]
    found = of(bench)
    assert found.choice is Choice.KEEP
    assert found.candidates == ()
    assert "out of memory" in found.why
    assert "brought no model" in found.why
    assert found.holdout_examples == 0


# -- against a champion -----------------------------------------------------------------------------------------------


def test_a_challenger_that_is_better_is_taken() -> None:
    bench = Bench()
    bench.line("evolver", first(180, 200))
    bench.line("reinventor", first(170, 200))
    found = of(bench, champion=rounds.champion(), old=first(150, 200))
    assert found.choice is Choice.EVOLVER
    assert found.effect == pytest.approx(0.15)
    assert (found.champion_before, found.champion_revision, found.champion_outcomes) == (
        "model-old",
        7,
        "holdout-champion",
    )
    assert found.holdout_uses == 4, "two before, and these two"
    assert [c.alpha for c in found.comparisons if c.metric == "accuracy"] == pytest.approx(
        [0.05 * 6 / math.pi**2 / 9, 0.05 * 6 / math.pi**2 / 16]
    )
    assert "is better than the champion in accuracy" in found.why


def test_a_gain_that_chance_explains_keeps_the_champion_and_says_how_many_items_would_show_it() -> None:
    bench = Bench()
    bench.line("evolver", [i % 10 != 0 for i in range(200)])
    found = of(bench, champion=rounds.champion(), old=[i % 9 != 1 for i in range(200)])
    assert found.choice is Choice.KEEP
    assert found.effect == pytest.approx(0.015)
    assert found.interval[0] < 0.0
    assert found.tree["value"] == pytest.approx(177 / 200), "the champion's, because it stays"
    assert "6.18 s^2/d^2" in found.what_would_change_it
    assert "there are 200" in found.what_would_change_it


def test_equal_accuracy_and_clearly_lower_loss_is_better_too() -> None:
    right, old = first(180, 200), [0.4 + 0.01 * (i % 7) for i in range(200)]
    bench = Bench()
    bench.line("evolver", right, loss=[0.2 + 0.01 * (i % 5) for i in range(200)])
    found = of(bench, champion=rounds.champion(), old=right, loss=old)
    assert found.choice is Choice.EVOLVER
    assert "in loss, with an accuracy that is not lower" in found.why
    bench = Bench()
    bench.line("evolver", first(179, 200), loss=[0.2 + 0.01 * (i % 5) for i in range(200)])
    assert of(bench, champion=rounds.champion(), old=right, loss=old).choice is Choice.KEEP


def test_the_same_gain_convinces_a_fresh_holdout_and_not_one_that_was_asked_forty_times() -> None:
    old, gain = first(160, 200), first(168, 200)
    fresh, tired = rounds.champion(), rounds.champion().evolve(holdout_uses=40)
    for champion, choice in ((fresh.evolve(holdout_uses=0), Choice.EVOLVER), (tired, Choice.KEEP)):
        bench = Bench()
        bench.line("evolver", gain)
        assert of(bench, champion=champion, old=old).choice is choice
    bench = Bench()
    bench.line("evolver", gain)
    found = of(bench, champion=tired.evolve(holdout="split-elsewhere"), old=old)
    assert found.choice is Choice.EVOLVER, "another holdout is fresh"
    assert found.holdout_uses == 1


def test_a_champion_that_can_not_be_measured_stays() -> None:
    bench = Bench()
    bench.line("evolver", first(200, 200))
    round_ = bench.round(champion=rounds.champion(), old=first(1, 200))
    bench.read["holdout-champion"] = "the outcomes holdout-cham can not be read: gone"
    found = recommend(round_, bench.read)
    assert found.choice is Choice.KEEP
    assert "can not be read: gone" in found.why
    assert found.holdout_uses == 2, "nobody was compared"


def test_a_champion_of_another_form_stays_and_the_way_out_is_told() -> None:
    bench = Bench()
    bench.line("evolver", first(200, 200))
    round_ = bench.round(champion=rounds.champion(fits="text"), old=first(1, 200))
    run = dataclasses.replace(round_.champion_run, holdout="", missing="it reads other data")
    found = recommend(dataclasses.replace(round_, champion_run=run, fits="tabular, 3 inputs, ab"), bench.read)
    assert found.choice is Choice.KEEP
    assert "it reads other data" in found.why
    assert "a specialization of its own" in found.what_would_change_it
    assert found.fits == "tabular, 3 inputs, ab"


def test_a_candidate_of_other_items_can_not_challenge() -> None:
    bench = Bench()
    bench.line("evolver", first(199, 199))
    bench.line("reinventor", first(190, 200))
    found = of(bench, champion=rounds.champion(), old=first(150, 200))
    assert found.choice is Choice.REINVENTOR
    assert "its outcomes can not be compared: expected outcomes of the same items, got 200 and 199" in found.why


def test_a_baseline_of_other_items_is_left_out() -> None:
    bench = Bench()
    bench.line("evolver", first(190, 200))
    bench.linear(first(150, 199))
    found = of(bench)
    assert (found.tree["baseline_linear"], found.tree["interval"]) == (None, None)


def test_the_same_round_gives_the_same_bytes_and_they_fit_one_message() -> None:
    bench = Bench()
    bench.line("evolver", [i % 7 != 0 for i in range(300)], clusters=[i // 3 for i in range(300)])
    bench.line("reinventor", [i % 6 != 0 for i in range(300)], clusters=[i // 3 for i in range(300)])
    one, two = (codec.encode(Recommend(recommendation=of(bench))) for _ in range(2))
    assert one == two
    assert codec.decode(one, Recommend).recommendation == of(bench)


# -- the sentences ----------------------------------------------------------------------------------------------------


def test_a_candidate_that_answers_exactly_as_the_champion_is_told_so() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200))
    found = of(bench, champion=rounds.champion(), old=first(150, 200))
    assert found.choice is Choice.KEEP
    assert "accuracy +0.0000" in found.why
    assert "the same loss, at alpha" in found.why
    assert found.what_would_change_it == (
        "Any of the 200 items that only one of the two answers right: "
        "the evolver and the champion agree on all of them."
    )


def test_a_loss_is_told_as_lower_or_higher_and_no_zero_has_a_minus() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200), loss=[0.5 + 0.001 * (i % 3) for i in range(200)])
    found = of(bench, champion=rounds.champion(), old=first(150, 200), loss=[0.4] * 200)
    assert "loss higher by 0.1010 nats [+0.1008, +0.1012]" in found.why
    assert "-0.0000" not in found.why


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [(190, 150, "only a holdout that was drawn unluckily"), (152, 150, "with more items the other line may turn out")],
)
def test_what_would_change_the_choice_of_a_line_depends_on_the_items_there_are(one: int, other: int, told: str) -> None:
    bench = Bench()
    bench.line("evolver", first(one, 200))
    bench.line("reinventor", first(other, 200))
    assert told in of(bench).what_would_change_it


def test_a_tree_of_the_same_parts_is_the_champion_and_spends_no_alpha() -> None:
    bench = Bench()
    bench.line("merge", first(150, 200))
    champion = rounds.champion(model="model-merge")
    found = of(bench, champion=champion, old=first(150, 200))
    assert found.choice is Choice.KEEP
    assert found.why == "The champion stays: the merge can not be chosen: it is the champion itself, byte by byte."
    assert found.holdout_uses == champion.holdout_uses
