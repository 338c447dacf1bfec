"""A topic's story so far: its records, folded as they come, and how it ended.

    published ── profile ── plan ── evolver, reinventor, baseline ── checks ── recommendation ── verdict      ended well
        └── turned down                     └── no line succeeded                                             ended

Pure: records in, answers out. Records may come twice; the newest stands.
"""

from __future__ import annotations

import enum

from mesh.messages.base import Record
from mesh.messages.judgement import Recommendation, Verdict
from mesh.messages.results import Planned, RecommendationMade, TaskEnded, TaskMoved, TopicTurnedDown
from mesh.messages.tasks import Line, TaskSpec, TaskState

RECORDS = (Planned, TopicTurnedDown, TaskMoved, TaskEnded, RecommendationMade, Verdict)
"""What a topic's subscribers see."""


ALONE = "task"
"""The stage, in a submit's facts, of a task that no plan belongs to."""


class Ending(enum.StrEnum):
    """How a topic ended."""

    VERDICT = "verdict"
    """The gate has spoken, for or against."""
    TURNED_DOWN = "turned down"
    """The planner refused it."""
    FAILED = "failed"
    """No line produced a model, so there is nothing to judge; or the single task that was wanted came to nothing."""
    INTERRUPTED = "interrupted"
    """Nobody waited for the end; the topic goes on in the mesh."""
    DONE = "done"
    """The single task that was wanted has succeeded."""


class Story:
    """The records of one topic."""

    def __init__(self, topic: str, *, alone: bool = False) -> None:
        """alone: it is a single task that nobody planned, wanted for its own outputs; its record says so, too."""
        self.topic, self.alone = topic, alone
        self.forget()

    def forget(self) -> None:
        """Begin anew: the records so far belong to a history that is no more."""
        self.plan: Planned | None = None
        """The plan with the lines; None until it is there."""
        self.tasks: dict[str, TaskSpec] = {}
        self.ended: dict[str, TaskEnded] = {}
        self.moved: dict[str, TaskMoved] = {}
        self.recommendation: Recommendation | None = None
        self.verdict: Verdict | None = None
        self.turned_down = ""

    def add(self, record: Record) -> None:
        """Take one more record in."""
        match record:
            case Planned():
                self.tasks |= {task.id: task for task in record.tasks}
                self.alone = self.alone or record.facts.get("stage") == ALONE
                if "lines" in record.facts:
                    self.plan = record
            case TaskMoved():
                self.moved[record.task] = record
                ended = self.ended.get(record.task)
                if ended is not None and ended.ledger_seq < record.ledger_seq:
                    del self.ended[record.task]  # it was parked, and a person has started it again
            case TaskEnded():
                self.tasks[record.task.id] = record.task
                self.ended[record.task.id] = record
            case RecommendationMade():
                self.recommendation = record.recommendation
            case Verdict():
                self.verdict = record
                self.recommendation = record.recommendation
            case TopicTurnedDown():
                self.turned_down = record.reason

    def line(self, line: Line) -> TaskEnded | None:
        """The ended training task of a line."""
        return next((ended for ended in self.ended.values() if ended.task.line is line and _trains(ended.task)), None)

    def open_tasks(self) -> list[TaskSpec]:
        """Tasks that are planned and not ended."""
        return [task for id_, task in self.tasks.items() if id_ not in self.ended]

    def failures(self) -> list[TaskEnded]:
        """Tasks that were set aside or withdrawn."""
        return [ended for ended in self.ended.values() if ended.state is not TaskState.SUCCEEDED]

    def ending(self) -> Ending | None:
        """How the topic ended; None while it goes on."""
        if self.verdict is not None:
            return Ending.VERDICT
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
        return "gate", "decided about the recommendation"

    def why_failed(self) -> str:
        """One sentence about tasks without a result."""
        found = [f"{ended.task.id} was {ended.state.value}: {ended.reason.rstrip('.')}" for ended in self.failures()]
        return "; ".join(found) or "no task failed, and no verdict came"


def _trains(task: TaskSpec) -> bool:
    return task.executor not in ("evaluate", "profile", "embed")
