"""From topics and verdicts to arms: whose rounds they were, what they brought, what is under way."""

from __future__ import annotations

from typing import Any

from consensus.champions import next_champion
from consensus.gate import verdict
from consensus.recommendation import recommend
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.topics import DataRef, Topic
from planner import feeding
from planner.fed import LINES, PUBLISHER, STALE_S, Known, gain_of
from tests.support.outcomes import first
from tests.support.rounds import SPECIALIZATION
from tests.support.weighing import Bench

NOW_MS = 1_800_000_000_000
DATA = DataRef(source="builtin:digits", name="digits")


def node(**changes: Any) -> Specialization:
    fields: dict[str, Any] = {
        "id": SPECIALIZATION,
        "name": "Digits",
        "parent": "root",
        "task": "classify",
        "data": DATA.source,
    }
    fields |= {"data_name": DATA.name}
    return Specialization(**{**fields, "topics": ("t1",), **changes})


def topic(id_: str = "t1", **changes: Any) -> Topic:
    fields: dict[str, Any] = {"text": "Digits", "data": DATA, "budget_s": 50.0, "published_at_ms": NOW_MS}
    return Topic(id=id_, **{**fields, **changes})


def judged(right: int, champion: Champion | None, *, topic_id: str = "t1", at_ms: int = NOW_MS) -> Verdict:
    bench = Bench()
    bench.line("evolver", first(right, 400))
    found = recommend(bench.round(champion=champion, old=first(300, 400)), bench.read)
    said = verdict(found, champion, 7 if champion is not None else 0, decided_at_ms=at_ms)
    return said.evolve(topic=topic_id, id=f"{topic_id}-verdict")


def champion() -> Champion:
    laid = next_champion(judged(300, None), None, name="Digits")
    assert laid is not None
    return laid


def test_a_promotion_is_worth_what_it_brought_and_a_rejection_nothing() -> None:
    assert gain_of(judged(300, None)) == feeding.PRIOR_GAIN
    assert gain_of(judged(360, champion())) == 0.15
    assert gain_of(judged(301, champion())) == 0.0


def test_a_topic_is_one_round_of_its_specialization() -> None:
    known = Known(topics={"t1": topic()}, over={"t1"})
    for said in (judged(300, None), judged(360, champion())):
        known.verdicts[said.id + str(said.decided_at_ms) + said.choice + str(len(known.verdicts))] = said
    (arm,) = known.arms({SPECIALIZATION: node()}, NOW_MS)
    assert len(arm.past) == 1
    assert arm.past[0].promoted
    assert arm.past[0].gain == feeding.PRIOR_GAIN + 0.15
    assert arm.past[0].cost_s == LINES * 50.0
    assert not arm.under_way


def test_rounds_stand_in_the_order_of_their_verdicts() -> None:
    known = Known(topics={id_: topic(id_) for id_ in ("t1", "t2")}, over={"t1", "t2"})
    for said in (judged(360, champion(), topic_id="t2", at_ms=NOW_MS), judged(300, None, at_ms=NOW_MS - 5)):
        known.verdicts[said.id] = said
    (arm,) = known.arms({SPECIALIZATION: node()}, NOW_MS)
    assert [past.gain for past in arm.past] == [feeding.PRIOR_GAIN, 0.15]


def test_a_topic_that_is_not_over_keeps_its_specialization_from_being_fed_for_a_day() -> None:
    known = Known(topics={"t1": topic()})
    nodes = {SPECIALIZATION: node()}
    assert known.arms(nodes, NOW_MS)[0].under_way
    assert not known.arms(nodes, NOW_MS + int(STALE_S * 1_000) + 1)[0].under_way
    known.over.add("t1")
    assert not known.arms(nodes, NOW_MS)[0].under_way


def test_nodes_that_only_group_are_no_arms_and_closed_ones_say_why() -> None:
    nodes = {
        "root": Specialization(id="root", name="everything"),
        "old": node(id="old", state=NodeState.RETIRED),
        "tried": node(id="tried", state=NodeState.HYPOTHESIS),
    }
    found = {arm.node: feeding.why_not(arm) for arm in Known().arms(nodes, NOW_MS)}
    assert found == {"old": "it is retired", "tried": "its branching is still being tried"}


def test_the_days_spending_is_that_of_what_was_fed() -> None:
    fed = topic("f1", publisher=PUBLISHER)
    old = topic("f2", publisher=PUBLISHER, published_at_ms=NOW_MS - int(feeding.DAY_S * 1_000) - 1)
    known = Known(topics={one.id: one for one in (topic(), fed, old)})
    assert known.spent_s(NOW_MS) == LINES * 50.0
    assert known.unplanned(set()) == 2
    assert known.unplanned({"f1", "f2"}) == 0
    branch = topic("f1-b0", parent="f1", node="digits-b0", budget_s=20.0)
    known.topics |= {"f1-b0": branch, "t1-b0": topic("t1-b0", parent="t1", node="digits-b0")}
    assert known.spent_s(NOW_MS) == LINES * 70.0


def test_the_next_topic_is_as_the_newest_was_and_is_named_alike_by_all_feeders() -> None:
    pattern = topic(encoder=DataRef(source="ab" * 32, name="encoder"), branches=1, priority=9)
    known = Known(topics={"t1": pattern})
    made = known.next_topic(node(), budget_s=30.0, priority=1, now_ms=NOW_MS)
    assert (made.encoder, made.branches, made.priority, made.budget_s) == (pattern.encoder, 1, 1, 30.0)
    assert (made.node, made.data, made.publisher) == (SPECIALIZATION, DATA, PUBLISHER)
    assert made == Known(topics={"t1": pattern}).next_topic(node(), budget_s=30.0, priority=1, now_ms=NOW_MS)
    known.topics[made.id] = made
    following = known.next_topic(node(), budget_s=30.0, priority=1, now_ms=NOW_MS)
    assert following.id != made.id
    assert following.id.startswith(SPECIALIZATION[:10])
