"""Plays the transcripts in tests/scenarios/trees/ against the mind that says what the planner does after a verdict.

Commands:

    topic [branches=N] [depth=N]          what was published
    profiled [modality=…] [examples=N]    profile and plan are there
    trained [stopped=WORD] [canceled]     the evolver's training ended
    judged [keep] [champion=NAME|none]    the first verdict
    branched COUNT                        the search for branches ended (parked likewise)
    child INDEX [champion=NAME]           a branch is settled; `turned-down` instead: it was refused
    judged-tree accepted|kept|soup        the second verdict; kept: whatever was champion
    older NAME                            an earlier tree's branch, and a person's node, are there
    grown NAME …                          an earlier tree of these branches is champion; `merged`: they were merged back
    settled [canceled]                    the ledger has the topic's end
    crash N                               the planner dies after N writes of its next step
    next                                  nothing new: what is to be done?

After each command the mind is asked, and its step is carried out as the agent does; what it submits is planned at once.
The form of the files is that of tests/support/transcripts.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.messages.commands import Submit
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Champion, Choice
from mesh.messages.tasks import Line, TaskSpec, TaskState
from planner.branches import child_node_id
from planner.trees import ENDED, Step
from tests.support import transcripts
from tests.support.trees import NODE, TOPIC, Books, digest

FOLDER = Path(__file__).parent / "trees"
FILES = sorted(FOLDER.glob("*.txt"))
REWRITE = bool(os.environ.get("REWRITE_TRANSCRIPTS"))
"""REWRITE_TRANSCRIPTS=1 writes down what is seen; the difference is then reviewed like code."""

NAMES = ("flat", "tree", "soup", "m0", "m1", "m2", "old", "data", "router", "validation", "branch-0", "branch-1",
         "branch-2")  # fmt: skip


class Play:
    """One transcript's topic."""

    def __init__(self) -> None:
        self.books = Books()
        self.until = 100

    def do(self, line: str) -> list[str]:
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, f"do_{command.replace('-', '_')}")([word for word in words if "=" not in word], options)
        if command in ("topic", "crash"):
            return []
        step, before = self.books.step(), dict(self.books.put)
        self.books.take(step, until=self.until)
        self.until = 100
        for id_, put in self.books.put.items():
            if isinstance(put, Submit) and id_ not in before:
                self.books.planned(put)
        return told(step)

    def do_topic(self, _: list[str], options: dict[str, str]) -> None:
        self.books = Books(branches=int(options["branches"]) if "branches" in options else None)
        self.books.depth = int(options.get("depth", "0"))

    def do_profiled(self, _: list[str], options: dict[str, str]) -> None:
        facts: dict[str, object] = {}
        if options.get("modality") == "tabular":
            facts |= {"modality": "tabular", "features": 3, "text_columns": []}
        if "examples" in options:
            count = int(options["examples"])
            rest = count - 3 * (count // 4)
            splits = dict.fromkeys(("validation", "holdout", "audit"), count // 4)
            facts |= {"examples": count, "splits": {"train": rest, **splits}}
        self.books.profiled(**facts)

    def do_trained(self, words: list[str], options: dict[str, str]) -> None:
        state = TaskState.CANCELED if "canceled" in words else TaskState.SUCCEEDED
        curve = [[1, 3.0], [2, 2.0], [4, 1.0]] if options.get("stopped") == "budget" else []
        self.books.trained(options.get("stopped", "early stop"), state, history=curve)

    def do_judged(self, words: list[str], options: dict[str, str]) -> None:
        champion = options.get("champion", "flat")
        choice = Choice.KEEP if "keep" in words else Choice.EVOLVER
        if choice is not Choice.KEEP:
            self.books.champion = None
        self.books.judged(champion="" if champion == "none" else champion, choice=choice)

    def do_branched(self, words: list[str], _: dict[str, str]) -> None:
        if words == ["parked"]:
            self.books.ended(TaskSpec(id=f"{TOPIC}-branch", topic=TOPIC, executor="branch"), None, TaskState.PARKED)
        else:
            self.books.branched(int(words[0]), **({"why": "splitting does not help"} if words[0] == "1" else {}))

    def do_child(self, words: list[str], options: dict[str, str]) -> None:
        self.books.child(
            int(words[0]), champion=options.get("champion", ""), turned_down="turned-down" in words,
            continued=digest("flat"),
        )  # fmt: skip

    def do_judged_tree(self, words: list[str], _: dict[str, str]) -> None:
        if words[0] == "kept" and self.books.router:
            self.books.verdict("tree-recommendation", True, digest("old"), Choice.KEEP, ())
        else:
            self.books.judged_tree(accepted=words[0] != "kept", soup=words[0] == "soup")

    def do_grown(self, words: list[str], _: dict[str, str]) -> None:
        """A tree is champion, with the router that the search for branches will find again."""
        state = NodeState.MERGED if "merged" in words else NodeState.ACTIVE
        for name in words:
            if name != "merged":
                node = Specialization(id=child_node_id(NODE, name), name=name, parent=NODE, by="t0", state=state)
                self.books.nodes[node.id] = node
        self.books.router, self.books.tree = digest("router"), digest("old")
        self.books.champion = Champion(
            specialization=NODE, version_number=2, model=digest("old"), topic="t0", task="t0-tree", line=Line.MERGE,
            verdict="v", flat=digest("flat"),
        )  # fmt: skip

    def do_settled(self, words: list[str], _: dict[str, str]) -> None:
        self.books.settled(**({ENDED: True} if "canceled" in words else {}))

    def do_older(self, words: list[str], _: dict[str, str]) -> None:
        """Below the topic's node: a branch of an earlier tree, and a node that a person made."""
        node = Specialization(id=child_node_id(NODE, words[0]), name=words[0], parent=NODE, by="t0")
        person = Specialization(id="of-amal", name="of Amal", parent=NODE, by="amal")
        self.books.nodes |= {node.id: node, person.id: person}

    def do_crash(self, words: list[str], _: dict[str, str]) -> None:
        self.until = int(words[0])

    def do_next(self, _: list[str], __: dict[str, str]) -> None:
        """Nothing new."""


def told(step: Step) -> list[str]:
    """A step in lines; what is not decided, by its sentence."""
    lines = [f"node {node.id}: {node.state.value} ({node.event})" for node in step.nodes]
    lines += [
        f"topic {one.id}: {one.text}, {_named(one.data.source if one.data else '')}, {one.budget_s:g} s, from "
        f"{_named(one.base.model) if one.base else 'its own champion'}"
        for one in step.topics
    ]
    if step.submit is not None:
        inputs = ", ".join(f"{name}={_named(value)}" for name, value in step.submit.tasks[0].inputs.items())
        lines.append(f"submit {step.submit.id}: {inputs}")
    lines += [f"cancel {one.topic}" for one in step.cancels]
    lines += [
        f"settle {one.topic} with {_named(str(one.facts['champion'])) or 'nothing'}: {one.why}" for one in step.settles
    ]
    return lines or [step.why]


def _named(value: str) -> str:
    return next((name for name in NAMES if digest(name) == value), value[:12])


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_transcript(path: Path) -> None:
    transcripts.play(path, Play().do, REWRITE)


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 5
