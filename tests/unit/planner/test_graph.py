"""Names and places of specializations."""

from __future__ import annotations

import msgspec
import pytest

from mesh.messages.base import NAME
from mesh.messages.graph import NodeEvent, NodeState, Specialization
from mesh.messages.topics import DataRef, Topic
from planner import graph, placing, seeds
from planner.profile import Profile

PROFILED = Profile(
    task="classify",
    modality="tabular",
    rows=1_797,
    examples=1_797,
    labels=10,
    label_names=tuple("0123456789"),
    label_digest="ab" * 32,
    label_column="digit",
    features=64,
    splits={"train": 1_260, "validation": 268, "holdout": 179, "audit": 90},
    dropped={},
    keywords=("digit",),
    needs={},
)
SOURCE = graph.Source(DataRef(source="builtin:digits", name="digits"), None, "label")


def topic(text: str = "handwritten digits", **wishes: object) -> Topic:
    return Topic(id=str(wishes.pop("id", "t-1")), text=text, **wishes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Handwritten Digits!", "handwritten-digits"),
        ("Œuvre d'été", "oeuvre-dete"),
        ("Größe, Maß & Gewicht", "grosse-mass-gewicht"),
        ("Отзывы клиентов", "otzyvy-klientov"),
        ("Ανάλυση", "analysi"),
        ("手書き数字", "topic"),
        ("🙂", "topic"),
        ("  -- ", "topic"),
        ("½ price №5 ﬁle", "1-2-price-no5-file"),
    ],
)
def test_a_slug_can_be_read_and_is_a_token(text: str, wanted: str) -> None:
    assert graph.slug(text) == wanted
    assert NAME.match(graph.slug(text))


def test_a_long_slug_ends_at_a_word_and_a_long_word_is_cut() -> None:
    assert graph.slug("wonderful " * 10) == "wonderful-wonderful-wonderful-wonderful"
    assert graph.slug("x" * 500) == "x" * graph.SLUG_CHARS_MAX


def test_the_id_says_what_and_not_who() -> None:
    one = graph.node_id("Handwritten  digits.", "classify", "aa")
    assert one == graph.node_id("handwritten digits", "classify", "aa")
    assert one.startswith("handwritten-digits-")
    others = {
        graph.node_id("handwritten digits", "classify", "bb"),
        graph.node_id("handwritten digits", "evaluate", "aa"),
        graph.node_id("handwritten digit", "classify", "aa"),
    }
    assert one not in others
    assert len(others) == 3


def test_two_texts_without_ascii_letters_stay_apart() -> None:
    assert graph.node_id("手書き数字", "classify", "aa") != graph.node_id("顧客の質問", "classify", "aa")


def test_a_first_topic_makes_the_root_and_its_node_and_says_why() -> None:
    placed = graph.place({}, topic(), SOURCE, PROFILED)
    assert [node.id for node in placed.changed] == ["root", placed.node.id]
    assert placed.node.parent == "root"
    assert placed.node.why == (
        "topic t-1 asked for it; under the root: nothing is near (no node shares a word with it)"
    )
    assert (placed.node.examples, placed.node.labels, placed.node.data) == (1_797, 10, "builtin:digits")
    assert placed.node.label_column == "label"
    assert graph.faults(written({}, placed)) == []


def test_placing_the_same_topic_again_changes_nothing() -> None:
    placed = graph.place({}, topic(), SOURCE, PROFILED)
    nodes = written({}, placed)
    assert graph.place(nodes, topic(), SOURCE, PROFILED).changed == ()


def test_a_second_topic_keeps_the_node_its_reason_and_a_bounded_list_of_topics() -> None:
    nodes: dict[str, Specialization] = {}
    for number in range(graph.TOPICS_PER_NODE_MAX + 5):
        placed = graph.place(nodes, topic(id=f"t-{number}"), SOURCE, PROFILED)
        nodes = written(nodes, placed)
    assert len(nodes) == 2
    assert placed.node.topics[-1] == f"t-{graph.TOPICS_PER_NODE_MAX + 4}"
    assert len(placed.node.topics) == graph.TOPICS_PER_NODE_MAX
    assert placed.node.why.startswith("topic t-0 ")


def test_a_person_names_a_node_that_does_not_exist() -> None:
    placed = graph.place({}, topic(node="stats-bayesian"), SOURCE, PROFILED)
    made = {node.id: node for node in placed.changed}
    assert list(made) == ["root", "stats-bayesian", placed.node.id]
    assert made["stats-bayesian"].why == "named by a person"
    assert made["stats-bayesian"].parent == "root"
    assert placed.node.parent == "stats-bayesian"


def test_a_person_moves_a_node_and_a_later_topic_leaves_it_there() -> None:
    nodes = written({}, graph.place({}, topic(), SOURCE, PROFILED))
    nodes = written(nodes, graph.place(nodes, topic(id="t-2", node="images"), SOURCE, PROFILED))
    placed = graph.place(nodes, topic(id="t-3"), SOURCE, PROFILED)
    assert placed.node.parent == "images"
    assert graph.path(nodes, placed.node.id) == ("root", "images", placed.node.id)


def test_no_placement_makes_a_circle() -> None:
    nodes = written({}, graph.place({}, topic(), SOURCE, PROFILED))
    above = next(id_ for id_ in nodes if id_ != "root")
    nodes = written(nodes, graph.place(nodes, topic("sevens", id="t-2", node=above), SOURCE, PROFILED))
    below = next(id_ for id_ in nodes if id_.startswith("sevens"))
    for named in (above, below):
        placed = graph.place(nodes, topic(id="t-3", node=named), SOURCE, PROFILED)
        assert placed.node.parent == "root"
        assert graph.faults(written(nodes, placed)) == []


def test_faults_of_a_broken_graph_are_named() -> None:
    broken = {
        "a": Specialization(id="a", name="a", parent="b"),
        "b": Specialization(id="b", name="b", parent="a"),
        "c": Specialization(id="c", name="c", parent="gone"),
        "d": Specialization(id="d", name="d"),
    }
    found = graph.faults(broken)
    assert len(found) == 4
    assert "circle" in found[0]
    assert "gone" in found[2]
    assert "only root" in found[3]


def test_a_topic_without_data_takes_it_from_the_node_it_names() -> None:
    nodes = written({}, graph.place({}, topic(node="images"), SOURCE, PROFILED))
    trained = next(id_ for id_ in nodes if id_.startswith("handwritten"))
    for wish in (topic(node=trained), topic("anything", node="images"), topic("Handwritten digits")):
        found = graph.data_for(nodes, wish)
        assert found is not None
        assert found.id == trained
    assert graph.data_for(nodes, topic("anything", node="nowhere")) is None
    assert graph.data_for(nodes, topic("anything")) is None


def test_data_that_could_be_meant_twice_is_not_guessed() -> None:
    nodes = written({}, graph.place({}, topic(node="images"), SOURCE, PROFILED))
    nodes = written(nodes, graph.place(nodes, topic("sevens", id="t-2", node="images"), SOURCE, PROFILED))
    assert graph.data_for(nodes, topic("anything", node="images")) is None
    assert len(graph.with_data(nodes.values())) == 2


def written(nodes: dict[str, Specialization], placed: graph.Placement) -> dict[str, Specialization]:
    return {**nodes, **{node.id: node for node in placed.changed}}


# -- near, beside, again ----------------------------------------------------------------------------------------------

TEXTS = msgspec.structs.replace(PROFILED, modality="text", features=0, keywords=("prior", "posterior"))


def seeded() -> dict[str, Specialization]:
    return {node.id: node for node in seeds.nodes()}


def test_a_topic_goes_under_the_nearest_node_and_the_plan_tells_the_runners_up() -> None:
    placed = graph.place(seeded(), topic("Bayesian inference with hierarchical priors"), SOURCE, TEXTS)
    assert placed.node.parent == "stats-bayesian"
    assert placed.placed[0][0] == "stats-bayesian"
    assert len(placed.placed) >= 3
    assert placed.why.startswith("under stats-bayesian: the nearest (stats-bayesian 0.")
    assert (placed.node.state, placed.node.event, placed.node.by) == (NodeState.ACTIVE, NodeEvent.EXPANDED, "t-1")
    assert placed.why in placed.node.why


def test_what_nothing_is_near_to_goes_under_the_root_with_what_came_closest() -> None:
    placed = graph.place(seeded(), topic("hotel reviews with one to five stars"), SOURCE, PROFILED)
    assert placed.node.parent == "root"
    assert placed.placed
    assert all(score < placing.NEAR for _, score in placed.placed)
    assert placed.placed[0][0] in placed.why


def test_a_named_node_wins_over_a_nearer_one() -> None:
    placed = graph.place(seeded(), topic("Bayesian statistics", node="physics"), SOURCE, TEXTS)
    assert placed.node.parent == "physics"
    assert placed.placed == ()


def test_a_node_that_stands_somewhere_stays_there_whatever_is_near_now() -> None:
    nodes = written({}, graph.place({}, topic("Bayesian statistics"), SOURCE, TEXTS))
    placed = graph.place({**seeded(), **nodes}, topic("Bayesian statistics", id="t-2"), SOURCE, TEXTS)
    assert placed.node.parent == "root"


def test_a_topic_stands_beside_its_like_and_never_below_it() -> None:
    nodes = seeded()
    first = graph.place(nodes, topic("questions of bank customers", node="statistics"), SOURCE, PROFILED)
    nodes = written(nodes, first)
    again = graph.place(nodes, topic("complaints of bank customers", id="t-2"), SOURCE, PROFILED)
    assert again.node.parent == "statistics"
    assert f"beside {first.node.id}" in again.why


def test_branches_proposals_and_what_was_given_up_hold_no_topic() -> None:
    for state in (NodeState.HYPOTHESIS, NodeState.PROPOSED, NodeState.RETIRED, NodeState.MERGED):
        nodes = {**seeded(), "zebras": Specialization(id="zebras", name="zebras of Kenya", parent="root", state=state)}
        placed = graph.place(nodes, topic("zebras of Kenya, counted"), SOURCE, PROFILED)
        assert placed.node.parent == "root", state
    nodes["zebras"] = nodes["zebras"].evolve(state=NodeState.ACTIVE)
    assert graph.place(nodes, topic("zebras of Kenya, counted"), SOURCE, PROFILED).node.parent == "zebras"


def test_a_node_that_was_given_up_lives_again_when_a_person_names_it() -> None:
    gone = seeded()["physics"].evolve(state=NodeState.RETIRED)
    nodes = {**seeded(), "physics": gone}
    placed = graph.place(nodes, topic(node="physics"), SOURCE, PROFILED)
    made = {node.id: node for node in placed.changed}
    assert (made["physics"].state, made["physics"].event) == (NodeState.ACTIVE, NodeEvent.REVIVED)
    assert graph.faults(written(nodes, placed)) == []


def test_a_proposal_comes_true_where_it_was_made() -> None:
    proposal = Specialization(id="zebras", name="Zebras of Kenya", parent="stats-spatial", state=NodeState.PROPOSED)
    nodes = {**seeded(), "zebras": proposal}
    placed = graph.place(nodes, topic("zebras of Kenya."), SOURCE, PROFILED)
    assert placed.node.parent == "stats-spatial"
    made = {node.id: node for node in placed.changed}
    assert (made["zebras"].state, made["zebras"].into) == (NodeState.MERGED, placed.node.id)
    after = written(nodes, placed)
    assert graph.faults(after) == []
    assert graph.place(after, topic("zebras of Kenya."), SOURCE, PROFILED).changed == ()


def test_a_branchs_topic_trains_the_node_that_it_names() -> None:
    branch = Specialization(
        id="coins-b0", name="gold", parent="stats-bayesian", keywords=("gold",), state=NodeState.HYPOTHESIS
    )
    nodes = {**seeded(), "coins-b0": branch}
    placed = graph.place(nodes, topic("gold", id="t-1-b0", parent="t-1", node="coins-b0"), SOURCE, PROFILED)
    assert placed.node.id == "coins-b0"
    assert (placed.node.parent, placed.node.state) == ("stats-bayesian", NodeState.HYPOTHESIS)
    assert placed.node.keywords == ("gold",)
    assert placed.node.task == "classify"


def test_life_below_what_is_given_up_is_a_fault() -> None:
    nodes = {**seeded(), "physics": seeded()["physics"].evolve(state=NodeState.RETIRED)}
    found = graph.faults(nodes)
    assert len(found) == 14
    assert all("its parent physics is retired" in fault for fault in found)
