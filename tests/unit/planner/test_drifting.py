"""A tree that answers a branch worse than when it became champion: told where chance does not explain it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from planner.drifting import TOLD_MAX, Loss, evaluated, losses_drifted, worse

GOOD = {"branch": 0, "name": "cards", "items": 400, "loss": 1.0, "deviation": 0.5}


def evaluation(by_branch: Any, model: str = "a", state: TaskState = TaskState.SUCCEEDED, **task: Any) -> TaskEnded:
    told = {"executor": "evaluate", "inputs": {"model": model, "split": "h"}, **task}
    return TaskEnded(
        topic="t1", specialization="", task=TaskSpec(id="t1-holdout", topic="t1", **told), state=state,
        outcome=Outcome(facts={"by_branch": by_branch}), ledger_seq=1, at_ms=1,
    )  # fmt: skip


def test_a_loss_that_rises_more_than_chance_is_told() -> None:
    then = [Loss(1.0, 0.5, 400, "a"), Loss(1.0, 0.5, 400, "b"), Loss(1.0, 0.5, 4, "c"), Loss(1.0, 0.5, 400)]
    now = [Loss(1.05, 0.5, 400, "a"), Loss(1.3, 0.5, 400, "b"), Loss(1.3, 0.5, 4, "c"), Loss(2.0, 0.5, 400)]
    told = ("the loss of 'b' rose from 1.000 to 1.300", "the loss of 'branch 4' rose from 1.000 to 2.000")
    assert losses_drifted(then, now) == told
    assert losses_drifted(now, then) == ()


def test_the_rise_that_counts_lies_beyond_three_standard_errors() -> None:
    error = 0.5 * math.sqrt(2.0 / 100)
    for errors, counts in ((2.9, False), (3.1, True)):
        now = [Loss(1.0 + errors * error, 0.5, 100)]
        assert bool(losses_drifted([Loss(1.0, 0.5, 100)], now)) is counts


def test_two_evaluations_of_a_tree_are_compared_branch_by_branch() -> None:
    risen = {**GOOD, "loss": 1.4}
    assert worse(evaluation([GOOD, GOOD]), evaluation([GOOD, risen])) == "the loss of 'cards' rose from 1.000 to 1.400"
    assert worse(evaluation([GOOD] * 5), evaluation([risen] * 5)).endswith(f"; so did {5 - TOLD_MAX} more")
    assert worse(evaluation([risen]), evaluation([GOOD])) == ""


@pytest.mark.parametrize(
    "odd",
    [
        None, "a", [], [GOOD, GOOD], ["a"], [{**GOOD, "loss": math.inf}], [{**GOOD, "items": -1}], [{"items": 0}],
        [{**GOOD, "deviation": None}], [GOOD] * 1_000,
    ],
)  # fmt: skip
def test_what_says_nothing_usable_has_not_become_worse(odd: Any) -> None:
    assert worse(evaluation([GOOD]), evaluation(odd)) == ""
    assert worse(evaluation(odd), evaluation([{**GOOD, "loss": 9.0}])) == ""
    assert worse(None, evaluation([GOOD])) == worse(evaluation([GOOD]), None) == ""


def test_the_newest_evaluation_of_this_model_on_the_topics_holdout_counts() -> None:
    task = TaskSpec(id="t1-evolver", topic="t1", executor="classify")
    plan = Planned(
        topic="t1", specialization="", submit="t1-plan", tasks=(task,), ledger_seq=1, at_ms=1,
        facts={"splits": {"holdout": "h", "validation": "validation"}},
    )  # fmt: skip
    other = plan.evolve(submit="t1-branch", facts={})
    first, second = evaluation([GOOD]), evaluation([{**GOOD, "loss": 2.0}])
    others = [
        evaluation([], model="b"), evaluation([], state=TaskState.PARKED), evaluation([], executor="merge"),
        evaluation([], inputs={"model": "a", "split": "validation"}),
    ]  # fmt: skip
    assert evaluated([plan, first, second, *others, other], "a") is second
    assert evaluated([plan, *others], "a") is None
    assert evaluated([first, other], "a") is None
