"""What people and branches may do to the graph: each change and each beginning of it a tree, refusals a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mesh import limits
from mesh.errors import NotFound, RamifyError, SettingsInvalid
from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from planner import changes, graph, seeds
from planner.changes import Change

BY: Any = {"by": "ada@here", "why": "because"}
SEEDED = {node.id: node for node in seeds.nodes()}


def tree(nodes: dict[str, Specialization], change: Change) -> dict[str, Specialization]:
    """The graph after a change; every beginning of the change is a tree, and the same change again is none."""
    for count in range(1, len(change.nodes) + 1):
        assert graph.faults(changes.applied(nodes, Change(change.nodes[:count], ""))) == []
    for node in change.nodes:
        assert node.event
        assert node.by
        assert node.reason
    return changes.applied(nodes, change)


def some() -> dict[str, Specialization]:
    """root > a > b > c, root > d."""
    nodes: dict[str, Specialization] = {ROOT: SEEDED[ROOT]}
    for parent, name in ((ROOT, "a"), ("a", "b"), ("b", "c"), (ROOT, "d")):
        nodes = tree(nodes, changes.expanded(nodes, parent, name, keywords=(f"word {name}",), **BY))
    return nodes


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_seeds_are_written_once_and_their_beginnings_are_trees() -> None:
    nodes = tree({}, changes.seeded({}))
    assert nodes.keys() == SEEDED.keys()
    assert changes.seeded(nodes).nodes == ()


def test_what_people_changed_stays_so() -> None:
    nodes = tree({}, changes.seeded({}))
    nodes = tree(nodes, changes.renamed(nodes, "physics", "natural philosophy", **BY))
    nodes = tree(nodes, changes.moved(nodes, "stats-mcmc", "statistics", **BY))
    nodes = tree(nodes, changes.retired(nodes, "optimization", below=True, **BY))
    assert changes.seeded(nodes).nodes == ()


def test_a_seed_of_a_later_release_comes_in_unless_its_field_was_given_up() -> None:
    older = {id_: node for id_, node in SEEDED.items() if id_ not in ("opt-games", "physics-plasma")}
    older = tree(older, changes.retired(older, "optimization", below=True, **BY))
    assert [node.id for node in changes.seeded(older).nodes] == ["physics-plasma"]
    assert changes.seeded(older, taken={"physics-plasma"}).nodes == (), "what was erased stays erased"


# -- expand -----------------------------------------------------------------------------------------------------------


def test_a_person_makes_a_node_that_says_who_what_and_why() -> None:
    change = changes.expanded(
        SEEDED, "stats-bayesian", " Hidden  Markov models ", names={"ar": "نماذج ماركوف المخفية"},
        keywords=("hmm", "viterbi", "hmm"), **BY,
    )  # fmt: skip
    (node,) = change.nodes
    assert node.id == "hidden-markov-models"
    assert (node.name, node.parent, node.keywords) == ("Hidden Markov models", "stats-bayesian", ("hmm", "viterbi"))
    assert (node.event, node.by, node.reason, node.why) == (NodeEvent.EXPANDED, "ada@here", "because", "because")
    assert node.state is NodeState.ACTIVE
    after = tree(SEEDED, change)
    assert changes.expanded(after, "stats-bayesian", "hidden markov models", **BY).nodes == ()


def test_ids_from_names_are_free_readable_and_the_same_again() -> None:
    nodes = some()
    assert changes.free_id(nodes, "New Things!", ROOT) == "new-things"
    other = changes.free_id(nodes, "A", "d")
    assert other.startswith("a-")
    assert other == changes.free_id(nodes, "a", "d")
    assert changes.free_id(nodes, "手書き", ROOT) != changes.free_id(nodes, "数字", ROOT)


def test_what_was_retired_or_merged_comes_back_when_it_is_made_again() -> None:
    nodes = some()
    nodes = tree(nodes, changes.merged(nodes, "d", "a", **BY))
    change = changes.expanded(nodes, "b", "d", id_="d", **BY)
    (node,) = change.nodes
    assert (node.state, node.event, node.parent, node.into) == (NodeState.ACTIVE, NodeEvent.REVIVED, "b", "")
    assert node.keywords == ("word d",)
    tree(nodes, change)


# -- merge, retire, move, rename --------------------------------------------------------------------------------------


def test_a_merged_node_leaves_its_words_and_its_children_to_the_other() -> None:
    nodes = some()
    after = tree(nodes, changes.merged(nodes, "b", **BY))
    assert (after["b"].state, after["b"].into) == (NodeState.MERGED, "a")
    assert after["c"].parent == "a"
    assert after["a"].keywords == ("word a", "b", "word b")
    assert changes.merged(after, "b", **BY).nodes == ()
    elsewhere = tree(nodes, changes.merged(nodes, "b", "d", **BY))
    assert elsewhere["c"].parent == "d"


def test_a_retired_node_takes_what_is_below_it_only_when_that_is_said() -> None:
    nodes = some()
    after = tree(nodes, changes.retired(nodes, "a", below=True, **BY))
    assert {id_ for id_, node in after.items() if node.state is NodeState.RETIRED} == {"a", "b", "c"}
    assert changes.retired(after, "a", **BY).nodes == ()
    assert changes.retired(nodes, "c", **BY).sentence == "c is retired"


def test_a_moved_node_takes_what_is_below_it_along() -> None:
    nodes = some()
    after = tree(nodes, changes.moved(nodes, "b", "d", **BY))
    assert graph.path(after, "c") == (ROOT, "d", "b", "c")
    assert changes.moved(after, "b", "d", **BY).nodes == ()


def test_a_renamed_node_keeps_its_id() -> None:
    nodes = some()
    after = tree(nodes, changes.renamed(nodes, "b", "Better", keywords=("x",), names={"ar": "أفضل"}, **BY))
    assert (after["b"].name, after["b"].keywords, after["b"].names) == ("Better", ("x",), {"ar": "أفضل"})
    assert changes.renamed(after, "b", "Better", **BY).nodes == ()


REFUSED: list[tuple[Callable[[dict[str, Specialization]], Change], type[RamifyError], str]] = [
    (lambda n: changes.expanded(n, "gone", "x", **BY), NotFound, "no node 'gone'"),
    (lambda n: changes.expanded(n, "aa", "x", **BY), NotFound, "did you mean a"),
    (lambda n: changes.expanded(n, ROOT, "other", id_="a", **BY), SettingsInvalid, "belongs to 'a' below root"),
    (lambda n: changes.expanded(n, ROOT, "x", id_="A B", **BY), SettingsInvalid, "a node's id"),
    (lambda n: changes.expanded(n, ROOT, " ", **BY), SettingsInvalid, "a node's name"),
    (lambda n: changes.expanded(n, ROOT, "x" * 201, **BY), SettingsInvalid, "1 to 200"),
    (lambda n: changes.expanded(n, ROOT, "x", by="ada", why=" "), SettingsInvalid, "--why"),
    (lambda n: changes.expanded(n, ROOT, "x", keywords=["k" * 81], **BY), SettingsInvalid, "keywords"),
    (lambda n: changes.expanded(n, ROOT, "x", id_="x", taken={"x"}, **BY), SettingsInvalid, "used before"),
    (lambda n: changes.merged(n, "a", "c", **BY), SettingsInvalid, "lies below it"),
    (lambda n: changes.merged(n, "a", "a", **BY), SettingsInvalid, "lies below it"),
    (lambda n: changes.merged(n, ROOT, **BY), SettingsInvalid, "above all others"),
    (lambda n: changes.retired(n, ROOT, **BY), SettingsInvalid, "above all others"),
    (lambda n: changes.retired(n, "a", **BY), SettingsInvalid, "has 2 nodes below it (b, c)"),
    (lambda n: changes.moved(n, "a", "c", **BY), SettingsInvalid, "lies below it"),
    (lambda n: changes.moved(n, ROOT, "c", **BY), SettingsInvalid, "above all others"),
    (lambda n: changes.renamed(n, "gone", "x", **BY), NotFound, "no node"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_are_sentences(number: int) -> None:
    make, wanted, said = REFUSED[number]
    with pytest.raises(wanted) as caught:
        make(some())
    assert said in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)


def test_nothing_hangs_below_what_is_over() -> None:
    nodes = some()
    nodes = tree(nodes, changes.retired(nodes, "c", **BY))
    refused: list[Callable[[], Change]] = [
        lambda: changes.expanded(nodes, "c", "x", **BY),
        lambda: changes.moved(nodes, "d", "c", **BY),
        lambda: changes.merged(nodes, "d", "c", **BY),
    ]
    for make in refused:
        with pytest.raises(SettingsInvalid, match="c is retired: name a node that lives"):
            make()


def test_the_tree_is_bounded_in_depth_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = some()
    monkeypatch.setattr(changes, "DEPTH_MAX", 3)
    with pytest.raises(SettingsInvalid, match="levels deep"):
        changes.expanded(nodes, "c", "x", **BY)
    with pytest.raises(SettingsInvalid, match="levels deep"):
        changes.moved(nodes, "a", "d", **BY)
    assert changes.moved(nodes, "d", "b", **BY).nodes
    monkeypatch.setattr(changes, "CHILDREN_MAX", 2)
    with pytest.raises(SettingsInvalid, match="group some"):
        changes.expanded(nodes, ROOT, "x", **BY)


# -- branches ---------------------------------------------------------------------------------------------------------


def branch(nodes: dict[str, Specialization], parent: str, id_: str) -> Change:
    """A branch below a node that lives, as a topic's data show it; none else."""
    if nodes[parent].is_over or id_ in nodes:
        return Change((), "")
    made = Specialization(
        id=id_, name=id_, parent=parent, state=NodeState.HYPOTHESIS, event=NodeEvent.BRANCHED, by="t-1", reason="flat"
    )
    return Change((made,), "")


def test_branches_that_brought_nothing_are_merged_back_with_all_below_them() -> None:
    nodes = some()
    for parent, id_ in (("a", "a-b0"), ("a", "a-b1"), ("a-b1", "a-b1-b0")):
        nodes = tree(nodes, branch(nodes, parent, id_))
    gone = tree(nodes, changes.merged_back(nodes, ["a-b0", "a-b1", "gone"], by="t-1", why="-0.01 [-0.02, 0.00]"))
    assert {gone[id_].state for id_ in ("a-b0", "a-b1", "a-b1-b0")} == {NodeState.MERGED}
    assert (gone["a-b1-b0"].into, gone["a-b1"].into) == ("a-b1", "a")
    assert gone["a-b0"].reason == "-0.01 [-0.02, 0.00]"
    assert changes.merged_back(gone, ["a-b0"], by="t-1", why="again").nodes == ()
    assert len(changes.merged_back(nodes, ["a-b0"], by="t", why="w" * 5_000).nodes[0].reason) == limits.TEXT_CHARS_MAX


def test_a_fault_that_stands_there_already_does_not_keep_an_import_out() -> None:
    nodes = {**some(), "lost": Specialization(id="lost", name="lost", parent="nowhere")}
    new = Specialization(id="new", name="new", parent="a")
    assert changes.imported(nodes, [new], **BY).nodes[0].id == "new"
    with pytest.raises(SettingsInvalid, match="no tree: new names the parent gone"):
        changes.imported(nodes, [new.evolve(parent="gone")], **BY)


# -- anything in any order --------------------------------------------------------------------------------------------


STEPS: list[Callable[[dict[str, Specialization], str, str, str], Change]] = [
    lambda nodes, one, other, new: changes.expanded(nodes, one, new, **BY),
    lambda nodes, one, other, new: changes.merged(nodes, one, other, **BY),
    lambda nodes, one, other, new: changes.merged(nodes, one, **BY),
    lambda nodes, one, other, new: changes.retired(nodes, one, below=True, **BY),
    lambda nodes, one, other, new: changes.moved(nodes, one, other, **BY),
    lambda nodes, one, other, new: branch(nodes, one, f"b-{new}"),
    lambda nodes, one, other, new: changes.merged_back(nodes, [one] if one != ROOT else [], by="t", why="w"),
]


def lived(nodes: dict[str, Specialization], seed: int) -> tuple[dict[str, Specialization], int]:
    """The graph after a random life, and how many of its sixty changes were allowed."""
    drawn, done = random.Random(seed), 0
    for step in range(60):
        one, other = (drawn.choice(sorted(nodes)) for _ in range(2))
        make = drawn.choice(STEPS)
        try:
            nodes = tree(nodes, make(nodes, one, other, f"n{step}"))
            done += 1
        except SettingsInvalid:
            continue
    return nodes, done


@pytest.mark.parametrize("seed", range(20))
def test_a_random_life_of_the_graph_is_a_tree_at_every_moment(seed: int) -> None:
    assert lived(some(), seed)[1] > 15


def test_an_import_of_any_other_life_is_a_tree_at_every_moment() -> None:
    """Whatever became of the same graph elsewhere: moved, turned over, given up, revived. Refused is only what would
    take the ground from under a node that grew here."""
    refused = 0
    for seed in range(20):
        begun, _ = lived(some(), 1_000 + seed)
        here, _ = lived(begun, seed)
        wanted = list(lived(begun, 500 + seed)[0].values())
        random.Random(seed).shuffle(wanted)
        try:
            change = changes.imported(here, wanted, **BY)
        except SettingsInvalid:
            refused += 1
            continue
        after = tree(here, change)
        for node in wanted:
            assert graph.is_same(after[node.id], node)
        assert changes.imported(after, wanted, **BY).nodes == ()
    assert refused < 10
