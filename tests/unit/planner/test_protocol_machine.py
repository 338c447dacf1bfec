"""Leases, epochs and outboxes as a machine that Hypothesis drives: every order of events keeps the promises.

The pure minds (planner/ledger.py, planner/scheduling.py) and real outboxes on disk, between them a network that loses
and repeats. A worker here is a model: it takes leases, records rows before it publishes them, lets go on receipts, and
can be killed between any two rules. The promises are checked from outside, on the committed events and the disks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mesh import codec
from mesh.errors import InvariantBroken
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import (
    COMMANDS,
    Cancel,
    CheckpointMade,
    FailureClass,
    FailureFound,
    GiveBack,
    Owed,
    ResultFound,
    Submit,
)
from mesh.messages.leases import Answer, Beat, Gone, Held, Offer, OrderKind, Receipt
from mesh.messages.ledger import (
    AnyEvent,
    CheckpointRecorded,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskSucceeded,
)
from mesh.messages.tasks import Needs, OnDisconnect, Outcome, TaskSpec
from mesh.outbox import Outbox
from planner import receipts, scheduling
from planner.ledger import Ledger
from planner.scheduling import Policy, Scheduler

WORKERS = ("w1", "w2", "w3")
LEASES_MAX = 2
TASKS_MAX = 6
SETTLE_TURNS = 400
POLICY = Policy(back_off_s_max=4.0)


class Worker:
    """A worker that keeps the rules, on an outbox that outlives it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self.life = self.beats = 0
        self.outbox = Outbox(folder)
        self.begin()

    def begin(self) -> None:
        """A new life on the same folder."""
        self.outbox.close()
        self.outbox = Outbox(self._folder)
        self.life += 1
        self.beats, self.offer, self.heard = 0, 1, (0, 0)
        self.held: dict[str, Epoch] = {}
        self.ended: set[tuple[str, Epoch]] = set()
        self.made: dict[str, int] = {}

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self.life}"

    def beat(self) -> Beat:
        self.beats += 1
        free = LEASES_MAX - len(self.held)
        return Beat(
            worker=self.name, incarnation=self.incarnation, number=self.beats, reply=self.name, loop_age_s=0.0,
            offer=Offer(
                number=self.offer, leases_max=free, cores=float(free), memory_bytes=1 << 30, disk_bytes=1 << 30,
                kinds={"noop": 1},
            ),
            held=tuple(Held(task=task, epoch=epoch) for task, epoch in self.held.items()),
            owed=tuple(row.key for row in self.outbox.pending()),
        )  # fmt: skip

    def hear(self, answer: Answer) -> None:
        if answer.incarnation != self.incarnation or (answer.term, answer.ledger_seq) < self.heard:
            return
        self.heard = (answer.term, answer.ledger_seq)
        self.outbox.settle(*answer.receipts)
        for order in answer.orders:
            if order.order is not OrderKind.KEEP and self.held.get(order.task) == order.epoch:
                self.leave(order.task)
        current = self.offer
        for lease in answer.leases if answer.offer == current else ():
            name = (lease.task.id, lease.epoch)
            if name not in self.ended and lease.task.id not in self.held:
                self.held[lease.task.id] = lease.epoch
                self.made[lease.task.id] = lease.checkpoint_number
                self.offer += 1
        if answer.renew and answer.offer == self.offer:
            self.offer += 1

    def owe(self, record: Owed) -> None:
        """On disk before anything else happens."""
        assert self.outbox.record(record.key, "s", codec.encode(record))

    def leave(self, task: str) -> None:
        self.ended.add((task, self.held.pop(task)))
        self.offer += 1


class ProtocolMachine(RuleBasedStateMachine):
    """One mesh."""

    answers = Bundle("answers")
    """On their way to workers: they may be lost, repeated, and overtake each other."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory(prefix="protocol-")
        self.now, self.ledger_seq = 0.0, 0
        self.events: list[AnyEvent] = []
        self.commands: dict[str, tuple[str, bytes]] = {}
        """The COMMANDS stream: writer and bytes by subject, put if absent, in order."""
        self.covered = 0
        self.planned = 0
        self.checked = 0
        self.holder: dict[str, tuple[Epoch, str]] = {}
        self.leases: dict[tuple[str, Epoch], str] = {}
        self.highest: dict[str, Epoch] = {}
        self.over: dict[str, AnyEvent] = {}
        self.recorded: set[Key] = set()
        self.mind = Scheduler(Ledger(), POLICY, self.now)
        self.workers = {name: Worker(name, Path(self._home.name) / name) for name in WORKERS}

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            for worker in self.workers.values():
                worker.outbox.close()
            self._home.cleanup()

    # -- what goes through the broker ---------------------------------------------------------------------------------

    def _publish(self, writer: str, subject: str, data: bytes) -> None:
        self.commands.setdefault(subject, (writer, data))

    def _turn(self) -> list[Answer]:
        """The leader reads the commands that it has not seen, decides, commits, answers."""
        for seq, (writer, data) in enumerate(list(self.commands.values())[self.covered :], self.covered + 1):
            self.mind.command(seq, writer, codec.decode(data, *COMMANDS), self.now)
        self.covered = len(self.commands)
        self.mind.tick(self.now)
        decided = self.mind.take()
        self.ledger_seq += bool(decided)
        self.events += [item.event for item in decided]
        self.mind.ignored.clear()
        return [answer for _, answer in self.mind.answers(self.ledger_seq)]

    # -- rules --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.planned < TASKS_MAX)
    @rule(after=st.booleans(), waits=st.booleans(), attempts=st.integers(1, 3))
    def submit(self, after: bool, waits: bool, attempts: int) -> None:
        self.planned += 1
        spec = TaskSpec(
            id=f"t{self.planned}", topic="t", executor="noop", attempts_max=attempts,
            needs=Needs(cores=1.0, memory_bytes=1, disk_bytes=1),
            after=(f"t{self.planned - 1}",) if after and self.planned > 1 else (),
            on_disconnect=OnDisconnect.WAIT if waits else OnDisconnect.REPLACE, wait_s=20.0,
        )  # fmt: skip
        self._publish("cli", f"submit {self.planned}", codec.encode(Submit(id=spec.id, topic="t", tasks=(spec,))))

    @rule(task=st.integers(1, TASKS_MAX))
    def cancel(self, task: int) -> None:
        if task <= self.planned:
            self._publish("cli", f"cancel {task}", codec.encode(Cancel(id=f"c{task}", task=f"t{task}", reason="no")))

    @rule(target=answers, name=st.sampled_from(WORKERS), lost=st.booleans())
    def beat(self, name: str, lost: bool) -> Any:
        """A beat, and the turn that it causes; lost: it never arrives."""
        beat = self.workers[name].beat()
        if not lost:
            self.mind.beat(beat, self.now)
        return multiple(*self._turn())

    @rule(answer=consumes(answers))
    def hear(self, answer: Answer) -> None:
        self._hear(answer)

    @rule(answer=answers)
    def hear_and_keep_for_later(self, answer: Answer) -> None:
        """It will be repeated."""
        self._hear(answer)

    @rule(answer=consumes(answers))
    def lose(self, answer: Answer) -> None:
        """It never arrives."""

    @rule(target=answers, seconds=st.sampled_from((1.0, 4.0, 7.0, 12.0, 30.0)), silent=st.sampled_from(WORKERS))
    def advance(self, seconds: float, silent: str) -> Any:
        """Time passes; one worker is silent, and may expire."""
        for _ in range(int(seconds // 2) + 1):
            self.now += 2.0
            for worker in self.workers.values():
                if worker.name != silent:
                    self.mind.beat(worker.beat(), self.now)
        return multiple(*self._turn())

    @rule(
        name=st.sampled_from(WORKERS),
        pick=st.integers(0, 9),
        what=st.sampled_from(("result", "failure", "memory", "give-back")),
    )
    def end_a_lease(self, name: str, pick: int, what: str) -> None:
        worker = self.workers[name]
        if not worker.held:
            return
        task = sorted(worker.held)[pick % len(worker.held)]
        epoch, mine = worker.held[task], worker.incarnation
        match what:
            case "result":
                row: Owed = ResultFound(key=Key(task, epoch, "result", 1), incarnation=mine, outcome=Outcome())
            case "give-back":
                row = GiveBack(key=Key(task, epoch, "give-back", 1), incarnation=mine, reason="stop")
            case _:
                failure = FailureClass.MEMORY if what == "memory" else FailureClass.RETRY
                row = FailureFound(key=Key(task, epoch, "failure", 1), incarnation=mine, failure=failure, reason="no")
        worker.owe(row)
        worker.leave(task)

    @rule(name=st.sampled_from(WORKERS), pick=st.integers(0, 9))
    def checkpoint(self, name: str, pick: int) -> None:
        worker = self.workers[name]
        if worker.held:
            task = sorted(worker.held)[pick % len(worker.held)]
            worker.made[task] += 1
            key = Key(task, worker.held[task], "checkpoint", worker.made[task])
            worker.owe(CheckpointMade(key=key, incarnation=worker.incarnation, manifest="c" * 64, step=1))

    @rule(name=st.sampled_from(WORKERS), rows_max=st.integers(1, 3))
    def send(self, name: str, rows_max: int) -> None:
        """The first rows of the outbox reach the stream; whether they have done so before, nobody knows."""
        for row in self.workers[name].outbox.pending()[:rows_max]:
            self._publish(name, f"{name} {row.key}", row.data)

    @rule(name=st.sampled_from(WORKERS), told=st.booleans())
    def restart(self, name: str, told: bool) -> None:
        """kill -9, and a new life on the same folder. told: the supervisor reports the death."""
        worker = self.workers[name]
        if told:
            self.mind.gone(Gone(worker=name, incarnation=worker.incarnation, exit_code=-9), self.now)
        worker.begin()

    @rule(name=st.sampled_from(WORKERS), other=st.sampled_from(WORKERS), pick=st.integers(0, 9))
    def write_as_another(self, name: str, other: str, pick: int) -> None:
        """Somebody sends a result for a lease of somebody else, under his own name."""
        held = sorted(self.workers[other].held.items())
        if name != other and held:
            task, epoch = held[pick % len(held)]
            key = Key(task, epoch, "result", 1)
            row = ResultFound(key=key, incarnation=self.workers[name].incarnation, outcome=Outcome())
            self._publish(name, f"{name} {key} foreign", codec.encode(row))

    @rule()
    def new_leader(self) -> None:
        """The leader dies between two turns; the next one folds the log and reads on from what it covers."""
        ledger = Ledger()
        for event in self.events:
            ledger.apply(event)
        ledger.commands_seq = self.covered
        self.mind = Scheduler(ledger, POLICY, self.now)

    # -- promises -----------------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_keeps_the_promises(self) -> None:
        for event in self.events[self.checked :]:
            self._check(event)
        self.checked = len(self.events)

    def _check(self, event: AnyEvent) -> None:
        name = getattr(event, "task", "")
        assert name not in self.over, f"{event} after {self.over.get(name)}"
        match event:
            case TaskLeased():
                assert name not in self.holder, "one lease at a time"
                assert event.epoch > self.highest.get(name, Epoch(0, 0)), "epochs rise"
                self.holder[name], self.highest[name] = (event.epoch, event.incarnation), event.epoch
                self.leases[(name, event.epoch)] = event.incarnation
            case CheckpointRecorded():
                assert self.holder[name][0] == event.epoch, "no stale write"
                self._on_record(Key(name, event.epoch, "checkpoint", event.number))
            case LeaseEnded():
                assert self.holder.pop(name)[0] == event.epoch, "no stale write"
                if event.key_kind:
                    self._on_record(Key(name, event.epoch, event.key_kind, event.key_number))
            case TaskSucceeded():
                assert self.holder.pop(name) == (event.epoch, event.incarnation), "no stale write"
                earned = event.earned_under or event.epoch
                assert self.leases[(name, earned)] == event.incarnation, "earned by its holder"
                self._on_record(Key(name, earned, "result", event.number))
                self.over[name] = event
            case TaskParked() | TaskCanceled():
                self.holder.pop(name, None)
                if isinstance(event, TaskParked) and event.key_kind and event.epoch is not None:
                    self._on_record(Key(name, event.epoch, event.key_kind, event.key_number))
                self.over[name] = event

    def _on_record(self, key: Key) -> None:
        """What is recorded was written by the holder of that epoch, and stands in its outbox."""
        name = self.leases[(key.task, key.epoch)].partition(".")[0]
        outbox = self.workers[name].outbox
        assert key in {row.key for row in (*outbox.pending(), *outbox.kept())}, f"{key} was never written by {name}"
        assert key not in self.recorded, f"{key} counts twice"
        self.recorded.add(key)

    @invariant()
    def receipts_are_true(self) -> None:
        for worker in self.workers.values():
            for row in worker.outbox.kept():
                assert row.key in self.recorded, f"{worker.name} let go of {row.key}, which nobody recorded"

    # -- the end ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Everything arrives from now on: every task ends, nothing is owed, no lease is held."""
        for _ in range(SETTLE_TURNS):
            self.now += 2.0
            for worker in self.workers.values():
                self.send(worker.name, 1_000)
                for _ in sorted(worker.held):
                    self.end_a_lease(worker.name, 0, "result")
                self.mind.beat(worker.beat(), self.now)
            for answer in self._turn():
                self._hear(answer)
            if self.planned and len(self.over) == self.planned and not self._open():
                break
        self.the_ledger_keeps_the_promises()
        self.receipts_are_true()
        assert len(self.over) == self.planned, "every task ends"
        assert not self._open(), "nothing is owed or held"
        self._results_are_not_lost()

    def _open(self) -> bool:
        return any(worker.held or worker.outbox.pending() for worker in self.workers.values())

    def _results_are_not_lost(self) -> None:
        """A result by the holder of an epoch is on record, or was refused because its task had ended."""
        for name, worker in self.workers.items():
            for path in (Path(self._home.name) / name / "refused").glob("*.msgpack"):
                task, _, rest = path.name.partition(".")
                assert task in self.over, f"{worker.name} was refused {rest} of {task}, which is open"

    def _hear(self, answer: Answer) -> None:
        self.workers[answer.incarnation.partition(".")[0]].hear(answer)


BOUNDS: dict[str, Any] = {
    "max_examples": 40,
    "stateful_step_count": 40,
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
"""Some five seconds of one core, and always the same examples."""

TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(**BOUNDS)


def _believes_everybody(patch: pytest.MonkeyPatch) -> None:
    """Results count whoever sends them under whatever epoch."""
    honest = Scheduler._owed

    def owed(self: Scheduler, writer: str, row: Any, now: float) -> None:
        task = self.ledger.tasks.get(row.key.task)
        if isinstance(row, ResultFound) and task is not None and task.incarnation:
            key = msgspec.structs.replace(row.key, epoch=task.epoch)
            row, writer = msgspec.structs.replace(row, key=key, incarnation=task.incarnation), task.incarnation[:2]
        honest(self, writer, row, now)

    patch.setattr(Scheduler, "_owed", owed)


def _calls_unknown_rows_recorded(patch: pytest.MonkeyPatch) -> None:
    honest = receipts.answer_to

    def answer_to(worker: Any, *rest: Any) -> Answer:
        recorded = tuple(Receipt(key=key, recorded=True) for key in worker.beat.owed)
        return msgspec.structs.replace(honest(worker, *rest), receipts=recorded)

    patch.setattr(scheduling, "answer_to", answer_to)


def _never_expires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_expire", lambda *_: None)
    patch.setattr(Scheduler, "_forget", lambda *_: None)


@pytest.mark.parametrize("mutate", [_believes_everybody, _calls_unknown_rows_recorded, _never_expires])
def test_a_mutant_is_caught(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, KeyError, InvariantBroken)):
        run_state_machine_as_test(
            ProtocolMachine, settings=settings(**{**BOUNDS, "max_examples": 400}, phases=[Phase.generate])
        )
