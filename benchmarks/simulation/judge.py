"""The promises, and a second, simple account of the ledger that tells whether they hold.

Watches from outside: the LEDGER's entries as they come, at the end RESULTS, the COMMANDS and the outboxes' contents.
It shares no code with the scheduler's mind; only the projection's words are taken from it. Each promise has its file:

    one history       entries form one chain, terms and the commands they cover only rise         here
    one lease         a task has at most one lease; each under a higher epoch; after its needs    accounts.py
    no stale write    what is recorded names the current epoch, and came from its holder          accounts.py, owed.py
    every task ends   once faults cease, within SETTLE_S                                          here, world.py
    nothing lost      a result by a holder stands in the ledger, unless its task ended before     owed.py
    true receipts     what an outbox let go as recorded is recorded, what was refused is not      owed.py
    whole artifacts   what a recorded result has made is in the store, or lost by its maker       wholeness.py
    obedience         what the operator says is done; who is drained gets no lease                obedience.py
    one projection    RESULTS holds what follows from the ledger, once, and nothing else          records.py
"""

from __future__ import annotations

import random
from collections import Counter

from benchmarks.simulation.accounts import Accounts
from benchmarks.simulation.obedience import Before, Obedience
from benchmarks.simulation.owed import Owed
from benchmarks.simulation.parts import Disk
from benchmarks.simulation.records import Records
from benchmarks.simulation.wholeness import Wholeness
from benchmarks.simulation.work import CommandLine
from mesh import codec, limits
from mesh.ledger_log import START
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch
from mesh.messages.commands import Submit
from mesh.messages.ledger import (
    Cause,
    Entry,
    LeaderChosen,
    LeaseEnded,
    Restored,
    TaskReopened,
    TaskResubmitted,
    TaskSucceeded,
    WorkerDrained,
)
from mesh.messages.tasks import Outcome, TaskSpec

BROKEN_MAX = 20
"""Broken promises told of one seed: the first ones say what went wrong."""


class Judge:
    """Reads what the mesh says, and says what is wrong with it."""

    def __init__(self, server: MemoryServer) -> None:
        self.broken: list[str] = []
        self.entries: list[tuple[int, Entry]] = []
        self.leader = ""
        """Name of the scheduler that began the newest term, as of the last look."""
        self.obedience = Obedience(server, lambda sentence: self.breaks("obedience", sentence))
        self._server, self._subjects = server, server.subjects
        self._accounts = Accounts(self.breaks, self.obedience.drained)
        self._wholeness = Wholeness(server, self._accounts)
        self._owed = Owed(server, self._accounts, self._wholeness, self.breaks)
        self._records = Records(server, self.breaks)
        self._previous, self._term, self._covered = START, 0, 0

    def breaks(self, promise: str, sentence: str) -> None:
        """A promise was broken."""
        if len(self.broken) < BROKEN_MAX:
            self.broken.append(f"{promise}: {sentence}")

    # -- what others of the simulation ask ----------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Of the ledger as it was read last."""
        return self._accounts.generation

    def taken(self, task: str, epoch: Epoch, incarnation: str) -> None:
        """A worker has taken a lease."""
        self._accounts.taken(task, epoch, incarnation)

    def parked(self) -> list[TaskSpec]:
        """The dead letters, as of the last look."""
        return [task.spec for task in self._accounts.tasks.values() if task.ended == "parked"]

    def succeeded(self) -> list[tuple[TaskSpec, Outcome]]:
        """Tasks with what they have made, as of the last look."""
        return self._accounts.succeeded()

    def loses(self, subjects: list[str], chance: random.Random) -> str:
        """Which of these artifacts shall vanish, one of a result by preference; '' for none."""
        return self._wholeness.loses(subjects, chance)

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

    def rewound(self, disks: dict[str, Disk]) -> None:
        """The broker comes back with an older store: read its history from the start."""
        self._owed.rewound(disks)
        self._accounts.rewound()
        self.obedience.rewound()
        self.entries.clear()
        self._previous, self._term, self._covered = START, 0, 0

    def _read(self, seq: int, entry: Entry) -> None:
        if entry.previous != self._previous:
            self.breaks("one history", f"entry {seq} does not follow the one before it")
        commands = self.obedience.covered(min(self._covered, entry.commands_seq), entry.commands_seq)
        before = self._before() if commands else None
        for event in entry.events:
            if isinstance(event, LeaderChosen):
                self._chosen(event)
            elif isinstance(event, Restored):
                self._restored(event)
                self._covered = min(self._covered, entry.commands_seq)  # commands were lost with the store
            elif isinstance(event, WorkerDrained):
                self.obedience.hear(event)
            else:
                self._accounts.hear(seq, event)
        self._accounts.close_entry(seq)
        if before is not None:
            self.obedience.check(seq, commands, before, entry.events)
        self._check_order(seq, entry)
        self._covered = entry.commands_seq
        self.entries.append((seq, entry))

    def _before(self) -> Before:
        tasks = self._accounts.tasks.items()
        return Before(ended={name: task.ended for name, task in tasks}, specs={name: task.spec for name, task in tasks})

    def _chosen(self, event: LeaderChosen) -> None:
        if event.term <= self._term:
            self.breaks("one history", f"term {event.term} follows term {self._term}")
        self._term, self.leader = event.term, event.name.partition(".")[0]

    def _restored(self, event: Restored) -> None:
        if event.generation <= self.generation:
            self.breaks("one history", f"generation {event.generation} follows {self.generation}")
        self._accounts.generation = event.generation

    def _check_order(self, seq: int, entry: Entry) -> None:
        if entry.term != self._term:
            self.breaks("one history", f"entry {seq} of term {entry.term} stands in term {self._term}")
        if entry.commands_seq < self._covered:
            self.breaks("one history", f"entry {seq} covers {entry.commands_seq} commands, {self._covered} before")
        if entry.generation != self.generation:
            self.breaks("one history", f"entry {seq} of generation {entry.generation} stands in {self.generation}")

    # -- has everything settled? --------------------------------------------------------------------------------------

    def unsettled(self, asked: CommandLine, disks: dict[str, Disk]) -> list[str]:
        """What is still open, in words."""
        accounts = self._accounts
        found = [] if asked.done else ["not everything is published"]
        accounts.wanted = {
            spec.id for command in asked.stored.values() if isinstance(command, Submit) for spec in command.tasks
        }
        found += [f"{name} is not planned" for name in sorted(accounts.wanted - accounts.tasks.keys())]
        found += [f"{name} has not ended" for name, task in accounts.tasks.items() if not task.ended]
        found += self._owed.unsettled(disks)
        if accounts.has_rewound:  # what was lost is looked for, and told again, a while after it is known
            found += [sentence for name, disk in disks.items() for sentence in self._owed.untold(name, disk)]
            found += [sentence for name, disk in disks.items() for sentence in self._wholeness.not_put(name, disk)]
        if not found and not self._records.complete(self.entries):
            found.append("RESULTS does not hold what the ledger says")
        return found

    # -- the verdict --------------------------------------------------------------------------------------------------

    def conclude(self, disks: dict[str, Disk]) -> None:
        """Everything that can only be said at the end."""
        self._records.conclude(self.entries)
        self._owed.conclude(disks, self.entries)
        for name, disk in disks.items():
            for sentence in self._wholeness.not_put(name, disk):
                self.breaks("whole artifacts", sentence)

    def counts(self) -> Counter[str]:
        """What the ledger tells of."""
        tasks = self._accounts.tasks.values()
        found = Counter(f"tasks {task.ended or 'open'}" for task in tasks)
        found["tasks"], found["ledger entries"], found["terms"] = len(tasks), len(self.entries), self._term
        found["leases"] = len(self._accounts.leases)
        for _, entry in self.entries:
            for event in entry.events:
                found["late results taken"] += isinstance(event, TaskSucceeded) and event.earned_under is not None
                found["tasks reopened"] += isinstance(event, TaskReopened)
                found["tasks resubmitted"] += isinstance(event, TaskResubmitted)
                found["leases given back"] += isinstance(event, LeaseEnded) and event.cause is Cause.GIVEN_BACK
                found["workers drained"] += isinstance(event, WorkerDrained) and event.drained
        found["checkpoints"] = sum(key.kind == "checkpoint" for task in tasks for key in task.recorded)
        return found
