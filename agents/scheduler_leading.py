"""One term of a leading scheduler: hear, decide, commit, answer.

    begin   the tail once more -> leader{term + 1}, and restored{generation + 1} when the store is older than what was
            seen -> one commit by compare-and-set
    turn    take what arrived -> mind -> one commit -> projection and answers

Nothing is answered before it is on record. Refusals are final for who hears them, so a turn that gives one and has
committed nothing makes sure first that the ledger still ends where we think: a leader that stood still for a while must
not speak for a mesh that has another one by now.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any

from agents.runtime import Agent, now_s
from agents.scheduler_answers import fitting
from agents.scheduler_collecting import Collecting
from agents.scheduler_ears import Ears
from agents.scheduler_history import History
from agents.scheduler_inputs import Closed, HeardCommand, Inputs, Question, heard
from agents.scheduler_missing import Search
from agents.scheduler_results import Projector
from agents.scheduler_views import Views
from mesh import codec, log, traced, tracing
from mesh.bus import Message, Stored
from mesh.errors import BusUnavailable, Malformed, NotFound
from mesh.messages.base import Record
from mesh.messages.collecting import CorruptFound
from mesh.messages.leases import Answer, Beat, Gone, LeaderBeat
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    Entry,
    LeaderChosen,
    LeaseEnded,
    Restored,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskReopened,
    TaskSucceeded,
)
from mesh.messages.services import Ask, Hello, OwedAnswer, OwedQuestion, Problem
from mesh.messages.tasks import TaskState
from planner.projection import Decided
from planner.reopening import Maker
from planner.scheduling import Policy, Scheduler
from planner.workers import WorkerState

TICK_S = 0.2
"""Longest pause between two turns: how finely suspicion, expiry and back-offs are noticed."""

STALL_S = 1.0
"""A turn that comes this much too late means that our own process stood still: lease clocks start anew."""

PURGE_EVERY_S = 60.0
"""How often commands that the ledger covers are removed from their stream."""

COMMANDS_KEPT = 1_000
"""Covered commands that stay, for people who look."""

COVER_EVERY = 1_000
"""Commands that decided nothing get an entry of their own after so many: uncovered, they would fill their stream."""

LISTEN_BEATS = 1.5
"""How long a scheduler that has never seen this ledger before, or was away so long that others may have led, listens
before it gives leases: should the store be older than what a worker has seen, the worker's beat says so, and no epoch
is given twice."""

RESTORED_BEATS = 2.5
"""How long a leader that has restored the ledger listens before it gives leases: workers hear of it with their next
beat, and tell again what they have finished; that work need not be done a second time."""

LEADERS_OWN = ("mesh_tasks", "mesh_workers", "mesh_commands_uncovered", "mesh_store_bytes", "mesh_store_limit_bytes")
"""Metrics that the leader alone tells: told on by one that leads no more, they would be counted twice."""

FAREWELL_S = 1.0
"""Patience with the last beat of a leader that stops."""


class Leader:
    """One term of one scheduler."""

    def __init__(self, agent: Agent, history: History, ears: Ears, projector: Projector) -> None:
        self._agent = agent
        self._history, self._ledger, self._log = history, history.ledger, history.log
        self._ears, self._projector = ears, projector
        self._inputs = Inputs()
        self._mind = Scheduler(self._ledger, policy(agent), now_s())
        self._views = Views(agent, self._mind)
        self._collecting = Collecting(agent, history)
        self._search = Search(agent, self._inputs.offer)
        self._turned = now_s()
        self._reported = 0.0
        """When the metrics were set that cost a look at all workers."""
        self._states: dict[str, WorkerState] = {}
        """How each worker stood then: the log tells what became different."""
        self._doubtful = False
        """The ledger may have gone on without us: look before anything is decided."""
        self._begin_s = 0.0
        """How long the term's first entry waited for the broker."""
        self._doubted: Beat | None = None
        self._heard = self._history.covered
        """COMMANDS sequence up to which this term has read."""
        self._restored = False
        """This term began with an older store."""
        self._stranger = history.stranger
        """Nobody here can know whether the store is older than what others have seen: listen before leasing."""

    # -- the beginning of the term ------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write the term into the ledger. Deposed when another scheduler was faster."""
        history, ledger = self._history, self._ledger
        chosen = LeaderChosen(name=self._agent.incarnation, term=max(ledger.term, self._term_heard()) + 1)
        decided = [Decided(chosen, None)]
        ledger.apply(chosen)
        await self._projector.check()
        commands_seq = (await self._agent.broker.state(self._agent.stream("COMMANDS"))).last_seq
        self._stranger |= self._log.seq == 0 and commands_seq > 0  # an empty ledger, and yet somebody was here before
        if history.lost is not None or commands_seq < history.covered:
            generation = max(ledger.generation, history.generation_seen) + 1
            restored = Restored(generation=generation, from_seq=self._log.seq)
            ledger.apply(restored)
            decided.append(Decided(restored, None))
            self._restored = True
            ledger.commands_seq = history.covered = self._heard = min(history.covered, commands_seq)
            self._agent.log.warning(
                "the broker's store is older than what was seen: generation %d begins behind entry %d",
                generation, self._log.seq,
            )  # fmt: skip
        began = now_s()
        self._committed(decided, await self._append(decided))
        self._begin_s = now_s() - began
        history.note()
        self._agent.log.info(
            "leads term %d after %d ledger entries with %d open tasks", ledger.term, history.entries, len(ledger.tasks)
        )

    def _term_heard(self) -> int:
        """The highest term of which a leader's beat told: after a restore the ledger may know lower ones only."""
        return self._ears.leader.term if self._ears.leader is not None else 0

    def _adopt(self) -> None:
        """Take over the standing offers and reports that were heard as a standby; all clocks start now."""
        now, settings = now_s(), self._agent.settings.scheduler
        if self._stranger:
            self._mind.leases_from = self._ears.opened_at + LISTEN_BEATS * settings.beat_s
        if self._restored:
            self._mind.leases_from = now + RESTORED_BEATS * settings.beat_s
        self._mind.leases_from = max(self._mind.leases_from, self._history.listen_until)
        self._ears.echo_at = now
        self._listen_after(self._begin_s)
        for beat in self._ears.standing(settings.beat_s * settings.suspect_beats):
            self._hear(beat, now)
        for gone in self._ears.reports():
            self._mind.gone(gone, now)

    # -- the term -----------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Hear, decide, commit, answer, until the agent stops. Raises what ends the term before that: Deposed, or
        Conflict when the store has come back older."""
        agent = self._agent
        agent.metrics.set("mesh_leading", 1)
        endpoints = list(agent.endpoints)
        # No queue group: a leader that stands still has not left it, and would get questions that it can not answer.
        asked = await agent.serve("ask", agent.subjects.asked("scheduler"), self._on_question, queue="")
        self._adopt()
        ears = self._ears
        ears.inputs, ears.on_leader, ears.on_connected = self._inputs, self._on_leader, self._on_connected
        helpers = [
            self._helper(self._read_commands(), "commands"),
            self._helper(self._beat(), "leader's beat"),
            self._helper(self._purge(), "purge of covered commands"),
            self._helper(self._collecting.run(), "collecting"),
            self._helper(self._projector.run(), "projection"),
            self._helper(self._search.run(), "missing artifacts"),
        ]
        try:
            self._turned = now_s()
            while not agent.stopping.is_set():
                await self._inputs.wait(TICK_S)
                for helper in helpers:
                    if helper.done():
                        helper.result()
                await self._turn()
            helpers[0].cancel()  # nothing more is read; who hears that we leave may lead at once
            await asyncio.gather(helpers[0], return_exceptions=True)
            await self._leave()
        finally:
            ears.inputs, ears.on_leader, ears.on_connected = None, lambda _: None, lambda: None
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await asked.close()
            agent.endpoints[:] = endpoints
            agent.metrics.set("mesh_leading", 0)
            agent.metrics.forget(*LEADERS_OWN)

    def _helper(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of this term: the next turn raises what it raised."""
        return asyncio.get_running_loop().create_task(work, name=name)

    async def _leave(self) -> None:
        """The ordered end: the last records, then a word to the standbys, who need not wait for our silence."""
        self._report()
        await self._projector.drain()
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._send(self._agent.subjects.lead(), self._leader_beat(leaving=True))
        except TimeoutError:
            return

    # -- one turn -----------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        now = now_s()
        if now - self._turned > STALL_S + TICK_S:
            self._agent.log.warning("stood still for %.1f s: lease clocks start anew", now - self._turned)
            self._mind.clocks_anew(now)
            self._listen_after(now - self._turned)
            self._doubtful = True
        if self._doubtful and not await self._reassured():
            self._turned = now_s()
            return
        questions = self._feed(now)
        for question in questions:
            await self._read_again(question)
        if self._doubted is not None:
            await self._history.doubt(self._doubted)
        self._listen_after(now - self._ears.echo_at)  # cut off without a notice, nobody hears us any more
        self._mind.tick(now)
        decided = self._mind.take()
        committed = bool(decided) or self._ledger.commands_seq >= self._history.covered + COVER_EVERY
        if committed:
            began = time.perf_counter()
            entries = await self._append(decided, until=now_s() + self._agent.settings.scheduler.leader_lost_s)
            self._history.note()  # before anybody is told: who is told of an entry must not be its only witness
            self._agent.metrics.observe("mesh_ledger_append_seconds", time.perf_counter() - began)
        await self._answer(questions, sure=committed)
        if committed:
            await asyncio.sleep(0)  # the projection goes its way; nobody waits for what follows
            self._committed(decided, entries)
            await self._projector.room()
        self._search.want(self._mind.reopening.take())
        if now - self._reported >= TICK_S:
            self._reported = now
            self._report()
        self._turned = now_s()

    async def _reassured(self) -> bool:
        """Make sure that the ledger ends where we think, RESULTS not before. False while the broker does not say."""
        try:
            await self._log.check()
            await self._projector.check()
        except BusUnavailable:
            await self._agent.pause(TICK_S)
            return False
        self._doubtful = False
        self._projector.go_on()
        return True

    def _feed(self, now: float) -> list[Question]:
        """Give the mind everything that has arrived; questions about receipts wait for the commit."""
        questions = []
        for item in self._inputs.drain():
            match item:
                case Beat():
                    self._hear(item, now)
                case Gone():
                    self._mind.gone(item, now)
                case Closed():
                    self._mind.closed(item.incarnation, now)
                case HeardCommand():
                    for record in item.records:
                        self._mind.command(item.seq, item.writer, record, now)
                case Question():
                    questions.append(item)
                case Maker():
                    self._mind.found(item, now)
        return questions

    def _hear(self, beat: Beat, now: float) -> None:
        if self._history.contradicted(beat):
            self._doubted = beat
        self._mind.beat(beat, now)

    async def _append(self, decided: list[Decided], *, until: float = math.inf) -> int:
        """Commit folded events, in as few entries as their size allows, and queue their projection; how many entries.
        Workers wait for the answers that follow: whatever nobody waits for is done in `_committed`."""
        at_ms, entries = time.time_ns() // 1_000_000, 0
        parts = [decided]
        while parts:
            part = parts.pop(0)
            # Only the last entry covers the commands: a crash before it reads them again.
            entry = Entry(
                term=self._ledger.term,
                generation=self._ledger.generation,
                commands_seq=self._history.covered if parts else self._ledger.commands_seq,
                previous=self._log.digest,
                at_ms=at_ms,
                events=tuple(item.event for item in part),
                snapshot=self._history.snapshots.newest,
            )
            try:
                seq = await self._log.append(entry, until=until)
            except Malformed:
                if len(part) == 1:
                    raise
                parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            told = ((index, item.record) for index, item in enumerate(part) if item.record is not None)
            self._projector.put(seq, at_ms, told)
            entries += 1
        return entries

    def _committed(self, decided: list[Decided], entries: int) -> None:
        """Remember and count what stands on record now."""
        for item in decided:
            self._history.snapshots.heard(item.event)
        self._history.committed()
        self._count(item.event for item in decided)
        self._agent.metrics.count("mesh_ledger_entries_total", entries)
        self._agent.metrics.count("mesh_ledger_events_total", len(decided))

    def _count(self, events: Iterable[AnyEvent]) -> None:
        """Count what an entry says, once for each kind of thing and not for each event."""
        leases, reopened, ended, expired = 0, 0, Counter[TaskState](), Counter[Cause]()
        for event in events:
            match event:
                case TaskLeased():
                    leases += 1
                case LeaseEnded() if event.cause in (Cause.LOST, Cause.DIED):
                    expired[event.cause] += 1
                    self._tell_expired(event)
                case TaskSucceeded():
                    ended[TaskState.SUCCEEDED] += 1
                case TaskParked():
                    ended[TaskState.PARKED] += 1
                case TaskCanceled():
                    ended[TaskState.CANCELED] += 1
                case TaskReopened():
                    reopened += 1
        metrics = self._agent.metrics
        metrics.count("mesh_leases_total", leases)
        metrics.count("mesh_tasks_reopened_total", reopened)
        for state, count in ended.items():
            metrics.count("mesh_results_total", count, outcome=str(state))
        for cause, count in expired.items():
            metrics.count("mesh_lease_expirations_total", count, reason=str(cause))

    def _tell_expired(self, event: LeaseEnded) -> None:
        """Into the log, in the span of the attempt that ended."""
        task = self._ledger.tasks.get(event.task)
        topic, span = (task.spec.topic, traced.attempt(task.spec, event.epoch)) if task is not None else ("", None)
        with tracing.within(span), log.about(topic=topic, task=event.task, epoch=str(event.epoch)):
            self._agent.log.info("%s under %s goes back to the queue: %s", event.task, event.epoch, event.reason)

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _answer(self, questions: list[Question], *, sure: bool) -> None:
        """Give the answers that are due. sure: the ledger has just been seen to end where we think."""
        answers: list[tuple[str, Record]] = list(self._mind.answers(self._log.seq, self._log.digest))
        answers += [(question.reply, self._receipts(question.owed)) for question in questions]
        if not sure and any(map(_refuses, (record for _, record in answers))):
            await self._log.check()
        for subject, record in answers:
            await self._send(subject, record)

    async def _read_again(self, question: Question) -> None:
        """Hear rows once more that were read before their task was planned again: the part of the ledger that knew it
        was lost, and their sender can not put them a second time."""
        ledger, receipts = self._ledger, self._mind.receipts
        asker = question.asker
        older = [
            key for key in question.owed.keys if key.epoch.generation < ledger.generation and key.task in ledger.tasks
        ]
        for key in older if asker else ():
            if receipts.of(key) is None:
                stored = await self._agent.broker.last(
                    self._agent.stream("COMMANDS"), self._agent.subjects.owed(asker, key)
                )
                if stored is not None and stored.seq <= ledger.commands_seq:
                    message = self._read(stored)
                    for record in message.records:
                        self._mind.command(message.seq, message.writer, record, now_s())

    def _receipts(self, owed: OwedQuestion) -> OwedAnswer:
        known = (self._mind.receipts.of(key) for key in owed.keys)
        return OwedAnswer(receipts=tuple(receipt for receipt in known if receipt), ledger_seq=self._log.seq)

    async def _send(self, subject: str, record: Record) -> None:
        try:
            await self._agent.broker.publish(subject, fitting(record))
        except BusUnavailable:
            return  # the worker's next beat is answered again
        except Malformed as error:
            self._agent.failed("malformed", f"an answer to {subject} can not be sent: {error}")

    def _report(self) -> None:
        metrics, mind = self._agent.metrics, self._mind
        for sentence in mind.ignored:
            self._agent.log.warning("%s", sentence)
        mind.ignored.clear()
        for state, count in self._ledger.counts.items():
            metrics.set("mesh_tasks", count, state=str(state))
        workers = {worker.incarnation: worker.state for worker in mind.workers.values()}
        for name, stands in workers.items():
            if self._states.get(name, WorkerState.LIVE) is not stands:
                self._agent.log.info("%s is %s", name, stands)
        self._states = workers
        standing = Counter(workers.values())
        for stands in WorkerState:
            metrics.set("mesh_workers", standing[stands], state=str(stands))
        metrics.set_total("mesh_stale_writes_total", mind.stale_writes)
        metrics.set_total("mesh_inputs_dropped_total", self._inputs.dropped)
        metrics.set("mesh_ledger_sequence", self._log.seq)
        metrics.set("mesh_ledger_lag_entries", 0)
        metrics.set("mesh_commands_uncovered", max(0, self._heard - self._history.covered))

    # -- what arrives -------------------------------------------------------------------------------------------------

    async def _read_commands(self) -> None:
        """Read COMMANDS as a log, from behind what the ledger covers."""
        agent = self._agent
        stream, subject = agent.stream("COMMANDS"), agent.subjects.commands()
        while not agent.stopping.is_set():
            try:
                async with agent.broker.tail(stream, subject, from_seq=self._heard + 1) as commands:
                    async for stored in commands:  # until the term ends, and this task with it
                        await self._inputs.put(self._read(stored))
                        self._heard = stored.seq
            except BusUnavailable as error:
                agent.log.warning("reading commands is interrupted: %s", error)
                await agent.pause(TICK_S)

    def _read(self, stored: Stored) -> HeardCommand:
        def complain(error: Malformed) -> None:
            self._agent.failed("malformed", f"{stored.subject} is no command: {error}")

        return heard(stored, self._agent.subjects, complain)

    async def _on_question(self, message: Message) -> None:
        asker = self._agent.subjects.asker(message.subject)
        if not message.reply:
            self._on_report(message.data, asker)
        if not self._agent.subjects.may_answer(message.reply, asker):
            return
        try:
            question = codec.decode(message.data, Ask, Hello, OwedQuestion)
        except Malformed as error:
            await self._send(message.reply, Problem(reason=str(error)))
            return
        match question:
            case Hello() if question.name != asker:
                await self._send(message.reply, Problem(reason=f"{asker!r} says that it is {question.name!r}"))
            case Hello():
                await self._views.look_at_store(question)
                await self._send(message.reply, self._views.welcome(question, self._log.seq))
            case Ask(what="store"):
                await self._agent.store_identity.look()
                await self._send(message.reply, self._collecting.use())
            case Ask():
                await self._send(message.reply, self._views.status(question, self._log.seq))
            case OwedQuestion():
                self._inputs.offer(Question(question, message.reply, asker))

    def _on_report(self, data: bytes, reader: str) -> None:
        """What is told without a question: a reader found something corrupt."""
        try:
            report = codec.decode(data, CorruptFound)
            if report.by not in ("", reader):
                raise Malformed(f"{reader!r} tells it as {report.by!r}")
            self._collecting.suspect(report)
        except Malformed as error:
            self._agent.failed("malformed", f"this is no report: {error}")

    def _on_connected(self) -> None:
        self._collecting.disturbed()
        self._mind.clocks_anew(now_s())
        self._listen_after(self._ears.away_s)
        self._doubtful = True
        self._projector.hold()

    def _listen_after(self, away_s: float) -> None:
        """After so long without us another one may have led, and if the store has come back from before his term it
        looks like ours: hear first who has seen more."""
        settings = self._agent.settings.scheduler
        if away_s > settings.leader_lost_s:
            self._history.listen_until = now_s() + LISTEN_BEATS * settings.beat_s
            self._mind.leases_from = max(self._mind.leases_from, self._history.listen_until)

    def _on_leader(self, beat: LeaderBeat) -> None:
        """Another scheduler says that it leads."""
        if beat.term > self._ledger.term:
            self._doubtful = True

    # -- beside the turns ---------------------------------------------------------------------------------------------

    def _leader_beat(self, *, leaving: bool = False) -> LeaderBeat:
        return LeaderBeat(
            name=self._agent.incarnation, term=self._ledger.term, ledger_seq=self._log.seq, leaving=leaving
        )

    async def _beat(self) -> None:
        """Tell standbys that this leader lives."""
        agent = self._agent
        while not agent.stopping.is_set():
            await self._send(agent.subjects.lead(), self._leader_beat())
            await agent.pause(agent.settings.scheduler.leader_beat_s)

    async def _purge(self) -> None:
        """Remove commands that the ledger covers, so that their stream never fills."""
        agent = self._agent
        while not agent.stopping.is_set():
            await agent.pause(PURGE_EVERY_S)
            if agent.stopping.is_set():
                return
            try:
                snapshot = self._history.snapshots.newest
                below_seq = min(self._history.covered - COMMANDS_KEPT, snapshot.commands_seq if snapshot else 0)
                if below_seq > 0:
                    await agent.broker.purge(agent.stream("COMMANDS"), below_seq=below_seq)
            except (BusUnavailable, NotFound) as error:
                agent.log.warning("covered commands are not removed now: %s", error)


def _refuses(record: Record) -> bool:
    """Does this answer hold a refusal, after which its hearer drops what it owes?"""
    return isinstance(record, Answer | OwedAnswer) and any(not receipt.recorded for receipt in record.receipts)


def policy(agent: Agent) -> Policy:
    """The mind's times, from the settings."""
    settings = agent.settings.scheduler
    return Policy(
        beat_s=settings.beat_s,
        suspect_beats=settings.suspect_beats,
        lost_s=settings.lost_s,
        back_off_s_first=settings.back_off_s_first,
        back_off_s_max=settings.back_off_s_max,
    )
