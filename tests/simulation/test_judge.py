"""The judge can say no: each mutant of the product breaks a promise, and a few seeds are enough to find it out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest

from agents.again import Again
from agents.holdings import Holdings
from agents.owed import Debts
from agents.scheduler_history import History
from agents.scheduler_results import Projector
from benchmarks.simulation import run as simulation
from benchmarks.simulation.world import Verdict
from mesh.memory import MemoryBroker
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import CheckpointMade, FailureFound, ResultFound
from mesh.messages.leases import Receipt
from mesh.messages.ledger import LeaseEnded, TaskCanceled, TaskParked, TaskReopened, TaskResubmitted, TaskSucceeded
from mesh.messages.tasks import TaskSpec, TaskState
from mesh.outbox import Row
from planner.ledger import NO_EPOCH, Ledger
from planner.matching import Matcher
from planner.receipts import Receipts
from planner.scheduling import Scheduler

SEEDS_MAX = 400
"""A mutant that survives so many seeds has escaped."""

Patch = pytest.MonkeyPatch
Mutate = Callable[[Patch], None]


def accepts_stale_results(patch: Patch) -> None:
    """Whoever sends a result of a leased task is believed to be its holder."""
    honest = Scheduler._owed

    def owed(self: Scheduler, writer: str, row: Any, now: float) -> None:
        task = self.ledger.tasks.get(row.key.task)
        if isinstance(row, ResultFound) and task is not None and task.state is TaskState.LEASED:
            key = Key(row.key.task, task.epoch, row.key.kind, row.key.number)
            row = msgspec.structs.replace(row, key=key, incarnation=task.incarnation)
            writer = task.incarnation.partition(".")[0]
        honest(self, writer, row, now)

    patch.setattr(Scheduler, "_owed", owed)


def believes_past_holders(patch: Patch) -> None:
    """A checkpoint or a failure by anybody who once held the task is recorded as the holder's."""
    honest = Scheduler._owed

    def owed(self: Scheduler, writer: str, row: Any, now: float) -> None:
        task = self.ledger.tasks.get(row.key.task)
        if isinstance(row, CheckpointMade | FailureFound) and task is not None and task.state is TaskState.LEASED:
            self._record(msgspec.structs.replace(row, key=msgspec.structs.replace(row.key, epoch=task.epoch)), now)
            return
        honest(self, writer, row, now)

    patch.setattr(Scheduler, "_owed", owed)


def refuses_good_results(patch: Patch) -> None:
    """A result by the holder is refused now and then."""
    honest = Scheduler._owed

    def owed(self: Scheduler, writer: str, row: Any, now: float) -> None:
        if isinstance(row, ResultFound) and row.key.epoch.count == 1 and row.key.task.endswith("2"):
            self.receipts.refuse(row.key, row.incarnation, "no")
        else:
            honest(self, writer, row, now)

    patch.setattr(Scheduler, "_owed", owed)


def forgets_results(patch: Patch) -> None:
    """A result is heard and nothing comes of it."""
    honest = Scheduler._owed

    def owed(self: Scheduler, writer: str, row: Any, now: float) -> None:
        if not (isinstance(row, ResultFound) and row.key.epoch.count == 1):
            honest(self, writer, row, now)

    patch.setattr(Scheduler, "_owed", owed)


def says_recorded_too_early(patch: Patch) -> None:
    """What is not known is called recorded."""
    honest = Receipts.of

    def of(self: Receipts, key: Key) -> Receipt | None:
        return honest(self, key) or Receipt(key=key, recorded=True)

    patch.setattr(Receipts, "of", of)


def gives_an_epoch_twice(patch: Patch) -> None:
    """The next lease of a task has the epoch of the one before."""
    honest = Scheduler._lease

    def lease(self: Scheduler, task: Any, *rest: Any) -> None:
        task.epoch = Epoch(task.epoch.generation, max(0, task.epoch.count - 1))
        honest(self, task, *rest)

    patch.setattr(Scheduler, "_lease", lease)
    patch.setattr(Ledger, "_expect", lambda *_: None)


def believes_every_store(patch: Patch) -> None:
    """That the broker came back with an older store is never noticed."""

    async def compare(self: History) -> None:
        self.note()

    patch.setattr(History, "_compare", compare)
    patch.setattr(History, "contradicted", lambda self, beat: False)
    patch.setattr(History, "missed", lambda self, seen: None)


def leases_what_is_leased(patch: Patch) -> None:
    """That a lease has ended is not put on record before the next one is given."""
    honest = Scheduler.take

    def take(self: Scheduler) -> list[Any]:
        return [item for item in honest(self) if not isinstance(item.event, LeaseEnded)]

    patch.setattr(Scheduler, "take", take)
    patch.setattr(Ledger, "_expect", lambda *_: None)


def goes_on_after_the_end(patch: Patch) -> None:
    """A task that was canceled is still given to workers."""
    honest = Ledger.apply

    def apply(self: Ledger, event: Any) -> Any:
        return self.tasks[event.task] if isinstance(event, TaskCanceled) else honest(self, event)

    patch.setattr(Ledger, "apply", apply)


def never_notices_a_death(patch: Patch) -> None:
    """Silent workers keep their leases."""
    patch.setattr(Scheduler, "_expire", lambda *_: None)
    patch.setattr(Scheduler, "_forget", lambda *_: None)


def writes_the_ledger_without_a_look(patch: Patch) -> None:
    """Writes are not conditional: two leaders write into one ledger."""
    honest = MemoryBroker.append

    async def append(self: MemoryBroker, subject: str, data: bytes, **options: Any) -> int:
        options.pop("stream_seq", None)
        return await honest(self, subject, data, **options)

    patch.setattr(MemoryBroker, "append", append)


def forgets_to_tell_subscribers(patch: Patch) -> None:
    """Some records never reach RESULTS."""
    honest = Projector.put

    def put(self: Projector, seq: int, at_ms: int, records: Iterable[tuple[int, Any]]) -> None:
        honest(self, seq, at_ms, [item for item in records if item[0] != 1])

    patch.setattr(Projector, "put", put)


def tells_subscribers_twice(patch: Patch) -> None:
    """Records are not put if absent."""
    honest = MemoryBroker.append

    async def append(self: MemoryBroker, subject: str, data: bytes, **options: Any) -> int:
        if ".results." in subject:
            options.pop("subject_seq", None)
        return await honest(self, subject, data, **options)

    patch.setattr(MemoryBroker, "append", append)


def lets_go_when_sent(patch: Patch) -> None:
    """The worker lets go of a row when it has sent it, without a receipt."""
    honest = Debts._put

    async def put(self: Debts, rows: Sequence[Row]) -> bool:
        sent = await honest(self, rows)
        if sent:
            self._outbox.settle(*(Receipt(key=row.key, recorded=True) for row in rows))
        return sent

    patch.setattr(Debts, "_put", put)


def lets_go_before_it_is_stored(patch: Patch) -> None:
    """The worker sends a row once and does not care what becomes of it."""
    honest = Debts._put

    async def put(self: Debts, rows: Sequence[Row]) -> bool:
        self._outbox.settle(*(Receipt(key=row.key, recorded=True) for row in rows))
        await honest(self, rows)
        return True

    patch.setattr(Debts, "_put", put)


def leases_to_the_drained(patch: Patch) -> None:
    """A drained worker is given work like any other."""
    honest = Matcher._takes

    def takes(self: Matcher, worker: Any) -> bool:
        drained = self._ledger.drained
        self._ledger.drained = OrderedDict()
        try:
            return honest(self, worker)
        finally:
            self._ledger.drained = drained

    patch.setattr(Matcher, "_takes", takes)


def drains_nobody(patch: Patch) -> None:
    """A drain is heard and nothing comes of it."""
    patch.setattr(Scheduler, "_drain", lambda *_: None)


def keeps_what_it_shall_hand_on(patch: Patch) -> None:
    """A worker that is drained at once goes on to the end of what it has."""
    patch.setattr(Holdings, "_yield", lambda *_: [])


def withdraws_nothing(patch: Patch) -> None:
    """A cancel is heard and nothing comes of it."""
    patch.setattr(Scheduler, "_cancel", lambda *_: None)


def starts_half_of_it_again(patch: Patch) -> None:
    """Of what is resubmitted together, only the first task starts."""
    honest = Scheduler._together
    patch.setattr(Scheduler, "_together", lambda self, resubmit: honest(self, resubmit)[:1])


def starts_the_withdrawn_again(patch: Patch) -> None:
    """Canceled tasks are kept with the parked ones."""
    honest = Ledger._end

    def end(self: Ledger, task: Any, state: TaskState, *rest: Any) -> Any:
        ended = honest(self, task, state, *rest)
        if state is TaskState.CANCELED:
            self._set_aside(task)
        return ended

    patch.setattr(Ledger, "_end", end)


def counts_epochs_anew(patch: Patch) -> None:
    """A task that starts again begins with its first epoch."""
    honest = Ledger._resubmit

    def resubmit(self: Ledger, event: Any) -> Any:
        task = honest(self, event)
        task.epoch = NO_EPOCH
        return task

    patch.setattr(Ledger, "_resubmit", resubmit)


def ends_twice_what_starts_again(patch: Patch) -> None:
    """What ends after it was started again is put on record twice."""
    honest = Scheduler.take

    def take(self: Scheduler) -> list[Any]:
        ends = {item.event.task for item in self._decided if isinstance(item.event, TaskResubmitted)}
        self._again_once = getattr(self, "_again_once", set()) | ends  # type: ignore[attr-defined]
        again: set[str] = self._again_once  # type: ignore[attr-defined]
        found = []
        for item in honest(self):
            found += [item] * (1 + (isinstance(item.event, TaskSucceeded | TaskParked) and item.event.task in again))
        return found

    patch.setattr(Scheduler, "take", take)


def tells_without_a_look_at_the_store(patch: Patch) -> None:
    """After an older store came back a worker tells its rows again, and believes that what they name is there."""

    async def is_whole(self: Again, digest: str) -> bool:
        return True

    patch.setattr(Again, "_is_whole", is_whole)


def tells_only_what_was_told(patch: Patch) -> None:
    """After an older store came back a worker looks for nothing that was not told yet."""

    async def nothing(self: Again) -> None:
        pass

    patch.setattr(Again, "_put_untold", nothing)


def tells_nothing_again(patch: Patch) -> None:
    """Rows with artifacts are never owed again."""

    async def nothing(self: Again) -> None:
        pass

    patch.setattr(Again, "_restore", nothing)


def does_things_again_for_nothing(patch: Patch) -> None:
    """Whatever succeeds is opened again once: nobody looks whether its output is lost."""
    honest = Scheduler._record

    def record(self: Scheduler, row: Any, now: float) -> None:
        honest(self, row, now)
        if isinstance(row, ResultFound) and row.key.epoch.count == 1 and not row.key.task.count("-") > 1:
            spec = TaskSpec(id=row.key.task, topic=row.key.task.partition("-")[0], executor="noop")
            self._decide(TaskReopened(task=row.key.task, spec=spec, reason="who knows"), now)

    patch.setattr(Scheduler, "_record", record)


CAUGHT_AS: dict[Mutate, set[str]] = {
    accepts_stale_results: {"no stale write"},
    believes_past_holders: {"no stale write"},
    refuses_good_results: {"nothing lost"},
    forgets_results: {"nothing lost", "every task ends"},
    says_recorded_too_early: {"true receipts", "nothing lost", "every task ends"},
    gives_an_epoch_twice: {"one lease"},
    leases_what_is_leased: {"one lease"},
    goes_on_after_the_end: {"one lease"},
    never_notices_a_death: {"every task ends"},
    writes_the_ledger_without_a_look: {"one history"},
    forgets_to_tell_subscribers: {"one projection", "every task ends"},
    tells_subscribers_twice: {"one projection", "every task ends"},
    believes_every_store: {"one lease", "true receipts", "every task ends"},
    lets_go_when_sent: {"true receipts"},
    lets_go_before_it_is_stored: {"true receipts", "nothing lost", "every task ends"},
    leases_to_the_drained: {"obedience"},
    drains_nobody: {"obedience"},
    keeps_what_it_shall_hand_on: {"obedience"},
    withdraws_nothing: {"obedience"},
    starts_half_of_it_again: {"obedience"},
    starts_the_withdrawn_again: {"one lease"},
    counts_epochs_anew: {"one lease"},
    ends_twice_what_starts_again: {"one lease"},
    tells_without_a_look_at_the_store: {"whole artifacts", "every task ends"},
    tells_only_what_was_told: {"whole artifacts", "every task ends"},
    tells_nothing_again: {"true receipts", "every task ends"},
    does_things_again_for_nothing: {"whole artifacts"},
}
"""Each mutant, and the promises that it may be found to break first."""

OLDER = {believes_every_store, tells_without_a_look_at_the_store, tells_only_what_was_told, tells_nothing_again}
"""Mutants for which the broker has to come back older."""


class _Caught(Exception):
    pass


@pytest.mark.parametrize("mutate", CAUGHT_AS, ids=lambda mutate: mutate.__name__)
def test_a_mutant_is_caught(mutate: Mutate, monkeypatch: Patch) -> None:
    caught: list[Verdict] = []

    def hear(verdict: Verdict) -> None:
        if verdict.broken:
            caught.append(verdict)
            raise _Caught

    mutate(monkeypatch)
    with pytest.raises(_Caught):
        simulation.run(1, SEEDS_MAX, older=mutate in OLDER, hear=hear)
    promises = {sentence.partition(":")[0] for sentence in caught[0].broken}
    assert promises & CAUGHT_AS[mutate], caught[0].broken
    assert caught[0].tail
