"""May a topic be branched: every reason, readiness from a curve, and budgets that add up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.training import CURVE_POINTS, curve
from mesh.messages.base import Facts
from mesh.messages.judgement import Choice, Recommendation, Verdict
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from planner.branching import (
    BUDGET_S_LEAST,
    DEPTH_MAX,
    EXAMPLES_ASKED,
    EXAMPLES_PER_BRANCH,
    Flat,
    curve_of,
    last_half_share,
    may_branch,
    shared_budget,
)

TOPIC = Topic(id="t-1", text="questions", data=DataRef(source="d" * 64))


def trained(stopped_by: str = "budget", **facts: object) -> TaskEnded:
    task = TaskSpec(id="t-1-evolver", topic="t-1", executor="classify", line=Line.EVOLVER)
    return TaskEnded(
        topic="t-1", specialization="s", task=task, state=TaskState.SUCCEEDED, ledger_seq=1, at_ms=1,
        outcome=Outcome(stopped_by=stopped_by, facts=facts),
    )  # fmt: skip


def verdict(choice: Choice = Choice.EVOLVER) -> Verdict:
    recommendation = Recommendation(
        id="t-1-recommendation", topic="t-1", specialization="s", choice=choice, why="w", effect=0.0,
        interval=(0.0, 0.0), candidates=(),
    )  # fmt: skip
    return Verdict(
        id="t-1-verdict", topic="t-1", specialization="s", accepted=True, choice=choice, checks=(), why="w",
        recommendation=recommendation, champion="c" * 64,
    )  # fmt: skip


def flat(examples: int = 10_000, modality: str = "text", model: str = "c" * 64, **facts: object) -> Flat:
    return Flat(model, modality, examples, trained(**facts))  # type: ignore[arg-type]


FAST: Facts = {"history": [[100, 3.2], [250, 2.7], [500, 2.3]]}
FLAT: Facts = {"history": [[100, 3.2], [1_500, 1.7], [3_000, 1.6]]}


@pytest.mark.parametrize(
    ("wishes", "depth", "canceled", "of", "words"),
    [
        ({"branches": 1}, 0, False, flat(**FLAT), "asked for no branches"),
        ({}, 0, True, flat(**FLAT), "withdrew"),
        ({}, 0, False, flat(model="", **FLAT), "no flat model"),
        ({}, 0, False, flat(modality="tabular", **FLAT), "table of numbers"),
        ({}, DEPTH_MAX, False, flat(**FLAT), "branch of a branch"),
        ({}, 0, False, flat(examples=2 * EXAMPLES_PER_BRANCH - 1, **FLAT), "too few for two branches"),
        ({"branches": 3}, 0, False, flat(examples=3 * EXAMPLES_ASKED - 1, **FLAT), "too few for 3 branches"),
        ({}, 0, False, flat(**FAST), "44.4% of its gain"),
        ({}, 0, False, flat(), "nothing is known of the flat model's curve"),
    ],
)
def test_whatever_speaks_against_it_is_said(wishes: Facts, depth: int, canceled: bool, of: Flat, words: str) -> None:
    answer = may_branch(TOPIC.evolve(**wishes), depth, verdict(), of, canceled)
    assert not answer.may
    assert words in answer.why


def test_a_flattened_curve_an_early_stop_and_a_champion_that_stays_are_ready() -> None:
    assert "6.2% of its gain" in may_branch(TOPIC, 0, verdict(), flat(**FLAT), False).why
    assert may_branch(TOPIC, DEPTH_MAX - 1, verdict(), flat(**FLAT), False).may
    assert may_branch(TOPIC, 0, verdict(), flat(stopped_by="early stop"), False).may
    assert may_branch(TOPIC, 0, verdict(Choice.KEEP), Flat("c" * 64, "text", 10_000, None), False).may


def test_who_asks_for_a_number_of_branches_gets_it_though_the_model_still_learns() -> None:
    answer = may_branch(TOPIC.evolve(branches=3), 0, verdict(), flat(examples=3 * EXAMPLES_ASKED, **FAST), False)
    assert (answer.may, answer.branches) == (True, 3)


def test_a_curve_is_read_with_care() -> None:
    assert curve_of({"history": [[1, 2.0], [2, "x"], [3], "row", [True, 1.0], [4, 1.0, 0.5]]}) == [(1, 2.0), (4, 1.0)]
    assert curve_of({"history": 7}) == []
    assert last_half_share([(1, 1.0), (2, 0.5)]) is None
    assert last_half_share([(1, 1.0), (2, 1.5), (4, 2.0)]) == 0.0, "nothing was gained: it is flat"
    assert last_half_share([(1, 2.0), (2, 1.0), (3, 1.4), (4, 0.5)]) == pytest.approx(1 / 3)


@settings(deadline=None)
@given(budget=st.floats(1.0, 10_000.0), sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=32))
def test_budgets_of_branches_add_up_and_none_is_starved(budget: float, sizes: list[int]) -> None:
    shares = shared_budget(budget, sizes)
    assert min(shares) >= min(budget, BUDGET_S_LEAST)
    assert max(shares) <= budget * (1 + 1e-9)
    assert sum(shares) <= budget + BUDGET_S_LEAST * len(sizes)


@settings(deadline=None)
@given(count=st.integers(0, 2_000))
def test_a_result_tells_a_curve_in_few_points_with_both_ends(count: int) -> None:
    history = [[float(step), 0.0, 1.0 / (step + 1), 0.5] for step in range(count)]
    told = curve(history)
    assert len(told) == min(count, CURVE_POINTS)
    assert [row[0] for row in told] == sorted({row[0] for row in told})
    if count:
        assert (told[0][0], told[-1][0]) == (0.0, count - 1.0)


def test_a_language_model_is_ready_later_than_a_classifier() -> None:
    """Of its whole gain, most comes with the first steps: the bound is what bench specialists measured."""
    weak = [[0, 5.47], [125, 3.07], [250, 2.68], [375, 2.50], [500, 2.37]]
    strong = [[0, 5.47], [750, 2.22], [1_500, 2.00], [2_250, 1.90], [3_000, 1.85]]
    for history, ready in ((weak, False), (strong, True)):
        assert may_branch(TOPIC, 0, verdict(), flat(modality="corpus", history=history), False).may is ready
