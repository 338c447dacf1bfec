"""A topic without data: whose data it uses, what is near, what it would need."""

from __future__ import annotations

import pytest

from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from mesh.messages.topics import Topic
from planner import changes, decomposing, graph, seeds
from planner.advice import Advised
from planner.changes import Change

SEEDED = {node.id: node for node in seeds.nodes()}


def topic(text: str, **wishes: str) -> Topic:
    return Topic(id="t-1", text=text, **wishes)  # type: ignore[arg-type]


def trained(id_: str, name: str, parent: str = ROOT, keywords: tuple[str, ...] = ()) -> Specialization:
    return Specialization(
        id=id_, name=name, parent=parent, keywords=keywords, task="classify", data="d" * 64, data_name="d.csv"
    )


def with_bank() -> dict[str, Specialization]:
    bank = trained("bank-1a2b3c", "questions of bank customers by intent", keywords=("card", "transfer", "account"))
    spam = trained("spam-4d5e6f", "unwanted messages", keywords=("free", "prize"))
    return {**SEEDED, bank.id: bank, spam.id: spam}


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("Questions of bank customers, by intent.", "bank-1a2b3c"),
        ("bank customers' questions by intent", "bank-1a2b3c"),
        ("intents of bank customers", "bank-1a2b3c"),
        ("unwanted messages", "spam-4d5e6f"),
        ("customers", None),
        ("river banks in winter", None),
        ("Bayesian statistics", None),
        ("hotel reviews", None),
    ],
)
def test_the_nearest_nodes_data_are_used_when_they_are_clearly_meant(text: str, used: str | None) -> None:
    found = decomposing.decompose(with_bank(), topic(text))
    assert (found.uses.id if found.uses else None) == used, found.why
    if used:
        assert used in found.why
        assert found.proposed == ()


def test_two_that_could_be_meant_are_told_and_not_guessed() -> None:
    nodes = with_bank()
    other = trained("bank-9f8e7d", "questions of bank customers by product")
    found = decomposing.decompose({**nodes, other.id: other}, topic("questions of bank customers"))
    assert found.uses is None
    assert "bank-1a2b3c (" in found.why
    assert "bank-9f8e7d (" in found.why
    assert "with data" in found.why


def test_below_a_named_node_only_its_own_data_count() -> None:
    found = decomposing.decompose(with_bank(), topic("questions of bank customers by intent?", node="physics"))
    assert found.uses is None
    nodes = {**with_bank(), "deep": trained("deep", "pendulum exercises", "physics-mechanics")}
    found = decomposing.decompose(nodes, topic("pendulum exercises, solved", node="physics"))
    assert found.uses is not None
    assert found.uses.id == "deep"


def test_a_sentence_of_several_fields_is_taken_apart() -> None:
    found = decomposing.decompose(
        SEEDED, topic("forecasting of tourist arrivals, Kaplan-Meier curves of patients and scheduling of nurses")
    )
    below = {node.parent: node for node in found.proposed}
    assert set(below) == {"stats-time-series", "stats-survival", "opt-scheduling"}
    node = below["stats-survival"]
    assert node.name == "Kaplan-Meier curves of patients"
    assert (node.state, node.event, node.by, node.topics) == (NodeState.PROPOSED, NodeEvent.PROPOSED, "t-1", ("t-1",))
    assert "asks for it and has no data; under stats-survival, the nearest (0." in node.why
    after = changes.applied(SEEDED, Change(found.proposed, ""))
    assert graph.faults(after) == []
    assert (
        decomposing.decompose(after, topic("forecasting of tourist arrivals and scheduling of nurses")).proposed == ()
    )


def test_an_arabic_sentence_is_taken_apart_too() -> None:
    found = decomposing.decompose(SEEDED, topic("الاستدلال البايزي في الطب والبرمجة الخطية للمصانع"))
    assert {node.parent for node in found.proposed} == {"stats-bayesian", "opt-linear"}


def test_what_stands_there_already_or_is_near_to_nothing_is_not_proposed() -> None:
    for text in ("Bayesian statistics", "Bayesian statistics and time series", "hotel reviews and film reviews", "?!"):
        assert decomposing.decompose(SEEDED, topic(text)).proposed == (), text


def test_what_people_retired_is_not_proposed_again() -> None:
    asked = topic("Bayesian methods for coins")
    (node,) = decomposing.decompose(SEEDED, asked).proposed
    gone = {**SEEDED, node.id: node.evolve(state=NodeState.RETIRED)}
    assert decomposing.decompose(gone, asked).proposed == ()


def test_proposals_are_bounded_per_topic_and_in_all() -> None:
    fields = ["Bayesian", "ARIMA", "qubit", "simplex", "galaxy", "turbulence", "eigenvalue", "higgs boson"]
    text = ", ".join(f"{field} number{n} things" for n, field in enumerate(fields))
    found = decomposing.decompose(SEEDED, topic(text))
    assert len(found.proposed) == decomposing.PROPOSED_PER_TOPIC
    full = {
        f"p{n}": Specialization(id=f"p{n}", name=f"p{n}", parent=ROOT, state=NodeState.PROPOSED)
        for n in range(decomposing.PROPOSED_MAX - 2)
    }
    assert len(decomposing.decompose({**SEEDED, **full}, topic(text)).proposed) == 2


def test_advice_becomes_proposals_below_its_node() -> None:
    advised = [
        Advised("hmm", "stats-bayesian", "hidden Markov models", "sequences", {"ar": "نماذج"}, ("viterbi",)),
        Advised("lost", "nowhere", "lost", "x"),
        Advised("mcmc-2", "stats-bayesian", "Monte Carlo methods", "the same name as one below it"),
    ]
    found = decomposing.decompose(SEEDED, topic("Bayesian statistics"), advised)
    (node,) = found.proposed
    assert (node.id, node.parent, node.names, node.keywords) == (
        "hmm", "stats-bayesian", {"ar": "نماذج"}, ("viterbi",),
    )  # fmt: skip
    assert node.why == "an endpoint proposed it for topic t-1, which has no data: sequences"
    assert found.parent == "stats-bayesian"


def test_the_refusal_names_what_is_near_what_was_proposed_and_what_to_do() -> None:
    asked = topic("Bayesian methods for coins")
    found = decomposing.decompose(with_bank(), asked)
    said = decomposing.refusal(asked, found, graph.with_data(with_bank().values()))
    assert "the nearest nodes are stats-bayesian (0." in said
    assert f"Proposed in the graph: {found.proposed[0].id} under stats-bayesian." in said
    assert "--data FILE" in said
    assert "these have: bank-1a2b3c, spam-4d5e6f" in said
    nothing = topic("hotel reviews")
    assert "no node of the graph shares a word with it" in decomposing.refusal(
        nothing, decomposing.decompose(SEEDED, nothing), []
    )


def test_parts_are_what_says_something() -> None:
    assert decomposing.parts("A, B-trees; the and queues") == ["B-trees", "queues"]
    assert len(decomposing.parts(", ".join(f"word{n}" for n in range(50)))) == decomposing.PARTS_MAX
    assert decomposing.parts("") == []
