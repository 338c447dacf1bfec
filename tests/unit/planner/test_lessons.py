"""From verdicts to lessons, and what they do to the evolver's draws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mesh.messages.judgement import Candidate, Choice, Comparison, Recommendation, Verdict
from mesh.messages.tasks import Line
from planner import lessons, proposals
from planner.lessons import Lesson, Odds

BEFORE = {"m0": {"learning_rate": 0.004, "dropout": 0.5, "hidden": [128]}}


def comparison(
    a: str, effect: float, half: float, b: str = "champion", metric: str = "loss", alpha: float = 0.05
) -> Comparison:
    return Comparison(
        a=a, b=b, metric=metric, effect=effect, low=effect - half, high=effect + half, p_value=0.5, items=100,
        alpha=alpha,
    )  # fmt: skip


def candidate(line: Line, **settings: Any) -> Candidate:
    return Candidate(line=line, task=f"t-{line.value}", model=line.value, settings=settings, changed="turned")


def verdict(
    candidates: tuple[Candidate, ...], comparisons: tuple[Comparison, ...], choice: Choice = Choice.KEEP,
    accepted: bool = True, before: str = "m0", topic: str = "t",
) -> Verdict:  # fmt: skip
    recommendation = Recommendation(
        id="r", topic=topic, specialization="s", choice=choice, why="", effect=0.0, interval=(0.0, 0.0),
        candidates=candidates, comparisons=comparisons, champion_before=before,
    )  # fmt: skip
    return Verdict(
        id="v", topic=topic, specialization="s", accepted=accepted, choice=choice, checks=(), why="",
        recommendation=recommendation,
    )  # fmt: skip


def test_a_challenger_teaches_what_was_turned_and_what_it_brought() -> None:
    lowered = candidate(Line.EVOLVER, learning_rate=0.002, dropout=0.6, hidden=[128], weight_decay=0.1)
    (lesson,) = lessons.lessons_of(
        [
            verdict(
                (lowered,), (comparison("evolver", 0.01, 0.02, metric="accuracy"), comparison("evolver", 0.02, 0.01))
            )
        ],
        BEFORE,
    )
    assert lesson.turned == {"learning_rate": -1, "dropout": 1}
    assert (lesson.metric, lesson.effect, lesson.low, lesson.high) == ("loss", 0.02, 0.01, 0.03)
    assert lesson.chance > 0.99
    assert not lesson.accepted


def test_what_the_gate_took_is_a_sure_gain_and_what_the_reinventor_drew_is_no_turn() -> None:
    pair = (candidate(Line.EVOLVER, dropout=0.4), candidate(Line.REINVENTOR, dropout=0.1))
    both = (comparison("evolver", -0.01, 0.02), comparison("reinventor", 0.03, 0.03))
    evolver, reinventor = lessons.lessons_of([verdict(pair, both, Choice.REINVENTOR)], BEFORE)
    assert (evolver.chance < 0.5, reinventor.chance, reinventor.accepted) == (True, 1.0, True)
    assert (evolver.turned, reinventor.turned) == ({"dropout": -1}, {})
    rejected = lessons.lessons_of([verdict(pair, both, Choice.REINVENTOR, accepted=False)], BEFORE)
    assert 0.9 < rejected[1].chance < 1.0


def test_the_first_champion_is_compared_line_against_line() -> None:
    pair = (candidate(Line.EVOLVER), candidate(Line.REINVENTOR))
    one = (comparison("evolver", 0.02, 0.02, b="reinventor", metric="accuracy"),)
    evolver, reinventor = lessons.lessons_of([verdict(pair, one, Choice.KEEP, before="")], {})
    assert evolver.chance == pytest.approx(1.0 - reinventor.chance)
    assert (evolver.effect, reinventor.effect) == (0.02, -0.02)
    assert reinventor.low <= reinventor.effect <= reinventor.high
    tie = (comparison("evolver", 0.0, 0.02, b="reinventor", metric="accuracy"),)
    first, other = lessons.lessons_of([verdict(pair, tie, Choice.EVOLVER, before="")], {})
    assert (first.accepted, first.chance, other.chance) == (True, 0.5, 0.5)


def test_who_was_not_compared_and_the_baseline_teach_nothing() -> None:
    pair = (candidate(Line.EVOLVER), candidate(Line.BASELINE))
    one = (comparison("evolver", 0.1, 0.1, b="baseline"), comparison("baseline", 0.1, 0.1))
    assert lessons.lessons_of([verdict(pair, one)], BEFORE) == ()


def test_only_the_newest_lessons_are_kept() -> None:
    many = [
        verdict((candidate(Line.EVOLVER),), (comparison("evolver", 0.0, 1.0),), topic=f"t-{number}")
        for number in range(lessons.LESSONS_MAX + 5)
    ]
    found = lessons.lessons_of(many, BEFORE)
    assert (len(found), found[0].topic) == (lessons.LESSONS_MAX, "t-5")


def test_a_chance_is_what_the_interval_says() -> None:
    assert lessons.chance_of(0.0, -1.0, 1.0, 0.05) == 0.5
    assert lessons.chance_of(1.0, 0.0, 2.0, 0.05) == pytest.approx(0.975)
    assert lessons.chance_of(1.0, 0.0, 2.0, 0.01) == pytest.approx(0.995)
    assert lessons.chance_of(0.1, 0.1, 0.1, 0.05) == 1.0
    assert lessons.chance_of(0.0, 0.0, 0.0, 0.05) == 0.0
    assert lessons.chance_of(float("nan"), 0.0, 0.0, 0.05) == 0.5


def test_a_setting_of_one_side_only_or_another_choice_has_no_direction() -> None:
    before = {"a": 1, "b": [1], "c": True, "d": 2.0, "e": 1}
    assert lessons.turned(before, {"a": 2, "b": [2], "c": False, "d": 2.0, "f": 3}) == {"a": 1, "b": 0, "c": 0}


def test_odds_start_even_and_never_become_certain() -> None:
    odds = Odds()
    assert odds.mean == 0.5
    for _ in range(100):
        odds = odds.heard(1.0)
    assert 0.95 < odds.mean < 1.0


def taught(name: str, direction: int, chance: float, times: int = 8) -> list[Lesson]:
    return [
        Lesson(
            topic="t", line=Line.EVOLVER, turned={name: direction}, effect=0.0, low=0.0, high=0.0, metric="loss",
            chance=chance, accepted=chance == 1.0,
        )
    ] * times  # fmt: skip


CHAMPION = {
    "learning_rate": 0.001, "dropout": 0.4, "weight_decay": 0.05, "feature_dropout": 0.1, "batch": 64, "balance": 0.2,
}  # fmt: skip


def directions(past: list[Lesson], topics: int = 600) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for number in range(topics):
        settings = proposals.evolver(f"t-{number}", "classify", "text", CHAMPION, past).settings
        found.update(lessons.turned(CHAMPION, settings).items())
    return found


def test_what_helped_is_turned_again_and_nothing_is_given_up_for_good() -> None:
    neutral, biased = directions([]), directions(taught("learning_rate", 1, 1.0) + taught("learning_rate", -1, 0.0))
    assert biased["learning_rate", 1] > 2 * neutral["learning_rate", 1]
    assert biased["learning_rate", -1] > 0
    dropping = directions(taught("dropout", -1, 1.0) + taught("batch", 1, 0.0) + taught("batch", -1, 0.0))
    assert dropping["dropout", -1] > 1.5 * neutral["dropout", -1]
    assert 0 < dropping["batch", 1] + dropping["batch", -1] < (neutral["batch", 1] + neutral["batch", -1]) / 2


def test_an_evolver_changes_one_or_two_things_says_what_and_says_it_again() -> None:
    past = taught("learning_rate", -1, 0.9, 3)
    counts = set()
    for number in range(60):
        one = proposals.evolver(f"t-{number}", "classify", "text", CHAMPION, past)
        assert one == proposals.evolver(f"t-{number}", "classify", "text", CHAMPION, past)
        moved = lessons.turned(CHAMPION, one.settings)
        assert set(one.settings) == set(CHAMPION)
        assert all(f"{name} {one.settings[name]:g} instead of {CHAMPION[name]:g}" in one.changed for name in moved)
        counts.add(len(moved))
        if one.settings["learning_rate"] < CHAMPION["learning_rate"]:
            assert "(so turned 3 times before, expected gain 0.74)" in one.changed
    assert counts == {1, 2}


def test_the_lineage_is_told_in_rows() -> None:
    rows = lessons.lineage_rows(taught("dropout", -1, 1.0, 12), rows_max=3)
    assert len(rows) == 3
    assert rows[-1]["turned"] == {"dropout": -1}
    assert rows[-1]["accepted"] is True
