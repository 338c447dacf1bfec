"""Scheduler: keeps the ledger and gives out leases. One leads; its mind is `planner/scheduling.py`.

In:    COMMANDS from a cursor, beats, supervisors' reports, questions
Out:   LEDGER entries, answers to beats, RESULTS (projected from the ledger)
Keeps: nothing of its own: state is the fold of the ledger, lease clocks live in memory
Loses: on a crash nothing; the next start replays, and goes on from the cursor of the last entry
Not:   runs no task, reads no dataset, decides no promotion

One turn: take what arrived -> mind -> one commit -> projection and answers. Nothing is answered before it is on record.
"""

from __future__ import annotations

import time

from agents.runtime import Agent, now_s
from agents.scheduler_answers import fitting
from agents.scheduler_inputs import HeardCommand, Inputs, Question
from agents.scheduler_results import Projector
from agents.scheduler_views import Views
from mesh import codec, limits, streams
from mesh.bus import Message, Stored
from mesh.ended import EndedIndexOnDisk
from mesh.errors import BusUnavailable, EnvironmentUnfit, Malformed, NotFound
from mesh.ledger_log import LedgerLog
from mesh.messages.base import Record
from mesh.messages.commands import COMMANDS
from mesh.messages.leases import Beat, Gone, LeaderBeat
from mesh.messages.ledger import (
    AnyEvent,
    Cause,
    Entry,
    LeaderChosen,
    LeaseEnded,
    TaskCanceled,
    TaskLeased,
    TaskParked,
    TaskSucceeded,
)
from mesh.messages.services import Ask, Hello, OwedAnswer, OwedQuestion, Problem, Status
from mesh.messages.tasks import TaskState
from mesh.server import store_bytes_max
from planner.ledger import Ledger
from planner.projection import Decided, project
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

ASK_LEADER_S = 0.3
"""Patience with another leader at the start."""

ARTIFACTS_SHARE = 0.8
"""Part of the broker's store that artifacts may fill; the rest is for the ledger, results and topics."""


async def body(agent: Agent) -> None:
    """Lead the mesh until the agent stops."""
    artifact_bytes_max = int(store_bytes_max(agent.settings.home) * ARTIFACTS_SHARE)
    await streams.ensure_all(agent.broker, streams.table(agent.subjects, artifact_bytes_max=artifact_bytes_max))
    await _refuse_second_leader(agent)
    index = EndedIndexOnDisk(agent.settings.home / "scheduler" / agent.name / "ended.db")
    try:
        leader = Leader(agent, Ledger(index))
        await leader.begin_term()
        await leader.lead()
    finally:
        index.close()


async def _refuse_second_leader(agent: Agent) -> None:
    """EnvironmentUnfit when another scheduler answers: a mesh has one."""
    try:
        question = codec.encode(Ask(what="leader", rows_max=0))
        answer = await agent.broker.request(agent.subjects.ask("scheduler"), question, timeout_s=ASK_LEADER_S)
        status = codec.decode(answer.data, Status)
    except (NotFound, BusUnavailable, Malformed):
        return
    raise EnvironmentUnfit(
        f"Expected a mesh without a scheduler, but {status.leader!r} leads the mesh "
        f"{agent.subjects.prefix!r} on this broker: stop it first, or choose another mesh with --prefix."
    )


class Leader:
    """One term of one scheduler."""

    def __init__(self, agent: Agent, ledger: Ledger) -> None:
        self._agent = agent
        self._ledger = ledger
        self._log = LedgerLog(agent.broker, agent.subjects)
        self._projector = Projector(agent)
        self._inputs = Inputs()
        self._mind = Scheduler(ledger, _policy(agent), now_s())
        self._views = Views(agent, self._mind)
        self._turned = now_s()
        self._covered = 0
        """COMMANDS sequence that the committed ledger covers."""

    async def begin_term(self) -> None:
        """Replay the ledger, catch up with the projection, and begin a new term."""
        ledger, entries = self._ledger, 0
        since = await self._projector.projected_up_to()
        kept_since_ms = time.time_ns() // 1_000_000 - int(limits.RESULTS_AGE_S * 1_000)
        self._agent.spawn(self._projector.run(), "projection")
        async for seq, entry in self._log.replay():
            entries += 1
            ledger.generation = max(ledger.generation, entry.generation)
            for index, event in enumerate(entry.events):
                record = project(event, ledger.apply(event))
                if record is not None and seq >= since and entry.at_ms >= kept_since_ms:
                    self._projector.put(record, seq, index, entry.at_ms)
            self._covered = ledger.commands_seq = entry.commands_seq
            await self._projector.room()
        self._mind = Scheduler(ledger, _policy(self._agent), now_s())
        self._views = Views(self._agent, self._mind)
        chosen = LeaderChosen(name=self._agent.incarnation, term=ledger.term + 1)
        ledger.apply(chosen)
        await self._commit([Decided(chosen, None)])
        self._agent.log.info(
            "leads term %d after %d ledger entries with %d open tasks", ledger.term, entries, len(ledger.tasks)
        )

    async def lead(self) -> None:
        """Hear, decide, commit, answer, until the agent stops."""
        agent, subjects = self._agent, self._agent.subjects
        agent.broker.on_state(self._on_state)
        agent.spawn(self._read_commands(), "commands")
        agent.spawn(self._beat(), "leader's beat")
        agent.spawn(self._purge(), "purge of covered commands")
        heard = [
            await agent.broker.subscribe(subjects.beats(), self._on_beat),
            await agent.broker.subscribe(subjects.all_gone(), self._on_gone),
            await agent.serve("ask", subjects.ask("scheduler"), self._on_question, queue="scheduler"),
        ]
        self._turned = now_s()
        while not agent.stopping.is_set():
            await self._inputs.wait(TICK_S)
            await self._turn()
        for subscription in heard:
            await subscription.close()
        await self._projector.drain()

    # -- one turn -----------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        now = now_s()
        if now - self._turned > STALL_S + TICK_S:
            self._agent.log.warning("stood still for %.1f s: lease clocks start anew", now - self._turned)
            self._mind.clocks_anew(now)
        questions = self._feed(now)
        self._mind.tick(now)
        decided = self._mind.take()
        if decided or self._ledger.commands_seq >= self._covered + COVER_EVERY:
            await self._commit(decided)
        for subject, answer in self._mind.answers(self._log.seq):
            await self._send(subject, answer)
        for question in questions:
            await self._send(question.reply, self._receipts(question.owed))
        self._report()
        self._turned = now_s()

    def _feed(self, now: float) -> list[Question]:
        """Give the mind everything that has arrived; questions about receipts wait for the commit."""
        questions = []
        for item in self._inputs.drain():
            match item:
                case Beat():
                    self._mind.beat(item, now)
                case Gone():
                    self._mind.gone(item, now)
                case HeardCommand():
                    self._mind.command(item.seq, item.writer, item.record, now)
                case Question():
                    questions.append(item)
        return questions

    async def _commit(self, decided: list[Decided]) -> None:
        """Commit folded events, in as few entries as their size allows, and queue their projection."""
        began, at_ms = time.perf_counter(), time.time_ns() // 1_000_000
        parts = [decided]
        while parts:
            part = parts.pop(0)
            # Only the last entry covers the commands: a crash before it reads them again.
            entry = Entry(
                term=self._ledger.term,
                generation=self._ledger.generation,
                commands_seq=self._covered if parts else self._ledger.commands_seq,
                previous=self._log.digest,
                at_ms=at_ms,
                events=tuple(item.event for item in part),
            )
            try:
                seq = await self._log.append(entry)
            except Malformed:
                if len(part) == 1:
                    raise
                parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            for index, item in enumerate(part):
                if item.record is not None:
                    self._projector.put(item.record, seq, index, at_ms)
                self._count(item.event)
            self._agent.metrics.count("mesh_ledger_entries_total")
        self._covered = self._ledger.commands_seq
        self._agent.metrics.observe("mesh_ledger_append_seconds", time.perf_counter() - began)
        self._agent.metrics.count("mesh_ledger_events_total", len(decided))
        await self._projector.room()

    def _count(self, event: AnyEvent) -> None:
        metrics = self._agent.metrics
        match event:
            case TaskLeased():
                metrics.count("mesh_leases_total")
            case LeaseEnded() if event.cause in (Cause.LOST, Cause.DIED):
                metrics.count("mesh_lease_expirations_total", reason=str(event.cause))
            case TaskSucceeded():
                metrics.count("mesh_results_total", outcome=str(TaskState.SUCCEEDED))
            case TaskParked():
                metrics.count("mesh_results_total", outcome=str(TaskState.PARKED))
            case TaskCanceled():
                metrics.count("mesh_results_total", outcome=str(TaskState.CANCELED))

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
        metrics.set("mesh_workers", sum(worker.state is not WorkerState.LOST for worker in mind.workers.values()))
        metrics.set_total("mesh_stale_writes_total", mind.stale_writes)
        metrics.set_total("mesh_inputs_dropped_total", self._inputs.dropped)
        metrics.set("mesh_ledger_sequence", self._log.seq)
        metrics.set("mesh_leading", 1)

    # -- what arrives -------------------------------------------------------------------------------------------------

    async def _read_commands(self) -> None:
        """Read COMMANDS as a log, from behind what the ledger covers."""
        agent = self._agent
        stream, subject = agent.stream("COMMANDS"), agent.subjects.commands()
        heard = self._covered
        while not agent.stopping.is_set():
            try:
                async with agent.broker.tail(stream, subject, from_seq=heard + 1) as commands:
                    async for stored in agent.until_stopping(commands):
                        await self._inputs.put(self._heard(stored))
                        heard = stored.seq
            except (BusUnavailable, NotFound) as error:
                agent.log.warning("reading commands is interrupted: %s", error)
                await agent.pause(TICK_S)

    def _heard(self, stored: Stored) -> HeardCommand:
        writer = self._agent.subjects.writer(stored.subject)
        try:
            return HeardCommand(stored.seq, writer, codec.decode(stored.data, *COMMANDS))
        except Malformed as error:
            self._agent.failed("malformed", f"{stored.subject} is no command: {error}")
            return HeardCommand(stored.seq, writer, None)

    async def _on_beat(self, message: Message) -> None:
        try:
            beat = codec.decode(message.data, Beat)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} is no beat: {error}")
            return
        if message.subject != self._agent.subjects.beat(beat.worker):
            self._agent.failed("rejected", f"{message.subject} carries a beat of {beat.worker}")
            return
        if not beat.reply.startswith(self._agent.subjects.inbox(beat.worker) + "."):
            self._agent.failed("rejected", f"{beat.worker} wants its answer on {beat.reply[:120]!r}, not in its inbox")
            return
        self._inputs.offer(beat)

    async def _on_gone(self, message: Message) -> None:
        try:
            gone = codec.decode(message.data, Gone)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} is no report: {error}")
            return
        if message.subject == self._agent.subjects.gone(gone.worker):
            self._inputs.offer(gone)

    async def _on_question(self, message: Message) -> None:
        if not self._agent.subjects.may_answer(message.reply):
            return
        try:
            question = codec.decode(message.data, Ask, Hello, OwedQuestion)
        except Malformed as error:
            await self._send(message.reply, Problem(reason=str(error)))
            return
        match question:
            case Hello():
                await self._send(message.reply, self._views.welcome(question, self._log.seq))
            case Ask():
                await self._send(message.reply, self._views.status(question, self._log.seq))
            case OwedQuestion():
                self._inputs.offer(Question(question, message.reply))

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._mind.clocks_anew(now_s())

    # -- beside the turns ---------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Tell standbys that this leader lives."""
        agent = self._agent
        while not agent.stopping.is_set():
            beat = LeaderBeat(name=agent.incarnation, term=self._ledger.term, ledger_seq=self._log.seq)
            await self._send(agent.subjects.lead(), beat)
            await agent.pause(agent.settings.scheduler.leader_beat_s)

    async def _purge(self) -> None:
        """Remove commands that the ledger covers, so that their stream never fills."""
        agent = self._agent
        while not agent.stopping.is_set():
            await agent.pause(PURGE_EVERY_S)
            try:
                await agent.broker.purge(agent.stream("COMMANDS"), below_seq=max(0, self._covered - COMMANDS_KEPT))
            except (BusUnavailable, NotFound) as error:
                agent.log.warning("covered commands are not removed now: %s", error)


def _policy(agent: Agent) -> Policy:
    settings = agent.settings.scheduler
    return Policy(
        beat_s=settings.beat_s,
        suspect_beats=settings.suspect_beats,
        lost_s=settings.lost_s,
        back_off_s_first=settings.back_off_s_first,
        back_off_s_max=settings.back_off_s_max,
    )
