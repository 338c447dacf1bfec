"""The lane of light tasks: many short tasks through few warm children, several of them under way at once.

    submit -> queue -> a child's line: up to WINDOW tasks are written ahead, the child runs them one after the other
                            |--ends-------> done(Finished | Halted | error), in order
                            |--lasts long-> what stands behind it is called back and goes through another child
                            '--child dies-> the only one in line did it; of several nobody knows which: each runs alone

A task that lasts a fraction of a millisecond costs its share of one write, one read and one wake-up, not three of its
own; one that lasts long holds up nobody for longer than SHORT_S, as long as fewer than CHILDREN_MAX do so. The bounds
of a task count from the moment at which it came first in its line.

For one event loop. `run` watches over the lines; whoever owns the lane keeps it running.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable

from executors import frames
from executors.frames import Checkpointed, Failed, Finished, Frame, Halted, Heeds, Progressed, Returned, Start
from executors.isolation import Bounds, Child, error_of
from executors.pool import Pool
from executors.port import Runtime
from mesh.errors import ChildBroke, RamifyError

WINDOW = 128
"""Tasks in one child's line: enough to hide the way there and back, few enough to be called back at once."""

CHILDREN_MAX = 4
"""Children that run light tasks at once: each holds 20 MB, and tasks that only wait need no more."""

SHORT_S = 0.05
"""A task that lasts longer holds up nobody behind it; also how often the lines are looked at."""

QUEUE_S = 0.25
"""Work that should wait here, so that the children never do: longer than an offer and its answer take on a busy mesh,
and short enough that no other worker stands idle beside a hoard."""

QUEUE_LEAST, QUEUE_FIRST, QUEUE_MOST = 16, 64, 512
"""Bounds of that in tasks, and how many before it is known how long they last."""

BOUNDS_S = 1.0
"""How often deadlines and memory are looked at."""

Ending = Finished | Halted | RamifyError


@dataclasses.dataclass(slots=True, eq=False)
class Ticket:
    """One task on its way. `done` is called once, unless the ticket is dropped; `hear` gets its other frames."""

    start: Start
    """Its `run` is set when it is written to a child."""
    bounds: Bounds
    hear: Callable[[Frame], None]
    done: Callable[[Ending], None]
    alone: bool = False
    """It was in line when a child died: it gets a child of its own, so that it is known who does it."""
    since: float = 0.0
    """When it was submitted."""
    line: _Line | None = None
    dropped: bool = False


class _Line:
    """A child and the tasks that were written to it, in order."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.waiting: dict[int, Ticket] = {}
        self.since = time.monotonic()
        """When the first of them came first."""
        self.called_back = False

    @property
    def first(self) -> Ticket | None:
        """The task that runs."""
        return next(iter(self.waiting.values()), None)

    @property
    def full(self) -> bool:
        """Does it hold as many as may be written ahead?"""
        return len(self.waiting) >= WINDOW

    def room(self, now: float) -> bool:
        """May another task be written to it?"""
        first = self.first
        if first is None:
            return True
        return not first.alone and not self.full and now - self.since < SHORT_S and not self.called_back


class Lane:
    """Light tasks of one worker."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._queue: deque[Ticket] = deque()
        self._lines: list[_Line] = []
        self._coming: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._dealing = False
        self._busy = asyncio.Event()
        self._mean_s = QUEUE_S / QUEUE_FIRST
        """How long the last tasks took, the newest weighing most."""

    # -- what its owner asks ------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Run a task as soon as there is room."""
        ticket.since = time.monotonic()
        self._queue.append(ticket)
        self._deal_soon()

    def deal(self) -> None:
        """Give children what was submitted now, before the rest of this turn of the loop."""
        if self._dealing:
            self._deal()

    @property
    def depth(self) -> int:
        """How many tasks should be here now, waiting and running."""
        return max(QUEUE_LEAST, min(QUEUE_MOST, int(QUEUE_S / max(self._mean_s, 1e-9))))

    def drop(self, ticket: Ticket) -> None:
        """Forget a task; if it runs, its child is killed. `done` is not called any more."""
        ticket.dropped = True
        line = ticket.line
        if line is None:
            self._deal_soon()
        elif line.first is ticket:
            del line.waiting[ticket.start.run]
            self._again(line)
            self._end(line)
        else:
            self._call_back(line)

    def halt(self, ticket: Ticket, reason: str) -> bool:
        """Ask a task to stop ('checkpoint': with a last one); False when it has not been given to a child."""
        if ticket.line is None:
            return False
        ticket.line.child.post(frames.Halt(run=ticket.start.run, reason=reason))
        return True

    def save(self, ticket: Ticket) -> bool:
        """Ask a task for a checkpoint; it goes on. False when it has not been given to a child."""
        if ticket.line is None:
            return False
        ticket.line.child.post(frames.Save(run=ticket.start.run))
        return True

    def look(self, ticket: Ticket) -> tuple[float, int, bool]:
        """(seconds since its child's last frame, step, whether it still waits) of a task; zeros while it waits. From
        any thread."""
        line = ticket.line
        if line is None or line.first is not ticket:
            return 0.0, 0, True
        return line.child.silent_s, line.child.step, False

    async def run(self) -> None:
        """Look after the lines, until cancelled."""
        looked_at = time.monotonic()
        try:
            while True:
                await self._busy.wait()
                await asyncio.sleep(SHORT_S)
                now = time.monotonic()
                for line in self._lines:
                    if len(line.waiting) > 1 and now - line.since >= SHORT_S:
                        self._call_back(line)
                self._deal()
                if now - looked_at >= BOUNDS_S:
                    looked_at = now
                    for line in list(self._lines):
                        await self._check(line)
                if not self._lines and not self._queue:
                    self._busy.clear()
        finally:
            await self._close()

    # -- dealing ------------------------------------------------------------------------------------------------------

    def _deal_soon(self) -> None:
        """Deal once for all that is submitted in this turn of the loop: one write instead of many."""
        if not self._dealing:
            self._dealing = True
            asyncio.get_running_loop().call_soon(self._deal)

    def _deal(self) -> None:
        """Write waiting tasks to children with room; get another child when there is none."""
        self._dealing = False
        now = time.monotonic()
        dealt: dict[_Line, list[Frame]] = {}
        while self._queue:
            ticket = self._queue[0]
            if ticket.dropped:
                self._queue.popleft()
                continue
            line = self._line_for(ticket, now)
            if line is None:
                break
            self._queue.popleft()
            dealt.setdefault(line, []).append(self._enter(line, ticket, now))
        for line, starts in dealt.items():
            line.child.post(*starts)
        self._give_back_idle()

    def _line_for(self, ticket: Ticket, now: float) -> _Line | None:
        """A line with room, else that of an idle child; None while one is on its way, or when there are enough."""
        for line in self._lines:
            if not line.child.tired and line.room(now) and not (ticket.alone and line.waiting):
                return line
        if len(self._lines) + len(self._coming) >= CHILDREN_MAX or self._flows(ticket, now):
            return None
        self._busy.set()
        child = self._pool.take_idle(Runtime.LIGHT)
        if child is not None:
            return self._open(child)
        if not self._coming:
            coming = asyncio.create_task(self._fetch_child(), name="a light child")
            self._coming.add(coming)
            coming.add_done_callback(self._coming.discard)
        return None

    def _flows(self, ticket: Ticket, now: float) -> bool:
        """Will a full line soon have room? Then one more child would only take time from the one that is there."""
        fresh = not ticket.alone and now - ticket.since < SHORT_S
        return fresh and any(line.full and now - line.since < SHORT_S for line in self._lines)

    def _enter(self, line: _Line, ticket: Ticket, now: float) -> Start:
        if not line.waiting:
            line.since = line.child.heard = now
        start = ticket.start = ticket.start.numbered(line.child.next_run())
        ticket.line = line
        line.waiting[start.run] = ticket
        return start

    async def _fetch_child(self) -> None:
        """One more child. When there is none to be had, the tasks that wait fail with the reason."""
        try:
            child = await self._pool.take(Runtime.LIGHT)
        except RamifyError as error:
            if not self._lines:
                failing, self._queue = list(self._queue), deque()
                for ticket in failing:
                    self._finish(ticket, error)
            return
        self._open(child)
        self._deal_soon()

    def _open(self, child: Child) -> _Line:
        line = _Line(child)
        self._lines.append(line)
        child.attach(lambda frame: self._take(line, frame), lambda error: self._died(line, error))
        return line

    def _give_back_idle(self) -> None:
        """Children without a task go back to the pool."""
        if self._queue:
            return
        for line in [line for line in self._lines if not line.waiting]:
            self._lines.remove(line)
            line.child.detach()
            self._pool.give(line.child)

    # -- what children say --------------------------------------------------------------------------------------------

    def _take(self, line: _Line, frame: Frame) -> None:
        if isinstance(frame, Returned):
            line.called_back = False
            self._put_back(line, [run for run in frame.runs if run in line.waiting])
            return
        ticket = line.waiting.get(getattr(frame, "run", 0))
        if ticket is None:
            return
        if isinstance(frame, Progressed | Checkpointed | Heeds):
            ticket.hear(frame)
        elif isinstance(frame, Finished | Halted | Failed):
            del line.waiting[ticket.start.run]
            line.since = time.monotonic()
            if isinstance(frame, Failed):  # the child takes no other task after it, and what is behind has not begun
                self._put_back(line, list(line.waiting))
                self._end(line)
                self._finish(ticket, error_of(frame))
            else:
                if isinstance(frame, Finished):
                    self._mean_s += 0.1 * (frame.seconds - self._mean_s)
                self._finish(ticket, frame)
            if not line.waiting or (self._queue and len(line.waiting) <= WINDOW // 2):
                self._deal_soon()

    def _finish(self, ticket: Ticket, ending: Ending) -> None:
        ticket.line = None
        if not ticket.dropped:
            ticket.done(ending)

    def _put_back(self, line: _Line, runs: list[int]) -> None:
        """These have not begun: they go first when there is room."""
        tickets = [line.waiting.pop(run) for run in runs]
        for ticket in tickets:
            ticket.line = None
        self._queue.extendleft(reversed([ticket for ticket in tickets if not ticket.dropped]))
        self._deal_soon()

    def _call_back(self, line: _Line) -> None:
        """Ask the child for the tasks that it has not begun."""
        if not line.called_back:
            line.called_back = True
            line.child.post(frames.Recall())

    # -- deaths -------------------------------------------------------------------------------------------------------

    def _died(self, line: _Line, error: Exception) -> None:
        if line not in self._lines:
            return
        reason = error if isinstance(error, RamifyError) else ChildBroke(str(error))
        self._blame(line, reason)

    def _blame(self, line: _Line, error: RamifyError) -> None:
        """A line is over because of one of its tasks: the only one, else each of them is tried alone."""
        guilty = line.first if len(line.waiting) == 1 else None
        if guilty is not None:
            line.waiting.clear()
        self._again(line, alone=True)
        self._end(line)
        if guilty is not None:
            self._finish(guilty, error)

    def _again(self, line: _Line, *, alone: bool = False) -> None:
        for ticket in line.waiting.values():
            ticket.alone = ticket.alone or alone
        self._put_back(line, list(line.waiting))

    def _end(self, line: _Line) -> None:
        """Kill the child of a line, in the background."""
        if line in self._lines:
            self._lines.remove(line)
            line.child.detach()
            closing = asyncio.create_task(line.child.kill(), name=f"killing child {line.child.pid}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _check(self, line: _Line) -> None:
        """End a line whose first task is over its bounds."""
        first = line.first
        if first is None:
            return
        error = await line.child.over_bounds(first.bounds, line.since)
        if error is not None and line.first is first and line in self._lines:
            self._blame(line, error)

    async def _close(self) -> None:
        for coming in self._coming:
            coming.cancel()
        for line in list(self._lines):
            self._end(line)
        await asyncio.gather(*self._coming, *self._closing, return_exceptions=True)
