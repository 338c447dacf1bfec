"""The promises, and a second, simple account of the ledger that tells whether they hold.

Watches from outside: the LEDGER's entries as they come, at the end RESULTS, the COMMANDS and the outboxes' contents.
It shares no code with the scheduler's mind; only the projection's words are taken from it.

    one history       entries form one chain, terms and the commands they cover only rise
    one lease         a task has at most one lease; each under a higher epoch; never after its end; after its needs
    no stale write    what is recorded names the current epoch, and came from its holder
    every task ends   once faults cease, within SETTLE_S
    nothing lost      a result by a holder stands in the ledger, unless its task ended otherwise before it was heard
    true receipts     what an outbox let go as recorded is recorded, what was refused is not
    whole artifacts   what a recorded result has made is in the store, unless its maker's machine has lost it, too
    obedience         what the operator says is done (obedience.py); who is drained gets no lease
    one projection    RESULTS holds every record that follows from the ledger, once, and nothing else
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator

from benchmarks.simulation.obedience import Before, Obedience
from benchmarks.simulation.parts import Disk
from benchmarks.simulation.store import parts
from benchmarks.simulation.work import CommandLine
from mesh import codec, limits
from mesh.bus import Stored
from mesh.ledger_log import START
from mesh.memory import MemoryServer
from mesh.messages import object_names
from mesh.messages.base import Epoch, Key, Record
from mesh.messages.commands import COMMANDS, CheckpointMade, FailureFound, GiveBack, ResultFound, Submit
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    CheckpointRecorded,
    Entry,
    LeaderChosen,
    LeaseEnded,
    Restored,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
    WorkerDrained,
)
from mesh.messages.results import stamped
from mesh.messages.tasks import Outcome, TaskSpec
from mesh.outbox import Row
from planner.ledger import Ledger
from planner.projection import project

BROKEN_MAX = 20
"""Broken promises told of one seed: the first ones say what went wrong."""


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


class Judge:
    """Reads what the mesh says, and says what is wrong with it."""

    def __init__(self, server: MemoryServer) -> None:
        self.broken: list[str] = []
        self.tasks: dict[str, TaskAccount] = {}
        self.entries: list[tuple[int, Entry]] = []
        self.leader = ""
        """Name of the scheduler that began the newest term, as of the last look."""
        self._server = server
        self._subjects = server.subjects
        self._previous, self._term, self._covered, self._generation = START, 0, 0, 1
        self._leases: dict[tuple[str, Epoch], set[str]] = {}
        """Every lease ever given, in this history or in one that was lost with the broker's store."""
        self._wanted: set[str] = set()
        """Tasks that somebody has asked for, and would ask for again."""
        self.vanished: set[str] = set()
        """Subjects of artifacts that were removed from the store under everybody's hands."""
        self._rewound = False
        self._recorded_before: set[Key] = set()
        """Rows that were recorded in a history that was lost."""
        self._refused_before: set[Key] = set()
        """Rows that were refused in a history that was lost."""
        self._takers: dict[tuple[str, Epoch], str] = {}
        """Who has taken it: a lease of which its worker never heard binds nobody once it is lost."""
        self.obedience = Obedience(server, lambda sentence: self.breaks("obedience", sentence))
        self._unearned: dict[str, str] = {}
        """Tasks leased to workers that are drained, within one entry: only to record what they come back with."""

    def breaks(self, promise: str, sentence: str) -> None:
        """A promise was broken."""
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(f"{promise}: {sentence}")

    def taken(self, task: str, epoch: Epoch, incarnation: str) -> None:
        """A worker has taken a lease."""
        before = self._takers.setdefault((task, epoch), incarnation)
        if before != incarnation:
            self.breaks("one lease", f"epoch {epoch} of {task} is held by {before} and {incarnation}")

    # -- the ledger as it grows ---------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Read the entries that have come."""
        self.obedience.listen()
        stream = self._server.stream(self._subjects.stream("LEDGER"))
        seq = self.entries[-1][0] if self.entries else 0
        while (stored := stream.following(self._subjects.ledger(), seq + 1)) is not None:
            seq = stored.seq
            entry = codec.decode(stored.data, Entry, bytes_max=limits.LEDGER_ENTRY_BYTES_MAX)
            self._read(seq, entry)
            self._previous = codec.digest(stored.data)

    @property
    def generation(self) -> int:
        """Of the ledger as it was read last."""
        return self._generation

    def parked(self) -> list[TaskSpec]:
        """The dead letters, as of the last look."""
        return [task.spec for task in self.tasks.values() if task.ended == "parked"]

    def loses(self, subjects: list[str], chance: random.Random) -> str:
        """Which of these artifacts shall vanish, one of a result by preference; '' for none."""
        named = {self._manifest(digest) for _, made in self.succeeded() for digest in made.outputs.values()}
        found = [subject for subject in subjects if subject in named] if chance.random() < 0.7 else subjects
        if not found:
            return ""
        self.vanished.add(lost := chance.choice(found))
        return lost

    def succeeded(self) -> list[tuple[TaskSpec, Outcome]]:
        """Tasks with what they have made, as of the last look."""
        return [(task.spec, task.outcome) for task in self.tasks.values() if task.outcome is not None]

    def rewound(self, disks: dict[str, Disk]) -> None:
        """The broker comes back with an older store: read its history from the start. What was refused until now was
        refused in a history that is over: the one that comes may record it."""
        self._rewound = True
        for disk in disks.values():
            self._refused_before.update(disk.refused)
        for task in self.tasks.values():
            self._recorded_before.update(task.recorded)
        self.entries.clear()
        self.tasks.clear()
        self.obedience.rewound()
        self._previous, self._term, self._covered, self._generation = START, 0, 0, 1

    def _read(self, seq: int, entry: Entry) -> None:
        if entry.previous != self._previous:
            self.breaks("one history", f"entry {seq} does not follow the one before it")
        commands = self.obedience.covered(min(self._covered, entry.commands_seq), entry.commands_seq)
        before = self._before() if commands else None
        for event in entry.events:
            if isinstance(event, LeaderChosen):
                if event.term <= self._term:
                    self.breaks("one history", f"term {event.term} follows term {self._term}")
                self._term, self.leader = event.term, event.name.partition(".")[0]
            elif isinstance(event, Restored):
                if event.generation <= self._generation:
                    self.breaks("one history", f"generation {event.generation} follows {self._generation}")
                self._generation = event.generation
                self._covered = min(self._covered, entry.commands_seq)  # commands were lost with the store
            elif isinstance(event, WorkerDrained):
                self.obedience.hear(event)
            else:
                self._hear(seq, event)
        for name, incarnation in self._unearned.items():
            self.breaks("obedience", f"entry {seq} leases {name} to {incarnation}, which is drained")
        self._unearned.clear()
        if before is not None:
            self.obedience.check(seq, commands, before, entry.events)
        if entry.term != self._term:
            self.breaks("one history", f"entry {seq} of term {entry.term} stands in term {self._term}")
        if entry.commands_seq < self._covered:
            self.breaks("one history", f"entry {seq} covers {entry.commands_seq} commands, {self._covered} before")
        self._covered = entry.commands_seq
        if entry.generation != self._generation:
            self.breaks("one history", f"entry {seq} of generation {entry.generation} stands in {self._generation}")
        self.entries.append((seq, entry))

    def _before(self) -> Before:
        return Before(
            ended={name: task.ended for name, task in self.tasks.items()},
            specs={name: task.spec for name, task in self.tasks.items()},
        )

    def _hear(self, seq: int, event: AnyEvent) -> None:
        if isinstance(event, TopicPlanned):
            for spec in event.tasks:
                if spec.id in self.tasks:
                    self.breaks("one lease", f"{spec.id} is planned twice")
                self.tasks[spec.id] = TaskAccount(spec)
            return
        name = getattr(event, "task", "")
        task = self.tasks.get(name)
        if task is None:
            return self.breaks("one lease", f"entry {seq} names {name}, which was never planned")
        if isinstance(event, TaskResubmitted):
            return self._started_again(seq, task, "parked")
        if isinstance(event, TaskReopened):
            return self._reopened(seq, task, event)
        if task.ended:
            return self.breaks("one lease", f"entry {seq}: {type(event).__name__} of {name} after its end")
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

    def _leased(self, seq: int, task: TaskAccount, event: TaskLeased) -> None:
        name = event.task
        if task.holder:
            self.breaks("one lease", f"entry {seq} leases {name} to {event.incarnation}, {task.holder} holds it")
        if task.epoch is not None and event.epoch <= task.epoch:
            self.breaks("one lease", f"entry {seq}: epoch {event.epoch} of {name} follows {task.epoch}")
        unmet = [other for other in (*task.spec.after, *task.awaits) if self.tasks[other].ended != "succeeded"]
        if unmet:
            self.breaks("one lease", f"entry {seq} leases {name} before {unmet[0]} has succeeded")
        if event.incarnation.partition(".")[0] in self.obedience.drained:
            self._unearned[name] = event.incarnation
        self._leases.setdefault((name, event.epoch), set()).add(event.incarnation)
        task.epoch, task.holder = event.epoch, event.incarnation
        task.holders[event.epoch] = event.incarnation

    def _record(self, task: TaskAccount, key: Key) -> None:
        task.recorded.add(key)
        if key.epoch.generation < self._generation:
            task.restored.add(key)

    def _current(self, seq: int, task: TaskAccount, epoch: Epoch) -> None:
        if not task.holder or epoch != task.epoch:
            holder = task.holder or "nobody"
            self.breaks("no stale write", f"entry {seq}: {task.spec.id} {epoch} while {holder} holds {task.epoch}")

    def _succeeded(self, seq: int, task: TaskAccount, event: TaskSucceeded) -> None:
        self._current(seq, task, event.epoch)
        earned = event.earned_under or event.epoch
        if event.incarnation != task.holder or event.incarnation not in self._leases.get((event.task, earned), ()):
            self.breaks("no stale write", f"entry {seq}: {event.incarnation} did not earn {event.task} under {earned}")
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
            return self.breaks("one lease", f"entry {seq} starts {task.spec.id} again, which is {how}")
        task.ended, task.closed[-1] = "", (task.ended_at, seq)
        return None

    def _reopened(self, seq: int, task: TaskAccount, event: TaskReopened) -> None:
        if not (self._rewound or self.vanished):
            self.breaks("whole artifacts", f"entry {seq} opens {event.task} again, and nothing was lost")
        self._started_again(seq, task, "succeeded")
        results = {key for key in task.recorded if key.kind == ResultFound.kind}
        task.recorded -= results
        task.undone |= results
        task.outcome = None
        for name in event.waiting:
            self.tasks[name].awaits.add(event.task)

    # -- has everything settled? --------------------------------------------------------------------------------------

    def unsettled(self, asked: CommandLine, disks: dict[str, Disk]) -> list[str]:
        """What is still open, in words."""
        found = [] if asked.done else ["not everything is published"]
        self._wanted = {
            spec.id for command in asked.stored.values() if isinstance(command, Submit) for spec in command.tasks
        }
        found += [f"{name} is not planned" for name in sorted(self._wanted - self.tasks.keys())]
        found += [f"{name} has not ended" for name, task in self.tasks.items() if not task.ended]
        found += [
            f"{name} owes {key}" for name, disk in disks.items() for key in disk.pending if not self._forgotten(key)
        ]
        if self._rewound:  # what was lost is looked for, and told again, a while after it is known
            found += [sentence for name, disk in disks.items() for sentence in self._untold(name, disk)]
            found += [sentence for name, disk in disks.items() for sentence in self._not_put(name, disk)]
        return found

    def _forgotten(self, key: Key) -> bool:
        """Was its task lost with a store, and nobody wants it any more? Its rows wait for it, for a day."""
        return self._rewound and key.task not in self.tasks and key.task not in self._wanted

    def projected(self) -> int:
        """Records that RESULTS holds now."""
        stream, count, seq = self._server.stream(self._subjects.stream("RESULTS")), 0, 0
        while (stored := stream.following(self._subjects.results(), seq + 1)) is not None:
            count, seq = count + len(codec.rows(stored.data)), stored.seq
        return count

    def counts(self) -> Counter[str]:
        """What the ledger tells of."""
        found = Counter(f"tasks {task.ended or 'open'}" for task in self.tasks.values())
        found["tasks"], found["ledger entries"], found["terms"] = len(self.tasks), len(self.entries), self._term
        found["leases"] = len(self._leases)
        for _, entry in self.entries:
            for event in entry.events:
                found["late results taken"] += isinstance(event, TaskSucceeded) and event.earned_under is not None
                found["tasks reopened"] += isinstance(event, TaskReopened)
                found["tasks resubmitted"] += isinstance(event, TaskResubmitted)
                found["leases given back"] += isinstance(event, LeaseEnded) and event.cause is Cause.GIVEN_BACK
                found["workers drained"] += isinstance(event, WorkerDrained) and event.drained
        found["checkpoints"] = sum(key.kind == "checkpoint" for task in self.tasks.values() for key in task.recorded)
        return found

    # -- the verdict --------------------------------------------------------------------------------------------------

    def conclude(self, disks: dict[str, Disk]) -> None:
        """Everything that can only be said at the end."""
        self._check_projection()
        heard = self._heard_commands()
        for name, disk in disks.items():
            for row in (*disk.pending.values(), *disk.kept.values()):
                self._check_row(name, row, heard, refused=None)
            for row, reason in disk.refused.values():
                self._check_row(name, row, heard, refused=reason)
            for sentence in self._untold(name, disk):
                self.breaks("true receipts", sentence)
            for sentence in self._not_put(name, disk):
                self.breaks("whole artifacts", sentence)
        self._check_writers(disks)

    def _untold(self, name: str, disk: Disk) -> list[str]:
        """What an outbox let go of as recorded and is not, though it could be: of what was lost with a store, older
        checkpoints are not told again, nor is what could not be had any more at some time: a task that is done again
        may make the same artifact anew."""
        return [
            f"{name} let go of {key} as recorded, the ledger has no such thing"
            for key, row in disk.kept.items()
            if key not in self._recorded(key) | self._undone(key)
            and not (
                key in self._recorded_before
                and (
                    key.kind == CheckpointMade.kind or not all(self._at_hand(digest, disk) for digest in _outputs(row))
                )
            )
        ]

    def _not_put(self, name: str, disk: Disk) -> list[str]:
        """Outputs of recorded results that are not in the store, though who made them has them."""
        return [
            f"the output {digest[:12]} of {key} is not whole in the store, and {name} has it"
            for key, row in disk.kept.items()
            if key in self._recorded(key)
            for digest in _outputs(row)
            if digest in disk.cache and not self._stored(digest) and self._manifest(digest) not in self.vanished
        ]

    def _at_hand(self, digest: str, disk: Disk) -> bool:
        return digest not in disk.emptied and (digest in disk.cache or self._stored(digest))

    def _stored(self, digest: str) -> bool:
        """Is the artifact in the store, with all its parts?"""
        stream = self._server.stream(self._subjects.stream("ARTIFACTS"))
        manifest = stream.last(self._manifest(digest))
        return manifest is not None and all(
            stream.last(self._subjects.stored(name)) is not None for name, _ in parts(manifest.data)
        )

    def _manifest(self, digest: str) -> str:
        """Where its manifest is stored."""
        return self._subjects.stored(object_names.manifest(digest))

    def _undone(self, key: Key) -> set[Key]:
        task = self.tasks.get(key.task)
        return task.undone if task else set()

    def _recorded(self, key: Key) -> set[Key]:
        task = self.tasks.get(key.task)
        return task.recorded if task else set()

    def _heard_commands(self) -> dict[str, int]:
        """Ledger sequence at which each command subject was certainly heard; a pack is the subjects of its rows."""
        stream = self._server.stream(self._subjects.stream("COMMANDS"))
        covers, found, seq = iter(self.entries), dict[str, int](), 0
        ledger_seq, covered = 0, 0
        while (stored := stream.following(self._subjects.commands(), seq + 1)) is not None:
            seq = stored.seq
            while covered < seq:
                following = next(covers, None)
                if following is None:
                    return found
                ledger_seq, covered = following[0], following[1].commands_seq
            for subject in self._subjects_in(stored):
                found.setdefault(subject, ledger_seq)
        return found

    def _subjects_in(self, stored: Stored) -> Iterator[str]:
        rows = codec.rows(stored.data)
        if len(rows) == 1:
            yield stored.subject
            return
        for row in rows:
            record = codec.decode(row, *COMMANDS)
            if isinstance(record, ResultFound | CheckpointMade | FailureFound | GiveBack):
                yield self._subjects.owed(self._subjects.writer(stored.subject), record.key)

    def _check_row(self, worker: str, row: Row, heard: dict[str, int], refused: str | None) -> None:
        key, task = row.key, self.tasks.get(row.key.task)
        if task is None:
            if not self._forgotten(key):
                self.breaks("nothing lost", f"{worker} has {key}, the ledger does not know the task")
            return None
        if refused is not None and key in task.recorded - task.restored - self._refused_before:
            self.breaks("true receipts", f"{worker} was told that {key} is refused ({refused}), but it is recorded")
        record = codec.decode(row.data, *COMMANDS)
        if not isinstance(record, ResultFound) or task.holders.get(key.epoch) != record.incarnation:
            return None
        if not task.ended:
            self.breaks("nothing lost", f"{worker} has the result {key}, and {key.task} has not ended")
        at = heard.get(row.subject)
        if at is not None and task.ended_at > at and not task.had_ended(at):
            sentence = f"the result {key} was heard at entry {at}, and {key.task} ended at {task.ended_at}"
            self.breaks("nothing lost", sentence)
        return None

    def _check_writers(self, disks: dict[str, Disk]) -> None:
        """What the ledger recorded of outbox rows was written by the holder of the epoch, and stands in its outbox."""
        written: dict[Key, list[Record]] = {}
        for disk in disks.values():
            rows = (*disk.pending.values(), *disk.kept.values(), *(row for row, _ in disk.refused.values()))
            for row in rows:
                written.setdefault(row.key, []).append(codec.decode(row.data, *COMMANDS))
        for name, task in self.tasks.items():
            for key in sorted(task.recorded):
                writers = [
                    record.incarnation
                    for record in written.get(key, ())
                    if isinstance(record, CheckpointMade | FailureFound | GiveBack)
                    or (isinstance(record, ResultFound) and record.outcome == task.outcome)
                ]
                holders = sorted(self._leases.get((name, key.epoch), ()))
                if not set(holders) & set(writers):
                    sentence = f"{key} of {name} is recorded, held by {holders}, written by {writers}"
                    self.breaks("no stale write", sentence)

    def _check_projection(self) -> None:
        wanted = Counter[tuple[str, bytes]]()
        ledger = Ledger()
        for seq, entry in self.entries:
            for event in entry.events:
                record = project(event, ledger.apply(event))
                if record is not None:
                    where = self._subjects.result(record.topic, record.kind, f"{seq}-").rpartition("-")[0]
                    wanted[where, codec.encode(stamped(record, seq, entry.at_ms))] += 1
        stream = self._server.stream(self._subjects.stream("RESULTS"))
        found, seq = Counter[tuple[str, bytes]](), 0
        while (stored := stream.following(self._subjects.results(), seq + 1)) is not None:
            seq = stored.seq
            for row in codec.rows(stored.data):
                what = stored.subject.rpartition("-")[0], row
                found[what] += 1
                if what not in wanted:
                    self.breaks("one projection", f"a record of {stored.subject} does not follow from the ledger")
        for what, count in wanted.items():
            if found[what] != count:
                self.breaks("one projection", f"a record of {what[0]} stands {found[what]} times on RESULTS")


def _outputs(row: Row) -> list[str]:
    """Digests of what a result has made."""
    record = codec.decode(row.data, *COMMANDS)
    return sorted(record.outcome.outputs.values()) if isinstance(record, ResultFound) else []
