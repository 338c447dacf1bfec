"""Worker: runs leased tasks in child processes, and owes the mesh what they give.

In:    answers of the leader (leases, orders, receipts) on a subject of its own
Out:   beats with the standing offer; outbox rows (result, checkpoint, failure, give-back); artifacts; lossy progress
Keeps: <home>/workers/<name>/: lock, outbox.db, refused/, scratch/, cache/
Loses: on a crash the work since the last uploaded checkpoint; finished results and owed rows go out in the next life
Not:   decides nothing about retries, ranks or promotion; imports no torch, no numpy

A full outbox (the broker or the scheduler is away for very long): no new leases, what runs goes on, a row that has no
room waits; /health says so. From OUTBOX_FULL of its bound on nothing new is taken, so that what runs has room for its
rows.

Ordered stop, after a signal or a notice (agents/worker_notice.py): withdraw the offer, ask children for a last
checkpoint, upload, give back, empty the outbox, leave; all within `worker.stop_grace_s`. What is left then is sent by
the next life on the same folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from agents import worker_asked, worker_notice, worker_resources, worker_spool
from agents.again import Again
from agents.beats import Beats, BeatThread, Report
from agents.holdings import CACHED_MAX, Action, Begin, Holdings, Name, Rewound, Settle, Void, Yield
from agents.owed import Debts
from agents.runtime import Agent, home_folder
from agents.worker_devices import Devices, Fitted
from agents.worker_light import LightRunning, is_light
from agents.worker_spool import Spooled
from agents.worker_studies import Studies
from agents.worker_task import LIGHT_PARALLEL, Running, Tools
from agents.worker_wanted import WantedBack
from executors.lane import Lane
from executors.packer import Packer
from executors.pool import Pool
from executors.port import Runtime
from mesh import broker as mesh_broker
from mesh import codec, metrics, platform
from mesh.bus import Bus, Message
from mesh.errors import BusUnavailable, EnvironmentUnfit, Malformed, RamifyError
from mesh.log import get as get_log
from mesh.messages.leases import Answer, Gone, Held
from mesh.outbox import Outbox
from mesh.platform import FileLock
from mesh.seen import Seen, SeenFile
from mesh.stores import open_store

TRICKLE_S = 0.1
"""How long news wait for more of them while the leader knows of room enough: a beat for each of many short tasks would
cost more than the tasks."""

TRICKLE_MAX = 16
"""Pieces of news that make a beat worth while at once."""

PROGRESS_S = 0.5
"""Progress of one task is published at most twice a second."""

TIDY_S = 5.0
"""How often idle children are closed and the offer's list of cached artifacts is renewed."""

PRUNE_TURNS = 60
"""Tidy turns between two looks for outbox rows that were kept long enough: five minutes."""

FLUSH_S = 3.0
"""Part of the grace time that is kept for the outbox."""

OUTBOX_FULL, OUTBOX_ROOM = 0.8, 0.6
"""Shares of `worker.outbox_bytes_max`: above the one nothing new is taken, below the other it is again."""

SPOOLED_S = 5.0
"""How long the first beat waits for what an earlier life still owes: recorded first, it is not redone."""

INCARNATION_FILE = "incarnation"
"""Names the life that has the folder; the supervisor reads it when that life has ended."""


class BeatPort(Protocol):
    """What sends the beats: a thread of its own, or a task in a simulation."""

    @property
    def told(self) -> int: ...

    def start(self) -> None: ...

    def nudge(self) -> None: ...

    def heard(self) -> None: ...

    async def stop(self) -> None: ...


MakeBeats = Callable[[Agent, Callable[[], Beats]], BeatPort]


def beat_thread(agent: Agent, make: Callable[[], Beats]) -> BeatPort:
    """Beats from a thread with a connection of its own; if it fails, the worker stops."""
    loop = asyncio.get_running_loop()

    async def connect() -> Bus:
        nats, client = agent.settings.nats.options(), agent.incarnation
        return await mesh_broker.connect(nats, agent.subjects, name=agent.name, client=client)

    def failed(error: BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the main loop has ended already
            loop.call_soon_threadsafe(agent.stop, error)

    return BeatThread(make, connect, failed)


async def body(agent: Agent) -> None:
    """Work until the agent stops."""
    await work(agent, beat_thread)


async def work(agent: Agent, make_beats: MakeBeats) -> None:
    """The worker's life on its folder. make_beats: how beats are sent."""
    folder = home_folder(agent.settings, "workers", agent.name)
    lock = FileLock(folder / "lock")
    if not lock.acquire():
        raise EnvironmentUnfit(
            f"A worker named {agent.name} runs on {folder} already (process {lock.holder()}): stop it, or start this "
            "one with another --name."
        )
    with lock:
        (folder / INCARNATION_FILE).write_text(agent.incarnation)
        outbox = Outbox(
            folder,
            bytes_max=agent.settings.worker.outbox_bytes_max,
            keep_s=agent.settings.scheduler.receipt_keep_s,
        )
        try:
            await Worker(agent, folder, outbox, make_beats).live()
        finally:
            await asyncio.to_thread(outbox.close)


class Worker:
    """One life of a worker."""

    def __init__(self, agent: Agent, folder: Path, outbox: Outbox, make_beats: MakeBeats) -> None:
        self._agent, self._folder, self._outbox = agent, folder, outbox
        self._scratch = home_folder(agent.settings, "workers", agent.name, "scratch")
        self._store = open_store(agent.broker, agent.subjects, agent.settings, cache=folder / "cache")
        self._debts = Debts(agent.name, outbox, agent.broker, agent.subjects, agent.log)
        self._debts.sent = self._tell
        self._again = Again(outbox, self._debts, self._store, self._needed, get_log("agents.worker.again"))
        self._wanted = WantedBack(self._store, get_log("agents.worker.wanted"))
        self._memory: SeenFile | None = None
        self._seen = Seen()
        """The newest ledger entry that this worker has heard of, in earlier lives too."""
        self._pool = Pool(
            folder=self._scratch,
            threads=max(1, int(agent.settings.worker.cores or platform.cores())),
            say=get_log("agents.worker.child").info,
            low_priority=agent.settings.worker.low_priority,
        )
        self._packer = Packer(folder=self._scratch)
        self._cores = 0.0
        self._lane: Lane | None = None
        """Light tasks go through it; None: they go the way of all others."""
        self._running: dict[Name, Running] = {}
        self._ended = asyncio.Event()
        """Some lease has ended."""
        self._telling: asyncio.Handle | None = None
        """The beat that is due; a timer while there is no hurry."""
        self._news = 0
        """Pieces of news since the last beat that told them."""
        self._lives: set[asyncio.Task[None]] = set()
        self._helpers: list[asyncio.Task[None]] = []
        self._beats = make_beats(agent, self._make_beats)
        self._holdings: Holdings | None = None
        self._tools: Tools | None = None
        self._report: Report | None = None
        self._why = "the worker stops"
        self._crowded = ""
        """Why the outbox takes no new leases' rows, measured now and then; '' when it does."""

    # -- life ---------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Get ready, serve, stop in order."""
        agent = self._agent
        left = await asyncio.to_thread(worker_spool.left_over, self._scratch)
        self._help(self._debts.write(), "outbox")
        self._help(self._debts.send(), "what is owed")
        self._help(self._again.run(), "what an older store lacks")
        self._memory = SeenFile(self._folder / f"seen-{_mesh(agent)}")
        try:
            self._seen = self._memory.read()[0]
            await self._get_ready()
            await self._deliver_left(left)
            await self._debts.all_sent(SPOOLED_S)  # the first beat ends the leases of the life before
            answers = await agent.listen(agent.subjects.answer(agent.name), self._on_answer)
            wanted = await agent.listen(agent.subjects.wanted(), self._wanted.hear)
            asked = await agent.serve("save", agent.subjects.asked_worker(agent.name), self._on_question, queue="")
            agent.broker.on_state(self._on_state)
            self._help(self._tell_progress(), "progress")
            self._help(self._tidy(), "tidy")
            self._help(self._wanted.run(), "what the mesh wants back")
            agent.health("outbox", self._outbox_full)
            self._await_notices()
            self._publish()
            self._beats.start()
            agent.log.info("%s offers %s", agent.incarnation, _in_words(self._state.offer))
            await agent.stopping.wait()
            await self._stop()
            await answers.close()
            await wanted.close()
            await asked.close()
        finally:
            self._memory.close()
            for running in self._running.values():
                running.end()
            if self._telling is not None:
                self._telling.cancel()
            for helper in self._helpers:  # the outbox is closed next: nobody may look into it then
                helper.cancel()
            await asyncio.gather(*self._helpers, return_exceptions=True)
            await self._beats.stop()
            await self._pool.close()
            await self._packer.close()

    def _help(self, work: Awaitable[None], name: str) -> None:
        """Run a helper for as long as this life lasts."""
        self._helpers.append(self._agent.spawn(work, name))

    async def _get_ready(self) -> None:
        """Learn from a first child what kinds there are, and what the machine has to offer."""
        agent = self._agent
        child, gpus = await asyncio.gather(
            self._pool.take(Runtime.LIGHT), asyncio.to_thread(worker_resources.gpu_memory)
        )
        assert child.ready is not None
        kinds = child.ready.kinds
        self._pool.give(child)
        for name, reason in child.ready.broken.items():
            agent.log.warning("kind %s is not offered: it lacks %s", name, reason)
        agent.kinds = {name: row.version for name, row in kinds.items()}
        capacity = await asyncio.to_thread(
            worker_resources.capacity, agent.settings.worker, self._folder, gpus, agent.kinds
        )
        self._holdings = Holdings(agent.incarnation, capacity)
        self._lane, self._cores = Lane(self._pool), capacity.cores
        agent.spawn(self._lane.run(), "light tasks")
        self._tools = Tools(
            worker=agent.name,
            incarnation=agent.incarnation,
            store=self._store,
            pool=self._pool,
            packer=self._packer,
            debts=self._debts,
            scratch=self._scratch,
            runtimes={name: row.runtime for name, row in kinds.items()},
            gpu_numbers=tuple(number for number, _ in gpus),
            light=asyncio.Semaphore(LIGHT_PARALLEL),
            cache_bytes_max=self._agent.settings.worker.cache_bytes_max,
            devices=Devices(worker_resources.breaker_policy(agent.settings.worker)),
            fitted=Fitted(self._folder / "fitted.json"),
            studies=Studies(agent.broker, agent.subjects, agent.incarnation, agent.spawn),
        )

    async def _deliver_left(self, left: list[tuple[Path, Spooled]]) -> None:
        """Finished results of earlier lives go out first; those that take long go on in the background."""
        if not left:
            return
        self._agent.log.info("%d finished results of an earlier life are delivered", len(left))
        tasks = {self._agent.spawn(self._deliver_one(*one), f"result of {one[1].key.task}") for one in left}
        await asyncio.wait(tasks, timeout=SPOOLED_S)

    async def _deliver_one(self, folder: Path, spooled: Spooled) -> None:
        try:
            await worker_spool.deliver(folder, spooled, self._store, self._debts.owe, self._agent.log.info)
        except RamifyError as error:
            self._agent.failed("spooled", f"the result of {spooled.key} can not be delivered: {error}")

    async def _stop(self) -> None:
        """The ordered stop."""
        agent, grace_s = self._agent, self._agent.settings.worker.stop_grace_s
        flush_s = min(FLUSH_S, grace_s / 3)
        self._perform(self._state.drain(self._why))
        self._tell_now()
        if not await self._all_over(grace_s - flush_s):
            for running in self._running.values():
                running.abandon("the worker stops and its grace time is over")
            await self._all_over(flush_s)
        left = await self._debts.empty(flush_s)
        if left:
            agent.log.warning("%d rows are still owed; the next start with the same name sends them", left)
        with contextlib.suppress(BusUnavailable):
            gone = Gone(worker=agent.name, incarnation=agent.incarnation, exit_code=0)
            await self._beats.stop()
            await agent.broker.publish(agent.subjects.gone(agent.name), codec.encode(gone))

    def _await_notices(self) -> None:
        """Leave in order when this machine is about to be taken away."""
        agent, settings = self._agent, self._agent.settings.worker
        if settings.notice_file:
            self._help(worker_notice.watch_file(Path(settings.notice_file), self._leave), "notice file")
        if settings.notice_url:
            watching = worker_notice.watch_url(settings.notice_url, self._leave, agent.log.warning)
            self._help(watching, "notice page")

    def _leave(self, reason: str) -> None:
        self._agent.log.warning("%s leaves: %s", self._agent.incarnation, reason)
        self._why = f"the worker stops: {reason}"
        self._agent.stop()

    async def _all_over(self, within_s: float) -> bool:
        """Wait until no lease runs any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._running:
                    self._ended.clear()
                    await self._ended.wait()
        return not self._running

    # -- answers ------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> Holdings:
        assert self._holdings is not None
        return self._holdings

    async def _on_answer(self, message: Message) -> None:
        try:
            answer = codec.decode(message.data, Answer)
        except Malformed as error:
            self._agent.failed("malformed", f"{message.subject} holds no answer: {error}")
            return
        before, declined = self._state.offer, self._state.declined
        self._state.told(self._beats.told)
        actions = self._state.hear(answer)
        self._perform(actions)
        if self._lane is not None:
            self._lane.deal()
        for action in actions:  # those that wait for the disk, after those that must not wait
            if isinstance(action, Settle):
                self._debts.release(action.receipts)
            elif isinstance(action, Rewound):
                await self._again.noticed(f"the ledger was at {action.heard} and is now at {action.now}")
        self._remember()
        self._publish()
        self._beats.heard()
        if declined != self._state.declined:
            self._tell_now()
        elif before != self._state.offer:
            self._tell()

    async def _on_question(self, message: Message) -> None:
        await worker_asked.answer(self._agent, message, self._running.values())

    def _remember(self) -> None:
        """What was heard, for the beats and for the lives to come: should the broker come back older, they say so."""
        state = self._state
        seen = Seen(state.generation, state.ledger_seq, state.ledger_digest)
        if state.generation and seen != self._seen:
            self._seen = seen
            if self._memory is not None:
                self._memory.write(seen, seen.generation)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Begin():
                    self._begin(action)
                case Void():
                    if running := self._running.get((action.task, action.epoch)):
                        running.void(action.reason)
                case Yield():
                    if running := self._running.get((action.task, action.epoch)):
                        running.give_back(action.reason)
                case Settle() | Rewound():
                    pass

    def _begin(self, begin: Begin) -> None:
        assert self._tools is not None
        name = (begin.lease.task.id, begin.lease.epoch)
        if self._lane is not None and is_light(begin.lease, self._tools):
            light = LightRunning(
                begin, self._tools, self._lane, lambda: self._over(name), lambda: self._live_on(name, light)
            )
            self._running[name] = light
            light.begin()
            return
        running = self._running[name] = Running(begin, self._tools)
        self._agent.log.info(
            "%s under %s begins: %s %s", *name, begin.lease.task.executor, begin.lease.task.purpose or "task"
        )
        self._live_on(name, running)

    def _live_on(self, name: Name, running: Running) -> None:
        """Run a lease as a task of its own."""
        life = self._agent.spawn(self._run(name, running), f"{name[0]} under {name[1]}")
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _run(self, name: Name, running: Running) -> None:
        try:
            await running.run()
        finally:
            self._over(name)

    def _over(self, name: Name) -> None:
        """A lease's last row is in the outbox, or nothing of it will be recorded."""
        self._running.pop(name, None)
        self._ended.set()
        self._state.ended(*name)
        self._tell()

    def _needed(self) -> list[str]:
        """Digests of what the leases that run here need."""
        return [digest for running in self._running.values() for digest in running.needed]

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._store.forget_stored()
            self._beats.nudge()

    # -- beats and progress -------------------------------------------------------------------------------------------

    def _make_beats(self) -> Beats:
        agent = self._agent
        return Beats(
            agent.name,
            agent.incarnation,
            agent.subjects,
            beat_s=agent.settings.scheduler.beat_s,
            report=self._current,
            loop_turned=lambda: agent.loop_turned,
        )

    def _publish(self) -> None:
        """Leave for the beats what is true now."""
        if self._lane is not None:
            self._state.deepen(math.ceil(self._cores) + self._lane.depth)
        running = tuple(self._running.values())
        self._state.suspend(bool(self._outbox_full()))

        def held() -> tuple[Held, ...]:
            return tuple(one.held() for one in running)

        state, seen = self._state, self._seen
        self._report = Report(
            offer=state.offer,
            held=held,
            owed=self._debts.owed,
            declined=state.declined,
            ledger_seq=seen.seq,
            generation=seen.generation,
            ledger_digest=seen.digest,
            note=self._why if self._agent.stopping.is_set() else self._outbox_full() or self._paused(),
        )

    def _current(self) -> Report:
        report = self._report
        assert report is not None
        return report

    def _tell(self) -> None:
        """Leave the news for the beats, and beat soon: once for all that happens in one turn of the loop, or in
        TRICKLE_S when the leader misses nothing."""
        if self._holdings is None:
            return
        self._news += 1
        if self._telling is not None and not isinstance(self._telling, asyncio.TimerHandle):
            return
        loop = asyncio.get_running_loop()
        self._holdings.told(self._beats.told)
        if self._news >= TRICKLE_MAX or self._holdings.pressing:
            if self._telling is not None:
                self._telling.cancel()
            self._telling = loop.call_soon(self._tell_now)
        elif self._telling is None:
            self._telling = loop.call_later(TRICKLE_S, self._tell_now)

    def _tell_now(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling, self._news = None, 0
        self._publish()
        self._beats.nudge()

    async def _tell_progress(self) -> None:
        while True:
            for running in list(self._running.values()):
                progress = running.take_progress()
                if progress is None:
                    continue
                subject = self._agent.subjects.progress(self._agent.name, progress.topic, progress.task)
                with contextlib.suppress(BusUnavailable, Malformed):  # lossy by design
                    await self._agent.broker.publish(subject, codec.encode(progress))
            await asyncio.sleep(PROGRESS_S)

    async def _measure(self) -> None:
        rows, size_bytes, oldest_s = await asyncio.to_thread(self._outbox.measure)
        metrics.set("mesh_outbox_rows", rows)
        metrics.set("mesh_outbox_bytes", size_bytes)
        metrics.set("mesh_outbox_age_seconds", oldest_s)
        metrics.set("mesh_leases_held", len(self._running))
        ages = (running.checkpoint_age_s for running in self._running.values())
        metrics.set("mesh_checkpoint_age_seconds", max(ages, default=0.0))
        metrics.set("mesh_checkpoints_paused", sum(bool(running.paused) for running in self._running.values()))
        metrics.set("mesh_outputs_paused", sum(bool(running.outputs_wait) for running in self._running.values()))
        bytes_max = self._agent.settings.worker.outbox_bytes_max
        if size_bytes > (OUTBOX_ROOM if self._crowded else OUTBOX_FULL) * bytes_max:
            self._crowded = (
                f"The outbox holds {size_bytes} of at most {bytes_max} bytes that the scheduler has not confirmed: no "
                "new tasks are taken until it does."
            )
        else:
            self._crowded = ""

    def _outbox_full(self) -> str:
        """Why no new tasks are taken, or ''."""
        return self._debts.full or self._crowded

    def _paused(self) -> str:
        """Why checkpoints or outputs are not stored at the moment, or ''."""
        return next((running.held_up for running in self._running.values() if running.held_up), "")

    async def _tidy(self) -> None:
        for turn in itertools.count(1):
            self._pool.tidy()
            await self._packer.tidy()
            await self._measure()
            self._state.cached(await asyncio.to_thread(self._store.cached, CACHED_MAX))
            self._publish()
            if turn % PRUNE_TURNS == 0:
                await asyncio.to_thread(self._outbox.prune)
            await asyncio.sleep(TIDY_S)


def _mesh(agent: Agent) -> str:
    """A name for the mesh: what was heard in one says nothing about another."""
    return codec.digest(" ".join((agent.settings.prefix, *agent.settings.nats.servers)).encode())[:12]


def _in_words(offer: object) -> str:
    """An offer for the log."""
    fields = {field: getattr(offer, field) for field in ("cores", "memory_bytes", "gpus", "leases_max", "kinds")}
    return ", ".join(f"{name}={value}" for name, value in fields.items())
