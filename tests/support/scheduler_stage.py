"""A stage for transcripts of the scheduler's mind: workers that behave, a clock that is turned by hand.

Commands (one a line; names are free):

    plan TOPIC TASK [key=value …]        cores, memory (MiB), after, regardless, priority, avoid, mode, wait,
                                         attempts, kind, version, disk, gpus, labels, input (a digest, in short)
    plans TOPIC TASK:NEEDED,… …          several tasks in one plan
    offer W leases=N [cores=] [memory=] [disk=] [kinds=a,b] [labels=x]   a new offer, sent with a beat
    beat W [loop=SECONDS] [owed=TASK] [waiting=TASK,…]   a beat as the worker stands
    advance SECONDS [W …]                time passes in steps of one second; the named workers beat every two seconds
    result W TASK [epoch=G-C]            and: checkpoint … number= step=; failure … class= reason= missing=INPUT;
                                         give-back …
    as W WRITER result …                 the same, but written under another writer's name
    cancel task=T | topic=T
    resubmit task=T | topic=T            (neither: all that are parked)
    drain W [now=1] [undo=1]
    wanted                               missing artifacts that the agent is to look for
    found TOPIC INPUT [task=T]           what it found: the task that made it, by its newest result; or nobody
    missed TOPIC INPUT                   an agent needs an artifact that is not in the store
    new-leader                           another leader's mind over the ledger, folded anew from the events
    gone W code=N | restart W | closed W  (the broker says that its connection has closed)
    receipt W TASK kind=result [epoch=] [number=]
    why TASK                             why a ready task waits
    state                                open tasks and counts

A worker takes every lease that an answer gives it, as a real one does: it holds it and withdraws that much of its
offer.
"""

from __future__ import annotations

import dataclasses

from mesh.messages.base import Epoch, Key
from mesh.messages.commands import (
    Cancel,
    CheckpointMade,
    Drain,
    FailureClass,
    FailureFound,
    GiveBack,
    Missed,
    Resubmit,
    ResultFound,
    Submit,
)
from mesh.messages.leases import Answer, Beat, Gone, Held, Offer, OrderKind
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
    WorkerDrained,
)
from mesh.messages.tasks import Avoid, Needs, OnDisconnect, Outcome, TaskSpec
from planner.ledger import Ledger
from planner.reopening import Maker
from planner.scheduling import Policy, Scheduler

MIB = 1024 * 1024


@dataclasses.dataclass
class StagedWorker:
    """A worker that keeps the rules."""

    name: str
    life: int = 1
    beats: int = 0
    offer: Offer = Offer(number=0, leases_max=0, cores=0, memory_bytes=0, disk_bytes=10**12)  # noqa: RUF009
    held: dict[str, Epoch] = dataclasses.field(default_factory=dict)
    needs: dict[str, Needs] = dataclasses.field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    """Tasks it says to have not begun."""
    deaf: bool = False
    """Answers to it get lost on the way."""

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self.life}"

    def renew(self, **changes: object) -> None:
        fields = {name: getattr(self.offer, name) for name in self.offer.__struct_fields__}
        self.offer = Offer(**{**fields, **changes, "number": self.offer.number + 1})

    def use(self, needs: Needs, sign: int) -> None:
        offer = self.offer
        self.renew(
            leases_max=offer.leases_max - sign,
            cores=offer.cores - sign * needs.cores,
            memory_bytes=offer.memory_bytes - sign * needs.memory_bytes,
            disk_bytes=offer.disk_bytes - sign * needs.disk_bytes,
        )


class Stage:
    """The mind, its clock and its workers."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.now = 0.0
        self.seq = 0
        self.ledger_seq = 0
        self.events: list[AnyEvent] = []
        self.mind = Scheduler(Ledger(), policy or Policy(), self.now)
        self.workers: dict[str, StagedWorker] = {}

    def run(self, line: str) -> list[str]:
        """Carry out one command; what was decided and answered, a line each."""
        verb, *words = line.split()
        named = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        return list(getattr(self, "do_" + verb.replace("-", "_"))(plain, named))

    # -- commands -----------------------------------------------------------------------------------------------------

    def do_plan(self, plain: list[str], named: dict[str, str]) -> list[str]:
        topic, task = plain
        spec = TaskSpec(
            id=task,
            topic=topic,
            executor=named.get("kind", "noop"),
            needs=Needs(
                cores=float(named.get("cores", 1)),
                memory_bytes=int(named.get("memory", 100)) * MIB,
                disk_bytes=int(named.get("disk", 0)) * MIB,
                gpus=int(named.get("gpus", 0)),
                labels=tuple(filter(None, named.get("labels", "").split(","))),
            ),
            executor_version=int(named.get("version", 1)),
            priority=int(named.get("priority", 5)),
            inputs={"data": named["input"] * 64} if "input" in named else {},
            after=tuple(filter(None, named.get("after", "").split(","))),
            regardless="regardless" in named,
            avoid=tuple(filter(None, named.get("avoid", "").split(","))),
            avoid_mode=Avoid(named.get("mode", "prefer")),
            attempts_max=int(named.get("attempts", 4)),
            on_disconnect=OnDisconnect.WAIT if "wait" in named else OnDisconnect.REPLACE,
            wait_s=float(named.get("wait", 600)),
        )
        return self._command("planner", Submit(id=f"plan-{task}", topic=topic, tasks=(spec,)))

    def do_plans(self, plain: list[str], named: dict[str, str]) -> list[str]:
        topic, *tasks = plain
        specs = [
            TaskSpec(id=name, topic=topic, executor="noop", after=tuple(filter(None, after.split(","))))
            for name, _, after in (task.partition(":") for task in tasks)
        ]
        return self._command("planner", Submit(id=f"plan-{specs[0].id}", topic=topic, tasks=tuple(specs)))

    def do_offer(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers.setdefault(plain[0], StagedWorker(plain[0]))
        worker.renew(
            leases_max=int(named["leases"]),
            cores=float(named.get("cores", 4)),
            memory_bytes=int(named.get("memory", 4096)) * MIB,
            disk_bytes=int(named.get("disk", 1_000_000)) * MIB,
            kinds=dict.fromkeys(named.get("kinds", "noop,classify").split(","), 1),
            labels=tuple(filter(None, named.get("labels", "").split(","))),
        )
        return self._beat(worker)

    def do_beat(self, plain: list[str], named: dict[str, str]) -> list[str]:
        owed = ()
        worker = self.workers[plain[0]]
        if "owed" in named:
            owed = (self._key(worker, named["owed"], "result", named),)
        worker.waiting = frozenset(named.get("waiting", "").split(","))
        return self._beat(worker, float(named.get("loop", 0)), owed)

    def do_deaf(self, plain: list[str], named: dict[str, str]) -> list[str]:
        self.workers[plain[0]].deaf = plain[1] == "on"
        return []

    def do_advance(self, plain: list[str], named: dict[str, str]) -> list[str]:
        said = []
        for second in range(1, int(plain[0]) + 1):
            self.now += 1.0
            for name in plain[1:]:
                if second % 2 == 0:
                    said += self._beat(self.workers[name])
            said += self._turn()
        return said

    def do_result(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        key = self._key(worker, plain[1], "result", named)
        record = ResultFound(key=key, incarnation=worker.incarnation, outcome=Outcome(kpis={"accuracy": 1.0}))
        return self._command(named.get("writer", worker.name), record)

    def do_checkpoint(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        key = self._key(worker, plain[1], "checkpoint", named)
        record = CheckpointMade(
            key=key, incarnation=worker.incarnation, manifest="c" * 64, step=int(named.get("step", 100))
        )
        return self._command(worker.name, record)

    def do_failure(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        key = self._key(worker, plain[1], "failure", named)
        record = FailureFound(
            key=key,
            incarnation=worker.incarnation,
            failure=FailureClass(named.get("class", "retry")),
            reason=named.get("reason", "broken"),
            missing=(named["missing"] * 64,) if "missing" in named else (),
        )
        self._leave(worker, plain[1])
        return self._command(worker.name, record)

    def do_give_back(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        key = self._key(worker, plain[1], "give-back", named)
        self._leave(worker, plain[1])
        return self._command(worker.name, GiveBack(key=key, incarnation=worker.incarnation, reason="stopping"))

    def do_cancel(self, plain: list[str], named: dict[str, str]) -> list[str]:
        record = Cancel(id="c1", topic=named.get("topic", ""), task=named.get("task", ""))
        return self._command("cli", record)

    def do_resubmit(self, plain: list[str], named: dict[str, str]) -> list[str]:
        return self._command("cli", Resubmit(id="r1", topic=named.get("topic", ""), task=named.get("task", "")))

    def do_drain(self, plain: list[str], named: dict[str, str]) -> list[str]:
        return self._command("cli", Drain(id="d1", worker=plain[0], now="now" in named, undo="undo" in named))

    def do_missed(self, plain: list[str], named: dict[str, str]) -> list[str]:
        return self._command("consensus", Missed(id="m1", topic=plain[0], digest=plain[1] * 64))

    def do_wanted(self, plain: list[str], named: dict[str, str]) -> list[str]:
        return [f"{digest[0]} of {topic}" for digest, topic in self.mind.reopening.take()] or ["nothing"]

    def do_found(self, plain: list[str], named: dict[str, str]) -> list[str]:
        topic, digest = plain[0], plain[1] * 64
        maker = Maker(digest, topic, None)
        if "task" in named:
            specs = {spec.id: spec for event in self.events if isinstance(event, TopicPlanned) for spec in event.tasks}
            ends = [e for e in self.events if isinstance(e, TaskSucceeded) and e.task == named["task"]]
            end = ends[int(named.get("result", 0)) - 1]
            maker = Maker(digest, topic, specs[named["task"]], end.epoch, end.incarnation)
        self.mind.found(maker, self.now)
        return self._turn()

    def do_new_leader(self, plain: list[str], named: dict[str, str]) -> list[str]:
        ledger = Ledger()
        for event in self.events:
            ledger.apply(event)
        ledger.commands_seq = self.seq
        self.mind = Scheduler(ledger, self.mind.policy, self.now)
        return self._turn()

    def do_gone(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        gone = Gone(worker=worker.name, incarnation=worker.incarnation, exit_code=int(named["code"]))
        self.mind.gone(gone, self.now)
        return self._turn()

    def do_closed(self, plain: list[str], named: dict[str, str]) -> list[str]:
        self.mind.closed(self.workers[plain[0]].incarnation, self.now)
        return self._turn()

    def do_restart(self, plain: list[str], named: dict[str, str]) -> list[str]:
        old = self.workers[plain[0]]
        self.workers[plain[0]] = StagedWorker(old.name, life=old.life + 1)
        return []

    def do_receipt(self, plain: list[str], named: dict[str, str]) -> list[str]:
        worker = self.workers[plain[0]]
        receipt = self.mind.receipts.of(self._key(worker, plain[1], named["kind"], named))
        if receipt is None:
            return ["unknown"]
        return ["recorded" if receipt.recorded else f"refused: {receipt.reason}"]

    def do_why(self, plain: list[str], named: dict[str, str]) -> list[str]:
        return [self.mind.why_waits(self.mind.ledger.tasks[plain[0]], self.now) or "it does not wait"]

    def do_state(self, plain: list[str], named: dict[str, str]) -> list[str]:
        ledger = self.mind.ledger
        rows = [
            f"{name} {task.state} epoch {task.epoch} attempts {task.attempts}"
            for name, task in sorted(ledger.tasks.items())
        ]
        counts = " ".join(f"{state}={count}" for state, count in ledger.counts.items() if count)
        return [*rows, counts or "nothing", f"stale writes {self.mind.stale_writes}"]

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _key(self, worker: StagedWorker, task: str, kind: str, named: dict[str, str]) -> Key:
        epoch = Epoch.parse(named["epoch"]) if "epoch" in named else worker.held.get(task, Epoch(0, 0))
        return Key(task, epoch, kind, int(named.get("number", 1)))

    def _command(self, writer: str, record: object) -> list[str]:
        self.seq += 1
        self.mind.command(self.seq, writer, record, self.now)  # type: ignore[arg-type]
        return self._turn()

    def _beat(self, worker: StagedWorker, loop_age_s: float = 0.0, owed: tuple[Key, ...] = ()) -> list[str]:
        worker.beats += 1
        beat = Beat(
            worker=worker.name,
            incarnation=worker.incarnation,
            number=worker.beats,
            reply=worker.name,
            loop_age_s=loop_age_s,
            offer=worker.offer,
            held=tuple(
                Held(task=task, epoch=epoch, waits=task in worker.waiting) for task, epoch in worker.held.items()
            ),
            owed=owed,
        )
        self.mind.beat(beat, self.now)
        return self._turn()

    def _turn(self) -> list[str]:
        self.mind.tick(self.now)
        decided = self.mind.take()
        self.ledger_seq += bool(decided)
        self.events += [item.event for item in decided]
        said = [_tell(item.event) for item in decided]
        for _, answer in self.mind.answers(self.ledger_seq):
            said += self._hear(answer)
        said += [f"note: {sentence}" for sentence in self.mind.ignored]
        self.mind.ignored.clear()
        return said

    def _hear(self, answer: Answer) -> list[str]:
        worker = self.workers[answer.incarnation.partition(".")[0]]
        said: list[str] = []
        if worker.deaf:
            return said
        for order in answer.orders:
            if order.order is not OrderKind.KEEP:
                said.append(f"{worker.name} <- {order.order} {order.task} {order.epoch}: {order.reason}")
                self._leave(worker, order.task)
        for receipt in answer.receipts:
            word = "recorded" if receipt.recorded else f"refused: {receipt.reason}"
            said.append(f"{worker.name} <- {receipt.key} {word}")
            if receipt.key.kind == "result":
                self._leave(worker, receipt.key.task)
        if answer.offer == worker.offer.number:
            for lease in answer.leases:
                resume = f" resume from {lease.checkpoint_number}" if lease.resume else ""
                said.append(f"{worker.name} <- lease {lease.task.id} {lease.epoch}{resume}")
                worker.held[lease.task.id] = lease.epoch
                worker.needs[lease.task.id] = lease.task.needs
                worker.use(lease.task.needs, +1)
        if answer.renew and answer.offer == worker.offer.number:
            worker.renew()
            said.append(f"{worker.name} <- offer anew")
        return said

    def _leave(self, worker: StagedWorker, task: str) -> None:
        if worker.held.pop(task, None) is not None:
            worker.use(worker.needs.pop(task), -1)


def _tell(event: AnyEvent) -> str:
    match event:
        case TopicPlanned():
            return f"planned {', '.join(spec.id for spec in event.tasks)}"
        case TaskLeased():
            return f"leased {event.task} to {event.incarnation} epoch {event.epoch} attempt {event.attempt}"
        case CheckpointRecorded():
            return f"checkpoint {event.number} of {event.task} at step {event.step}"
        case TaskSucceeded():
            earned = f", earned under {event.earned_under}" if event.earned_under else ""
            return f"succeeded {event.task} by {event.incarnation} epoch {event.epoch}{earned}"
        case LeaseEnded():
            again = f", again after {event.again_after_s:g} s" if event.again_after_s else ""
            again += f", waits for {event.awaits}" if event.awaits else ""
            return f"lease of {event.task} {event.epoch} ended ({event.cause}): {event.reason}{again}"
        case TaskParked():
            return f"parked {event.task}: {event.reason}"
        case TaskCanceled():
            return f"canceled {event.task}: {event.reason}"
        case TaskReopened():
            waiting = f"; {', '.join(event.waiting)} waits for it" if event.waiting else ""
            return f"reopened {event.task}: {event.reason}{waiting}"
        case TaskResubmitted():
            return f"resubmitted {event.task}: {event.reason}"
        case WorkerDrained():
            now = " at once" if event.now else ""
            return f"drained {event.worker}{now}" if event.drained else f"{event.worker} is back in service"
    return type(event).__name__
