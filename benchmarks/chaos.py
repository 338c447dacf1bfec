"""Deaths and outages at random moments, the same ones for the same seed, upon whatever system is under test.

    child       kill -9 of one process that runs a task
    worker      kill -9 of the worker below its supervisor, which starts it again
    machine     kill -9 of supervisor, worker and children at once; back on the same folder after a while
    freeze      SIGSTOP of all that, for longer than a lease lives; then SIGCONT: a zombie with old news
    link        a worker is cut off from the broker, which goes on with the others; half of them silently
    scheduler   kill -9 of a scheduler; back after a while
    server      kill -9 of the broker's server; back at once
    outage      the same, and away for a while

The script is drawn from the seed alone; who is hit is a share of those that there are. A victim that is away already is
passed over. A part that ends without having been hit is started again, as an operating system's service manager would,
and counted. Everything happens in the thread that calls `rage`: parts die with the thread that started them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import psutil

from benchmarks.chaos_link import Link
from benchmarks.parts import Part
from mesh.errors import RamifyError

TICK_S = 0.02
"""How finely the script's moments are kept."""

REVIVE_S = 1.0
"""Pause before a part that ended by itself is started again."""

DEATH_S = 10.0
"""Patience with the death of what was killed; only a process in the middle of a disk write takes its time."""

CHILD_WORD = "executors"
"""What the command line of a worker's child names."""


class Blow(enum.StrEnum):
    """What can happen; the module's text says how."""

    CHILD = "child"
    WORKER = "worker"
    MACHINE = "machine"
    FREEZE = "freeze"
    LINK = "link"
    SCHEDULER = "scheduler"
    SERVER = "server"
    OUTAGE = "outage"


WEIGHTS = {
    Blow.CHILD: 3.0,
    Blow.WORKER: 4.0,
    Blow.MACHINE: 3.0,
    Blow.FREEZE: 1.0,
    Blow.LINK: 3.0,
    Blow.SCHEDULER: 3.0,
    Blow.SERVER: 2.0,
    Blow.OUTAGE: 1.0,
}
"""How often, beside each other. A freeze takes a worker out for long, an outage everybody."""

AWAY_S = {
    Blow.MACHINE: (0.2, 13.0),
    Blow.FREEZE: (10.5, 16.0),
    Blow.LINK: (1.0, 20.0),
    Blow.SCHEDULER: (0.1, 5.0),
    Blow.OUTAGE: (2.0, 10.0),
}
"""Shortest and longest absence in seconds: some within every deadline of the mesh (3 s without a leader, 10 s without a
beat), some beyond it."""


@dataclasses.dataclass(frozen=True)
class Strike:
    """One line of the script."""

    after_s: float
    """Since the strike before."""
    blow: Blow
    victim: float
    """Share from 0 to 1: which of those that there are."""
    away_s: float
    silent: bool = False
    """Of a link: nothing is closed, nothing moves."""


def script(seed: int, mean_s: float) -> Iterator[Strike]:
    """Strikes without end, `mean_s` seconds apart on average (exponential pauses, none longer than 4 means)."""
    draw = random.Random(seed)
    blows, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        after_s = min(draw.expovariate(1 / mean_s), 4 * mean_s)
        (blow,) = draw.choices(blows, weights)
        victim, share = draw.random(), draw.random()
        low, high = AWAY_S.get(blow, (0.0, 0.0))
        yield Strike(after_s, blow, victim, low + (high - low) * share, draw.random() < 0.5)


@dataclasses.dataclass(frozen=True)
class Targets:
    """The parts of a running system. Blows for which it has no part are passed over."""

    servers: Sequence[Part] = ()
    schedulers: Sequence[Part] = ()
    workers: Sequence[Part] = ()
    """With supervisors below their own process, where `supervised`."""
    supervised: bool = True
    links: Sequence[Link] = ()
    on_dead_worker: Callable[[Part], None] = lambda _: None
    """Called while nothing of that worker lives: its folder can be looked at."""

    def of(self, blow: Blow) -> Sequence[Part]:
        """Who can be hit."""
        if blow in (Blow.SERVER, Blow.OUTAGE):
            return self.servers
        if blow is Blow.SCHEDULER:
            return self.schedulers
        if blow in (Blow.CHILD, Blow.FREEZE) and not self.supervised:
            return ()
        return self.workers


class Chaos:
    """One script upon one system."""

    def __init__(self, targets: Targets, strikes: Iterator[Strike], say: Callable[[str], None]) -> None:
        self._targets, self._strikes, self._say = targets, strikes, say
        self.struck: Counter[Blow] = Counter()
        self.ended: Counter[str] = Counter()
        """Parts that ended without having been hit, by name."""
        self._away: set[str] = set()
        self._returns: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def rage(self, until: Callable[[], bool], for_s: float) -> None:
        """Strike until `until()`, or for so many seconds; then everybody is brought back."""
        give_up_at = time.monotonic() + for_s
        strike = next(self._strikes)
        due_at = time.monotonic() + strike.after_s
        try:
            while not until() and (now := time.monotonic()) < give_up_at:
                self._bring_back(now)
                if now >= due_at:
                    self._strike(strike, now)
                    strike = next(self._strikes)
                    due_at = time.monotonic() + strike.after_s
                time.sleep(TICK_S)
        finally:
            self.calm()

    def watch(self, until: Callable[[], bool], for_s: float) -> None:
        """No more strikes; whoever ends by himself is still started again."""
        give_up_at = time.monotonic() + for_s
        while not until() and (now := time.monotonic()) < give_up_at:
            self._bring_back(now)
            time.sleep(TICK_S)

    def calm(self) -> None:
        """Bring everybody back now, links first: whoever starts needs one."""
        for link in self._targets.links:
            link.mend()
        while self._returns:
            heapq.heappop(self._returns)[-1]()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _strike(self, strike: Strike, now: float) -> None:
        if strike.blow is Blow.LINK:
            self._cut(strike, now)
            return
        there = [part for part in self._targets.of(strike.blow) if part.name not in self._away and part.running()]
        if not there:
            return
        part = there[int(strike.victim * len(there))]
        if self._hit(strike, part, now):
            self.struck[strike.blow] += 1

    def _hit(self, strike: Strike, part: Part, now: float) -> bool:
        """Do it; False when there was nothing to hit."""
        match strike.blow:
            case Blow.CHILD:
                return kill_child(part, strike.victim)
            case Blow.WORKER if self._targets.supervised:
                return part.kill_inner()
            case Blow.WORKER | Blow.MACHINE:
                kill_all(part)
                self._targets.on_dead_worker(part)
                self._leave(part, now + strike.away_s, Part.start)
            case Blow.FREEZE:
                freeze(part)
                self._leave(part, now + strike.away_s, thaw)
            case Blow.SCHEDULER | Blow.SERVER | Blow.OUTAGE:
                part.kill()
                self._leave(part, now + strike.away_s, Part.start)
        return True

    def _cut(self, strike: Strike, now: float) -> None:
        links = [link for link in self._targets.links if not link.down]
        if links:
            link = links[int(strike.victim * len(links))]
            link.cut(silent=strike.silent)
            self._later(now + strike.away_s, link.mend)
            self.struck[Blow.LINK] += 1

    def _leave(self, part: Part, until: float, back: Callable[[Part], None]) -> None:
        self._away.add(part.name)
        self._later(until, lambda: self._come_back(part, back))

    def _later(self, at: float, back: Callable[[], None]) -> None:
        heapq.heappush(self._returns, (at, next(self._order), back))

    def _bring_back(self, now: float) -> None:
        """Those whose time has come, and those that ended by themselves."""
        while self._returns and self._returns[0][0] <= now:
            heapq.heappop(self._returns)[-1]()
        for part in (*self._targets.servers, *self._targets.schedulers, *self._targets.workers):
            if part.name not in self._away and not part.running():
                self.ended[part.name] += 1
                self._say(f"{part.name} ended by itself{part.last_words()}")
                self._leave(part, now + REVIVE_S, Part.start)

    def _come_back(self, part: Part, back: Callable[[Part], None]) -> None:
        self._away.discard(part.name)
        with contextlib.suppress(RamifyError):  # not up in time: it counts as ended by itself, and is tried again
            back(part)


# -- hands ------------------------------------------------------------------------------------------------------------


def descendants(part: Part) -> list[psutil.Process]:
    """The part's process and everything below it."""
    if not part.running():
        return []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(part.pid)
        return [root, *root.children(recursive=True)]
    return []


def kill_all(part: Part) -> None:
    """kill -9 for everything of a part, process groups of its own included; returns when all of it is dead."""
    family = descendants(part)
    part.kill()
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family[1:], timeout=DEATH_S)


def kill_child(part: Part, victim: float) -> bool:
    """kill -9 for one of a worker's children; False when it has none."""
    children = []
    for process in descendants(part):
        with contextlib.suppress(psutil.Error):
            if any(CHILD_WORD in word for word in process.cmdline()):
                children.append(process)
    if not children:
        return False
    with contextlib.suppress(psutil.Error):
        children[int(victim * len(children))].kill()
        return True
    return False


def freeze(part: Part) -> None:
    """SIGSTOP for everything of a part, parents first, so that none starts another one meanwhile."""
    for process in descendants(part):
        with contextlib.suppress(psutil.Error):
            process.suspend()


def thaw(part: Part) -> None:
    """SIGCONT for the same."""
    for process in descendants(part):
        with contextlib.suppress(psutil.Error):
            process.resume()
