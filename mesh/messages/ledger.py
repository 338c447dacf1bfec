"""What the ledger says. One LEDGER message is one `Entry`: all events of one commit, packed.

    Entry n:  term, generation, commands_seq, previous = sha256(entry n-1), events
                                    |                        |
              highest COMMANDS sequence that it covers       hash chain: a different history is noticed

An event is written by the leader only, after its mind decided it; folding all events in order gives the state
(planner/ledger.py). What each event may follow stands there too.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from mesh import limits
from mesh.messages.base import Epoch, Facts, Key, Part, Record
from mesh.messages.judgement import Recommendation
from mesh.messages.tasks import Outcome, TaskSpec, TaskState


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened, for ever."""


class Cause(enum.StrEnum):
    """Why a lease ended without a result."""

    FAILURE = "failure"
    """The executor failed; counts as an attempt."""
    MEMORY = "memory"
    """Out of memory; has a budget of its own."""
    DIED = "died"
    """The worker's process ended while it held the lease, which it had begun; three of these are poison."""
    LOST = "lost"
    """No beat for too long, or a wedged main loop."""
    GIVEN_BACK = "given-back"
    """The worker handed it back; nothing is counted."""
    DECLINED = "declined"
    """It came for an offer that had been withdrawn."""
    UNTAKEN = "untaken"
    """No beat named it."""
    SUPERSEDED = "superseded"
    """An earlier holder came back with the finished result."""
    INPUT = "input"
    """An input of the task is not in the store; it is tried again, and its maker is looked for."""


class LeaderChosen(Event, frozen=True, kw_only=True, tag="leader"):
    """A scheduler begins a term; everything decided by an earlier term after this entry is void."""

    name: str
    term: int


class Restored(Event, frozen=True, kw_only=True, tag="restored"):
    """The broker came back with an older store: entries behind `from_seq` that somebody has seen are lost. Epochs of
    the new generation are higher than every one that was given in the lost part."""

    generation: int
    from_seq: int
    """The last entry of the older store."""


class TopicPlanned(Event, frozen=True, kw_only=True, tag="planned"):
    """A submit was accepted: its tasks exist."""

    submit: str
    topic: str
    specialization: str = ""
    tasks: tuple[TaskSpec, ...]
    facts: Facts = {}


class TopicRefused(Event, frozen=True, kw_only=True, tag="refused"):
    """A topic can not be worked on."""

    topic: str
    reason: str


class TopicSettled(Event, frozen=True, kw_only=True, tag="settled"):
    """A topic is over: nothing more is planned for it."""

    topic: str
    specialization: str = ""
    why: str
    facts: Facts = {}


class TaskLeased(Event, frozen=True, kw_only=True, tag="leased"):
    """A task was given to one incarnation for one epoch."""

    task: str
    epoch: Epoch
    incarnation: str
    attempt: int
    why: str = ""


class CheckpointRecorded(Event, frozen=True, kw_only=True, tag="checkpoint"):
    """A checkpoint counts from now on."""

    task: str
    epoch: Epoch
    number: int
    manifest: str
    step: int
    best: bool = False
    trained_s: float = 0.0


class TaskSucceeded(Event, frozen=True, kw_only=True, tag="succeeded"):
    """A result was recorded; the task has ended."""

    task: str
    epoch: Epoch
    number: int
    incarnation: str
    outcome: Outcome
    earned_under: Epoch | None = None
    """Epoch of the sender's lost lease, when the task was leased to it again to record this result."""


class LeaseEnded(Event, frozen=True, kw_only=True, tag="lease-ended"):
    """A lease is over without a result. `cause` says why: see `Cause`."""

    task: str
    epoch: Epoch
    cause: Cause
    reason: str
    again_after_s: float = 0.0
    """Back-off before the task may be leased again."""
    key_kind: str = ""
    key_number: int = 0
    """The outbox row that led to it ('' when none did): its receipt is `recorded`."""
    awaits: str = ""
    """The task that makes a missing input anew: this one waits for it."""


class TaskParked(Event, frozen=True, kw_only=True, tag="parked"):
    """A task was set aside for good, with its reason."""

    task: str
    epoch: Epoch | None
    reason: str
    key_kind: str = ""
    key_number: int = 0


class TaskCanceled(Event, frozen=True, kw_only=True, tag="canceled"):
    """A task was withdrawn."""

    task: str
    reason: str


class TaskResubmitted(Event, frozen=True, kw_only=True, tag="resubmitted"):
    """A parked task starts again: its budgets are full, its epochs go on rising."""

    task: str
    reason: str


class TaskReopened(Event, frozen=True, kw_only=True, tag="reopened"):
    """A task that had succeeded is done once more: an output that somebody needs was lost with the broker's store. Its
    epochs go on rising; its next result counts."""

    task: str
    spec: TaskSpec
    incarnation: str = ""
    """Who had made the result: should it come back with it, it is recorded."""
    reason: str
    waiting: tuple[str, ...] = ()
    """Open tasks that wait for it from now on."""


class WorkerDrained(Event, frozen=True, kw_only=True, tag="drained"):
    """A worker gets no leases from now on (`drained`), or gets them again."""

    worker: str
    drained: bool
    now: bool = False
    """It is told to give back what it holds, after a last checkpoint."""
    reason: str = ""


class Recommended(Event, frozen=True, kw_only=True, tag="recommended"):
    """Consensus' proposal is on record; the gate decides."""

    recommendation: Recommendation


AnyEvent = (
    LeaderChosen
    | TopicPlanned
    | TopicRefused
    | TaskLeased
    | CheckpointRecorded
    | TaskSucceeded
    | LeaseEnded
    | TaskParked
    | TaskCanceled
    | Recommended
    | TaskResubmitted
    | WorkerDrained
    | Restored
    | TaskReopened
    | TopicSettled
)


class SnapshotAt(Part, frozen=True, kw_only=True):
    """The newest snapshot of the ledger's state: where a scheduler that has read nothing yet may begin."""

    manifest: str
    """Digest of the artifact."""
    seq: int
    """The entry after which the state was this."""
    commands_seq: int
    """Commands that this entry covers: those up to here are not needed any more."""


class Entry(Record, frozen=True, kw_only=True):
    """One commit of the ledger: one message, one compare-and-set on the stream's last sequence."""

    kind: ClassVar[str] = "entry"
    bytes_max: ClassVar[int] = limits.LEDGER_ENTRY_BYTES_MAX

    term: int
    generation: int
    commands_seq: int
    previous: str
    """SHA-256 of the previous entry's bytes, 64 hex; zeros before the first."""
    at_ms: int
    """Wall clock of the leader, for people; never compared."""
    events: tuple[AnyEvent, ...]
    snapshot: SnapshotAt | None = None


class SavedCheckpoint(Part, frozen=True, kw_only=True):
    """A recorded checkpoint of a saved task."""

    number: int
    manifest: str
    step: int
    trained_s: float
    best: bool = False


class SavedTask(Part, frozen=True, kw_only=True):
    """An open or parked task in a snapshot. What it waits for follows from `spec.after` and the ended tasks."""

    spec: TaskSpec
    order: int
    state: TaskState
    epoch: Epoch
    incarnation: str = ""
    attempts: int = 0
    failures: int = 0
    memory_failures: int = 0
    deaths: int = 0
    failed_on: tuple[str, ...] = ()
    again_after_s: float = 0.0
    checkpoint: SavedCheckpoint | None = None
    older: tuple[SavedCheckpoint, ...] = ()
    """Earlier ones that are still known, newest first."""
    holders: tuple[tuple[Epoch, str], ...] = ()
    recorded: tuple[Key, ...] = ()
    reason: str = ""
    awaits: tuple[str, ...] = ()
    input_failures: int = 0


class SavedLine(Part, frozen=True, kw_only=True):
    """The last line of an ended task in a snapshot."""

    task: str
    topic: str
    state: TaskState
    epoch: Epoch
    key: Key | None = None
    reason: str = ""
    recorded: str = ""


class Untold(Part, frozen=True, kw_only=True):
    """A record for subscribers that was perhaps not yet on RESULTS."""

    seq: int
    subject: str
    data: bytes


class SnapshotHead(Record, frozen=True, kw_only=True):
    """The beginning of a snapshot: where it stands and what is counted."""

    kind: ClassVar[str] = "snapshot"

    seq: int
    digest: str
    """Of the entry `seq`: the entry after it must name this one as its previous."""
    commands_seq: int
    term: int
    leader: str
    generation: int
    restored_from: int = 0
    order: int
    """Of the task that was planned last."""
    counts: dict[str, int]


class SnapshotPart(Record, frozen=True, kw_only=True):
    """A piece of a snapshot."""

    kind: ClassVar[str] = "snapshot-part"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    tasks: tuple[SavedTask, ...] = ()
    lines: tuple[SavedLine, ...] = ()
    drained: tuple[WorkerDrained, ...] = ()
    said: tuple[str, ...] = ()
    untold: tuple[Untold, ...] = ()
