"""The worker's beats: one small message every two seconds, and at once when there is news.

They come from a thread with an event loop and a broker connection of its own, so that neither a busy main loop nor a
long upload can silence a healthy worker; and they say how long the main loop has not turned, so that a wedged worker is
found out. The main loop leaves a Report, which is replaced as a whole; the thread only reads it.

A broker that is away costs beats, nothing else. Any other failure of the thread is handed to `on_failure`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable

from agents.runtime import within
from mesh import codec, limits, metrics
from mesh.bus import Bus
from mesh.errors import BusUnavailable
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Beat, Held, Offer
from mesh.subjects import Subjects

GAP_S = 0.02
"""Shortest pause between two beats: news within it travel together."""

ANSWER_S = 0.3
"""News wait so long for the answer to the beat before: an offer that overtakes leases has to be answered twice."""

CONNECT_PAUSE_S = 1.0
"""Pause before the thread asks an absent broker again."""

JOIN_S = 5.0
"""How long the stop waits for the thread."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What the next beat says, as the main loop left it."""

    offer: Offer
    held: Callable[[], tuple[Held, ...]]
    """Called for each beat, in the beats' thread: reads, never waits."""
    owed: tuple[Key, ...] = ()
    declined: tuple[tuple[str, Epoch], ...] = ()
    ledger_seq: int = 0
    generation: int = 0
    ledger_digest: str = ""
    note: str = ""


class Beats:
    """Sends beats on one connection until told to stop."""

    def __init__(
        self,
        worker: str,
        incarnation: str,
        subjects: Subjects,
        *,
        beat_s: float,
        report: Callable[[], Report],
        loop_turned: Callable[[], float],
        after: int = 0,
    ) -> None:
        """report: what to say now; loop_turned: monotonic seconds of the main loop's last turn. Both must not block.
        after: the number of the incarnation's newest beat, if an earlier process has sent some."""
        self._worker, self._incarnation, self._subjects = worker, incarnation, subjects
        self._beat_s, self._report, self._loop_turned = beat_s, report, loop_turned
        self.told = 0
        """Number of the newest offer that a beat has carried."""
        self._number = after
        self._news, self._answered = asyncio.Event(), asyncio.Event()
        self._over = False

    async def send(self, bus: Bus) -> None:
        """Beat until `end`."""
        while not self._over:
            self._news.clear()
            self._answered.clear()
            try:
                await bus.publish(self._subjects.beat(self._worker), codec.encode(self.next()))
                metrics.count("mesh_beats_total")
            except BusUnavailable:
                metrics.count("mesh_beats_missed_total")
            await asyncio.sleep(GAP_S)
            if await within(self._beat_s, self._news):
                await within(min(ANSWER_S, self._beat_s), self._answered)

    def next(self) -> Beat:
        """The next beat."""
        self._number += 1
        report = self._report()
        self.told = report.offer.number
        return Beat(
            worker=self._worker,
            incarnation=self._incarnation,
            number=self._number,
            reply=self._subjects.answer(self._worker),
            loop_age_s=max(0.0, time.monotonic() - self._loop_turned()),
            offer=report.offer,
            held=report.held()[: limits.HELD_PER_BEAT_MAX],
            owed=report.owed[: limits.OWED_PER_REQUEST_MAX],
            declined=report.declined,
            ledger_seq=report.ledger_seq,
            generation=report.generation,
            ledger_digest=report.ledger_digest,
            note=report.note[: limits.TEXT_CHARS_MAX],
        )

    @property
    def number(self) -> int:
        """Number of the newest beat."""
        return self._number

    def nudge(self) -> None:
        """Beat soon. From the beats' own loop."""
        self._news.set()

    def heard(self) -> None:
        """An answer has come. From the beats' own loop."""
        self._answered.set()

    def end(self) -> None:
        """Stop beating. From the beats' own loop."""
        self._over = True
        self._news.set()
        self._answered.set()


class BeatTask:
    """Beats as a task of the running loop, on a given connection: for the broker in memory, which knows no threads."""

    def __init__(self, make: Callable[[], Beats], bus: Bus) -> None:
        self._beats, self._bus = make(), bus
        self._task: asyncio.Task[None] | None = None

    @property
    def told(self) -> int:
        """Number of the newest offer that a beat has carried."""
        return self._beats.told

    @property
    def number(self) -> int:
        """Number of the newest beat."""
        return self._beats.number

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.create_task(self._beats.send(self._bus), name="beats")

    def nudge(self) -> None:
        """Beat soon."""
        self._beats.nudge()

    def heard(self) -> None:
        """An answer has come."""
        self._beats.heard()

    async def stop(self) -> None:
        """Send no more beats."""
        self._beats.end()
        if self._task is not None:
            await asyncio.wait({self._task})


class BeatThread:
    """Beats in a thread of their own."""

    def __init__(
        self,
        make: Callable[[], Beats],
        connect: Callable[[], Awaitable[Bus]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """make: builds the Beats; connect: a new connection; on_failure: what ended it. All called in the thread."""
        self._make, self._connect, self._on_failure = make, connect, on_failure
        self._thread = threading.Thread(target=self._main, name="beats", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beats: Beats | None = None
        self._over = threading.Event()

    @property
    def told(self) -> int:
        """Number of the newest offer that a beat has carried; maybe carried a moment from now."""
        beats = self._beats
        return 0 if beats is None else beats.told

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def nudge(self) -> None:
        """Beat soon. From any thread."""
        self._call(lambda beats: beats.nudge())

    def heard(self) -> None:
        """An answer has come. From any thread."""
        self._call(lambda beats: beats.heard())

    async def stop(self) -> None:
        """Send no more beats, and wait for the thread, at most JOIN_S."""
        self._over.set()
        self._call(lambda beats: beats.end())
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, JOIN_S)

    def _call(self, work: Callable[[Beats], None]) -> None:
        loop, beats = self._loop, self._beats
        if loop is not None and beats is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(work, beats)

    def _main(self) -> None:
        try:
            asyncio.run(self._beat())
        except BaseException as error:
            self._on_failure(error)

    async def _beat(self) -> None:
        beats = self._make()
        self._loop, self._beats = asyncio.get_running_loop(), beats
        while not self._over.is_set():
            try:
                bus = await self._connect()
            except BusUnavailable:
                await asyncio.sleep(CONNECT_PAUSE_S)
                continue
            try:
                await beats.send(bus)
            finally:
                await bus.close()
