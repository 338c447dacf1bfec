"""A topic with branches at the doors: its story, what is shown, the document, how it is followed and ended."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from pathlib import Path

import pytest

from agents.commands import flags
from agents.commands.display import Lines, sentence
from agents.commands.following import follow, left_alone
from agents.commands.reach import Reach
from agents.commands.report import exit_code, verdict_text
from agents.commands.result_document import build
from agents.commands.story import Ending, Story
from mesh import codec
from mesh.messages.base import Record
from mesh.messages.judgement import Candidate, Choice, Recommendation, Verdict
from mesh.messages.packs import Pack
from mesh.messages.results import Planned, RecommendationMade, TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from tests.support.agents import until
from tests.support.memory_mesh import MemoryMesh
from tests.support.trees import digest

TOPIC = Topic(id="t", text="questions", data=DataRef(source="builtin:python-docs", name="python-docs"), branches=2)


def plan(topic: str, node: str, parent: str) -> Planned:
    tasks = (TaskSpec(id=f"{topic}-evolver", topic=topic, executor="classify", line=Line.EVOLVER),)
    facts = {
        "lines": {"evolver": f"{topic}-evolver"}, "name": node, "parent": parent, "examples": 500, "why": "w",
        "stage": "lines",
    }  # fmt: skip
    return Planned(
        topic=topic, specialization=node, submit=f"{topic}-plan", tasks=tasks, facts=facts, ledger_seq=1, at_ms=1
    )


def ended(topic: str, purpose: str, outcome: Outcome | None = None) -> TaskEnded:
    executor = purpose if purpose in ("branch", "tree") else "classify"
    line = {"evolver": Line.EVOLVER, "tree": Line.MERGE}.get(purpose)
    task = TaskSpec(id=f"{topic}-{purpose}", topic=topic, executor=executor, line=line, purpose=purpose)
    return TaskEnded(
        topic=topic, specialization="n", task=task, state=TaskState.SUCCEEDED, outcome=outcome or Outcome(),
        ledger_seq=2, at_ms=1,
    )  # fmt: skip


def verdict(topic: str, purpose: str, choice: Choice, model: str) -> Verdict:
    line = Line.MERGE if choice is Choice.MERGE or purpose.startswith("tree") else Line.EVOLVER
    candidate = Candidate(
        line=line, task=f"{topic}-x", model=digest(model), kpis={"accuracy": 0.91},
        flat=digest("flat") if line is Line.MERGE else "",
    )  # fmt: skip
    said = Recommendation(
        id=f"{topic}-{purpose}", topic=topic, specialization="n", choice=choice, why="better.", effect=0.02,
        interval=(0.01, 0.03), candidates=(candidate,), holdout_examples=400,
        tree={"metric": "accuracy", "value": 0.91, "baseline": 0.89, "interval": [0.01, 0.03], "against": "baseline"},
    )  # fmt: skip
    return Verdict(
        id=f"{topic}-{purpose}-verdict", topic=topic, specialization="n", accepted=True, choice=choice, checks=(),
        why="so.", recommendation=said, champion=digest(model), champion_version=1,
    )  # fmt: skip


def settled(topic: str, **facts: object) -> TopicSettled:
    return TopicSettled(topic=topic, why=f"{topic} is over.", facts=facts, ledger_seq=9, at_ms=1)


BRANCHED = ended(
    "t",
    "branch",
    Outcome(
        outputs={"router": digest("r"), "branch-0": digest("0"), "branch-1": digest("1")},
        facts={"branches": 2, "names": ["cards", "loans"], "sizes": [300, 200], "why": "it helps"},
    ),
)
TREE_PLAN = Planned(
    topic="t", specialization="n", submit="t-tree", tasks=(ended("t", "tree").task,),
    facts={"stage": "tree", "lines": {"merge": "t-tree"}, "changed": {"merge": "a tree of 1 specialist"}},
    ledger_seq=1, at_ms=1,
)  # fmt: skip
LIFE: tuple[Record, ...] = (
    plan("t", "n", "root"), ended("t", "evolver"), verdict("t", "recommendation", Choice.EVOLVER, "flat"), BRANCHED,
    plan("t-b0", "cards-1", "n"), ended("t-b0", "evolver"),
    verdict("t-b0", "recommendation", Choice.EVOLVER, "m0"), settled("t-b0", champion=digest("m0")),
    TopicTurnedDown(topic="t-b1", reason="one label only", ledger_seq=1, at_ms=1),
    TREE_PLAN, ended("t", "tree"), verdict("t", "tree-recommendation", Choice.MERGE, "tree"),
    settled("t", champion=digest("tree"), branches=2, tree={"accepted": True, "merged_back": False}),
)  # fmt: skip


def told(*records: Record) -> Story:
    story = Story("t")
    for record in records:
        assert story.add(record)
    return story


def test_a_story_takes_in_its_branches_and_ends_when_the_whole_is_settled() -> None:
    story = told(*LIFE[:-1])
    assert [one.topic for one in story.all()] == ["t", "t-b0", "t-b1"]
    assert [one.label for one in story.all()] == ["", "b0 cards", "b1 loans"]
    assert story.plan is not None
    assert story.plan.submit == "t-plan"
    assert story.last_verdict is not None
    assert story.last_verdict.choice is Choice.MERGE
    assert story.verdict is not None
    assert story.verdict.choice is Choice.EVOLVER
    assert story.children["t-b1"].ending() is Ending.TURNED_DOWN
    assert story.ending() is None
    assert story.add(LIFE[-1])
    assert story.ending() is Ending.VERDICT
    assert not story.add(settled("t-b9"))


@pytest.mark.parametrize(
    ("records", "who"),
    [(3, "planner has said"), (4, "planner has planned"), (6, "consensus agent has weighed the lines"),
     (9, "planner has said"), (11, "consensus agent has weighed the tree"), (12, "planner has said")],
)  # fmt: skip
def test_who_should_go_on_is_named_among_the_branches_too(records: int, who: str) -> None:
    story = told(*LIFE[:records])
    for task in story.open_tasks():
        owner = story.of(task.topic)
        assert owner is not None
        owner.ended[task.id] = ended(task.topic, "x")
    assert who in left_alone(story, 60)


def test_the_document_lists_every_specialization_and_the_tree_with_its_interval() -> None:
    document = build(TOPIC, told(*LIFE), seconds=1.0, ending=Ending.VERDICT)
    json.dumps(document, allow_nan=False)
    rows = [(one["id"], one["parent"], one["topic"], one["state"]) for one in document["specializations"]]
    assert rows == [("n", "root", "t", "active"), ("cards-1", "n", "t-b0", "active")]
    assert document["specializations"][0]["champion"]["model"] == digest("tree")
    tree = document["tree"]
    assert (tree["value"], tree["baseline"], tree["interval"], tree["routed"]) == (0.91, 0.89, [0.01, 0.03], 0.91)
    assert (tree["against"], tree["branches"], tree["promoted"], tree["merged_back"]) == ("baseline", 2, True, False)
    assert tree["recommendation"]["choice"] == "merge"
    assert document["reason"] == "t is over."


def test_branches_that_were_merged_back_say_so() -> None:
    life = (*LIFE[:-2], verdict("t", "tree-recommendation", Choice.KEEP, "flat"))
    story = told(*life, settled("t", champion=digest("flat"), tree={"accepted": False, "merged_back": True}))
    document = build(TOPIC, story, seconds=1.0, ending=Ending.VERDICT)
    assert [one["state"] for one in document["specializations"]] == ["active", "merged"]
    assert (document["tree"]["promoted"], document["tree"]["merged_back"]) == (False, True)
    assert document["specializations"][0]["champion"] == {"model": digest("flat"), "version": 1, "promoted": True}
    waiting = build(TOPIC, told(*LIFE[:5]), seconds=1.0, ending=Ending.INTERRUPTED)
    assert [one["state"] for one in waiting["specializations"]] == [None, "hypothesis"]


def test_branches_of_a_topic_that_a_person_ended_are_merged_back_and_not_judged() -> None:
    story = told(*LIFE[:5], settled("t", canceled=True))
    assert story.ending() is Ending.VERDICT
    document = build(TOPIC, story, seconds=1.0, ending=Ending.VERDICT)
    assert [one["state"] for one in document["specializations"]] == ["active", "merged"]
    assert "not judged" in verdict_text(story, Ending.VERDICT)


def test_the_end_tells_both_rounds_and_what_the_branches_came_to() -> None:
    text = verdict_text(told(*LIFE), Ending.VERDICT)
    for words in ("b0 cards", "one label only", "together, on 400 holdout", "recommendation: merge", "t is over."):
        assert words in text
    assert exit_code(Ending.VERDICT) == 0


def test_lines_of_a_branch_begin_with_its_name() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.call("t", "")
    lines.call("t-b0", "b0 cards and much more that nobody reads")
    lines.record(BRANCHED)
    lines.record(settled("t-b0"))
    lines.record(TREE_PLAN)
    assert stream.getvalue().splitlines() == [
        "branch done in 0.0 s, stopped by finished: 2 branches: cards (300), loans (200)",
        "[b0 cards and much more that…] settled: t-b0 is over.",
        "puts together a tree of 1 specialist",
    ]
    whole = ended("t", "branch", Outcome(facts={"branches": 1, "why": "splitting does not help"}))
    assert sentence(whole).endswith(": no branches, splitting does not help")


async def test_a_topic_is_followed_into_its_branches_and_past_those_of_others(tmp_path: Path) -> None:
    mesh, stream = await MemoryMesh(tmp_path).start(), io.StringIO()
    there = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)
    story = Story("t")
    following = asyncio.create_task(
        follow(there, story, Lines(stream), from_seq=1, stop=asyncio.Event(), look_every_s=0.01)
    )
    numbers = iter(range(1_000))

    async def put(record: Record, *more: Record) -> None:
        topic = str(getattr(record, "topic", ""))
        subject = mesh.subjects.result(topic, record.kind, f"r-{next(numbers)}")
        data = codec.encode(Pack(rows=tuple(codec.encode(one) for one in (record, *more)))) if more else None
        await mesh.leader.append(subject, data or codec.encode(record))

    for record in LIFE[:3]:
        await put(record)
    await put(settled("t-b0-of-another"))
    await put(BRANCHED, ended("t", "last-of-the-pack"))
    await until(lambda: "last-of-the-pack" in stream.getvalue(), "the rest of the pack")
    for record in LIFE[4:]:
        await put(settled("another"))
        await put(record)
    async with asyncio.timeout(10):
        assert await following is Ending.VERDICT
    shown = stream.getvalue()
    assert "another" not in shown
    assert shown.count("last-of-the-pack done") == 1
    assert "[b1 loans] turned down: one label only" in shown
    await there.broker.close()


def test_the_number_of_branches_is_read_with_care() -> None:
    assert [flags.branches(text) for text in ("auto", "never", "2", "32")] == [None, 1, 2, 32]
    for wrong in ("1", "33", "0", "-2", "many", "2.5", "", "٣"):
        with pytest.raises(argparse.ArgumentTypeError, match="auto, never"):
            flags.branches(wrong)


def test_a_recommendation_of_the_second_round_is_not_taken_for_the_first() -> None:
    story = told(*LIFE[:11])
    made = verdict("t", "tree-recommendation", Choice.KEEP, "flat").recommendation
    story.add(RecommendationMade(topic="t", specialization="n", recommendation=made, ledger_seq=1, at_ms=1))
    assert story.tree_recommendation == made
    assert story.recommendation is not None
    assert story.recommendation.choice is Choice.EVOLVER
