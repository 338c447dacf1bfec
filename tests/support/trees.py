"""Records of a topic that may grow a tree, as ledger and gate would tell them, for the mind that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mesh.messages.base import Facts, Record, derived_id
from mesh.messages.commands import Cancel, Settle, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Candidate, Champion, Choice, Recommendation, Verdict
from mesh.messages.results import Planned, TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import DataRef, Topic
from planner.profile import SPLITS
from planner.trees import Known, Step, next_step

TOPIC, NODE = "t1", "questions-0a1b2c"
FACTS: Facts = {
    "task": "classify", "modality": "text", "rows": 10_000, "examples": 10_000, "labels": 2, "label_names": ["a", "b"],
    "label_digest": "ab" * 32, "label_column": "intent", "text_columns": ["text"], "dropped": {}, "needs": {},
    "splits": {"train": 7_000, "validation": 1_500, "holdout": 1_000, "audit": 500},
}  # fmt: skip


def digest(name: str) -> str:
    """A digest that is always the same for a name."""
    return hashlib.sha256(name.encode()).hexdigest()


class Books:
    """A topic's records, the graph and what its branches came to; what a step asks for is taken in when told so."""

    def __init__(self, **wishes: Any) -> None:
        self.topic = Topic(
            id=TOPIC, text="questions", budget_s=90.0, data=DataRef(source=digest("data"), name="q.csv"), **wishes
        )
        self.depth = 0
        self.records: list[Record] = []
        self.ends: dict[str, TopicSettled | TopicTurnedDown] = {}
        self.nodes: dict[str, Specialization] = {NODE: Specialization(id=NODE, name="questions", parent="root")}
        self.champion: Champion | None = None
        self.champions: dict[str, Champion] = {}
        self.topics: dict[str, Topic] = {}
        self.tree = ""
        self.router = ""
        self.measured: TaskEnded | None = None
        self.put: dict[str, Submit | Settle | Cancel] = {}

    # -- what has happened --------------------------------------------------------------------------------------------

    def profiled(self, **facts: Any) -> None:
        """The profile has ended and the plan of the lines is accepted."""
        profile = TaskSpec(
            id=f"{TOPIC}-profile", topic=TOPIC, executor="profile", inputs={"data": digest("data")},
            settings={"name": "q.csv", "salt": "ramify"},
        )  # fmt: skip
        outputs = {name: digest(name) for name in SPLITS}
        self.ended(profile, Outcome(outputs=outputs, facts={**FACTS, **facts}))
        lines = (Line.EVOLVER, Line.REINVENTOR, Line.BASELINE)
        tasks = tuple(
            TaskSpec(id=f"{TOPIC}-{line}", topic=TOPIC, specialization=NODE, executor="classify", line=line)
            for line in lines
        )
        facts = {
            "stage": "lines", "lines": {"evolver": f"{TOPIC}-evolver", "reinventor": f"{TOPIC}-reinventor"},
            "baseline": f"{TOPIC}-baseline", "splits": outputs, "needs": {"classify": {"cores": 1.0}}, "kpis": [],
        }  # fmt: skip
        self.planned(Submit(id=f"{TOPIC}-plan", topic=TOPIC, specialization=NODE, tasks=tasks, facts=facts))

    def planned(self, submit: Submit) -> None:
        """The ledger took a submit."""
        self.records.append(
            Planned(
                topic=TOPIC, specialization=submit.specialization, submit=submit.id, tasks=submit.tasks,
                facts=submit.facts, ledger_seq=1, at_ms=1,
            )
        )  # fmt: skip

    def ended(self, task: TaskSpec, outcome: Outcome | None, state: TaskState = TaskState.SUCCEEDED) -> None:
        """A task has ended."""
        self.records.append(
            TaskEnded(
                topic=TOPIC, specialization=NODE, task=task, state=state, outcome=outcome,
                reason="" if outcome is not None else "it broke", ledger_seq=2, at_ms=7,
            )
        )  # fmt: skip

    def trained(self, stopped_by: str = "early stop", state: TaskState = TaskState.SUCCEEDED, **facts: Any) -> None:
        """The evolver's training has ended."""
        task = TaskSpec(id=f"{TOPIC}-evolver", topic=TOPIC, executor="classify", line=Line.EVOLVER)
        outcome = Outcome(outputs={"model": digest("flat")}, stopped_by=stopped_by, facts=facts)
        self.ended(task, outcome if state is TaskState.SUCCEEDED else None, state)

    def evaluated(self, model: str, losses: Sequence[float]) -> None:
        """A tree was asked about the holdout."""
        task = TaskSpec(
            id=f"{TOPIC}-holdout-champion", topic=TOPIC, executor="evaluate",
            inputs={"model": digest(model), "split": digest("holdout")},
        )  # fmt: skip
        rows = [
            {"branch": number, "name": f"b{number}", "items": 400, "loss": loss, "deviation": 0.5}
            for number, loss in enumerate(losses)
        ]
        self.ended(task, Outcome(outputs={"outcomes": digest("outcomes")}, facts={"by_branch": rows}))

    def judged(self, *, accepted: bool = True, champion: str = "flat", choice: Choice = Choice.EVOLVER) -> None:
        """The gate has spoken about the flat model."""
        candidate = Candidate(
            line=Line.EVOLVER, task=f"{TOPIC}-evolver", model=digest("flat"), settings={"hidden": [8]},
            kpis={"size_bytes": 4_096.0},
        )  # fmt: skip
        self.verdict("recommendation", accepted, digest(champion) if champion else "", choice, (candidate,))

    def judged_tree(self, *, accepted: bool, soup: bool = False) -> None:
        """The gate has spoken about what was put together."""
        tree = Candidate(line=Line.MERGE, task=f"{TOPIC}-tree", model=digest("tree"), flat=digest("flat"))
        merged = Candidate(line=Line.MERGE, name="merge-soup", task=f"{TOPIC}-soup", model=digest("soup"))
        champion = digest("soup" if soup else "tree") if accepted else digest("flat")
        choice = Choice.MERGE if accepted else Choice.KEEP
        self.verdict("tree-recommendation", True, champion, choice, (tree, merged))

    def verdict(
        self, purpose: str, accepted: bool, champion: str, choice: Choice, candidates: tuple[Candidate, ...]
    ) -> None:
        """A verdict on a recommendation of this topic."""
        said = Recommendation(
            id=derived_id(TOPIC, purpose), topic=TOPIC, specialization=NODE, choice=choice, why="because.", effect=0.02,
            interval=(0.01, 0.03), candidates=candidates, holdout_examples=1_000, tree={"metric": "accuracy"},
        )  # fmt: skip
        self.records.append(
            Verdict(
                id=f"{said.id}-verdict", topic=TOPIC, specialization=NODE, accepted=accepted, choice=choice, checks=(),
                why="so it is.", recommendation=said, champion=champion, decided_at_ms=9,
            )
        )  # fmt: skip

    def branched(self, count: int = 3, **facts: Any) -> None:
        """The search for branches has ended."""
        names = ["cards", "transfers", "cards", "loans"][:count]
        outputs = {f"branch-{index}": digest(f"branch-{index}") for index in range(count)} if count > 1 else {}
        found = {
            "branches": count, "names": names, "sizes": [5_000, 3_000, 2_000, 1_000][:count],
            "keywords": [["card", "pin"]] * count, "why": "splitting helps", **facts,
        }  # fmt: skip
        task = TaskSpec(id=f"{TOPIC}-branch", topic=TOPIC, executor="branch")
        self.ended(task, Outcome(outputs={**outputs, "router": digest("router")}, facts=found))

    def child(self, index: int, *, champion: str = "", turned_down: bool = False, **facts: Any) -> None:
        """A branch's topic is over."""
        id_ = f"{TOPIC}-b{index}"
        if turned_down:
            self.ends[id_] = TopicTurnedDown(topic=id_, reason="too few examples", ledger_seq=1, at_ms=1)
            return
        told = {"champion": digest(champion) if champion else "", "size_bytes": 1_000, **facts}
        self.ends[id_] = TopicSettled(topic=id_, why="over", facts=told, ledger_seq=1, at_ms=1)

    def settled(self, **facts: Any) -> None:
        """The ledger has the topic's end."""
        self.records.append(
            TopicSettled(topic=TOPIC, specialization=NODE, why="enough", facts=facts, ledger_seq=9, at_ms=11)
        )

    # -- what the mind says -------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """What is to be done now."""
        known = Known(
            topic=self.topic, depth=self.depth, records=self.records, ends=self.ends, champion=self.champion,
            champions=self.champions, nodes=self.nodes, tree=self.tree, router=self.router, measured=self.measured,
        )  # fmt: skip
        return next_step(known, lambda kind, settings, facts: None)

    def take(self, step: Step, *, until: int = 100) -> int:
        """Carry a step out as the agent does, at most `until` writes of it; how many there were."""
        writes = 0
        for node in step.nodes[:until]:
            self.nodes[node.id] = node
            writes += 1
        for topic in step.topics[: until - writes]:
            self.topics.setdefault(topic.id, topic)
            writes += 1
        commands: list[Submit | Settle | Cancel] = [*([step.submit] if step.submit is not None else [])]
        commands += [*step.cancels, *step.settles]
        for command in commands[: until - writes]:
            id_ = derived_id(command.topic, "settled") if isinstance(command, Settle) else command.id
            self.put.setdefault(id_, command)
            writes += 1
        return writes
