"""Trees step by step: what is submitted and published when, what ends a topic, and that a crash changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from mesh.messages.commands import Cancel, Settle, Submit
from mesh.messages.graph import NodeEvent, NodeState, Specialization
from mesh.messages.judgement import Audit, Champion, Choice, Comparison, Verdict
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Line, TaskSpec, TaskState
from mesh.messages.topics import Topic
from planner import trees
from planner.branches import child_node_id
from tests.support.trees import NODE, TOPIC, Books, digest

NODES = [child_node_id(NODE, name) for name in ("cards", "transfers", "cards (2)")]


def grown(losses: Sequence[float | None] | None = None, **wishes: object) -> Books:
    """A topic whose branches are known."""
    books = Books(**wishes)
    books.profiled()
    books.trained()
    books.judged()
    books.planned(submitted(books))
    books.branched(3, losses=losses)
    return books


def old_tree() -> Champion:
    """The tree that is champion since an earlier topic."""
    return Champion(
        specialization=NODE, version_number=2, model=digest("old tree"), topic="t0", task="t0-tree", line=Line.MERGE,
        verdict="v", flat=digest("old flat"), settings={"hidden": [16]},
    )  # fmt: skip


def submitted(books: Books) -> Submit:
    submit = books.step().submit
    assert submit is not None
    return submit


def settlement(books: Books) -> Settle:
    (settle,) = books.step().settles
    return settle


def test_a_judged_topic_whose_model_has_flattened_is_searched_for_branches() -> None:
    books = Books()
    assert books.step().why == "awaits the verdict"
    books.profiled()
    books.trained()
    books.judged()
    submit = submitted(books)
    (task,) = submit.tasks
    assert submit.id == task.id == f"{TOPIC}-branch"
    assert task.inputs == {"data": digest("data")}
    assert task.settings == {
        "name": "q.csv", "salt": "ramify", "text_column": "text", "label_column": "intent", "task": "classify",
        "branches": 0,
    }  # fmt: skip
    assert submit.facts["flat"] == {"model": digest("flat"), "settings": {"hidden": [8]}, "size_bytes": 4_096}
    books.planned(submit)
    assert books.step().why == f"awaits {TOPIC}-branch"


def test_a_topic_that_stays_whole_is_settled_with_its_champion_and_the_reason() -> None:
    books = Books(branches=1)
    books.profiled()
    books.trained()
    books.judged()
    settle = settlement(books)
    assert (settle.specialization, settle.facts["champion"], settle.facts["branches"]) == (NODE, digest("flat"), 1)
    assert settle.facts["size_bytes"] == 4_096
    assert "asked for no branches" in settle.why
    books.settled(**settle.facts)
    assert books.step() == trees.Step("settled")


@pytest.mark.parametrize("end", ["one branch", "parked", "canceled", "half a set", "too many"])
def test_a_search_that_finds_nothing_settles_the_topic(end: str) -> None:
    books = Books()
    books.profiled()
    books.trained()
    books.judged()
    books.planned(submitted(books))
    task = TaskSpec(id=f"{TOPIC}-branch", topic=TOPIC, executor="branch")
    if end == "one branch":
        books.branched(1, why="splitting does not help on a sample.")
    elif end in ("parked", "canceled"):
        books.ended(task, None, TaskState(end))
    else:
        books.branched(3)
        ended = books.records.pop()
        assert isinstance(ended, TaskEnded) and ended.outcome is not None  # noqa: PT018
        outputs = dict(ended.outcome.outputs)
        if end == "half a set":
            del outputs["branch-1"]
        else:
            outputs |= {f"branch-{index}": digest("x") for index in range(40)}
        books.branched(1)
        books.records[-1] = ended.evolve(outcome=type(ended.outcome)(outputs=outputs, facts=ended.outcome.facts))
    why = settlement(books).why
    assert why.startswith("It stays whole: ")
    assert {"one branch": "does not help", "half a set": "no whole set", "too many": "at most 32"}.get(end, end) in why
    assert not why.endswith("..")


def test_branches_become_nodes_and_topics_of_their_own() -> None:
    books = grown()
    step = books.step()
    assert [node.id for node in step.nodes] == NODES
    assert {node.state for node in step.nodes} == {NodeState.HYPOTHESIS}
    assert {node.parent for node in step.nodes} == {NODE}
    assert [node.name for node in step.nodes] == ["cards", "transfers", "cards (2)"]
    first = step.topics[0]
    assert [topic.id for topic in step.topics] == [f"{TOPIC}-b0", f"{TOPIC}-b1", f"{TOPIC}-b2"]
    assert (first.parent, first.node, first.text) == (TOPIC, NODES[0], "cards")
    assert first.data is not None
    assert (first.data.source, first.text_column, first.label_column) == (digest("branch-0"), "text", "intent")
    assert first.base is not None
    assert (first.base.model, first.base.settings) == (digest("flat"), {"hidden": [8]})
    assert [topic.budget_s for topic in step.topics] == [45.0, 27.0, 18.0]
    assert (first.kpis, first.branches) == ((), None)


def test_a_hard_branch_gets_more_of_the_budget_and_an_easy_one_less() -> None:
    books = grown(losses=[0.2, 0.5, 0.9])
    budgets = [topic.budget_s for topic in books.step().topics]
    easy, middle, hard = 45.0 * 0.8, 27.0, 18.0 * 1.2
    whole = easy + middle + hard
    assert budgets == [pytest.approx(90.0 * share / whole, abs=0.01) for share in (easy, middle, hard)]
    unknown = grown(losses=[0.2, None, 0.9])
    assert [topic.budget_s for topic in unknown.step().topics] == [45.0, 27.0, 18.0]


def test_branches_that_were_asked_for_stay_whole_and_a_champion_of_their_own_is_continued() -> None:
    books = grown(branches=3)
    books.champions[NODES[1]] = Champion(
        specialization=NODES[1], version_number=1, model=digest("old"), topic="t0", task="t0-evolver",
        line=Line.EVOLVER, verdict="v",
    )  # fmt: skip
    topics = books.step().topics
    assert {topic.branches for topic in topics} == {1}
    assert [topic.base is None for topic in topics] == [False, True, False]


def test_when_every_branch_has_ended_their_champions_are_put_together() -> None:
    books = grown()
    books.take(books.step())
    books.child(0, champion="m0", continued=digest("flat"))
    books.child(1, turned_down=True)
    assert "awaits 1 of 3" in books.step().why
    books.child(2, champion="m2")
    submit = submitted(books)
    (task,) = submit.tasks
    assert (task.executor, task.line, submit.id) == ("tree", Line.MERGE, f"{TOPIC}-tree")
    assert task.inputs == {
        "router": digest("router"), "flat": digest("flat"), "member-0": digest("m0"), "member-2": digest("m2"),
        "validation": digest("validation"),
    }  # fmt: skip
    assert submit.facts["lines"] == {"merge": f"{TOPIC}-tree"}
    assert submit.facts["splits"]["holdout"] == digest("holdout")
    assert submit.facts["family"] == {"ancestor": digest("flat"), "models": [digest("m0")]}
    assert submit.facts["needs"]["evaluate"]["memory_bytes"] > 3 * 4_096
    books.planned(submit)
    assert books.step().why == f"awaits the verdict on {TOPIC}-tree"


def test_an_accepted_tree_makes_its_branches_active() -> None:
    books = whole_tree()
    books.judged_tree(accepted=True)
    step, settle = books.step(), settlement(books)
    assert {(node.state, node.event) for node in step.nodes} == {(NodeState.ACTIVE, NodeEvent.ACCEPTED)}
    assert settle.facts["champion"] == digest("tree")
    assert settle.facts["tree"]["accepted"]
    assert not settle.facts["tree"]["merged_back"]
    assert settle.facts["tree"]["interval"] == [0.01, 0.03]
    assert [child["champion"] for child in settle.facts["children"]] == [digest(f"m{index}") for index in range(3)]


def below(parent: str, name: str, id_: str = "", **fields: Any) -> Specialization:
    """A node; a branch where no id is said."""
    return Specialization(id=id_ or child_node_id(parent, name), name=name, parent=parent, task="classify", **fields)


def test_an_accepted_tree_takes_the_place_of_an_older_trees_branches() -> None:
    books = whole_tree()
    old = below(NODE, "loans", by="t0", event=NodeEvent.ACCEPTED)
    deeper = below(old.id, "mortgages", by="t0-b0", event=NodeEvent.DATA)
    rival = below(NODE, "insurance", by="t9", state=NodeState.HYPOTHESIS)
    held = below(NODE, "savings", by="t0", event=NodeEvent.ACCEPTED)
    renamed = below(NODE, "pensions", child_node_id(NODE, "old age"), by="amal", event=NodeEvent.RENAMED)
    others = (rival, held, below(held.id, "gold", "gold", by="amal"), below(NODE, "faq", "faq", by="amal"), renamed)
    books.nodes |= {node.id: node for node in (old, deeper, *others)}
    books.judged_tree(accepted=True)
    step = books.step()
    assert [node.id for node in step.nodes] == [*NODES, deeper.id, old.id]
    assert {(node.state, node.event) for node in step.nodes[3:]} == {(NodeState.MERGED, NodeEvent.MERGED)}
    assert [node.into for node in step.nodes[3:]] == [old.id, NODE]
    assert step.nodes[4].reason.startswith(f"no branch of the tree {digest('tree')[:12]} that topic {TOPIC} brought: ")
    assert step.nodes[4].changed_at_ms == 9
    books.take(step)
    again = books.step()
    assert again.nodes == ()
    assert [books.nodes[node.id] for node in others] == list(others)


@pytest.mark.parametrize("champion", ["flat", "soup", "old tree"])
def test_an_older_trees_branches_stay_as_long_as_the_champion_is_a_tree(champion: str) -> None:
    books = whole_tree()
    old = below(NODE, "loans", by="t0", event=NodeEvent.ACCEPTED)
    books.nodes[old.id] = old
    if champion == "old tree":
        books.champion = old_tree()
        books.verdict("tree-recommendation", True, digest(champion), Choice.KEEP, ())
    else:
        books.judged_tree(accepted=champion == "soup", soup=champion == "soup")
    step = books.step()
    assert [node.id for node in step.nodes] == [*NODES, *([old.id] if champion != "old tree" else [])]
    if champion != "old tree":
        assert (step.nodes[-1].state, step.nodes[-1].into) == (NodeState.MERGED, NODE)
        assert step.nodes[-1].reason.startswith(f"the champion {digest(champion)[:12]}, with which topic {TOPIC} ended")


def test_a_line_that_is_better_than_a_tree_ends_its_branches_though_the_topic_stays_whole() -> None:
    books = Books(branches=1)
    old = below(NODE, "loans", by="t0", event=NodeEvent.ACCEPTED)
    books.nodes[old.id] = old
    books.champion = old_tree()
    books.profiled()
    books.trained()
    books.judged()
    step = books.step()
    assert [(node.id, node.state) for node in step.nodes] == [(old.id, NodeState.MERGED)]
    assert step.settles[0].facts["champion"] == digest("flat")
    books.take(step)
    assert books.step().nodes == ()  # the gate's next write, or a crash, changes nothing


def test_who_won_by_the_loss_alone_is_told_with_it() -> None:
    books = whole_tree()
    books.judged_tree(accepted=True)
    said = books.records[-1]
    assert isinstance(said, Verdict)
    loss = Comparison(a="merge", b="champion", metric="loss", effect=0.04, low=0.02, high=0.06, p_value=0.001, items=9)
    told = msgspec.structs.replace(said.recommendation, comparisons=(loss,))
    books.records[-1] = said.evolve(recommendation=told)
    assert settlement(books).why == (
        "The tree of its 3 branches is its champion (effect +0.0200, interval +0.0100 to +0.0300, 1000 examples; "
        "loss lower by +0.0400, interval +0.0200 to +0.0600)."
    )


@pytest.mark.parametrize("soup", [False, True])
def test_a_tree_that_is_not_taken_is_merged_back_and_says_so(soup: bool) -> None:
    books = whole_tree()
    books.judged_tree(accepted=soup, soup=soup)
    step, settle = books.step(), settlement(books)
    assert {(node.state, node.into) for node in step.nodes} == {(NodeState.MERGED, NODE)}
    assert settle.facts["tree"]["merged_back"]
    assert settle.facts["champion"] == digest("soup" if soup else "flat")
    assert "merged back" in settle.why
    assert "interval +0.0100 to +0.0300" in step.nodes[0].reason


def test_branches_without_any_champion_are_merged_back_at_once() -> None:
    books = grown()
    books.take(books.step())
    for index in range(3):
        books.child(index, turned_down=index == 1)
    step = books.step()
    assert step.submit is None
    assert {node.state for node in step.nodes} == {NodeState.MERGED}
    assert settlement(books).facts["champion"] == digest("flat")


def test_a_branch_of_the_champions_tree_stays_active_while_it_is_tried_again_and_when_the_new_tree_loses() -> None:
    books = grown()
    books.take(books.step())
    for id_, node in books.nodes.items():
        books.nodes[id_] = node.evolve(state=NodeState.ACTIVE, topics=("t0-b0",))
    step = books.step()
    assert {node.state for node in step.nodes} == {NodeState.ACTIVE}
    books.take(step)
    for index in range(3):
        books.child(index, champion=f"m{index}")
    books.planned(submitted(books))
    books.champion = old_tree()
    books.verdict("tree-recommendation", True, digest("old tree"), Choice.KEEP, ())
    assert books.step().nodes == ()


def test_the_evolver_of_a_branch_goes_on_from_the_flat_model_in_a_champion_that_is_a_tree() -> None:
    books = Books()
    books.profiled()
    books.trained()
    books.judged(champion="old tree", choice=Choice.KEEP)
    books.champion = old_tree()
    flat = submitted(books).facts["flat"]
    assert (flat["model"], flat["settings"]) == (digest("old flat"), {"hidden": [16]})


@pytest.mark.parametrize("loss", [1.02, 1.5])
def test_a_tree_that_became_worse_on_a_branch_is_divided_anew(loss: float) -> None:
    books, before = Books(), Books()
    before.evaluated("old tree", [1.0, 1.0])
    (measured,) = before.records
    assert isinstance(measured, TaskEnded)
    books.measured, books.router, books.tree = measured, digest("router"), digest("old tree")
    books.champion = old_tree()
    books.profiled()
    books.trained()
    books.evaluated("old tree", [1.0, loss])
    books.judged(champion="old tree", choice=Choice.KEEP)
    submit = submitted(books)
    why, inputs = submit.facts["why"], submit.tasks[0].inputs
    if loss > 1.1:
        assert "found anew, without the router that it has: the loss of 'b1' rose from 1.000 to 1.500." in why
        assert "router" not in inputs
    else:
        assert "anew" not in why
        assert inputs["router"] == digest("router")


def test_a_person_who_ends_a_topic_ends_its_branches_too() -> None:
    books = grown()
    books.take(books.step())
    books.child(0, champion="m0")
    books.settled(**{trees.ENDED: True})
    step = books.step()
    assert step.submit is None
    assert [(cancel.id, cancel.topic) for cancel in step.cancels] == [
        (f"{TOPIC}-b{index}-canceled", f"{TOPIC}-b{index}") for index in (1, 2)
    ]
    assert [settle.topic for settle in step.settles] == [f"{TOPIC}-b1", f"{TOPIC}-b2"]
    assert all(settle.facts[trees.ENDED] for settle in step.settles)
    assert {node.state for node in step.nodes} == {NodeState.MERGED}


def test_a_canceled_line_keeps_a_topic_whole() -> None:
    books = Books()
    books.profiled()
    books.trained(state=TaskState.CANCELED)
    books.judged(accepted=False, champion="old", choice=Choice.KEEP)
    assert "withdrew" in settlement(books).why


def test_what_ends_before_anything_was_trained_is_settled_too() -> None:
    task = TaskSpec(id="t1-profile", topic="t1", executor="profile", purpose="profile")
    ended = TaskEnded(
        topic="t1", specialization="", task=task, state=TaskState.CANCELED, reason="enough", ledger_seq=1, at_ms=1
    )
    assert trees.withdrawn(ended).why == "Its profile was withdrawn: enough"
    child = Topic(id="t1-b0", text="cards", parent="t1", node="cards-1")
    assert trees.orphaned(child).facts[trees.ENDED]


def whole_tree() -> Books:
    """A topic whose tree awaits its verdict."""
    books = grown()
    books.take(books.step())
    for index in range(3):
        books.child(index, champion=f"m{index}")
    books.planned(submitted(books))
    return books


Act = Callable[[Books], None]

LIFE: tuple[Act, ...] = (
    lambda books: books.profiled(),
    lambda books: books.trained(),
    lambda books: books.judged(),
    lambda books: accept(books),
    lambda books: books.branched(),
    lambda books: books.child(1, turned_down=True),
    lambda books: books.child(0, champion="m0"),
    lambda books: books.child(2, champion="m2"),
    lambda books: accept(books),
    lambda books: books.judged_tree(accepted=False),
)


def accept(books: Books) -> None:
    """The ledger takes what was put."""
    known = {record.submit for record in books.records if hasattr(record, "submit")}
    for command in list(books.put.values()):
        if isinstance(command, Submit) and command.id not in known:
            books.planned(command)


def lived(crash_after: int, planners: int = 1) -> Books:
    """A whole life of a topic; each planner carries out each step, the first attempt at each of them only up to
    `crash_after` writes."""
    books = Books()
    for act in LIFE:
        act(books)
        step = books.step()
        books.take(step, until=crash_after)
        for _ in range(planners):
            books.take(books.step())
    return books


def test_a_crash_after_any_write_and_a_second_planner_lead_to_the_same_commands() -> None:
    undisturbed = lived(100)
    assert [type(command) for command in undisturbed.put.values()] == [Submit, Submit, Settle]
    assert len(undisturbed.topics) == 3
    for crash_after in range(8):
        for planners in (1, 2):
            again = lived(crash_after, planners)
            assert again.put == undisturbed.put
            assert again.topics == undisturbed.topics
            assert again.nodes == undisturbed.nodes
    assert not any(isinstance(command, Cancel) for command in undisturbed.put.values())


def test_a_topic_is_not_over_before_its_promotion_was_looked_at() -> None:
    books = whole_tree()
    books.judged_tree(accepted=True)
    said = books.records[-1]
    assert isinstance(said, Verdict)
    over = msgspec.structs.replace(said.recommendation, audit=digest("audit"), champion_before=digest("flat"))
    books.records[-1] = said = msgspec.structs.replace(said, recommendation=over)
    step = books.step()
    assert (step.settles, step.why) == ((), f"awaits the audit of {said.id}")
    books.records.append(Audit(id="a", topic=TOPIC, specialization=NODE, verdict=said.id, audit=digest("audit")))
    assert settlement(books).facts["tree"]["accepted"]
