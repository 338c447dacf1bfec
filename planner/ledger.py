"""The ledger's fold: events in, task states out. What each event may follow stands here and nowhere else.

                     planned
                        |
           (after not ended?)--> WAITING --after succeeded--> READY <--lease-ended (back-off)--+
                                    |                           | leased (epoch + 1)           |
                                    |                           v                              |
                                    |                        LEASED ---------------------------+
                                    |          checkpoint ^--+  | succeeded    | parked
                                    v                           v              v
                                 PARKED / CANCELED          SUCCEEDED       PARKED      (canceled: from any open state)
                                    |
                                    +--resubmitted--> WAITING or READY (a parked task that is still at hand)

    SUCCEEDED --reopened--> WAITING or READY     (an output that somebody needs is lost)

The fold is deterministic: the same entries give the same state on every scheduler. It knows no clock; back-offs and
lease clocks live in the scheduler's memory and start anew after a take-over. It holds open tasks only. An ended task
leaves one line in the `ended` index, so that a late duplicate still gets an exact answer.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from mesh.errors import InvariantBroken
from mesh.messages.base import Epoch, Key
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    CheckpointRecorded,
    LeaderChosen,
    LeaseEnded,
    Recommended,
    Restored,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
    TopicRefused,
    TopicSettled,
    WorkerDrained,
)
from mesh.messages.tasks import TaskSpec, TaskState

NO_EPOCH = Epoch(0, 0)
"""Epoch of a task that was never leased."""

RECORDED_KEYS_MAX = 64
"""Recorded outbox keys remembered per open task; a checkpoint older than that is superseded anyway."""

HOLDERS_MAX = 16
"""Past holders remembered per open task: who may still come back with a finished result."""

DEAD_LETTERS_MAX = 10_000
"""Parked tasks kept at hand to be started again (about 2 KiB each); the oldest is forgotten first and stays parked."""

DRAINED_MAX = 10_000
"""Workers that are out of service; the one that was drained first is forgotten first."""

AWAITS_MAX = 16
"""Reopened tasks that one task waits for; it has no more inputs than that. The oldest is forgotten, and then missed."""

SAID_MAX = 10_000
"""Refusals, settlements and recommendations remembered, to drop repeated ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A recorded checkpoint of a task."""

    number: int
    manifest: str
    step: int
    trained_s: float
    best: bool = False
    """The best one until then."""


def kept_beside(made: Checkpoint, before: Checkpoint | None, older: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
    """What stays known beside the newest checkpoint, newest first: the one before it, and the best. When the newest
    turns out to be torn, the next attempt takes another one."""
    if before is None:
        return ()
    best = next((one for one in older if one.best), None)
    return (before,) if made.best or before.best or best is None else (before, best)


@dataclasses.dataclass(slots=True)
class Task:
    """One open task."""

    spec: TaskSpec
    order: int
    """Rises with every planned task: the order of submission."""
    state: TaskState
    missing: set[str] = dataclasses.field(default_factory=set)
    """Tasks in `spec.after` and `awaits` that have not succeeded yet; of one that begins `regardless`, those in
    `spec.after` that are not over."""
    awaits: tuple[str, ...] = ()
    """Reopened tasks that make its lost inputs anew."""
    epoch: Epoch = NO_EPOCH
    incarnation: str = ""
    attempts: int = 0
    """Leases ever given."""
    failures: int = 0
    memory_failures: int = 0
    input_failures: int = 0
    """Attempts in a row at an input that was not in the store."""
    deaths: int = 0
    """Workers that died while they ran it, since its last checkpoint."""
    failed_on: tuple[str, ...] = ()
    """Workers on which it failed or died lately: others are preferred."""
    again_after_s: float = 0.0
    checkpoint: Checkpoint | None = None
    """The newest: what the next attempt starts from."""
    older: tuple[Checkpoint, ...] = ()
    """What it starts from when the newest is not whole: at most two, newest first (`kept_beside`)."""
    holders: dict[Epoch, str] = dataclasses.field(default_factory=dict)
    recorded: dict[Key, None] = dataclasses.field(default_factory=dict)
    reason: str = ""

    def record(self, key: Key) -> None:
        """Remember that the ledger recorded this outbox row."""
        self.recorded[key] = None
        while len(self.recorded) > RECORDED_KEYS_MAX:
            del self.recorded[next(iter(self.recorded))]


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """The last line of an ended task."""

    task: str
    topic: str
    state: TaskState
    epoch: Epoch
    key: Key | None
    """The outbox row that ended it, if one did."""
    reason: str = ""
    recorded: str = ""
    """Its outbox rows on record, newest RECORDED_KEYS_MAX, a space around each: one string for few bytes a task."""

    def records(self, key: Key) -> bool:
        """True when the ledger recorded this outbox row of the task."""
        return f" {_short(key)} " in self.recorded

    def rows(self) -> tuple[Key, ...]:
        """All outbox rows of the task that are on record and known."""
        rows = (short.split("/") for short in self.recorded.split())
        return tuple(Key(self.task, Epoch.parse(epoch), kind, int(number)) for epoch, kind, number in rows)


def _short(key: Key) -> str:
    return f"{key.epoch}/{key.kind}/{key.number}"


class EndedIndex(Protocol):
    """Where the last lines of ended tasks are kept: a dictionary in tests, SQLite in the scheduler."""

    def get(self, task: str) -> Ended | None: ...

    def put(self, line: Ended) -> None: ...

    def remove(self, task: str) -> None: ...


class EndedInMemory:
    """The index as a dictionary, for tests and simulation."""

    def __init__(self) -> None:
        self._lines: dict[str, Ended] = {}

    def get(self, task: str) -> Ended | None:
        """The last line of a task, or None."""
        return self._lines.get(task)

    def put(self, line: Ended) -> None:
        """Keep a line."""
        self._lines[line.task] = line

    def remove(self, task: str) -> None:
        """Forget a line: the task is open again."""
        self._lines.pop(task, None)


class Ledger:
    """State of the mesh after a number of entries."""

    def __init__(self, ended: EndedIndex | None = None) -> None:
        self.tasks: dict[str, Task] = {}
        self.ended: EndedIndex = ended if ended is not None else EndedInMemory()
        self.by_topic: dict[str, set[str]] = {}
        self.by_incarnation: dict[str, set[str]] = {}
        self.dependents: dict[str, set[str]] = {}
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.dead_letters: OrderedDict[str, Task] = OrderedDict()
        """Parked tasks as they were, oldest first: what may be resubmitted. A bounded list."""
        self.drained: OrderedDict[str, WorkerDrained] = OrderedDict()
        """Workers (by name) that get no leases, with how they were drained. A bounded list."""
        self.term = 0
        self.generation = 1
        self.restored_from = 0
        """Last entry of the store that came back older and began this generation; 0 in the first one."""
        self.leader = ""
        self.commands_seq = 0
        self.order = 0
        """Of the task that was planned last."""
        self._said: OrderedDict[str, None] = OrderedDict()

    # -- questions ----------------------------------------------------------------------------------------------------

    def knows(self, task: str) -> bool:
        """True when the task exists, open or ended."""
        return task in self.tasks or self.ended.get(task) is not None

    def said(self, what: str, id_: str) -> bool:
        """True when this refusal, settlement or recommendation is already on record."""
        return f"{what} {id_}" in self._said

    def holds(self, task: str, epoch: Epoch, incarnation: str) -> bool:
        """True when `incarnation` holds the task's lease under exactly this epoch."""
        found = self.tasks.get(task)
        return (
            found is not None
            and found.state is TaskState.LEASED
            and found.epoch == epoch
            and found.incarnation == incarnation
        )

    def before(self, names: Iterable[str]) -> set[str]:
        """These open tasks, and all open ones for which they wait, one behind the other."""
        found: set[str] = set()
        waiting = [name for name in names if name in self.tasks]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [other for other in self.tasks[name].missing if other in self.tasks]
        return found

    # -- from a snapshot ----------------------------------------------------------------------------------------------

    def take_over(self, task: Task) -> None:
        """A task as a snapshot has it. Tasks that have ended must be in the index already."""
        if task.state is TaskState.PARKED:
            self._set_aside(task)
            return
        if task.state is not TaskState.LEASED:
            task.missing = self._needed(task)
            task.state = TaskState.WAITING if task.missing else TaskState.READY
        else:
            self.by_incarnation.setdefault(task.incarnation, set()).add(task.spec.id)
        self._open_task(task)

    def said_before(self, said: Iterable[str]) -> None:
        """Refusals, settlements and recommendations that are on record, oldest first."""
        self._said.update((what, None) for what in said)

    @property
    def all_said(self) -> tuple[str, ...]:
        """The same, for a snapshot."""
        return tuple(self._said)

    # -- the fold -----------------------------------------------------------------------------------------------------

    def apply(self, event: AnyEvent) -> Task | None:
        """Fold one event; the task it is about, as it is after the event. InvariantBroken when it may not follow."""
        match event:
            case LeaderChosen():
                self._expect(event.term > self.term, f"term {event.term} does not follow term {self.term}")
                self.term, self.leader = event.term, event.name
            case Restored():
                self._expect(
                    event.generation > self.generation,
                    f"generation {event.generation} does not follow generation {self.generation}",
                )
                self.generation, self.restored_from = event.generation, event.from_seq
            case TopicPlanned():
                for spec in event.tasks:
                    self._plan(spec)
            case TopicRefused():
                self._say("refused", event.topic)
            case TopicSettled():
                self._say("settled", event.topic)
            case Recommended():
                self._say("recommended", event.recommendation.id)
            case TaskLeased():
                return self._lease(event)
            case CheckpointRecorded():
                return self._checkpoint(event)
            case TaskSucceeded():
                return self._succeed(event)
            case LeaseEnded():
                return self._end_lease(event)
            case TaskParked():
                return self._park(event)
            case TaskCanceled():
                return self._end(self._open(event.task), TaskState.CANCELED, event.reason, None)
            case TaskResubmitted():
                return self._resubmit(event)
            case TaskReopened():
                return self._reopen(event)
            case WorkerDrained():
                self._drain(event)
        return None

    def _plan(self, spec: TaskSpec) -> None:
        self._expect(not self.knows(spec.id), f"task {spec.id} is planned twice")
        self.order += 1
        task = Task(spec=spec, order=self.order, state=TaskState.READY)
        task.missing = self._needed(task)
        task.state = TaskState.WAITING if task.missing else TaskState.READY
        self._open_task(task)
        self.counts[task.state] += 1

    def _needed(self, task: Task) -> set[str]:
        """What it waits for: what it needs and has not succeeded, or is not over where that is enough."""
        enough = (lambda name: self.ended.get(name) is not None) if task.spec.regardless else self._succeeded
        first = {name for name in task.spec.after if not enough(name)}
        return first | {name for name in task.awaits if not self._succeeded(name)}

    def _succeeded(self, name: str) -> bool:
        line = self.ended.get(name)
        return line is not None and line.state is TaskState.SUCCEEDED

    def _lease(self, event: TaskLeased) -> Task:
        task = self._open(event.task)
        self._expect(task.state is TaskState.READY, f"task {event.task} is leased while {task.state}")
        self._expect(event.epoch > task.epoch, f"epoch {event.epoch} of {event.task} does not follow {task.epoch}")
        self._move(task, TaskState.LEASED)
        task.epoch, task.incarnation, task.attempts = event.epoch, event.incarnation, event.attempt
        task.again_after_s, task.reason = 0.0, ""
        task.holders[event.epoch] = event.incarnation
        while len(task.holders) > HOLDERS_MAX:
            del task.holders[min(task.holders)]
        self.by_incarnation.setdefault(event.incarnation, set()).add(event.task)
        return task

    def _checkpoint(self, event: CheckpointRecorded) -> Task:
        task = self._leased(event.task, event.epoch)
        number = task.checkpoint.number if task.checkpoint else 0
        self._expect(event.number > number, f"checkpoint {event.number} of {event.task} does not follow {number}")
        made = Checkpoint(event.number, event.manifest, event.step, event.trained_s, event.best)
        task.checkpoint, task.older = made, kept_beside(made, task.checkpoint, task.older)
        task.deaths = 0  # it makes progress: machines that vanish are not its fault
        task.record(Key(event.task, event.epoch, "checkpoint", event.number))
        return task

    def _succeed(self, event: TaskSucceeded) -> Task:
        task = self._leased(event.task, event.epoch)
        earned = event.earned_under if event.earned_under is not None else event.epoch
        key = Key(event.task, earned, "result", event.number)
        return self._end(task, TaskState.SUCCEEDED, "", key)

    def _end_lease(self, event: LeaseEnded) -> Task:
        task = self._leased(event.task, event.epoch)
        worker = task.incarnation.partition(".")[0]
        if event.cause in (Cause.FAILURE, Cause.MEMORY, Cause.DIED):
            task.failed_on = (*(name for name in task.failed_on if name != worker), worker)[-4:]
        task.failures += event.cause is Cause.FAILURE
        task.memory_failures += event.cause is Cause.MEMORY
        task.deaths += event.cause is Cause.DIED
        if event.key_kind:
            task.record(Key(event.task, event.epoch, event.key_kind, event.key_number))
        task.input_failures = task.input_failures + 1 if event.cause is Cause.INPUT and not event.awaits else 0
        task.again_after_s, task.reason = event.again_after_s, event.reason
        self._release(task)
        self._wait(task, event.awaits)
        return task

    def _park(self, event: TaskParked) -> Task:
        task = self._open(event.task)
        key = None
        if event.key_kind and event.epoch is not None:
            key = Key(event.task, event.epoch, event.key_kind, event.key_number)
        return self._end(task, TaskState.PARKED, event.reason, key)

    def _resubmit(self, event: TaskResubmitted) -> Task:
        task = self.dead_letters.pop(event.task, None)
        if task is None:
            raise InvariantBroken(f"the ledger starts {event.task} again, which is not among the parked tasks at hand")
        self.ended.remove(event.task)
        task.failures = task.memory_failures = task.input_failures = task.deaths = 0
        task.failed_on, task.again_after_s, task.reason = (), 0.0, event.reason
        task.missing = self._needed(task)
        self._move(task, TaskState.WAITING if task.missing else TaskState.READY)
        self._open_task(task)
        for name in self.by_topic[task.spec.topic]:
            other = self.tasks[name]
            if other.spec.regardless and event.task in other.spec.after and other.state is not TaskState.LEASED:
                self._wait(other)  # it is not over any more
        return task

    def _reopen(self, event: TaskReopened) -> Task:
        line = self.ended.get(event.task)
        if line is None or line.state is not TaskState.SUCCEEDED:
            raise InvariantBroken(f"the ledger opens {event.task} again, which has not succeeded")
        self.ended.remove(event.task)
        self.order += 1
        task = Task(spec=event.spec, order=self.order, state=line.state, epoch=line.epoch, attempts=line.epoch.count)
        task.holders, task.reason = {line.epoch: event.incarnation}, event.reason
        task.recorded = dict.fromkeys(key for key in line.rows() if key != line.key)  # its result is not, any more
        task.missing = self._needed(task)
        self._move(task, TaskState.WAITING if task.missing else TaskState.READY)
        self._open_task(task)
        waiting = set(event.waiting)
        for name, other in self.tasks.items():  # rare enough to look at all of them
            needs_it = event.task in other.spec.after or event.task in other.awaits
            if (needs_it or name in waiting) and other.state is not TaskState.LEASED:
                self._wait(other, event.task if name in waiting else "")
        return task

    def _wait(self, task: Task, awaits: str = "") -> None:
        """Ready, unless what it needs has not succeeded, or not any more."""
        if awaits and awaits not in task.awaits:
            task.awaits, task.again_after_s = (*task.awaits, awaits)[-AWAITS_MAX:], 0.0
        task.missing = self._needed(task)
        for other in task.missing:
            self.dependents.setdefault(other, set()).add(task.spec.id)
        self._move(task, TaskState.WAITING if task.missing else TaskState.READY)

    def _drain(self, event: WorkerDrained) -> None:
        self.drained.pop(event.worker, None)
        if event.drained:
            self.drained[event.worker] = event
        while len(self.drained) > DRAINED_MAX:
            self.drained.popitem(last=False)

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _open_task(self, task: Task) -> None:
        """Take a task into the fold."""
        name = task.spec.id
        self.tasks[name] = task
        self.by_topic.setdefault(task.spec.topic, set()).add(name)
        for other in task.missing:
            self.dependents.setdefault(other, set()).add(name)

    def _end(self, task: Task, state: TaskState, reason: str, key: Key | None) -> Task:
        """Close a task: it leaves the fold, one line stays."""
        name = task.spec.id
        if key is not None:
            task.record(key)
        if task.state is TaskState.LEASED:
            self._release(task)
        for other in task.missing:
            self._waits_no_more(name, other)
        self._move(task, state)
        task.reason = reason
        del self.tasks[name]
        siblings = self.by_topic[task.spec.topic]
        siblings.discard(name)
        if not siblings:
            del self.by_topic[task.spec.topic]
        recorded = "".join(f" {_short(key)} " for key in task.recorded)
        self.ended.put(Ended(name, task.spec.topic, state, task.epoch, key, reason, recorded))
        if state is TaskState.PARKED:
            self._set_aside(task)
        self._free(name, succeeded=state is TaskState.SUCCEEDED)
        return task

    def _free(self, ended: str, *, succeeded: bool) -> None:
        """Those that waited for a task that is over wait for it no more, unless it should have succeeded."""
        for name in tuple(self.dependents.get(ended, ())):
            dependent = self.tasks.get(name)
            if dependent is None:
                self._waits_no_more(name, ended)
            elif succeeded or (dependent.spec.regardless and ended not in dependent.awaits):
                self._waits_no_more(name, ended)
                dependent.missing.discard(ended)
                if not dependent.missing and dependent.state is TaskState.WAITING:
                    self._move(dependent, TaskState.READY)

    def _set_aside(self, task: Task) -> None:
        task.missing = set()  # known anew when it starts again
        self.dead_letters[task.spec.id] = task
        while len(self.dead_letters) > DEAD_LETTERS_MAX:
            self.dead_letters.popitem(last=False)

    def _waits_no_more(self, name: str, other: str) -> None:
        waiting = self.dependents.get(other, set())
        waiting.discard(name)
        if not waiting:
            self.dependents.pop(other, None)

    def _release(self, task: Task) -> None:
        held = self.by_incarnation.get(task.incarnation, set())
        held.discard(task.spec.id)
        if not held:
            self.by_incarnation.pop(task.incarnation, None)

    def _move(self, task: Task, state: TaskState) -> None:
        self.counts[task.state] -= 1
        self.counts[state] += 1
        task.state = state

    def _open(self, name: str) -> Task:
        task = self.tasks.get(name)
        if task is None:
            raise InvariantBroken(f"the ledger names task {name}, which is not open")
        return task

    def _leased(self, name: str, epoch: Epoch) -> Task:
        task = self._open(name)
        self._expect(
            task.state is TaskState.LEASED and task.epoch == epoch,
            f"task {name} is {task.state} under epoch {task.epoch}, the event says {epoch}",
        )
        return task

    def _say(self, what: str, id_: str) -> None:
        self._said[f"{what} {id_}"] = None
        while len(self._said) > SAID_MAX:
            self._said.popitem(last=False)

    def _expect(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise InvariantBroken(f"the ledger contradicts itself: {sentence}")
