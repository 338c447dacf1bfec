"""What is asked of the ledger. Commands arrive on the COMMANDS stream, each under its writer's own name.

A worker's commands (result, checkpoint, failure, give-back) are outbox rows: they carry a `Key`, and the ledger answers
each with a receipt. The planner's, consensus' and the command line's carry ids derived from their input, so that
sending them twice changes nothing.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh import limits
from mesh.messages.base import Facts, Key, Record, check_name, check_text
from mesh.messages.judgement import Recommendation
from mesh.messages.tasks import Outcome, TaskSpec


class FailureClass(enum.StrEnum):
    """What a failure means for the task."""

    RETRY = "retry"
    """Again later, with back-off, on another worker if there is one."""
    REJECT = "reject"
    """Never again as it is: parked with its reason."""
    MEMORY = "memory"
    """Out of memory: again, with a smaller batch or on a bigger worker; has a budget of its own."""


class Submit(Record, frozen=True, kw_only=True):
    """Tasks that a topic becomes, and what subscribers should know about the plan (`facts`)."""

    kind: ClassVar[str] = "submit"

    id: str
    """Derived from the input that led to it; a second submit of the same id changes nothing."""
    topic: str
    specialization: str = ""
    tasks: tuple[TaskSpec, ...]
    facts: Facts = {}
    """For a plan: parent, name, examples, splits, kpis, champion … (docs/protocol.md)."""

    def __post_init__(self) -> None:
        check_name(self.id, "a submit's id")
        if not 1 <= len(self.tasks) <= limits.TASKS_PER_PLAN_MAX:
            raise ValueError(f"a submit carries 1 to {limits.TASKS_PER_PLAN_MAX} tasks, got {len(self.tasks)}")
        if any(task.topic != self.topic for task in self.tasks):
            raise ValueError("all tasks of a submit belong to its topic")


class Refuse(Record, frozen=True, kw_only=True):
    """The planner says that a topic can not be worked on, and why."""

    kind: ClassVar[str] = "refuse"

    topic: str
    reason: str

    def __post_init__(self) -> None:
        check_name(self.topic, "a refused topic")
        check_text(self.reason, "a refusal's reason")


class Settle(Record, frozen=True, kw_only=True):
    """The planner says that a topic is over, and what became of it; a person, that nothing more shall come of it."""

    kind: ClassVar[str] = "settle"

    topic: str
    specialization: str = ""
    why: str
    facts: Facts = {}
    """What stands in `settled`."""

    def __post_init__(self) -> None:
        check_name(self.topic, "a settled topic")
        check_text(self.why, "a settlement's reason")


class Recommend(Record, frozen=True, kw_only=True):
    """Consensus has weighed the lines of a topic's specialization."""

    kind: ClassVar[str] = "recommend"

    recommendation: Recommendation


class ResultFound(Record, frozen=True, kw_only=True):
    """A worker finished its task under this epoch."""

    kind: ClassVar[str] = "result"

    key: Key
    incarnation: str
    outcome: Outcome


class CheckpointMade(Record, frozen=True, kw_only=True):
    """A checkpoint's manifest and all its chunks are in the store. It counts once this is recorded."""

    kind: ClassVar[str] = "checkpoint"

    key: Key
    incarnation: str
    manifest: str
    step: int
    best: bool = False
    trained_s: float = 0.0
    """Training time that the checkpoint contains, over all attempts: budgets continue, they do not start anew."""


class FailureFound(Record, frozen=True, kw_only=True):
    """A worker could not finish its task under this epoch."""

    kind: ClassVar[str] = "failure"

    key: Key
    incarnation: str
    failure: FailureClass
    reason: str
    missing: tuple[str, ...] = ()
    """Inputs (digests) that are not in the store, or damaged there: no failure is counted, and they are made anew."""

    def __post_init__(self) -> None:
        if len(self.missing) > limits.MISSING_PER_ROW_MAX:
            raise ValueError(f"a failure names at most {limits.MISSING_PER_ROW_MAX} missing inputs")


class GiveBack(Record, frozen=True, kw_only=True):
    """A worker hands a lease back unfinished (it stops, drains, or declines): no failure is counted."""

    kind: ClassVar[str] = "give-back"

    key: Key
    incarnation: str
    reason: str


class Cancel(Record, frozen=True, kw_only=True):
    """A person withdraws a task, or all open tasks of a topic."""

    kind: ClassVar[str] = "cancel"

    id: str
    topic: str = ""
    task: str = ""
    reason: str = "canceled by a person"

    def __post_init__(self) -> None:
        if bool(self.topic) == bool(self.task):
            raise ValueError("a cancel names a topic or a task, and not both")


class Resubmit(Record, frozen=True, kw_only=True):
    """A person has parked tasks (dead letters) started again, as they were and from their newest checkpoint.

    With neither topic nor task, all that are parked. A task brings along the parked ones that it needs, and those that
    were parked because it was. What is not parked is left alone.
    """

    kind: ClassVar[str] = "resubmit"

    id: str
    topic: str = ""
    task: str = ""
    reason: str = "resubmitted by a person"

    def __post_init__(self) -> None:
        check_text(self.reason, "a resubmit's reason")
        if self.topic and self.task:
            raise ValueError("a resubmit names a topic or a task, or neither, but not both")


class Missed(Record, frozen=True, kw_only=True):
    """An agent needs an output of an ended task that is not in the store: have it made anew."""

    kind: ClassVar[str] = "missed"

    id: str
    topic: str
    digest: str
    reason: str = ""

    def __post_init__(self) -> None:
        check_name(self.topic, "the topic of a missing artifact")
        if len(self.digest) != limits.DIGEST_CHARS:
            raise ValueError(f"a digest has {limits.DIGEST_CHARS} characters, got {len(self.digest)}")


class Drain(Record, frozen=True, kw_only=True):
    """A person takes a worker out of service, in this life and the next ones, or (`undo`) back into it."""

    kind: ClassVar[str] = "drain"

    id: str
    worker: str
    now: bool = False
    """Its leases are given back after a last checkpoint; else it finishes what it has."""
    undo: bool = False
    reason: str = "drained by a person"

    def __post_init__(self) -> None:
        check_name(self.worker, "a worker's name")
        check_text(self.reason, "a drain's reason")


Command = (
    Submit
    | Refuse
    | Settle
    | Recommend
    | ResultFound
    | CheckpointMade
    | FailureFound
    | GiveBack
    | Cancel
    | Resubmit
    | Drain
    | Missed
)
COMMANDS: tuple[type[Record], ...] = (
    Submit,
    Refuse,
    Settle,
    Recommend,
    ResultFound,
    CheckpointMade,
    FailureFound,
    GiveBack,
    Cancel,
    Resubmit,
    Drain,
    Missed,
)
Owed = ResultFound | CheckpointMade | FailureFound | GiveBack
"""What a worker's outbox may hold."""
OWED: tuple[type[Record], ...] = (ResultFound, CheckpointMade, FailureFound, GiveBack)
