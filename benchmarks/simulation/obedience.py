"""Is done what the operator says? A second, simple account of his commands, beside the judge's one of the tasks.

An entry covers the commands up to a sequence. Between two entries nothing changes, so what a command finds is what the
entries before say, or what stands in its own entry before it:

    drain      afterwards the worker is as the last such command wants it
    resubmit   what was parked before and goes by its name starts again in this very entry
    cancel     what was open before and goes by its name has ended in this very entry
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from benchmarks.simulation.work import WRITER
from mesh import codec
from mesh.memory import MemoryServer
from mesh.messages.commands import COMMANDS, Cancel, Drain, Resubmit
from mesh.messages.ledger import AnyEvent, TaskCanceled, TaskParked, TaskResubmitted, TaskSucceeded, WorkerDrained
from mesh.messages.tasks import TaskSpec

HANDED_ON_S = 7.0
"""How long a worker that is drained at once may still hold a lease while nothing is wrong: it hears so in an answer to
its next beat, and ends after a last checkpoint."""

Said = Cancel | Drain | Resubmit


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """How the tasks stood before an entry: their states' names, '' for open ones."""

    ended: Mapping[str, str]
    specs: Mapping[str, TaskSpec]

    def named(self, command: Cancel | Resubmit, how: str) -> set[str]:
        """Tasks in this state that the command names itself."""
        return {
            name
            for name, ended in self.ended.items()
            if ended == how
            and (not command.task or command.task == name)
            and (not command.topic or command.topic == self.specs[name].topic)
        }

    def parked_together(self, name: str) -> set[str]:
        """Parked tasks that hang together with this one: what it needs, and what needs it."""
        parked = {other for other, ended in self.ended.items() if ended == "parked"}
        found, grown = {name} & parked, set[str]()
        while grown != found:
            grown = set(found)
            for other in parked:
                needs = set(self.specs[other].after)
                if needs & grown or any(other in self.specs[one].after for one in grown):
                    found.add(other)
        return found


class Obedience:
    """What the operator has said, and who is drained."""

    def __init__(self, server: MemoryServer, breaks: Callable[[str], None]) -> None:
        self.drained: dict[str, WorkerDrained] = {}
        """Workers out of service, as the ledger says."""
        self._server, self._breaks = server, breaks
        self._said: list[tuple[int, Said]] = []
        self._read_to = 0
        self._since: dict[str, float] = {}

    def rewound(self) -> None:
        """Another history comes: everything is read from its start."""
        self.drained.clear()
        self._said.clear()
        self._since.clear()
        self._read_to = 0

    # -- as the ledger grows ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Read what was said. Nothing is removed from COMMANDS before it was read here: its newest thousand stay."""
        subjects = self._server.subjects
        stream = self._server.stream(subjects.stream("COMMANDS"))
        while (stored := stream.following(subjects.commands(), self._read_to + 1)) is not None:
            self._read_to = stored.seq
            if subjects.writer(stored.subject) != WRITER:
                continue
            command = codec.decode(stored.data, *COMMANDS)
            if isinstance(command, Cancel | Drain | Resubmit):
                self._said.append((stored.seq, command))

    def covered(self, after: int, until: int) -> list[Said]:
        """What an entry covers that follows one which covered commands up to `after`."""
        return [command for seq, command in self._said if after < seq <= until]

    def hear(self, event: WorkerDrained) -> None:
        """The ledger says so."""
        self.drained.pop(event.worker, None)
        if event.drained:
            self.drained[event.worker] = event

    def check(self, seq: int, commands: list[Said], before: Before, events: Iterable[AnyEvent]) -> None:
        """Has the entry done what these commands want?"""
        again = {event.task for event in events if isinstance(event, TaskResubmitted)}
        ended = {event.task for event in events if isinstance(event, TaskSucceeded | TaskParked | TaskCanceled)}
        wanted: dict[str, Drain] = {}
        for command in commands:
            match command:
                case Drain():
                    wanted[command.worker] = command
                case Resubmit():
                    named = before.parked_together(command.task) if command.task else before.named(command, "parked")
                    for name in sorted(named - again):
                        self._breaks(f"entry {seq} covers {command.id}, and {name} stays parked")
                case Cancel():
                    for name in sorted(before.named(command, "") - ended):
                        self._breaks(f"entry {seq} covers {command.id}, and {name} goes on")
        for worker, drain in wanted.items():
            found = self.drained.get(worker)
            if (found is None) != drain.undo or (found is not None and found.now != drain.now):
                how = "serves" if found is None else "is drained at once" if found.now else "is drained"
                self._breaks(f"entry {seq} covers {drain.id}, and {worker} {how}")

    # -- once nothing is wrong ----------------------------------------------------------------------------------------

    def watch_leases(self, now_s: float, held: Mapping[str, set[str]]) -> None:
        """held: tasks that each worker runs. Those that are drained at once must hand theirs on within HANDED_ON_S."""
        for worker in sorted(self._since):
            if not (worker in self.drained and self.drained[worker].now and held.get(worker)):
                del self._since[worker]
        for worker, drain in self.drained.items():
            if drain.now and held.get(worker) and now_s - self._since.setdefault(worker, now_s) > HANDED_ON_S:
                self._since[worker] = now_s
                self._breaks(f"{worker} is drained at once and holds {sorted(held[worker])} for {HANDED_ON_S:g} s more")
