"""Feeding: who gets idle time, who rests, and that a day's budget is kept."""

from __future__ import annotations

import random
from typing import Any

import pytest

from planner import feeding
from planner.feeding import STILL_ROUNDS, Arm, Past, Wishes

WISHES = Wishes(min_queue=4, burst=2, budget_s_per_day=1_000.0, round_s=100.0)
NOTHING = Past(gain=0.0, promoted=False, cost_s=100.0, data="d1")


def won(gain: float, cost_s: float = 100.0) -> Past:
    return Past(gain=gain, promoted=True, cost_s=cost_s, data="d1")


def arm(node: str, *past: Past, **more: Any) -> Arm:
    return Arm(node=node, data="d1", past=past, **more)


def nodes(meal: feeding.Meal) -> list[str]:
    return [food.node for food in meal.food]


def test_a_queue_that_is_long_enough_is_left_alone() -> None:
    assert nodes(feeding.meal([arm("a")], WISHES, queued=4, spent_s=0.0)) == []
    assert nodes(feeding.meal([arm("a")], WISHES, queued=3, spent_s=0.0)) == ["a"]


def test_a_burst_is_the_most_that_is_fed_at_once() -> None:
    assert len(nodes(feeding.meal([arm(name) for name in "abcde"], WISHES, queued=0, spent_s=0.0))) == WISHES.burst


@pytest.mark.parametrize(("spent_s", "fed"), [(0.0, 2), (800.0, 2), (801.0, 1), (900.0, 1), (900.1, 0), (5_000.0, 0)])
def test_no_round_is_begun_that_the_day_can_not_pay(spent_s: float, fed: int) -> None:
    meal = feeding.meal([arm("a"), arm("b"), arm("c")], WISHES, queued=0, spent_s=spent_s)
    assert len(meal.food) == fed
    assert fed or "of 1000 training seconds of this day" in meal.why


def test_what_improves_goes_before_what_does_not_and_per_second() -> None:
    good, bad, dear = arm("good", won(0.03)), arm("bad", NOTHING), arm("dear", won(0.03, cost_s=1_000.0))
    meal = feeding.meal([bad, dear, good], Wishes(4, 3, 1e6, 500.0), queued=0, spent_s=0.0)
    assert nodes(meal) == ["good", "bad", "dear"]
    assert meal.food[0].score > meal.food[1].score > meal.food[2].score


def test_who_was_never_tried_goes_before_who_brought_nothing() -> None:
    assert nodes(feeding.meal([arm("a", NOTHING), arm("z")], Wishes(4, 1, 1e6, 100.0), queued=0, spent_s=0.0)) == ["z"]


def test_after_rounds_without_promotion_it_rests_until_its_data_change() -> None:
    still = arm("a", won(0.05), *[NOTHING] * STILL_ROUNDS)
    assert feeding.still_rounds(still) == STILL_ROUNDS
    meal = feeding.meal([still], WISHES, queued=0, spent_s=0.0)
    assert nodes(meal) == []
    assert "rests until its data change" in meal.why
    renewed = Arm(node="a", data="d2", past=still.past)
    assert nodes(feeding.meal([renewed], WISHES, queued=0, spent_s=0.0)) == ["a"]
    again = Arm(node="a", data="d1", past=(*still.past, won(0.01)))
    assert nodes(feeding.meal([again], WISHES, queued=0, spent_s=0.0)) == ["a"]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (arm("a", under_way=True), "is under way"),
        (arm("a", closed="it is retired"), "it is retired"),
        (Arm(node="a", data=""), "it has no data"),
    ],
)
def test_why_one_is_not_fed(one: Arm, why: str) -> None:
    assert why in feeding.why_not(one)
    assert nodes(feeding.meal([one], WISHES, queued=0, spent_s=0.0)) == []


def test_the_expected_gain_is_the_faded_mean_with_the_imagined_round() -> None:
    """A second implementation: every round repeated by hand."""
    drawn = random.Random(5)
    for _ in range(50):
        past = [won(drawn.uniform(0.0, 0.1)) for _ in range(drawn.randrange(6))]
        sum_, weight_ = feeding.PRIOR_ROUNDS * feeding.PRIOR_GAIN, feeding.PRIOR_ROUNDS
        fade = 1.0
        for one in reversed(past):
            sum_, weight_, fade = sum_ + fade * one.gain, weight_ + fade, fade * feeding.FADE
        assert feeding.expected_gain(past) == pytest.approx(sum_ / weight_, rel=1e-12)


def test_a_mesh_of_fading_gains_feeds_what_still_improves_and_then_nobody() -> None:
    """Three specializations whose rounds promote with a chance that fades: one quickly, one slowly, one never could.

    The slow one gets most rounds, each is tried, and in the end all of them rest.
    """
    drawn = random.Random(11)
    chance = {"quick": 0.9, "slow": 0.9, "never": 0.0}
    fade = {"quick": 0.4, "slow": 0.9, "never": 1.0}
    past: dict[str, list[Past]] = {name: [] for name in chance}
    for _ in range(200):
        arms = [arm(name, *rounds) for name, rounds in past.items()]
        meal = feeding.meal(arms, Wishes(1, 1, 1e9, 100.0), queued=0, spent_s=0.0)
        if not meal.food:
            break
        name = meal.food[0].node
        past[name].append(won(0.02) if drawn.random() < chance[name] else NOTHING)
        chance[name] *= fade[name]
    assert not meal.food
    assert len(past["never"]) == STILL_ROUNDS
    assert len(past["slow"]) > len(past["quick"]) >= STILL_ROUNDS
