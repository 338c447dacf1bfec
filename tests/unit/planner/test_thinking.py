"""The answer to `think`: about which node, planned or not, and what is assumed where nothing is known."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import NotFound
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel
from mesh.messages.results import Planned
from mesh.messages.services import Think, Thought
from mesh.messages.tasks import Line, TaskSpec
from mesh.messages.topics import DataRef, Topic
from planner import past
from planner.lines import Wanted, lines_of
from planner.past import Past
from planner.thinking import Known, answer, subject_of

NODES = {
    "root": Specialization(id="root", name="everything"),
    "statistics": Specialization(id="statistics", name="statistics", parent="root", keywords=("probability",)),
    "coins-1": Specialization(
        id="coins-1", name="fair coins", parent="statistics", task="classify", topics=("t-1",),
        keywords=("coin", "toss"), names={"ar": "عملات"},
    ),
    "heads-1": Specialization(
        id="heads-1", name="heads", parent="coins-1", task="classify", state=NodeState.HYPOTHESIS, examples=9, why="b"
    ),
    "gone-1": Specialization(id="gone-1", name="gone", parent="coins-1", task="classify", state=NodeState.MERGED),
}  # fmt: skip
CHAMPION = Champion(
    specialization="coins-1", version_number=1, model="c" * 64, topic="t-1", task="t-1-evolver", line=Line.EVOLVER,
    verdict="v", settings={"learning_rate": 0.001}, fits="text",
)  # fmt: skip
TOPIC = Topic(id="t-2", text="Fair coins!", data=DataRef(source="d" * 64), budget_s=90.0)
PLAN = Planned(
    topic="t-1", specialization="coins-1", submit="t-1-plan", ledger_seq=1, at_ms=1,
    facts={
        "baseline": "", "profile": {"task": "classify", "modality": "text"},
        "changed": {"evolver": "e", "reinventor": "r"}, "account": {"evolver": {"own": 1.0}},
        "champion": "", "splits": {},
    },
    tasks=(
        TaskSpec(id="t-1-evolver", topic="t-1", executor="classify", line=Line.EVOLVER, inputs={"champion": "x"}),
        TaskSpec(id="t-1-trial-0", topic="t-1", executor="search-step", purpose="trial", budget_s=10.0),
        TaskSpec(
            id="t-1-reinventor", topic="t-1", executor="search-step", line=Line.REINVENTOR, budget_s=70.0,
            settings={"otherwise": {"dropout": 0.5}},
        ),
    ),
)  # fmt: skip


def known(**more: Any) -> Known:
    nothing: dict[str, Any] = {
        "nodes": NODES, "topic": None, "plan": None, "last_plan": None, "champion": None, "champions": {},
        "past": past.UNKNOWN,
    }  # fmt: skip
    return Known(**{**nothing, **more})


def thought(about: str, node: str = "", **more: Any) -> Thought:
    question = Think(about=about)
    return answer(question, subject_of(question, NODES, more.get("topic"), node), known(**more))


def test_a_text_finds_its_specialization_in_any_of_its_languages() -> None:
    for text in ("fair coins", "  Fair Coins. ", "عملات", "coins-1"):
        assert thought(text).specialization == "coins-1"
    assert thought("gone").specialization == ""


def test_a_text_of_nothing_known_would_be_a_new_node_where_it_is_near() -> None:
    found = thought("probability of statistics")
    assert (found.specialization, found.parent) == ("", "statistics")
    assert "it would be a new specialization under statistics" in found.why
    assert "nothing is known of its data: taken for classify, text" in found.why
    nowhere = thought("zebra")
    assert nowhere.parent == "root"
    assert [one.line for one in nowhere.proposals] == [Line.EVOLVER, Line.REINVENTOR]
    assert nowhere.proposals[0].why == "lays the first champion with the kind's defaults"


def test_what_is_told_is_what_would_be_planned() -> None:
    lived = Past(offered=frozenset({"search-step"}))
    found = thought("t-2", topic=TOPIC, champion=CHAMPION, last_plan=PLAN, past=lived)
    lines = lines_of(Wanted("t-2", "coins-1", "classify", "text", 90.0, before=CHAMPION.settings), lived)
    evolver, reinventor = found.proposals
    assert (found.topic, found.planned, found.champion) == ("t-2", False, "c" * 64)
    assert (evolver.settings, evolver.why, evolver.base) == (lines.evolver.settings, lines.evolver.changed, "c" * 64)
    assert (reinventor.settings, reinventor.executor, reinventor.base) == (lines.reinventor.settings, "search-step", "")
    assert found.facts == lines.facts
    assert evolver.budget_s + reinventor.budget_s == 180.0


def test_a_base_model_and_the_flat_model_of_a_tree_are_gone_on_from() -> None:
    base = BaseModel(model="b" * 64, task="classify", settings={"dropout": 0.2})
    assert thought("t-2", topic=TOPIC.evolve(base=base), champion=CHAMPION).proposals[0].base == "b" * 64
    tree = CHAMPION.evolve(flat="f" * 64)
    assert thought("t-2", topic=TOPIC, champion=tree).proposals[0].base == "f" * 64


def test_a_planned_topic_is_told_as_it_was_planned() -> None:
    topic = TOPIC.evolve(id="t-1")
    found = thought("t-1", "coins-1", topic=topic, plan=PLAN, champion=CHAMPION)
    assert found.planned
    assert found.champion == ""  # as it was then
    evolver, reinventor = found.proposals
    assert (evolver.base, evolver.why, evolver.charged) == ("x", "e", {"own": 1.0})
    assert (reinventor.settings, reinventor.budget_s, reinventor.why) == ({"dropout": 0.5}, 80.0, "r")
    assert found.facts == {"account": {"evolver": {"own": 1.0}}}


def test_the_branches_that_stand_are_named_and_those_that_are_over_are_not() -> None:
    (branch,) = thought("coins-1", champions={"heads-1": CHAMPION}).branches
    assert (branch.id, branch.state, branch.examples, branch.champion) == ("heads-1", "hypothesis", 9, "c" * 64)


def test_a_kind_that_no_line_trains_is_refused_and_a_wanted_one_is_taken() -> None:
    with pytest.raises(NotFound, match="'fold'"):
        answer(Think(about="x", task="fold"), subject_of(Think(about="x"), NODES, None, ""), known())
    corpus = answer(
        Think(about="x", task="language-model"), subject_of(Think(about="x"), NODES, None, ""), known()
    )  # fmt: skip
    assert (corpus.task, corpus.modality) == ("language-model", "corpus")
    for wrong in ({"about": " "}, {"about": "x", "budget_s": 0.0}):
        with pytest.raises(ValueError, match=r"asked about|budget"):
            Think(**wrong)
