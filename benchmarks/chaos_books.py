"""An auditor of the ledger who shares no code with the scheduler: reads what happened, event by event, and objects.

He keeps one line per task (its live lease, its highest epoch, how often it succeeded) and knows the rules of
docs/lifecycle.md only:

    a lease has a higher epoch than every lease of its task before, and there is none beside it
    whatever a worker wrote counts only under the live lease; under any other it is a stale write that was accepted
    a task succeeds at most once, and nothing happens to it after its end but a resubmission of what was parked
    entries form one chain: each names the digest of the entry before

Tasks that ended keep their line: without it a second end could not be seen. Some 500 bytes a task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mesh import codec
from mesh.messages.base import Epoch
from mesh.messages.ledger import (
    AnyEvent,
    CheckpointRecorded,
    Entry,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskResubmitted,
    TaskSucceeded,
    TopicPlanned,
)

OBJECTIONS_MAX = 1_000
"""Sentences kept; a broken mesh could fill the memory with them."""

LOWEST = Epoch(0, 0)


@dataclasses.dataclass(slots=True)
class Line:
    """What the auditor remembers of one task."""

    highest: Epoch = LOWEST
    live: Epoch | None = None
    holder: str = ""
    """Incarnation that holds the live lease."""
    recorded_under: Epoch | None = None
    earned_under: Epoch | None = None
    successes: int = 0
    ended: str = ""
    """'' while it is open, else how it ended."""


class Books:
    """What the ledger says of every task, and what is wrong with it."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.objections: list[str] = []
        self.stale_accepted = 0
        self.leases = self.leases_ended = self.checkpoints = self.terms = 0
        self._previous = ""

    def read(self, data: bytes) -> None:
        """The next entry, as it stands in the stream. Malformed when it is none."""
        entry = codec.decode(data, Entry)
        if self._previous and entry.previous != self._previous:
            self._object(f"the entry of term {entry.term} does not follow the one before it")
        self._previous = codec.digest(data)
        self.follow(entry.events)

    def follow(self, events: Iterable[AnyEvent]) -> None:
        """The events of one entry, in order."""
        for event in events:
            self._event(event)

    def tasks_that_ended(self, how: str) -> list[str]:
        """Tasks that ended so; '' for those that did not end."""
        return [name for name, line in self.lines.items() if line.ended == how]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _event(self, event: AnyEvent) -> None:
        match event:
            case TopicPlanned():
                for spec in event.tasks:
                    if spec.id in self.lines:
                        self._object(f"{spec.id} is planned twice")
                    self.lines.setdefault(spec.id, Line())
            case TaskLeased():
                self._leased(event, self._line(event.task))
            case CheckpointRecorded():
                self.checkpoints += 1
                self._written(event.task, event.epoch, "a checkpoint")
            case TaskSucceeded():
                self._succeeded(event, self._line(event.task))
            case LeaseEnded():
                self.leases_ended += 1
                self._written(event.task, event.epoch, f"a lease's end ({event.cause})")
                self._line(event.task).live = None
            case TaskParked():
                if event.key_kind and event.epoch is not None:
                    self._written(event.task, event.epoch, "a failure")
                self._end(event.task, "parked")
            case TaskCanceled():
                self._end(event.task, "canceled")
            case TaskResubmitted():
                if self._line(event.task).ended != "parked":
                    self._object(f"{event.task} is resubmitted, and was not parked")
                self._line(event.task).ended = ""
            case _ if event.__struct_config__.tag == "leader":
                self.terms += 1

    def _line(self, task: str) -> Line:
        if task not in self.lines:
            self._object(f"something happens to {task}, which was never planned")
        return self.lines.setdefault(task, Line())

    def _leased(self, event: TaskLeased, line: Line) -> None:
        self.leases += 1
        if line.ended:
            self._object(f"{event.task} is leased under {event.epoch} after it has {line.ended}")
        if line.live is not None:
            self._object(f"{event.task} is leased under {event.epoch} while {line.live} is live")
        if event.epoch <= line.highest:
            self._object(f"{event.task} gets the epoch {event.epoch} after {line.highest}")
        line.highest, line.live, line.holder = max(line.highest, event.epoch), event.epoch, event.incarnation

    def _written(self, task: str, epoch: Epoch, what: str) -> None:
        line = self._line(task)
        if line.live != epoch or line.ended:
            self.stale_accepted += 1
            now = f"it has {line.ended}" if line.ended else f"{line.live or 'no lease'} is live"
            self._object(f"{what} of {task} was accepted under {epoch} while {now}")

    def _succeeded(self, event: TaskSucceeded, line: Line) -> None:
        self._written(event.task, event.epoch, "a result")
        if event.incarnation != line.holder:
            self.stale_accepted += 1
            self._object(f"the result of {event.task} came from {event.incarnation}, the lease is {line.holder}'s")
        line.successes += 1
        line.recorded_under, line.earned_under = event.epoch, event.earned_under
        self._end(event.task, "succeeded")

    def _end(self, task: str, how: str) -> None:
        line = self._line(task)
        if line.ended:
            self._object(f"{task} has {how} after it had {line.ended}")
        line.ended, line.live = how, None

    def _object(self, sentence: str) -> None:
        if len(self.objections) < OBJECTIONS_MAX:
            self.objections.append(sentence)
