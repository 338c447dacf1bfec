"""A topic's story so far: its records, folded as they come, and how it ended.

    published ── profile ── plan ── evolver, reinventor, baseline ── checks ── recommendation ── verdict ── settled
        └── turned down                     └── no line succeeded                                  └── branches ──┘

A topic that was divided has a story for each of its branches, which are topics themselves, and a second round with the
tree that was put together of them; it is over when it is settled.

Pure: records in, answers out. Records may come twice; the newest stands.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from mesh.messages.base import Record
from mesh.messages.judgement import Audit, Recommendation, Verdict
from mesh.messages.results import Planned, RecommendationMade, TaskEnded, TaskMoved, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import Line, TaskSpec, TaskState
from planner import branches, tree_plans

RECORDS = (Planned, TopicTurnedDown, TopicSettled, TaskMoved, TaskEnded, RecommendationMade, Verdict, Audit)
"""What a topic's subscribers see."""


ALONE = "task"
"""The stage, in a submit's facts, of a task that no plan belongs to."""


class Ending(enum.StrEnum):
    """How a topic ended."""

    VERDICT = "verdict"
    """The gate has spoken, for or against, and nothing more will come of the topic."""
    TURNED_DOWN = "turned down"
    """The planner refused it."""
    FAILED = "failed"
    """No line produced a model, so there is nothing to judge; or the single task that was wanted came to nothing."""
    INTERRUPTED = "interrupted"
    """Nobody waited for the end; the topic goes on in the mesh."""
    DONE = "done"
    """The single task that was wanted has succeeded."""


class Story:
    """The records of one topic, and of its branches."""

    def __init__(self, topic: str, *, alone: bool = False, label: str = "") -> None:
        """alone: it is a single task that nobody planned, wanted for its own outputs; its record says so, too. label:
        what the topic is called as a branch."""
        self.topic, self.alone, self.label = topic, alone, label
        self.forget()

    def forget(self) -> None:
        """Begin anew: the records so far belong to a history that is no more."""
        self.plan: Planned | None = None
        """The plan with the lines; None until it is there."""
        self.tree_plan: Planned | None = None
        """The plan with the tree."""
        self.children: dict[str, Story] = {}
        """The branches, by the ids of their topics."""
        self.tasks: dict[str, TaskSpec] = {}
        self.ended: dict[str, TaskEnded] = {}
        self.moved: dict[str, TaskMoved] = {}
        self.recommendation: Recommendation | None = None
        """Of the lines."""
        self.verdict: Verdict | None = None
        self.tree_recommendation: Recommendation | None = None
        """Of what was put together of the branches."""
        self.tree_verdict: Verdict | None = None
        self.audits: dict[str, Audit] = {}
        """What the audit split said of promotions, by the ids of their verdicts."""
        self.settled: TopicSettled | None = None
        self.turned_down = ""

    def all(self) -> Iterator[Story]:
        """This story, and those of all branches below it."""
        yield self
        for child in self.children.values():
            yield from child.all()

    def of(self, topic: str) -> Story | None:
        """The story of this topic: this one, or that of a branch."""
        return next((story for story in self.all() if story.topic == topic), None)

    def add(self, record: Record) -> bool:
        """Take one more record in; False for one of another topic."""
        story = self.of(str(getattr(record, "topic", "")))
        if story is not None:
            story._take(record)
        return story is not None

    def _take(self, record: Record) -> None:
        match record:
            case Planned():
                self.tasks |= {task.id: task for task in record.tasks}
                self.alone = self.alone or record.facts.get("stage") == ALONE
                if record.submit == tree_plans.tree_id(self.topic):
                    self.tree_plan = record
                elif "lines" in record.facts:
                    self.plan = record
            case TaskMoved():
                self.moved[record.task] = record
                ended = self.ended.get(record.task)
                if ended is not None and ended.ledger_seq < record.ledger_seq:
                    del self.ended[record.task]  # it was parked, and a person has started it again
            case TaskEnded():
                self.tasks[record.task.id] = record.task
                self.ended[record.task.id] = record
                if record.task.id == branches.task_id(self.topic):
                    self._branched(record)
            case RecommendationMade():
                self._recommended(record.recommendation, None)
            case Verdict():
                self._recommended(record.recommendation, record)
            case Audit():
                self.audits[record.verdict] = record
            case TopicSettled():
                self.settled = record
            case TopicTurnedDown():
                self.turned_down = record.reason

    def _branched(self, ended: TaskEnded) -> None:
        for branch in branches.found_by(ended).branches:
            child = branches.child_id(self.topic, branch.index)
            number = f"{self.label.partition(' ')[0]}.{branch.index}" if self.label else f"b{branch.index}"
            self.children.setdefault(child, Story(child, label=f"{number} {branch.name}"))

    def _recommended(self, recommendation: Recommendation, verdict: Verdict | None) -> None:
        if recommendation.id == tree_plans.recommendation_id(self.topic):
            self.tree_recommendation = recommendation
            self.tree_verdict = verdict or self.tree_verdict
        else:
            self.recommendation = recommendation
            self.verdict = verdict or self.verdict

    @property
    def last_verdict(self) -> Verdict | None:
        """The verdict that left the champion as it is now."""
        return self.tree_verdict or self.verdict

    def line(self, line: Line) -> TaskEnded | None:
        """The ended training task of a line."""
        return next((ended for ended in self.ended.values() if ended.task.line is line and _trains(ended.task)), None)

    def open_tasks(self) -> list[TaskSpec]:
        """Tasks that are planned and not ended, those of the branches, too."""
        return [task for story in self.all() for id_, task in story.tasks.items() if id_ not in story.ended]

    def failures(self) -> list[TaskEnded]:
        """Tasks that were set aside or withdrawn."""
        return [ended for ended in self.ended.values() if ended.state is not TaskState.SUCCEEDED]

    def ending(self) -> Ending | None:
        """How the topic ended; None while it goes on."""
        if self.settled is not None:
            return Ending.VERDICT if self.verdict is not None else Ending.FAILED
        if self.turned_down:
            return Ending.TURNED_DOWN
        if self.alone:
            return self._task_ending()
        lines = [self.line(line) for line in (Line.EVOLVER, Line.REINVENTOR)]
        if self.recommendation is None and all(end and end.state is not TaskState.SUCCEEDED for end in lines):
            return Ending.FAILED
        if self.plan is None and self.tasks and not self.open_tasks() and self._canceled():
            return Ending.FAILED
        return None

    def _task_ending(self) -> Ending | None:
        if not self.tasks or self.open_tasks():
            return None
        return Ending.FAILED if self.failures() else Ending.DONE

    def _canceled(self) -> bool:
        return any(ended.state is TaskState.CANCELED for ended in self.ended.values())

    def next_hand(self) -> tuple[str, str]:
        """(who should go on when no task is open, what it has not done yet)."""
        if self.alone:
            return "scheduler", "taken the task in"
        if not self.tasks:
            return "planner", "planned the topic"
        if self.plan is None:
            return "planner", "made a plan of the profile"
        if self.recommendation is None:
            return "consensus agent", "weighed the lines"
        if self.verdict is None:
            return "gate", "decided about the recommendation"
        child = next((child for child in self.children.values() if child.ending() is None), None)
        if child is not None:
            return child.next_hand()
        if self.tree_plan is not None and self.tree_recommendation is None:
            return "consensus agent", "weighed the tree"
        if self.tree_plan is not None and self.tree_verdict is None:
            return "gate", "decided about the tree"
        return "planner", "said what becomes of the verdict"

    def why_failed(self) -> str:
        """One sentence about tasks without a result."""
        found = [f"{ended.task.id} was {ended.state.value}: {ended.reason.rstrip('.')}" for ended in self.failures()]
        told = self.settled.why.rstrip(".") if self.settled is not None else "no task failed, and no verdict came"
        return "; ".join(found) or told


def _trains(task: TaskSpec) -> bool:
    return task.executor not in ("evaluate", "profile", "embed")
