"""What the ledger has said of each task, event by event: the promises about leases and stale writes.

    one lease         a task has at most one lease; each under a higher epoch; never after its end; after its needs
    no stale write    what is recorded names the current epoch, and came from its holder

Kept from one history to the next, when the broker comes back with an older store: every lease ever given, who took it,
and what was recorded. A lease of which its worker never heard binds nobody once it is lost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection

from mesh.messages.base import Epoch, Key
from mesh.messages.commands import ResultFound
from mesh.messages.ledger import (
    AnyEvent,
    CheckpointRecorded,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
)
from mesh.messages.tasks import Outcome, TaskSpec

Breaks = Callable[[str, str], None]
"""Hears which promise is broken, and how."""


@dataclasses.dataclass(slots=True)
class TaskAccount:
    """What the ledger has said of one task."""

    spec: TaskSpec
    epoch: Epoch | None = None
    holder: str = ""
    """Who holds its lease; '' when nobody does."""
    holders: dict[Epoch, str] = dataclasses.field(default_factory=dict)
    recorded: set[Key] = dataclasses.field(default_factory=set)
    """Outbox rows that the ledger names."""
    undone: set[Key] = dataclasses.field(default_factory=set)
    """Results that the ledger named and takes back, because what they have made is lost."""
    awaits: set[str] = dataclasses.field(default_factory=set)
    """Reopened tasks that make what it needs."""
    restored: set[Key] = dataclasses.field(default_factory=set)
    """Those of them that it names in a later generation than their epoch's: in a history that was lost, they may have
    been refused."""
    outcome: Outcome | None = None
    """What its result said, when it has succeeded."""
    ended: str = ""
    closed: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    """From which entry to which one it had ended; infinity: it still has."""

    @property
    def ended_at(self) -> int:
        """Sequence of the entry that ended it last; 0: it never has."""
        return self.closed[-1][0] if self.closed else 0

    def had_ended(self, seq: int) -> bool:
        """True when it had ended before this entry was over, and had not started again before it began."""
        return any(since <= seq <= until for since, until in self.closed)


class Accounts:
    """The account of every task, of the history that is there and of those that were lost."""

    def __init__(self, breaks: Breaks, drained: Collection[str]) -> None:
        """drained: names of the workers that shall get no lease, as of now."""
        self.tasks: dict[str, TaskAccount] = {}
        self.leases: dict[tuple[str, Epoch], set[str]] = {}
        """Every lease ever given, in this history or in one that was lost with the broker's store."""
        self.generation = 1
        """Of the ledger as it was read last."""
        self.has_rewound = False
        self.recorded_before: set[Key] = set()
        """Rows that were recorded in a history that was lost."""
        self.wanted: set[str] = set()
        """Tasks that somebody has asked for, and would ask for again."""
        self.vanished: set[str] = set()
        """Subjects of artifacts that were removed from the store under everybody's hands."""
        self._breaks, self._drained = breaks, drained
        self._takers: dict[tuple[str, Epoch], str] = {}
        self._unearned: dict[str, str] = {}
        """Tasks leased to workers that are drained, within one entry: only to record what they come back with."""

    def recorded(self, key: Key) -> set[Key]:
        """Rows of the key's task that the ledger names."""
        task = self.tasks.get(key.task)
        return task.recorded if task else set()

    def undone(self, key: Key) -> set[Key]:
        """Results of the key's task that it took back."""
        task = self.tasks.get(key.task)
        return task.undone if task else set()

    def forgotten(self, key: Key) -> bool:
        """Was its task lost with a store, and nobody wants it any more? Its rows wait for it, for a day."""
        return self.has_rewound and key.task not in self.tasks and key.task not in self.wanted

    def succeeded(self) -> list[tuple[TaskSpec, Outcome]]:
        """Tasks with what they have made."""
        return [(task.spec, task.outcome) for task in self.tasks.values() if task.outcome is not None]

    def rewound(self) -> None:
        """Another history comes, from its start."""
        self.has_rewound, self.generation = True, 1
        for task in self.tasks.values():
            self.recorded_before.update(task.recorded)
        self.tasks.clear()

    def taken(self, task: str, epoch: Epoch, incarnation: str) -> None:
        """A worker has taken a lease."""
        before = self._takers.setdefault((task, epoch), incarnation)
        if before != incarnation:
            self._breaks("one lease", f"epoch {epoch} of {task} is held by {before} and {incarnation}")

    # -- event by event -----------------------------------------------------------------------------------------------

    def hear(self, seq: int, event: AnyEvent) -> None:
        """An event of entry seq."""
        if isinstance(event, TopicPlanned):
            for spec in event.tasks:
                if spec.id in self.tasks:
                    self._breaks("one lease", f"{spec.id} is planned twice")
                self.tasks[spec.id] = TaskAccount(spec)
            return
        name = getattr(event, "task", "")
        task = self.tasks.get(name)
        if task is None:
            return self._breaks("one lease", f"entry {seq} names {name}, which was never planned")
        if isinstance(event, TaskResubmitted):
            return self._started_again(seq, task, "parked")
        if isinstance(event, TaskReopened):
            return self._reopened(seq, task, event)
        if task.ended:
            return self._breaks("one lease", f"entry {seq}: {type(event).__name__} of {name} after its end")
        match event:
            case TaskLeased():
                self._leased(seq, task, event)
            case CheckpointRecorded():
                self._current(seq, task, event.epoch)
                self._record(task, Key(name, event.epoch, "checkpoint", event.number))
            case LeaseEnded():
                self._current(seq, task, event.epoch)
                if event.key_kind:
                    self._record(task, Key(name, event.epoch, event.key_kind, event.key_number))
                task.holder = ""
            case TaskSucceeded():
                self._succeeded(seq, task, event)
            case TaskParked():
                if event.key_kind and event.epoch is not None:
                    self._current(seq, task, event.epoch)
                    self._record(task, Key(name, event.epoch, event.key_kind, event.key_number))
                self._ended(seq, task, "parked")
            case TaskCanceled():
                self._ended(seq, task, "canceled")

    def close_entry(self, seq: int) -> None:
        """All events of the entry were heard: a lease for a worker that is drained must have been earned in it."""
        for name, incarnation in self._unearned.items():
            self._breaks("obedience", f"entry {seq} leases {name} to {incarnation}, which is drained")
        self._unearned.clear()

    def _leased(self, seq: int, task: TaskAccount, event: TaskLeased) -> None:
        name = event.task
        if task.holder:
            self._breaks("one lease", f"entry {seq} leases {name} to {event.incarnation}, {task.holder} holds it")
        if task.epoch is not None and event.epoch <= task.epoch:
            self._breaks("one lease", f"entry {seq}: epoch {event.epoch} of {name} follows {task.epoch}")
        unmet = [other for other in (*task.spec.after, *task.awaits) if self.tasks[other].ended != "succeeded"]
        if unmet:
            self._breaks("one lease", f"entry {seq} leases {name} before {unmet[0]} has succeeded")
        if event.incarnation.partition(".")[0] in self._drained:
            self._unearned[name] = event.incarnation
        self.leases.setdefault((name, event.epoch), set()).add(event.incarnation)
        task.epoch, task.holder = event.epoch, event.incarnation
        task.holders[event.epoch] = event.incarnation

    def _record(self, task: TaskAccount, key: Key) -> None:
        task.recorded.add(key)
        if key.epoch.generation < self.generation:
            task.restored.add(key)

    def _current(self, seq: int, task: TaskAccount, epoch: Epoch) -> None:
        if not task.holder or epoch != task.epoch:
            holder = task.holder or "nobody"
            self._breaks("no stale write", f"entry {seq}: {task.spec.id} {epoch} while {holder} holds {task.epoch}")

    def _succeeded(self, seq: int, task: TaskAccount, event: TaskSucceeded) -> None:
        self._current(seq, task, event.epoch)
        earned = event.earned_under or event.epoch
        if event.incarnation != task.holder or event.incarnation not in self.leases.get((event.task, earned), ()):
            self._breaks("no stale write", f"entry {seq}: {event.incarnation} did not earn {event.task} under {earned}")
        if event.earned_under is not None:
            self._unearned.pop(event.task, None)
        self._record(task, Key(event.task, earned, "result", event.number))
        task.outcome = event.outcome
        self._ended(seq, task, "succeeded")

    @staticmethod
    def _ended(seq: int, task: TaskAccount, how: str) -> None:
        task.ended, task.holder = how, ""
        task.closed.append((seq, math.inf))

    def _started_again(self, seq: int, task: TaskAccount, ended: str) -> None:
        """A task goes on as if it had not ended so: its next end is the only one, its epochs go on rising."""
        if task.ended != ended:
            how = task.ended or "open"
            return self._breaks("one lease", f"entry {seq} starts {task.spec.id} again, which is {how}")
        task.ended, task.closed[-1] = "", (task.ended_at, seq)
        return None

    def _reopened(self, seq: int, task: TaskAccount, event: TaskReopened) -> None:
        if not (self.has_rewound or self.vanished):
            self._breaks("whole artifacts", f"entry {seq} opens {event.task} again, and nothing was lost")
        self._started_again(seq, task, "succeeded")
        results = {key for key in task.recorded if key.kind == ResultFound.kind}
        task.recorded -= results
        task.undone |= results
        task.outcome = None
        for name in event.waiting:
            self.tasks[name].awaits.add(event.task)
