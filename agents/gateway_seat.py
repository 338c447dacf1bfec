"""A seat: a worker of the mesh whose hands are elsewhere and speak HTTP.

    hands --claim--> seat --beat with an offer--> leader          the seat is what agents/worker.py is without children:
          <--lease--      <--answer: leases, orders, receipts--   it beats under the worker's name, holds its offer,
          --complete-->   --row of the outbox--> COMMANDS         keeps leases until they are claimed, and owes rows
          <--recorded, or why not-- (receipt)

Nothing here decides: a row that the hands bring is written down and sent whatever its epoch, and the ledger's receipt
is the answer. What is checked is whose task it is: only one that this seat was once given.

The offer stands while the hands wait for work, and a little longer. A lease that nobody fetches is given back, and so
is one that the hands do not name any more although they speak. Hands that are silent for SILENT_S make the seat silent:
it beats no more, and the mesh takes its leases as it would those of any lost worker. When they speak again, it beats
again, and the leader's orders say what became of each.

Keeps: <home>/gateway/seats/<name>/: `seat` (its life, its offer, its leases), outbox.db, refused/, seen-<mesh>. So a
gateway that was killed goes on with the same incarnation under higher numbers; leases and owed rows live.
Not:   a lease that was handed out in the last moment before a power cut is repeated by the leader, as for any worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from agents.again import Again
from agents.beats import Beats, BeatTask, Report
from agents.gateway_seat_file import Kept, Offering, SeatFile, load, save
from agents.holdings import Action, Begin, Holdings, Name, Rewound, Settle, Void, Yield
from agents.owed import ASK_TIMEOUT_S, Debts
from agents.runtime import Agent, new_incarnation, now_s, within
from mesh import codec, limits
from mesh.artifacts import ArtifactStore
from mesh.bus import Message
from mesh.errors import BusUnavailable, Conflict, DiskFull, Malformed, NotFound, StaleWrite
from mesh.log import get as get_log
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import CheckpointMade, FailureFound, GiveBack, Owed, ResultFound
from mesh.messages.leases import Answer, Gone, Held, Lease, Order, OrderKind, Receipt
from mesh.messages.results import Progress
from mesh.outbox import Outbox
from mesh.seen import Seen, SeenFile

log = get_log("agents.gateway.seats")

HEARTBEAT_S = 5.0
"""How often the hands should say that they live; they are told so when they register."""

SILENT_S = 3 * HEARTBEAT_S
"""Without a word for so long, the hands count as lost: three heartbeats, as for every worker."""

LINGER_S = 5.0
"""The offer stands so long after a claim has ended: hands that come at once find work waiting."""

UNCLAIMED_S = 10.0
"""A lease that nobody fetches for so long goes back: others may be idle."""

UNNAMED_S = 30.0
"""So does one that was handed out and is not named by hands that speak: they have forgotten it."""

BEATS_OF_A_LIFE = 1 << 32
"""Numbers of beats and offers between two openings of the same seat: years' worth at fifty a second."""

ENDINGS = (ResultFound.kind, FailureFound.kind, GiveBack.kind)
"""Rows after which a lease is over."""

PAST_MAX = 256
"""Leases that were handed out and are remembered: some 100 bytes each, written with every one that is handed out."""

PENDING = "the ledger has not spoken about it yet"


@dataclasses.dataclass(slots=True)
class InHand:
    """One lease of a seat, from its arrival until its last row is on disk or it is over."""

    begin: Begin
    named_at: float
    """When it came, or was last named."""
    handed: bool = False
    order: OrderKind = OrderKind.KEEP
    reason: str = ""
    step: int = 0
    silent_s: float = 0.0
    ending: bool = False
    """Its last row is on its way to the disk."""

    @property
    def name(self) -> Name:
        """Task and epoch."""
        return self.begin.lease.task.id, self.begin.lease.epoch


class Seat:
    """One seat, from its opening until the gateway stops or nobody has sat on it for long."""

    def __init__(self, agent: Agent, folder: Path, name: str, store: ArtifactStore) -> None:
        """EnvironmentUnfit when its folder is unfit or in use."""
        self.name = name
        self._agent, self._folder = agent, folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = load(folder) or SeatFile(incarnation=new_incarnation(name))
        self._outbox = Outbox(
            folder, bytes_max=agent.settings.worker.outbox_bytes_max, keep_s=agent.settings.scheduler.receipt_keep_s
        )
        self._debts = Debts(name, self._outbox, agent.broker, agent.subjects, log)
        self._debts.sent = self.nudge
        self._debts.heard = self._receipted
        self._debts.question = self._question
        self._answer: asyncio.Future[Message] | None = None
        """To the question about receipts that is under way."""
        self._again = Again(self._outbox, self._debts, store, self._needed, get_log("agents.gateway.again"))
        self._memory = SeenFile(folder / f"seen-{codec.digest(agent.settings.prefix.encode())[:12]}")
        self._seen = self._memory.read()[0]
        self._leases: dict[Name, InHand] = {}
        self._past = {(task, epoch): life for task, epoch, life in self._file.past}
        """Every lease that the hands were given, with the life that had it; the oldest are forgotten."""
        self._receipts: dict[Key, set[asyncio.Future[Receipt]]] = {}
        self._claims, self._claiming = 0, False
        self._wanted_until = 0.0
        self._news = asyncio.Event()
        self._writing, self._owing = asyncio.Lock(), asyncio.Lock()
        self._helpers: list[asyncio.Task[None]] = []
        self._beats: BeatTask | None = None
        self._beaten = 0
        self.heard_at = now_s()
        """When the hands last spoke."""
        self._settle_in()

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        """The life of the hands: it outlasts the gateway's."""
        return self._file.incarnation

    @property
    def leases(self) -> tuple[InHand, ...]:
        """What it holds, oldest first."""
        return tuple(self._leases.values())

    @property
    def owes(self) -> bool:
        """Is any row without a receipt, as far as this process knows?"""
        return bool(self._debts.owed)

    @property
    def is_silent(self) -> bool:
        """True while the hands count as lost."""
        return self._beats is None

    def _settle_in(self) -> None:
        """Numbers beyond those of the process before, and the leases of which the outbox knows no end."""
        opened = self._file.opened + 1
        self._file = msgspec.structs.replace(self._file, opened=opened)
        self._beaten = opened * BEATS_OF_A_LIFE
        self._holdings = Holdings(self.incarnation, self._file.offering.capacity, after=self._beaten)
        for kept in self._file.leases:
            lease = kept.lease
            if any(self._outbox.find(Key(lease.task.id, lease.epoch, kind, 1)) for kind in ENDINGS):
                continue
            self._holdings.keep(lease, kept.gpus)
            begin = Begin(lease, kept.gpus, kept.gpu_memory_bytes)
            self._leases[(lease.task.id, lease.epoch)] = InHand(begin, now_s(), handed=True)
        self._holdings.suspend(True)

    async def open(self) -> None:
        """Send what is owed and hear answers. The file says so first: no number comes twice."""
        await self._save()
        self._help(self._debts.write(), "outbox")
        self._help(self._debts.send(), "what is owed")
        self._help(self._again.run(), "what an older store lacks")
        self._help(self._hear(), "answers")

    def _help(self, work: object, what: str) -> None:
        self._helpers.append(self._agent.spawn(work, f"{what} of the seat {self.name}"))  # type: ignore[arg-type]

    async def close(self) -> None:
        """Fall silent without a word: the hands may go on, and find their seat again at the next gateway."""
        await self._fall_silent()
        self._news.set()
        for helper in self._helpers:
            helper.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)
        self._memory.close()
        await asyncio.to_thread(self._outbox.close)

    async def take_place(self, offering: Offering, incarnation: str) -> None:
        """The hands sit down. incarnation: the life that they go on with; another one, or '', begins a new life, and
        ends every lease of the one before."""
        self.heard_at = now_s()
        await self._fall_silent()
        self._claims += 1  # whoever waits for a lease does not listen any more
        self._news.set()
        same = incarnation == self.incarnation
        if not same:
            self._leases.clear()
        life = self.incarnation if same else new_incarnation(self.name)
        self._file = msgspec.structs.replace(self._file, incarnation=life, offering=offering, used_at=time.time())
        self._holdings = Holdings(life, offering.capacity, after=self._holdings.offer.number)
        for one in self._leases.values():
            self._holdings.keep(one.begin.lease, one.begin.gpus)
        self._holdings.suspend(True)
        await self._save()
        self._beat()

    async def watch(self) -> None:
        """Let time pass: silence, offers that nobody waits for, leases that nobody fetches or names."""
        now = now_s()
        if now - self.heard_at > SILENT_S and not self._claiming:
            if not self.is_silent:
                log.info("%s is silent: its seat beats no more", self.incarnation)
                await self._fall_silent()
            return
        self._offer_or_not()
        for one in self.leases:
            waited_s = now - one.named_at
            if not one.handed and waited_s > UNCLAIMED_S:
                self._give_back(one, f"{self.name} did not fetch it within {UNCLAIMED_S:g} s")
            elif one.handed and waited_s > UNNAMED_S:
                self._give_back(one, f"{self.name} has not named it for {UNNAMED_S:g} s")

    async def leave(self) -> None:
        """The hands stop in order: give back what they hold, and say so."""
        for one in self.leases:
            one.ending = True
            await self._debts.owe(self._give_back_of(one, f"{self.name} leaves"))
            self._over(one.name)
        await self._fall_silent()
        gone = Gone(worker=self.name, incarnation=self.incarnation, exit_code=0)
        with contextlib.suppress(BusUnavailable):
            await self._agent.broker.publish(self._agent.subjects.gone(self.name), codec.encode(gone))

    def _beat(self) -> None:
        agent = self._agent

        def make() -> Beats:
            return Beats(
                self.name,
                self.incarnation,
                agent.subjects,
                beat_s=agent.settings.scheduler.beat_s,
                report=self._report,
                loop_turned=lambda: agent.loop_turned,
                after=self._beaten,
            )

        self._beats = BeatTask(make, agent.broker)
        self._beats.start()

    async def _fall_silent(self) -> None:
        beats, self._beats = self._beats, None
        if beats is not None:
            await beats.stop()
            self._beaten = beats.number

    async def _save(self) -> None:
        """Write down life, offer and leases; on disk when this returns."""
        async with self._writing:
            leases = tuple(
                Kept(lease=one.begin.lease, gpus=one.begin.gpus, gpu_memory_bytes=one.begin.gpu_memory_bytes)
                for one in self._leases.values()
                if one.handed
            )
            past = tuple((task, epoch, life) for (task, epoch), life in self._past.items())
            self._file = msgspec.structs.replace(self._file, leases=leases, past=past)
            await asyncio.to_thread(save, self._folder, self._file)

    # -- what the hands ask -------------------------------------------------------------------------------------------

    def speaks(self) -> None:
        """The hands said something: they live."""
        self.heard_at = now_s()
        if self._beats is None:
            log.info("%s speaks again", self.incarnation)
            self._beat()

    def named(self, held: Mapping[Name, tuple[int, float]]) -> tuple[Order, ...]:
        """The hands name what they hold, each with its step and the seconds since it last moved; what to do with each.
        A lease that was to be stopped and is not named any more is over."""
        now = now_s()
        for one in self.leases:
            if one.name in held:
                one.named_at, one.handed = now, True
                one.step, one.silent_s = held[one.name]
            elif one.handed and one.order is OrderKind.STOP:
                self._over(one.name)
        return tuple(self.order(*name) for name in held)

    def order(self, task: str, epoch: Epoch) -> Order:
        """What to do with a lease."""
        one = self._leases.get((task, epoch))
        if one is None:
            return Order(task=task, epoch=epoch, order=OrderKind.STOP, reason=self.why_not(task, epoch))
        return Order(task=task, epoch=epoch, order=one.order, reason=one.reason)

    def lease(self, task: str, epoch: Epoch) -> Lease | None:
        """A lease that is in hand, and not to be stopped."""
        one = self._leases.get((task, epoch))
        is_good = one is not None and one.order is not OrderKind.STOP and not one.ending
        return one.begin.lease if one is not None and is_good else None

    @property
    def waiting(self) -> int:
        """Leases that nobody has fetched yet."""
        return sum(self._is_due(one) and not one.handed for one in self.leases)

    def why_not(self, task: str, epoch: Epoch) -> str:
        """Why a lease is not in hand, for people."""
        one = self._leases.get((task, epoch))
        return (one.reason if one is not None else "") or f"{self.name} does not hold {task} under {epoch}"

    def life_of(self, task: str, epoch: Epoch) -> str:
        """The life that was given the task under this epoch. NotFound when this worker never had the task, StaleWrite
        when it had it under other epochs alone."""
        if life := self._past.get((task, epoch)):
            return life
        if any(name == task for name, _ in self._past):
            raise StaleWrite(f"{self.name} was never given {task} under {epoch}.")
        raise NotFound(f"no lease of {task} was ever given to {self.name}.")

    async def claim(self, held: Collection[Name], leases_max: int, wait_s: float) -> list[InHand]:
        """Leases that the hands do not hold yet, as soon as there is one; none after `wait_s`, or when a newer claim of
        the same hands comes: whoever asked before it does not listen any more."""
        self._claims += 1
        mine, until = self._claims, now_s() + wait_s
        self._news.set()
        self._claiming = True
        try:
            while True:
                due = [one for one in self.leases if self._is_due(one) and one.name not in held]
                if due and mine == self._claims:
                    return await self._hand_out(due[:leases_max])
                if mine != self._claims or now_s() >= until or self._agent.stopping.is_set():
                    return []
                self._offer_or_not()
                self._news.clear()
                await within(until - now_s(), self._news)
        finally:
            self.heard_at = now_s()
            if mine == self._claims:
                self._claiming, self._wanted_until = False, now_s() + LINGER_S

    def _is_due(self, one: InHand) -> bool:
        return one.order is OrderKind.KEEP and not one.ending

    async def _hand_out(self, due: list[InHand]) -> list[InHand]:
        for one in due:
            one.handed, one.named_at = True, now_s()
            self._past[one.name] = self.incarnation
        for name in list(self._past)[: max(0, len(self._past) - PAST_MAX)]:
            del self._past[name]
        self._file = msgspec.structs.replace(self._file, used_at=time.time())
        await self._save()
        return due

    async def owe(self, record: Owed, wait_s: float) -> Receipt | None:
        """Write a row down and wait for the ledger's word on it; None when there is none within `wait_s`: it stays
        owed. The same row again is the same row. Conflict when another one stands under its key, DiskFull."""
        if self._debts.full:
            raise DiskFull(self._debts.full)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._receipts.setdefault(record.key, set()).add(receipt)
        try:
            async with self._owing:
                said = await asyncio.to_thread(self._said, record)
                if said is None:
                    await self._debts.owe(record)
            if record.key.kind != CheckpointMade.kind:
                self._over((record.key.task, record.key.epoch))
            if said is not None and said.reason != PENDING:
                return said
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    return await receipt
            return None
        finally:
            self._receipts[record.key].discard(receipt)
            if not self._receipts[record.key]:
                del self._receipts[record.key]

    def _said(self, record: Owed) -> Receipt | None:
        """What is known of a row's key: nothing, that it is pending, or the ledger's word."""
        key, data = record.key, codec.encode(record)
        if (found := self._outbox.find(key)) is not None:
            row, settled = found
            known, said = row.data, Receipt(key=key, recorded=settled, reason="" if settled else PENDING)
        elif (refused := self._outbox.refusal(key)) is not None:
            known, said = refused[0], Receipt(key=key, recorded=False, reason=refused[1])
        else:
            return None
        if known != data:
            raise Conflict(f"{key} was sent before with another content: the first one counts, and this one does not.")
        return said

    async def progress(self, progress: Progress) -> None:
        """Tell subscribers how far a task is; lost when the broker is away."""
        one = self._leases[(progress.task, progress.epoch)]
        one.named_at, one.step, one.silent_s = now_s(), progress.step, 0.0
        subject = self._agent.subjects.progress(self.name, progress.topic, progress.task)
        with contextlib.suppress(BusUnavailable):
            await self._agent.broker.publish(subject, codec.encode(progress))

    # -- what the leader says -----------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        agent = self._agent
        answers = await agent.listen(agent.subjects.answer(self.name), self._on_answer)
        replies = await agent.listen(self._reply, self._on_reply)
        try:
            await asyncio.Event().wait()
        finally:
            await answers.close()
            await replies.close()

    @property
    def _reply(self) -> str:
        """Where the seat hears answers to its own questions: the gateway's inbox has another name."""
        return f"{self._agent.subjects.inbox(self.name)}.reply"

    async def _on_reply(self, message: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    async def _question(self, data: bytes) -> Message:
        """Ask the leader in this worker's name. What is late answers the next question: its words stay true."""
        agent = self._agent
        self._answer = asyncio.get_running_loop().create_future()
        subject = agent.subjects.ask("scheduler", self.name)
        await agent.broker.publish(subject, data, reply=self._reply)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._answer
        except TimeoutError:
            raise BusUnavailable("nobody answered about receipts in time") from None

    async def _on_answer(self, message: Message) -> None:
        try:
            answer = codec.decode(message.data, Answer)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} holds no answer: {error}")
            return
        if self._beats is None:
            return  # the hands are silent: what is leased to them now would only wait
        holdings = self._holdings
        before, declined = holdings.offer, holdings.declined
        holdings.told(self._beats.told)
        for action in holdings.hear(answer):
            await self._perform(action)
        seen = Seen(holdings.generation, holdings.ledger_seq, holdings.ledger_digest)
        if holdings.generation and seen != self._seen:
            self._seen = seen
            self._memory.write(seen, seen.generation)
        if self._beats is not None:
            self._beats.heard()
        if before != holdings.offer or declined != holdings.declined:
            self.nudge()
        self._news.set()

    async def _perform(self, action: Action) -> None:
        match action:
            case Begin():
                self._leases[(action.lease.task.id, action.lease.epoch)] = InHand(action, now_s())
            case Void():
                self._stop((action.task, action.epoch), action.reason)
            case Yield():
                self._yield((action.task, action.epoch), action.reason)
            case Settle():
                self._debts.release(action.receipts)
            case Rewound():
                await self._again.noticed(f"the ledger was at {action.heard} and is now at {action.now}")

    def _stop(self, name: Name, reason: str) -> None:
        """Its epoch is over: the hands are told with their next word, and free it by naming it no more."""
        one = self._leases.get(name)
        if one is not None and not one.handed:
            self._over(name)
        elif one is not None:
            one.order, one.reason = OrderKind.STOP, reason

    def _yield(self, name: Name, reason: str) -> None:
        one = self._leases.get(name)
        if one is not None and not one.handed:
            self._give_back(one, reason)
        elif one is not None:
            one.order, one.reason = OrderKind.CHECKPOINT, reason

    def _give_back(self, one: InHand, reason: str) -> None:
        """Owe it; held until the row is on disk, or the leader would think that it was never taken."""
        if not one.ending:
            one.ending = True
            self._debts.hand(self._give_back_of(one, reason), lambda: self._over(one.name))

    def _give_back_of(self, one: InHand, reason: str) -> GiveBack:
        return GiveBack(key=Key(*one.name, GiveBack.kind, 1), incarnation=self.incarnation, reason=reason)

    def _over(self, name: Name) -> None:
        """A lease's last row is on disk, or nothing of it will be recorded: its resources are free."""
        self._leases.pop(name, None)
        self._holdings.ended(*name)
        self.nudge()

    def _receipted(self, receipt: Receipt) -> None:
        for waiting in self._receipts.get(receipt.key, ()):
            if not waiting.done():
                waiting.set_result(receipt)

    # -- what the beats say -------------------------------------------------------------------------------------------

    def _offer_or_not(self) -> None:
        """The offer stands while somebody waits for work, and a little longer; never when no row has room."""
        before = self._holdings.offer
        wanted = self._claiming or now_s() < self._wanted_until
        self._holdings.suspend(not wanted or bool(self._debts.full))
        if self._holdings.offer != before:
            self.nudge()

    def nudge(self) -> None:
        """Beat soon."""
        if self._beats is not None:
            self._beats.nudge()

    def _report(self) -> Report:
        return Report(
            offer=self._holdings.offer,
            held=lambda: tuple(
                Held(task=one.name[0], epoch=one.name[1], silent_s=one.silent_s, step=one.step, waits=not one.handed)
                for one in self._leases.values()
            ),
            owed=self._debts.owed,
            declined=self._holdings.declined,
            ledger_seq=self._seen.seq,
            generation=self._seen.generation,
            ledger_digest=self._seen.digest,
            note=self._debts.full,
        )

    def _needed(self) -> list[str]:
        """Digests of what the leases in hand need."""
        leases = [one.begin.lease for one in self._leases.values()]
        found = (digest for lease in leases for digest in (*lease.task.inputs.values(), lease.resume))
        return [digest for digest in found if len(digest) == limits.DIGEST_CHARS]
