"""The scheduler's mind: commands, beats and time in; events and answers out. No await, no clock, no broker.

One turn of the agent around it:

    hear(...) for everything that arrived  ->  tick(now)  ->  take()  ->  [ one ledger commit ]  ->  answers(seq)
         decides events and folds them            expiry,      the events      by the agent          leases, orders
         into the ledger at once                  back-off,    to commit                             and receipts, true
                                                  matching                                           at that sequence

Answers are made only after the commit, so no worker hears of a lease that is not on record. If a commit fails the agent
drops this mind and its state: what stands in the log decides.

Rules it keeps (DESIGN of the mesh; the numbers are settings):
  1. A write about a task is recorded only from the holder of its current epoch; else it is refused and counted.
  2. Epochs of a task only rise. A task has at most one lease.
  3. A finished result whose lease was lost is recorded under a new epoch given to its sender, if the task is still
  open;
     the replacement is told to stop.
  4. A lease ends when its worker is silent for `lost_s`, wedged, replaced by a newer incarnation, or declines it; and
     when its connection has closed and is not back within `closed_s`. A task that waits for its worker keeps it longer.
  5. The same offer number gets the same answer; a lease that a newer offer overtook on its way is charged to that one
     and repeated. What several answered beats do not name is taken back.
  6. A drained worker gets no lease, in this life and the next ones, until it is taken back into service.
  7. A parked task may be started again: budgets full, epochs rising, from its newest checkpoint.
  8. Memory is never overcommitted; a task waits until an offer fits.
  9. A task that had succeeded is done again when an output that somebody needs is lost (planner/reopening.py).
 10. A result under an epoch that was lost with a part of the ledger (the broker came back older) is worth what a late
     one is; while its task is not planned or not ready again, its sender is left without a receipt and asks again.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from mesh import limits
from mesh.messages.base import Epoch, Key, Record
from mesh.messages.commands import (
    Cancel,
    CheckpointMade,
    Drain,
    FailureClass,
    FailureFound,
    GiveBack,
    Missed,
    Recommend,
    Refuse,
    Resubmit,
    ResultFound,
    Settle,
    Submit,
)
from mesh.messages.leases import Answer, Beat, Gone
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    CheckpointRecorded,
    LeaseEnded,
    Recommended,
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
from mesh.messages.tasks import OnDisconnect, TaskState
from planner.ledger import NO_EPOCH, Ledger, Task
from planner.matching import Matcher
from planner.projection import Decided, project
from planner.receipts import Receipts, answer_to
from planner.reopening import ATTEMPTS_MAX, TRIES, Maker, Reopening, pause_s
from planner.waiting import Waits
from planner.workers import Worker, WorkerState

PAST_INCARNATIONS_MAX = 10_000
WORKERS_MAX = 50_000
"""Bounds of what is remembered about workers; the oldest is forgotten first and the worst that follows is a beat more.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Times and budgets of the mind; all seconds."""

    beat_s: float = 2.0
    suspect_beats: int = 3
    lost_s: float = 10.0
    closed_s: float = 2.0
    """How long a worker whose connection has closed may take to be back, before it counts as lost."""
    wedge_s: float = 30.0
    unnamed_beats_max: int = 3
    back_off_s_first: float = 1.0
    back_off_s_max: float = 300.0
    memory_attempts_max: int = 4
    deaths_max: int = 3
    innocent_attempts: int = 8
    """From this lease on, a worker's death counts against a task that was only waiting there."""
    prefer_wait_s: float = 5.0
    """How long a task that prefers another worker waits for one before it takes any."""
    lost_results_s: float = 86_400.0
    """How long a result waits for its task, when both were lost with a part of the ledger."""


class Scheduler:
    """The leader's mind over a ledger."""

    def __init__(self, ledger: Ledger, policy: Policy, now: float) -> None:
        self.ledger = ledger
        self.policy = policy
        self.workers: dict[str, Worker] = {}
        self.stale_writes = 0
        self.ignored: list[str] = []
        """Sentences about inputs that changed nothing and deserve a log line; the agent empties it."""
        self.receipts = Receipts(ledger)
        self.reopening = Reopening(ledger)
        self._decided: list[Decided] = []
        self._early: dict[Key, ResultFound] = {}
        """Results whose task was lost with a part of the ledger and is not planned or not ready again; a bounded list.
        A row that found no room, or whose leader is gone, is heard again when its sender asks."""
        self._incarnation_of: dict[str, str] = {}
        self._past: OrderedDict[str, None] = OrderedDict()
        self._began = now
        self.leases_from = now
        """Before that time no lease is given: a leader that may not know all of the ledger listens first."""
        self._matcher = Matcher(ledger, self.workers, policy.prefer_wait_s)
        for task in sorted(ledger.tasks.values(), key=lambda task: task.order):
            self._matcher.placed(task, now)
            if task.state is TaskState.LEASED:
                self._matcher.charge(task, +1)
        # One decision may need several entries: a leader that died between them left these waiting for ever.
        self._park_hopeless(sorted(ledger.tasks), now)

    # -- in: commands -------------------------------------------------------------------------------------------------

    def command(self, seq: int, writer: str, record: Record | None, now: float) -> None:
        """One command of the COMMANDS stream, in order. `record` is None for bytes that were no valid command."""
        self.ledger.commands_seq = max(seq, self.ledger.commands_seq)
        match record:
            case Submit():
                self._submit(record, now)
            case Refuse() if not self.ledger.said("refused", record.topic):
                self._decide(TopicRefused(topic=record.topic, reason=record.reason), now)
            case Settle() if not self.ledger.said("settled", record.topic):
                self._settle(record, now)
            case Recommend() if not self.ledger.said("recommended", record.recommendation.id):
                self._decide(Recommended(recommendation=record.recommendation), now)
            case Cancel():
                self._cancel(record, now)
            case Resubmit():
                self._resubmit(record, now)
            case Drain():
                self._drain(record, now)
            case Missed():
                self.reopening.want(record.digest, record.topic)
            case ResultFound() | CheckpointMade() | FailureFound() | GiveBack():
                self._owed(writer, record, now)
            case _:
                pass

    def _submit(self, submit: Submit, now: float) -> None:
        fresh = tuple(spec for spec in submit.tasks if not self.ledger.knows(spec.id))
        if not fresh:
            return
        names = {spec.id for spec in fresh}
        unknown = {name for spec in fresh for name in spec.after if name not in names and not self.ledger.knows(name)}
        if unknown or len(names) < len(fresh):
            self._note(f"submit {submit.id} is ignored: it names unknown or repeated tasks {sorted(unknown)[:5]}")
            return
        self._decide(
            TopicPlanned(
                submit=submit.id,
                topic=submit.topic,
                specialization=submit.specialization,
                tasks=fresh,
                facts=submit.facts,
            ),
            now,
        )
        self._park_hopeless([spec.id for spec in fresh], now)

    def _settle(self, settle: Settle, now: float) -> None:
        said = TopicSettled(
            topic=settle.topic, specialization=settle.specialization, why=settle.why, facts=settle.facts
        )
        self._decide(said, now)

    def _park_hopeless(self, names: list[str], now: float) -> None:
        """Park those of these tasks that wait for one that has ended without success."""
        for name in names:
            task = self.ledger.tasks.get(name)  # None: parked already, with another one of them that it needs
            for other in sorted(task.missing) if task is not None else ():
                line = self.ledger.ended.get(other)
                if line is not None:
                    self._park(name, f"needs {other}, which ended as {line.state}: {line.reason}", now)
                    break

    def _cancel(self, cancel: Cancel, now: float) -> None:
        names = [cancel.task] if cancel.task else sorted(self.ledger.by_topic.get(cancel.topic, ()))
        names = [name for name in names if name in self.ledger.tasks]
        for name in names:
            self._decide(TaskCanceled(task=name, reason=cancel.reason[: limits.TEXT_CHARS_MAX]), now)
        for name in names:
            self._park_dependents(name, "was canceled", now)

    def _resubmit(self, resubmit: Resubmit, now: float) -> None:
        names = self._together(resubmit)
        if not names:
            asked = resubmit.task or resubmit.topic or "all"
            self._note(f"resubmit {resubmit.id} is ignored: nothing parked goes by {asked}")
        for name in names:
            self._decide(TaskResubmitted(task=name, reason=resubmit.reason), now)
        self._park_hopeless(names, now)

    def _together(self, resubmit: Resubmit) -> list[str]:
        """Parked tasks that start again together, in the order of submission: those that are named, what they need,
        and what was parked for their sake."""
        dead = self.ledger.dead_letters
        if not resubmit.task:
            found = {name for name, task in dead.items() if resubmit.topic in ("", task.spec.topic)}
        elif resubmit.task not in dead:
            return []
        else:
            topic = dead[resubmit.task].spec.topic
            siblings = {name: task.spec.after for name, task in dead.items() if task.spec.topic == topic}
            found, fresh = set(), {resubmit.task}
            while fresh:
                found |= fresh
                needed = {other for name in fresh for other in siblings[name] if other in siblings}
                fresh = (needed | {name for name, after in siblings.items() if fresh.intersection(after)}) - found
        return sorted(found, key=lambda name: dead[name].order)

    def _drain(self, drain: Drain, now: float) -> None:
        known = self.ledger.drained.get(drain.worker)
        if (known is None and drain.undo) or (known is not None and not drain.undo and known.now == drain.now):
            return
        self._decide(
            WorkerDrained(worker=drain.worker, drained=not drain.undo, now=drain.now, reason=drain.reason), now
        )

    def _owed(self, writer: str, row: ResultFound | CheckpointMade | FailureFound | GiveBack, now: float) -> None:
        """An outbox row of a worker: record it, or refuse it with the reason that its receipt will say."""
        key = row.key
        receipt = self.receipts.of(key)
        if row.incarnation.partition(".")[0] != writer:
            # No receipt: it would stand under the key of another worker, who may still owe that very row.
            self._count_stale(key, f"{row.incarnation} can not write as {writer}")
        elif receipt is not None:
            if not receipt.recorded and key.task not in self.ledger.tasks:
                self._count_stale(key, receipt.reason)
        elif self.ledger.holds(key.task, key.epoch, row.incarnation):
            self._record(row, now)
        elif isinstance(row, ResultFound) and self._earned(key, row.incarnation):
            self._record_late(row, now)
        elif isinstance(row, ResultFound) and now - self._began <= self.policy.lost_results_s and self._is_lost(key):
            if self._may_end(key.task):
                self._record_late(row, now)
            elif len(self._early) < limits.INPUTS_PENDING_MAX:
                self._early[key] = row
        else:
            reason = self.receipts.why_stale(key)
            self.receipts.refuse(key, row.incarnation, reason)
            self._count_stale(key, reason)

    def _record(self, row: ResultFound | CheckpointMade | FailureFound | GiveBack, now: float) -> None:
        key, task = row.key, self.ledger.tasks[row.key.task]
        match row:
            case ResultFound():
                self._decide(
                    TaskSucceeded(
                        task=key.task,
                        epoch=key.epoch,
                        number=key.number,
                        incarnation=row.incarnation,
                        outcome=row.outcome,
                    ),
                    now,
                )
            case CheckpointMade():
                newest = task.checkpoint.number if task.checkpoint is not None else 0
                if key.number <= newest:
                    self.receipts.refuse(key, row.incarnation, f"checkpoint {key.number} does not follow {newest}")
                    return
                self._decide(
                    CheckpointRecorded(
                        task=key.task,
                        epoch=key.epoch,
                        number=key.number,
                        manifest=row.manifest,
                        step=row.step,
                        best=row.best,
                        trained_s=row.trained_s,
                    ),
                    now,
                )
            case FailureFound():
                self._failed(task, row, now)
            case GiveBack():
                self._end_lease(task, Cause.GIVEN_BACK, row.reason, now, key=key)

    def _record_late(self, row: ResultFound, now: float) -> None:
        """Rule 3: lease the task to the sender again and record its result there."""
        key, task = row.key, self.ledger.tasks[row.key.task]
        if task.state is TaskState.LEASED:
            self._end_lease(task, Cause.SUPERSEDED, f"{row.incarnation} came back with the result", now)
        self._lease(task, row.incarnation, "came back with the finished result", now)
        self._decide(
            TaskSucceeded(
                task=key.task,
                epoch=task.epoch,
                number=key.number,
                incarnation=row.incarnation,
                outcome=row.outcome,
                earned_under=key.epoch,
            ),
            now,
        )

    def _earned(self, key: Key, incarnation: str) -> bool:
        """True when the task is open and its sender once held it under the key's epoch."""
        task = self.ledger.tasks.get(key.task)
        return self._may_end(key.task) and task is not None and task.holders.get(key.epoch) == incarnation

    def _may_end(self, name: str) -> bool:
        """True when the task is open and waits for no other one."""
        task = self.ledger.tasks.get(name)
        return task is not None and not task.missing

    def _is_lost(self, key: Key) -> bool:
        """True when the lease of this epoch may stand in a part of the ledger that was lost: its generation is over,
        and it is higher than all of them that are known here."""
        if key.epoch.generation >= self.ledger.generation:
            return False
        task = self.ledger.tasks.get(key.task)
        given = task.holders if task is not None else {}
        known = [epoch for epoch in given if epoch.generation < self.ledger.generation]
        return key.epoch > max(known, default=NO_EPOCH)

    def _failed(self, task: Task, row: FailureFound, now: float) -> None:
        name, key = task.spec.id, row.key
        if row.missing:
            self._lacks(task, row, now)
        elif row.failure is FailureClass.REJECT:
            self._park(name, row.reason, now, key)
        elif row.failure is FailureClass.MEMORY:
            if task.memory_failures + 1 >= self.policy.memory_attempts_max:
                self._park(name, f"out of memory {task.memory_failures + 1} times: {row.reason}", now, key)
            else:
                self._end_lease(task, Cause.MEMORY, row.reason, now, key=key)
        elif task.failures + 1 >= task.spec.attempts_max:
            self._park(name, f"failed {task.failures + 1} times, lastly: {row.reason}", now, key)
        else:
            self._end_lease(task, Cause.FAILURE, row.reason, now, self._back_off_s(task.failures), key)

    def _lacks(self, task: Task, row: FailureFound, now: float) -> None:
        """An input is not in the store. Who runs it is not to blame, and a failure is not counted."""
        makers = (self.reopening.maker_of(digest, task.spec.id) for digest in row.missing)
        maker = next(filter(None, makers), "")
        if maker:
            self._end_lease(task, Cause.INPUT, row.reason, now, key=row.key, awaits=maker)
            return
        if task.input_failures + 1 >= ATTEMPTS_MAX:
            reason = f"an input can not be had, and no task makes it: publish the topic again ({row.reason})"
            self._park(task.spec.id, reason, now, row.key)
            return
        if task.input_failures + 1 >= TRIES:
            for digest in row.missing:
                self.reopening.want(digest, task.spec.topic)
        self._end_lease(task, Cause.INPUT, row.reason, now, pause_s(task.input_failures), row.key)

    def found(self, maker: Maker, now: float) -> None:
        """What became of a missing artifact that was looked for."""
        if self.reopening.made_again(maker):
            for name in self.reopening.waiting_for(maker):
                if name in self.ledger.tasks:  # else parked with another one of them that it needs
                    assert maker.spec is not None
                    made = f"{maker.spec.id} has made another one since"
                    self._park(name, f"its input {maker.digest[:16]} was lost with the store, and {made}", now)
            return
        event = self.reopening.event(maker)
        if event is not None:
            self._decide(event, now)
            self._park_hopeless([event.task], now)

    def _back_off_s(self, failures: int) -> float:
        return float(min(self.policy.back_off_s_max, self.policy.back_off_s_first * 2 ** min(failures, 30)))

    # -- in: beats ----------------------------------------------------------------------------------------------------

    def beat(self, beat: Beat, now: float) -> None:
        """One beat of a worker; an answer to it is due after the next commit."""
        if beat.incarnation in self._past:
            return
        known = self._incarnation_of.get(beat.worker)
        if known is not None and known != beat.incarnation:
            self._forget(known, Cause.DIED, f"a new life of {beat.worker} has started", now)
        worker = self.workers.get(beat.incarnation)
        answered = worker is not None and not worker.answer_due
        if worker is None:
            self._make_room()
            worker = self.workers[beat.incarnation] = Worker(beat=beat, beat_at=now)
            self._incarnation_of[beat.worker] = beat.incarnation
            self._repeat_leases(worker)
        elif beat.number <= worker.beat.number:
            return
        worker.hear(beat, now)
        worker.state = WorkerState.WEDGED if beat.loop_age_s > self.policy.wedge_s else WorkerState.LIVE
        self._hear_declined(worker, now)
        self._hear_named(worker, now, answered)

    def _repeat_leases(self, worker: Worker) -> None:
        """What an earlier leader gave this worker and its first beat does not name was perhaps never answered: it
        stands on the offer that we hear, and is answered again."""
        named = worker.named() | set(worker.beat.declined)
        for name in sorted(self.ledger.by_incarnation.get(worker.incarnation, ())):
            task = self.ledger.tasks[name]
            if (name, task.epoch) not in named:
                worker.grant(name, task.epoch, task.spec.needs)

    def _hear_declined(self, worker: Worker, now: float) -> None:
        for task, epoch in worker.beat.declined:
            if self.ledger.holds(task, epoch, worker.incarnation):
                self._end_lease(self.ledger.tasks[task], Cause.DECLINED, "the offer had been withdrawn", now)

    def _hear_named(self, worker: Worker, now: float, answered: bool) -> None:
        """Which of its leases does the worker know of? Take back those it does not take. answered: there was an answer
        since its last beat; it can not name what it was not told, however long our commit took."""
        named = worker.named()
        offer = worker.beat.offer.number
        granted, worker.granted = worker.granted, {}
        unnamed_beats, worker.unnamed_beats = worker.unnamed_beats, {}
        for name in sorted(self.ledger.by_incarnation.get(worker.incarnation, ())):
            task = self.ledger.tasks[name]
            lease = (name, task.epoch)
            if lease in named:
                continue
            unnamed = unnamed_beats.get(lease, 0) + answered
            if unnamed >= self.policy.unnamed_beats_max:
                self._end_lease(task, Cause.UNTAKEN, "the worker did not take it", now)
                continue
            worker.unnamed_beats[lease] = unnamed
            granted_for = granted.get(lease)
            if granted_for == offer:
                worker.granted[lease] = offer
            elif granted_for is not None:  # the newer offer was made without knowing of it
                worker.grant(name, task.epoch, task.spec.needs)

    def gone(self, gone: Gone, now: float) -> None:
        """A supervisor reports that an incarnation has ended."""
        if gone.incarnation in self.workers or gone.incarnation in self.ledger.by_incarnation:
            code = "" if gone.exit_code is None else f" with exit code {gone.exit_code}"
            cause = Cause.DIED if gone.exit_code else Cause.LOST
            self._forget(gone.incarnation, cause, f"the worker's process ended{code}", now)

    def closed(self, incarnation: str, now: float) -> None:
        """A connection of this incarnation has closed: no new leases until it beats again."""
        worker = self.workers.get(incarnation)
        if worker is not None and worker.state in (WorkerState.LIVE, WorkerState.SUSPECT):
            worker.state, worker.closed_at = WorkerState.SUSPECT, now

    def clocks_anew(self, now: float) -> None:
        """Start all lease clocks from `now`: after a reconnect, or when our own loop stood still."""
        self._began = now
        for worker in self.workers.values():
            worker.beat_at, worker.closed_at = now, None

    # -- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time pass: suspicion, expiry, ends of back-offs; then match ready tasks with offers."""
        self._expire(now)
        for key in [key for key in self._early if self._may_end(key.task)]:
            row = self._early.pop(key)
            self._owed(row.incarnation.partition(".")[0], row, now)
        self._matcher.wake(now)
        if now < self.leases_from:
            return
        for match in self._matcher.matches(now):
            self._lease(match.task, match.worker.incarnation, match.why, now)
            match.worker.grant(match.task.spec.id, match.task.epoch, match.task.spec.needs)

    def _expire(self, now: float) -> None:
        policy = self.policy
        for worker in list(self.workers.values()):
            silent_s = now - worker.beat_at
            if worker.state is WorkerState.WEDGED:
                reason = f"its main loop has not turned for {worker.beat.loop_age_s:.0f} s"
                self._take_back(worker.incarnation, Cause.LOST, reason, now)
            elif silent_s > policy.suspect_beats * policy.beat_s:
                worker.state = WorkerState.SUSPECT
            # A beat's time at least: the notice may come late, when the worker is back and has just beaten.
            patience_s = max(policy.closed_s, 1.25 * policy.beat_s)
            if worker.closed_at is not None and now - worker.closed_at > patience_s:
                reason = f"its connection closed and was not back within {patience_s:g} s"
                self._take_back(worker.incarnation, Cause.LOST, reason, now, silent_s)
            if silent_s > policy.lost_s:
                worker.state = WorkerState.LOST
                self._take_back(worker.incarnation, Cause.LOST, f"no beat for {silent_s:.0f} s", now, silent_s)
                if worker.incarnation not in self.ledger.by_incarnation and silent_s > 6 * policy.lost_s:
                    self._drop_worker(worker.incarnation)
        unheard_s = now - self._began
        if unheard_s > policy.lost_s:
            for incarnation in [name for name in self.ledger.by_incarnation if name not in self.workers]:
                self._take_back(incarnation, Cause.LOST, f"no beat for {unheard_s:.0f} s", now, unheard_s)

    def _take_back(
        self, incarnation: str, cause: Cause, reason: str, now: float, silent_s: float | None = None
    ) -> None:
        """End the leases of an incarnation; those that shall wait for it are kept up to their `wait_s`."""
        worker = self.workers.get(incarnation)
        queued = worker.waiting() if worker is not None and cause is Cause.DIED else set()
        for name in sorted(self.ledger.by_incarnation.get(incarnation, ())):
            task = self.ledger.tasks[name]
            waits = task.spec.on_disconnect is OnDisconnect.WAIT
            if silent_s is None or not waits or silent_s > task.spec.wait_s:
                # A queue must not be parked for what its first one did; but whoever was there each time is suspected
                # in the end, as it may have begun after the worker's last word.
                innocent = (name, task.epoch) in queued and task.attempts < self.policy.innocent_attempts
                self._end_lease(task, Cause.LOST if innocent else cause, reason, now)

    def _forget(self, incarnation: str, cause: Cause, reason: str, now: float) -> None:
        """An incarnation is over for good: end its leases at once and ignore late beats of it."""
        self._take_back(incarnation, cause, reason, now)
        self._drop_worker(incarnation)
        self._past[incarnation] = None
        while len(self._past) > PAST_INCARNATIONS_MAX:
            self._past.popitem(last=False)

    def _drop_worker(self, incarnation: str) -> None:
        worker = self.workers.pop(incarnation, None)
        if worker is not None and self._incarnation_of.get(worker.name) == incarnation:
            del self._incarnation_of[worker.name]

    def _make_room(self) -> None:
        if len(self.workers) >= WORKERS_MAX:
            quietest = min(self.workers.values(), key=lambda worker: worker.beat_at)
            self._drop_worker(quietest.incarnation)

    # -- out ----------------------------------------------------------------------------------------------------------

    def take(self) -> list[Decided]:
        """What was decided since the last call, in order: it must be committed before any answer is given."""
        decided, self._decided = self._decided, []
        return decided

    def answers(self, ledger_seq: int, ledger_digest: str = "") -> list[tuple[str, Answer]]:
        """Answers that are due, each with the subject on which it is heard; true at the entry `ledger_seq`."""
        found = []
        for worker in self.workers.values():
            if worker.answer_due and worker.state is not WorkerState.LOST:
                worker.answer_due = False
                answer = answer_to(worker, self.ledger, self.receipts, ledger_seq, ledger_digest)
                found.append((worker.beat.reply, answer))
        return found

    def unplanned(self, rows_max: int) -> tuple[str, ...]:
        """Tasks whose results wait for a plan that names them again, so many at most."""
        return tuple({key.task: None for key in self._early if not self.ledger.knows(key.task)})[:rows_max]

    def waits(self, now: float) -> Waits:
        """The reasons of ready tasks at this moment, for as many as one answer shows."""
        return Waits(self.ledger, self.workers, self._matcher, now)

    def why_waits(self, task: Task, now: float, waits: Waits | None = None) -> str:
        """Why a ready task has no lease, or for how long one with a silent worker keeps it, at most TEXT_CHARS_MAX; ''
        for a task that does not wait."""
        if task.state is TaskState.LEASED:
            return self._why_silent(task, now)
        if task.state is not TaskState.READY:
            return ""
        if now < self.leases_from:
            why = f"the new leader listens {self.leases_from - now:.0f} s more before it leases"
        else:
            why = (waits or self.waits(now)).why(task)
        lastly = f"lastly: {task.reason}" if task.reason else ""
        return "; ".join(filter(None, (why, lastly)))[: limits.TEXT_CHARS_MAX]

    def _why_silent(self, task: Task, now: float) -> str:
        """'' while the holder is heard."""
        worker, policy = self.workers.get(task.incarnation), self.policy
        silent_s = now - (worker.beat_at if worker is not None else self._began)
        if (
            worker is not None and worker.state is WorkerState.LIVE
        ) or silent_s <= policy.suspect_beats * policy.beat_s:
            return ""
        keeps_s = policy.lost_s
        if task.spec.on_disconnect is OnDisconnect.WAIT:
            keeps_s = max(keeps_s, task.spec.wait_s)
        name = task.incarnation.partition(".")[0]
        return f"{name} is silent ({silent_s:.0f} s): after {keeps_s:g} s of silence the task goes to another worker"

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _decide(self, event: AnyEvent, now: float) -> None:
        """Fold an event into the state, keep it for the next commit, and tell the matcher what changed."""
        name = getattr(event, "task", "")
        before = self.ledger.tasks.get(name)
        was_leased = before is not None and before.state is TaskState.LEASED
        waiting = sorted(self.ledger.dependents.get(name, ())) if isinstance(event, TaskSucceeded) else []
        task = self.ledger.apply(event)
        self._decided.append(Decided(event, project(event, task)))
        if isinstance(event, TopicPlanned):
            waiting = [spec.id for spec in event.tasks]
        if isinstance(event, TaskReopened):
            for other in self.ledger.dependents.get(name, ()):
                self._matcher.removed(other)
        if task is not None:
            is_leased = task.state is TaskState.LEASED
            if is_leased != was_leased:
                self._matcher.charge(task, +1 if is_leased else -1)
            if is_leased or task.state.ended:
                self._matcher.removed(name)
            self._matcher.placed(task, now)
        for other in waiting:
            if other in self.ledger.tasks:
                self._matcher.placed(self.ledger.tasks[other], now)

    def _lease(self, task: Task, incarnation: str, why: str, now: float) -> None:
        epoch = Epoch(self.ledger.generation, task.epoch.count + 1)
        self._decide(
            TaskLeased(task=task.spec.id, epoch=epoch, incarnation=incarnation, attempt=task.attempts + 1, why=why),
            now,
        )

    def _end_lease(
        self,
        task: Task,
        cause: Cause,
        reason: str,
        now: float,
        again_after_s: float = 0.0,
        key: Key | None = None,
        awaits: str = "",
    ) -> None:
        poison = cause is Cause.DIED and task.deaths + 1 >= self.policy.deaths_max
        self._decide(
            LeaseEnded(
                task=task.spec.id,
                epoch=task.epoch,
                cause=cause,
                reason=reason[: limits.TEXT_CHARS_MAX],
                again_after_s=again_after_s,
                key_kind=key.kind if key else "",
                key_number=key.number if key else 0,
                awaits=awaits,
            ),
            now,
        )
        if poison:
            self._park(task.spec.id, f"{task.deaths} workers died while they ran it, lastly: {reason}", now)

    def _park(self, name: str, reason: str, now: float, key: Key | None = None) -> None:
        task = self.ledger.tasks[name]
        self._decide(
            TaskParked(
                task=name,
                epoch=key.epoch if key else None,
                reason=reason[: limits.TEXT_CHARS_MAX],
                key_kind=key.kind if key else "",
                key_number=key.number if key else 0,
            ),
            now,
        )
        self._park_dependents(task.spec.id, f"is parked: {reason}", now)

    def _park_dependents(self, name: str, how: str, now: float) -> None:
        for dependent in sorted(self.ledger.dependents.get(name, ())):
            if dependent in self.ledger.tasks:
                self._park(dependent, f"needs {name}, which {how}"[: limits.TEXT_CHARS_MAX], now)

    def _count_stale(self, key: Key, reason: str) -> None:
        self.stale_writes += 1
        self._note(f"{key} is refused: {reason}")

    def _note(self, sentence: str) -> None:
        if len(self.ignored) < limits.INPUTS_PENDING_MAX:
            self.ignored.append(sentence)
