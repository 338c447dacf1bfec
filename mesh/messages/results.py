"""What subscribers see on the RESULTS stream (the leader's projection of the ledger, and the gate's verdicts), and the
lossy progress beside it on core NATS."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mesh import limits
from mesh.messages.base import Epoch, Facts, Part, Record
from mesh.messages.judgement import Recommendation
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState


class Planned(Record, frozen=True, kw_only=True):
    """A topic became (more) tasks."""

    kind: ClassVar[str] = "planned"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    topic: str
    specialization: str
    submit: str
    tasks: tuple[TaskSpec, ...]
    facts: Facts = {}
    ledger_seq: int
    at_ms: int


class TopicTurnedDown(Record, frozen=True, kw_only=True):
    """A topic can not be worked on."""

    kind: ClassVar[str] = "turned-down"

    topic: str
    reason: str
    ledger_seq: int
    at_ms: int


class TopicSettled(Record, frozen=True, kw_only=True):
    """A topic is over, and what became of it."""

    kind: ClassVar[str] = "settled"

    topic: str
    specialization: str = ""
    why: str
    facts: Facts = {}
    """`champion` (digest, '' without one), `branches`, `tree`, `children`; `canceled` where a person ended it
    (docs/specialists.md)."""
    ledger_seq: int
    at_ms: int


class TaskMoved(Record, frozen=True, kw_only=True):
    """A task was leased, checkpointed, or goes back to the queue."""

    kind: ClassVar[str] = "task-moved"

    topic: str
    task: str
    state: TaskState
    epoch: Epoch | None = None
    incarnation: str = ""
    line: Line | None = None
    purpose: str = ""
    reason: str = ""
    checkpoint_step: int | None = None
    ledger_seq: int
    at_ms: int


class Kept(Part, frozen=True, kw_only=True):
    """A checkpoint of an ended training that is kept until its topic has a recommendation."""

    number: int
    step: int
    manifest: bytes
    """Raw digest, 32 bytes: a record that tells of a checkpoint does not keep it."""


class TaskEnded(Record, frozen=True, kw_only=True):
    """A task has ended: succeeded (with its outcome), parked or canceled (with the reason)."""

    kind: ClassVar[str] = "task-ended"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    topic: str
    specialization: str
    task: TaskSpec
    state: TaskState
    epoch: Epoch | None = None
    incarnation: str = ""
    outcome: Outcome | None = None
    reason: str = ""
    attempts: int = 0
    checkpoints: tuple[Kept, ...] = ()
    """The last two of a training that succeeded, newest first: between them a segment can be trained again."""
    ledger_seq: int
    at_ms: int


class RecommendationMade(Record, frozen=True, kw_only=True):
    """Consensus has spoken."""

    kind: ClassVar[str] = "recommendation"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    topic: str
    specialization: str
    recommendation: Recommendation
    ledger_seq: int
    at_ms: int


class Progress(Record, frozen=True, kw_only=True):
    """Where a running task stands; sent on core NATS, may be lost, never counted on."""

    kind: ClassVar[str] = "progress"

    topic: str
    task: str
    epoch: Epoch
    worker: str
    line: Line | None = None
    purpose: str = ""
    step: int = 0
    done: float = 0.0
    """Share of the work done or of the budget used, 0 to 1."""
    metrics: dict[str, float] = {}
    """`loss`, `validation_loss`, `examples_per_s`, …"""
    phase: str = ""
    """'fetching', 'training', 'evaluating', 'uploading' …"""


Projected = Planned | TopicTurnedDown | TopicSettled | TaskMoved | TaskEnded | RecommendationMade
"""What the leader projects from the ledger; the gate's verdicts stand beside it on the same stream."""


def stamped(record: Projected, ledger_seq: int, at_ms: int) -> Projected:
    """The record with the sequence of its ledger entry (and the leader's wall clock, for people)."""
    return msgspec.structs.replace(record, ledger_seq=ledger_seq, at_ms=at_ms)
