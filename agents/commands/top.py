"""`bin/agent top`: the mesh in a terminal, drawn anew as it moves.

    every second   one question to the leader (tasks, workers), now and then one about the store   -> View
    all the time   progress of running tasks, as workers tell it                                   -> View
    a key, a new size of the window, something new  -> agents/commands/top_picture.py -> one write of what differs

Drawing writes all lines over the old ones in one piece and clears what is behind them, so that nothing flickers; the
terminal's other screen is used, and what stood there before comes back at the end. Without a terminal the same picture
is printed again and again, whole. A mesh that goes away is told in one line, and the last picture stays.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import IO

from agents.commands import flags, loop, output
from agents.commands.asking import answer_of, ask
from agents.commands.reach import Reach, found, reach
from agents.commands.top_picture import TASK_KEYS, WORKER_KEYS, Order, Rates, View, document, draw
from mesh import codec, platform
from mesh.bus import Message
from mesh.errors import Malformed, RamifyError
from mesh.messages.collecting import StoreUse
from mesh.messages.results import Progress
from mesh.messages.services import Ask, Status
from mesh.messages.tasks import TaskState
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent top
bin/agent top --once --json -"""

EVERY_S = 1.0
EVERY_S_LEAST, EVERY_S_MOST = 0.2, 3_600.0
"""Bounds of --every: a question costs the leader a look at the tasks that it tells of."""

STORE_EVERY_S = 10.0
"""How full the store is moves slowly."""

RATE_S = 60.0
"""Rates are taken over so long."""

ROWS_MAX = 500
"""Tasks and workers that are asked for: more than a terminal has lines."""

PROGRESS_MAX = 5_000
"""Tasks whose newest progress is remembered."""

KEY_S = 0.2
"""Patience with a key before the size of the window is looked at."""

PLAIN_COLUMNS, PLAIN_ROWS = 160, 10_000
"""The size of the picture where there is no terminal; COLUMNS and LINES say otherwise."""

BEGIN, END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, LINE_END, BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
HOLD, SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronised update: a terminal that knows it shows the picture in one piece."""

ENDS = "qQ\x04"
"""Ctrl-D too: what a terminal that went away says."""

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"

HELP = (
    "q quit   r turn around   workers: n name  c cores  m memory  g gpus  h held"
    "   tasks: a age  p progress  k kind  w worker"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """How often, how long, and for whom."""
    parser.add_argument("--once", action="store_true", help="show the mesh once, after one interval, and end")
    parser.add_argument(
        "--every", metavar="SECONDS", type=_every, default=EVERY_S, help="seconds between two looks (default: 1)"
    )
    flags.add_json(parser, "what is shown, once,")


def _every(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not EVERY_S_LEAST <= seconds <= EVERY_S_MOST:
        raise argparse.ArgumentTypeError(
            f"--every expects {EVERY_S_LEAST:g} to {EVERY_S_MOST:,g} seconds, got {text!r}"
        )
    return seconds


def run(given: argparse.Namespace) -> int:
    """0 after q, Ctrl-C or --once. Exit code 4 and a sentence when no mesh runs."""
    output.check_target(given.json)
    settings = found(flags.settings_of(given), flags.selected_of(given))
    return loop.run_stoppable(lambda stop: _run(given, settings, stop))


async def _run(given: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> int:
    async with reach(settings) as there:
        watcher = Watcher(there)
        await watcher.look()  # no mesh is an error now, and a line in the picture later
        async with watcher.watching(given.every):
            if given.once or given.json:
                await watcher.until_moved(stop)
                _show_once(watcher.view, given.json)
            elif sys.stdout.isatty() and sys.stdin.isatty():
                await Screen(watcher, sys.stdin, sys.stdout).live(stop)
            else:
                await _print(watcher, given.every, stop)
    return 0


def _show_once(view: View, target: str | None) -> None:
    if target:
        output.write_json(target, document(view))
    if target != "-":
        output.say("\n".join(draw(view, Order(), *_plain_size())))


async def _print(watcher: Watcher, every_s: float, stop: asyncio.Event) -> None:
    """The picture again and again, for a file or a pipe."""
    while not stop.is_set():
        output.say("\n".join([*draw(watcher.view, Order(), *_plain_size()), ""]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await stop.wait()


def _plain_size() -> tuple[int, int]:
    found_ = shutil.get_terminal_size((PLAIN_COLUMNS, PLAIN_ROWS))
    return found_.columns, PLAIN_ROWS if not sys.stdout.isatty() else found_.lines


class Watcher:
    """Looks at the mesh again and again; `view` is the newest picture of it."""

    def __init__(self, there: Reach) -> None:
        self._there = there
        self._progress: dict[str, Progress] = {}
        self._seen: deque[tuple[float, Status]] = deque()
        self._store_at = float("-inf")
        self.view = View(where=there.where, progress=self._progress)
        self.moved = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watching(self, every_s: float) -> AsyncIterator[None]:
        """Look every so often, and listen all the time, as long as the context lasts."""
        there = self._there
        subscription = await there.broker.subscribe(there.subjects.all_progress(), self._on_progress)
        looking = asyncio.create_task(self._look_on(every_s), name="looks at the mesh")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await subscription.close()

    async def look(self) -> None:
        """Ask the leader once. BusUnavailable when none answers."""
        status = await ask(self._there, "status", rows_max=ROWS_MAX)
        now = time.monotonic()
        self._seen.append((now, status))
        while now - self._seen[0][0] > RATE_S and len(self._seen) > 2:
            self._seen.popleft()
        running = {task.id for task in status.tasks}
        for task in [task for task in self._progress if task not in running]:
            del self._progress[task]
        store = self.view.store
        if now - self._store_at > STORE_EVERY_S:
            self._store_at = now
            with contextlib.suppress(RamifyError):  # of an older program
                store = await answer_of(self._there, "scheduler", Ask(what="store"), StoreUse, timeout_s=1.0)
        self.view = dataclasses.replace(
            self.view,
            status=status,
            store=store,
            rates=rates(self._seen),
            clock=time.strftime("%H:%M:%S"),
            complaint="",
        )
        self.moved.set()

    async def _look_on(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.look()
            except RamifyError as error:
                self.view = dataclasses.replace(self.view, complaint=str(error), clock=time.strftime("%H:%M:%S"))
                self.moved.set()

    async def _on_progress(self, message: Message) -> None:
        with contextlib.suppress(Malformed):
            progress = codec.decode(message.data, Progress)
            self._progress[progress.task] = progress
            while len(self._progress) > PROGRESS_MAX:
                self._progress.pop(next(iter(self._progress)))

    async def until_moved(self, stop: asyncio.Event) -> None:
        """Wait for the next look, or the stop."""
        self.moved.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self.moved, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def rates(seen: deque[tuple[float, Status]]) -> Rates:
    """From the first and the last look of the last minute. A new leader counts anew: what fell is not known."""
    (began, first), (now, last) = seen[0], seen[-1]
    seconds = now - began
    if seconds <= 0 or first.leader != last.leader or first.generation != last.generation:
        return Rates()
    return Rates(
        ended_per_s=max(0, _ended(last) - _ended(first)) / seconds,
        entries_per_s=max(0, last.ledger_seq - first.ledger_seq) / seconds,
        commands_per_s=max(0, last.commands_seq - first.commands_seq) / seconds,
        seconds=seconds,
    )


def _ended(status: Status) -> int:
    return sum(status.counts.get(state.value, 0) for state in TaskState if state.ended)


class Screen:
    """The picture in a terminal, and the keys that change it."""

    def __init__(self, watcher: Watcher, keys: IO[str], out: IO[str]) -> None:
        self._watcher, self._keys, self._out = watcher, keys, out
        self._order = Order()
        self._drawn: tuple[object, ...] = ()

    async def live(self, stop: asyncio.Event) -> None:
        """Draw until q or the stop; the terminal is left as it was."""
        with platform.Keys(self._keys) as keys:
            self._write(BEGIN)
            try:
                while not stop.is_set():
                    self._draw()
                    typed = await asyncio.to_thread(keys.next, KEY_S)
                    if not self.heed(typed):
                        return
            finally:
                self._write(END)

    def heed(self, typed: str) -> bool:
        """Do what the keys say; False to end."""
        for key in typed:
            if key in ENDS:
                return False
            if key == "r":
                self._order = dataclasses.replace(self._order, backwards=not self._order.backwards)
            elif key in WORKER_KEYS:
                self._order = dataclasses.replace(self._order, workers=WORKER_KEYS[key])
            elif key in TASK_KEYS:
                self._order = dataclasses.replace(self._order, tasks=TASK_KEYS[key])
        return True

    def _draw(self) -> None:
        size = _usual(os.get_terminal_size(self._out.fileno()))
        drawn = (self._watcher.view, self._order, size)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        lines = draw(self._watcher.view, self._order, size.columns, max(1, size.lines - 1))
        self._write(painted(lines, HELP, size.columns, size.lines))

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _usual(size: os.terminal_size) -> os.terminal_size:
    """A terminal behind a pipe or a serial line may not know how large it is."""
    return size if size.columns and size.lines else os.terminal_size((80, 24))


def painted(lines: list[str], help_line: str, columns: int, rows: int) -> str:
    """One write that puts these lines over what stands there, the help into the last row where one is left."""
    shown = [f"{BOLD}{lines[0]}{PLAIN}", *lines[1:]] if lines else []
    text = HOME + "\r\n".join(line + LINE_END for line in shown[:rows]) + BELOW
    if len(shown) < rows:
        text += f"\x1b[{rows};1H{help_line[: max(0, columns - 1)]}{LINE_END}"
    return HOLD + text + SHOW
