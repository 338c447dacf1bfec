"""May the models of a round become one: only with a common ancestor, after the midpoint test, and the best of them."""

from __future__ import annotations

import msgspec
import pytest

from consensus import merging
from consensus.merging import Wanted
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, TaskState
from tests.support import rounds


def lines(
    plan: Planned, *, origins: tuple[str, str] = ("model-base", "model-base"), **more: str
) -> dict[str, TaskEnded]:
    """Both lines of a plan have ended, each after going on from its origin."""
    ended = {}
    for task, origin in zip(plan.tasks, origins, strict=True):
        inputs = {"champion": origin} if origin else {}
        given = msgspec.structs.replace(task, inputs=inputs, **more)
        ended[task.id] = rounds.ended(given, kpis={"size_bytes": 1e6})
    return ended


def merged(wanted: Wanted, gains: dict[str, float], members: int = 2) -> dict[str, TaskEnded]:
    """These merges have ended, with such gains over their best members."""
    found = {}
    for task in wanted.tasks:
        method = str(task.settings["method"])
        if method not in gains:
            continue
        kpis = {"gain": gains[method], "evidence_accuracy": 0.7 + gains[method], "evidence_loss": 1.0}
        record = rounds.ended(task, outputs={"model": f"model-{method}", "claims": f"claims-{method}"}, kpis=kpis)
        assert record.outcome is not None
        outcome = msgspec.structs.replace(record.outcome, facts={"members": ["x"] * members})
        found[task.id] = msgspec.structs.replace(record, outcome=outcome)
    return found


PLAN = rounds.plan(baseline=False, budget_s=60.0)


@pytest.mark.parametrize(
    "ended",
    [
        lines(PLAN, origins=("model-base", "")),
        lines(PLAN, origins=("model-base", "model-other")),
        lines(PLAN, origins=("", "")),
        lines(PLAN, executor="lora"),
        {PLAN.tasks[0].id: rounds.ended(PLAN.tasks[0]), PLAN.tasks[1].id: rounds.ended(
            PLAN.tasks[1], state=TaskState.PARKED)},
    ],
)  # fmt: skip
def test_without_a_common_ancestor_nothing_is_merged(ended: dict[str, TaskEnded]) -> None:
    found = merging.wanted(PLAN, "", ended)
    assert (found.tasks, found.best) == ((), "")
    assert found.why == "no two models of this round come from one ancestor"


def test_the_soup_of_two_lines_of_one_model_comes_first_and_is_cheap() -> None:
    (task,) = merging.wanted(PLAN, "", lines(PLAN)).tasks
    assert (task.id, task.executor, task.line) == ("t1-merge-greedy", "merge", Line.MERGE)
    assert task.inputs == {
        "candidate-1": "model-evolver", "candidate-2": "model-reinventor", "validation": "split-validation"
    }  # fmt: skip
    assert task.budget_s == 60.0
    assert merging.wanted(rounds.plan(baseline=False, budget_s=9e9), "", lines(PLAN)).tasks[0].budget_s == 120.0
    assert task.needs.memory_bytes > 640 * 1024**2


def test_a_middle_that_is_worse_than_its_ends_is_the_end() -> None:
    ended = lines(PLAN)
    first = merging.wanted(PLAN, "", ended)
    alone = merging.wanted(PLAN, "", ended | merged(first, {"greedy": 0.0}, members=1))
    assert (len(alone.tasks), alone.best) == (1, "")
    assert alone.why == "the middle between the models is worse than their best"
    parked = rounds.ended(first.tasks[0], state=TaskState.PARKED, reason="other features")
    assert merging.wanted(PLAN, "", ended | {parked.task.id: parked}).best == ""


@pytest.mark.parametrize(
    ("gains", "best"),
    [
        ({"greedy": 0.01, "arithmetic": 0.03, "ties": -0.1}, "t1-merge-arithmetic"),
        ({"greedy": 0.04, "arithmetic": 0.03, "ties": 0.0}, "t1-merge-greedy"),
        ({"greedy": 0.0, "arithmetic": -0.03, "ties": 0.0}, ""),
    ],
)
def test_the_best_merge_that_beats_its_best_member_challenges(gains: dict[str, float], best: str) -> None:
    ended = lines(PLAN)
    ended |= merged(merging.wanted(PLAN, "", ended), gains)
    then = merging.wanted(PLAN, "", ended)
    assert [task.settings["method"] for task in then.tasks] == ["greedy", "arithmetic", "ties"]
    assert then.tasks[1].inputs["ancestor"] == "model-base"
    assert then.best == ""
    ended |= merged(then, gains)
    assert merging.wanted(PLAN, "", ended).best == best


def test_what_a_merge_changed_is_told() -> None:
    ended = lines(PLAN)
    (done,) = merged(merging.wanted(PLAN, "", ended), {"greedy": 0.1}).values()
    assert merging.told(done) == "greedy merge of 2 models of one ancestor"
    assert merging.told(ended["t1-evolver"]) == ""
