"""What the planner makes of a specialization's records: cost of the champion, the reinventor's last try, branches."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh.messages.base import Facts
from mesh.messages.judgement import Candidate, Champion, Choice, Comparison, Recommendation, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import Topic
from planner import past
from planner.accounts import Inherited

SPENT = "train_core_s"


def champion(model: str = "c1", topic: str = "t-1", parent: str = "", spent: float = 50.0) -> Champion:
    return Champion(
        specialization="s", version_number=1, model=model, topic=topic, task=f"{topic}-evolver", line=Line.EVOLVER,
        verdict=f"{topic}-verdict", parent_model=parent, kpis={"validation_loss": 0.3, SPENT: spent},
        settings={"dropout": 0.1},
    )  # fmt: skip


def verdict(topic: str = "t-2", model: str = "r1", claimed: float = 0.4, choice: Choice = Choice.KEEP) -> Verdict:
    candidates = (
        Candidate(line=Line.EVOLVER, task=f"{topic}-evolver", model="e1", settings={"dropout": 0.2}),
        Candidate(
            line=Line.REINVENTOR, task=f"{topic}-reinventor", model=model, settings={"dropout": 0.5},
            kpis={"validation_loss": claimed, SPENT: 20.0, "size_bytes": 9.0},
        ),
    )  # fmt: skip
    compared = tuple(
        Comparison(a=line, b="champion", metric="loss", effect=0.1, low=0.0, high=0.2, p_value=0.1, items=9)
        for line in ("evolver", "reinventor")
    )
    recommendation = Recommendation(
        id="r", topic=topic, specialization="s", choice=choice, why="", effect=0.0, interval=(0.0, 0.0),
        candidates=candidates, comparisons=compared, champion_before="c1",
    )  # fmt: skip
    return Verdict(
        id="v", topic=topic, specialization="s", accepted=True, choice=choice, checks=(), why="",
        recommendation=recommendation,
    )  # fmt: skip


def plan(topic: str = "t-2", **facts: Any) -> Planned:
    known: Facts = {"splits": {"validation": "v" * 64}, "baseline": "b", **facts}
    return Planned(topic=topic, specialization="s", submit="p", tasks=(), facts=known, ledger_seq=1, at_ms=1)


def ended(task: str = "t-2-reinventor", model: str = "r1", facts: Facts | None = None, **more: Any) -> TaskEnded:
    told: Facts = {"steps": 100, "history": [[step, 1.0 - step / 200] for step in range(0, 101, 10)]}
    outcome = Outcome(outputs={"model": model}, kpis={SPENT: 20.0}, facts=told if facts is None else facts)
    spec = TaskSpec(id=task, topic="t-2", executor="classify", line=Line.REINVENTOR)
    known = {"outcome": outcome, "state": TaskState.SUCCEEDED, **more}
    return TaskEnded(topic="t-2", specialization="s", task=spec, ledger_seq=1, at_ms=1, **known)


PLANS = {"t-1": plan("t-1"), "t-2": plan()}


def lived(one: TaskEnded, plans: dict[str, Planned] = PLANS, made: Verdict | None = None) -> past.Past:
    return past.past_of([made or verdict()], [champion()], plans, {one.task.id: one})


def test_without_records_nothing_is_known() -> None:
    assert past.past_of([], [], {}, {}) == past.UNKNOWN
    assert past.topics_needed([], []) == ()


def test_the_champion_its_cost_and_its_lessons() -> None:
    chain = [champion("c0", "t-0", spent=30.0), champion("c1", "t-1", "c0", 50.0)]
    found = past.past_of([verdict()], chain, PLANS, {})
    assert found.champion == Inherited(core_s=80.0, steps=2)
    assert (found.rival_loss, found.rival_validation, found.withstood) == (0.3, "v" * 64, 1)
    assert [(one.line, one.turned) for one in found.lessons] == [(Line.EVOLVER, {"dropout": 1}), (Line.REINVENTOR, {})]
    assert past.topics_needed(chain, [verdict()]) == ("t-1", "t-2")


def test_of_a_tree_the_flat_model_is_what_the_evolver_inherits() -> None:
    tree = champion("tree", "t-2", "c1", 500.0).evolve(flat="c1", line=Line.MERGE)
    assert past.past_of([], [champion(), tree], PLANS, {}).champion == Inherited(core_s=50.0, steps=1)


def test_the_reinventors_last_try_with_its_curve_moved_to_what_was_claimed() -> None:
    last = lived(ended()).candidacy
    assert last is not None
    assert (last.topic, last.task, last.model, last.settings) == ("t-2", "t-2-reinventor", "r1", {"dropout": 0.5})
    assert (last.cost.core_s, last.validation, last.size_bytes) == (20.0, "v" * 64, 9)
    assert list(last.curve[0]) == pytest.approx([2.0, 0.4 + 0.45])  # step 0 was not trained yet
    assert list(last.curve[-1]) == pytest.approx([20.0, 0.4])
    assert len(last.curve) == 10


def test_one_that_went_on_carries_what_was_spent_before() -> None:
    continued = {"curve": [[5.0, 0.9], [10.0, 0.8], [11.0, 0.1], ["x", 0.3]]}
    plans = {**PLANS, "t-2": plan(account={"reinventor": {"inherited": 10.0}}, continued=continued)}
    last = lived(ended(), plans).candidacy
    assert last is not None
    assert last.cost.core_s == 30.0
    assert [value for point in last.curve[:3] for value in point] == pytest.approx([5.0, 0.9, 10.0, 0.8, 12.0, 0.85])


def test_what_became_champion_was_made_anew_or_says_no_curve_is_nothing_to_go_on_with() -> None:
    assert lived(ended(), made=verdict(model="c1")).candidacy is None
    assert lived(ended(model="other")).candidacy is None
    assert lived(ended(outcome=None, state=TaskState.PARKED)).candidacy is None
    for facts in ({}, {"steps": 0, "history": [[1, 2.0]]}, {"steps": 9, "history": [["a", 1], [1], 7, [1, math.nan]]}):
        assert lived(ended(facts=dict(facts))).candidacy is None
    assert past.past_of([verdict()], [champion()], PLANS, {}).candidacy is None


def test_a_verdict_about_a_tree_does_not_hide_the_reinventor_before_it() -> None:
    tree = verdict("t-3")
    merged = tree.recommendation.candidates[:1]
    of_tree = tree.evolve(recommendation=type(tree.recommendation)(
        id="r", topic="t-3", specialization="s", choice=Choice.KEEP, why="", effect=0.0, interval=(0.0, 0.0),
        candidates=merged,
    ))  # fmt: skip
    one = ended()
    found = past.past_of([verdict(), of_tree], [champion()], PLANS, {one.task.id: one})
    assert found.candidacy is not None


def branched(**facts: Any) -> TaskEnded:
    outputs = {"router": "0" * 64, **{f"branch-{index}": str(index) * 64 for index in range(3)}}
    done = ended("p-branch", facts=dict(facts))
    return done.evolve(outcome=Outcome(outputs=outputs, facts=dict(facts)))


def test_a_branch_shares_what_its_seed_has_cost_and_is_shaped_by_its_loss() -> None:
    topic = Topic(id="p-b2", text="x", parent="p", node="n")
    cost = Inherited(core_s=90.0, steps=1)
    found = past.with_parent(past.UNKNOWN, cost, topic, branched(branches=3, losses=[1.0, 2.0, 3.0]))
    assert (found.base.shared_core_s, found.base.shared_by) == (90.0, 3)
    assert found.shape is not None
    assert found.shape.size == 1.2
    partly = past.with_parent(past.UNKNOWN, cost, topic, branched(losses=[1.0, 2.0]))
    assert partly.shape is not None
    assert partly.shape.size == 1.0
    for facts in ({}, {"losses": ["a", None, math.inf]}):
        unshaped = past.with_parent(past.UNKNOWN, cost, topic, branched(**facts))
        assert (unshaped.base.shared_by, unshaped.shape) == (3, None)
    assert past.with_parent(past.UNKNOWN, cost, topic, None).base.shared_by == 1
    assert past.branch_losses(None) == ()
