"""Tasks through a mesh whose processes are killed and whose broker goes away, at random moments, until all have ended.

    publisher ──> nats-server (a process, synced on every write) <──> schedulers, WORKERS workers with folders on disk
        │               ^                                                ^
        └── results     └────────────── benchmarks/chaos.py ─────────────┘   kill -9, SIGSTOP, outages: by the seed

Afterwards the agents are stopped in order, the broker is read from outside, and every outbox is opened
(benchmarks/chaos_judge.py). Three things have to be 0: tasks that have a result in any outbox but not exactly one
recorded result, stale writes that were accepted, tasks that never ended. A run that finds one keeps its folder.

The peers get the same script, as far as it concerns workers and brokers, and a lighter load (every tenth task lasts
0.2 s); lost is what their own driver never reads back within PEER_CALM_S of peace. Taskiq acknowledges a task although
its result could not be stored, so an absence of the result backend costs what ends meanwhile. Celery's visibility
timeout is set to PEER_VISIBILITY_S (its own is an hour).
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import chaos, chaos_judge
from benchmarks.chaos import Blow, Chaos, Targets
from benchmarks.chaos_judge import Outboxes, Verdict
from benchmarks.chaos_link import Link
from benchmarks.document import SHARE
from benchmarks.driver import Driver, driven
from benchmarks.frame import Frame
from benchmarks.parts import Part, nats_server, nats_url, running
from benchmarks.peers import table
from benchmarks.peers.table import Peer
from benchmarks.tasks import scheduler, worker
from mesh.errors import RamifyError

NAME = "durability"
WHY = "Whether a finished result is ever lost, or a stale one counted, while processes are killed at random."

TASKS, QUICK_TASKS = 2_000, 60
PEER_TASKS_MAX = 2_000
WORKERS = 3
SCHEDULERS = 2
SEED = 20_260_101

MEAN_S, QUICK_MEAN_S = 2.0, 1.0
"""Between two strikes. Shorter ones leave two cores no time for anything but starting processes."""

SLICE, SLICE_PAUSE_S = 20, 1.0
"""So many tasks are submitted at once, then a pause: the publisher too is at work while the broker goes away, and 2,000
tasks meet some fifty strikes, however fast they are done; a million of them take a night."""

SUBMIT_S = 120.0
"""Patience with one slice; an outage is a tenth of it."""

LOOK_S = 2.0
"""How often the publisher is asked what is missing."""

RAGE_S_MAX = 12 * 3_600.0
QUICK_RAGE_S_MAX = 12.0
"""How long a quick run is disturbed; then it has to come to its end in peace."""

STUCK_S, QUICK_STUCK_S = 240.0, 25.0
"""Without a task that ended, the run is given up: whatever it waits for takes less than half of this."""

SETTLE_S = 8.0
"""Peace after the last end: workers that were away come back, and send what they still owe."""

PEER_VISIBILITY_S = 20.0
PEER_STILL_S = 40.0
"""Without a result that came back, a peer's storm is over: what is missing may come in peace, or is lost."""

PEER_CALM_S = 150.0
"""Peace at the end of a peer's run: several times the longest of the timeouts after which it tries again."""


def run(frame: Frame) -> None:
    """Ramify, then the peers that are installed, under one script."""
    seed = SEED if frame.seed is None else frame.seed
    tasks = frame.tasks or (QUICK_TASKS if frame.quick else TASKS)
    ramify(frame, tasks, seed)
    python = table.peers_python(frame.peers_python)
    for peer in (table.CELERY, table.TASKIQ_REDIS):
        why = "a quick run leaves the peers out" if frame.quick else table.missing(peer, python)
        if why:
            frame.skip(peer.name, "lost results", SHARE, why)
        else:
            compare(frame, peer, python, min(tasks, PEER_TASKS_MAX), seed)


# -- Ramify -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The parts of a mesh in one home."""

    home: Path
    server: Part
    schedulers: tuple[Part, ...]
    workers: tuple[Part, ...]
    links: tuple[Link, ...]
    """Each worker's own way to the server."""

    @property
    def folders(self) -> list[Path]:
        """The workers' folders."""
        return [self.home / "workers" / part.name for part in self.workers]


def mesh_in(home: Path, *, workers: int = WORKERS, schedulers: int = SCHEDULERS) -> Mesh:
    """A mesh that is not started."""
    server = nats_server(home, sync_always=True)
    url = nats_url(server)
    leaders = tuple(scheduler(home, url, f"scheduler-{number}") for number in range(1, schedulers + 1))
    links = tuple(Link(f"w{number}", server.port) for number in range(1, workers + 1))
    return Mesh(home, server, leaders, tuple(worker(home, link.url, link.name) for link in links), links)


def ramify(frame: Frame, tasks: int, seed: int) -> None:
    """One run, judged; its folder is kept when there is something to object."""
    with frame.home() as home:
        mesh, outboxes = mesh_in(home), Outboxes()
        try:
            with running(mesh.server):
                storm, feeding = disturbed(frame, mesh, tasks, seed, outboxes)
                outboxes.look_at_all(mesh.folders)
                verdict = chaos_judge.judge(nats_url(mesh.server), home, tasks, outboxes)
        except RamifyError as error:
            frame.fail("Ramify", LOST, SHARE, f"{error} (seed {seed}; {kept(frame, home, seed)})")
            return
        report(frame, verdict, storm, feeding, outboxes.looks)
        if trouble := verdict.sentences():
            for sentence in trouble:
                frame.say(sentence)
            frame.say(f"seed {seed}; {kept(frame, home, seed)}")


LOST = "tasks with a result in an outbox and not exactly one recorded"
TWICE = "results recorded twice"
STALE = "stale writes accepted"
OPEN = "tasks that never ended"


def disturbed(frame: Frame, mesh: Mesh, tasks: int, seed: int, outboxes: Outboxes) -> tuple[Chaos, Feeding]:
    """Let the tasks run through the storm to their end; what the storm did, and what the publisher saw.

    All agents have been stopped in order when this returns; the server still runs.
    """
    frame.say(f"{tasks} tasks, {len(mesh.workers)} workers, {len(mesh.schedulers)} schedulers, seed {seed}")
    url = nats_url(mesh.server)
    driver_part = Part("driver", [sys.executable, "-P", "-m", "benchmarks.flood", url], mesh.home)
    targets = Targets(
        servers=(mesh.server,),
        schedulers=mesh.schedulers,
        workers=mesh.workers,
        links=mesh.links,
        on_dead_worker=lambda part: ignore(outboxes.look(mesh.home / "workers" / part.name)),
    )
    storm = Chaos(targets, chaos.script(seed, QUICK_MEAN_S if frame.quick else MEAN_S), frame.say)
    with contextlib.ExitStack() as stack:
        for link in mesh.links:
            stack.enter_context(link)
        stack.enter_context(running(*mesh.schedulers, *mesh.workers))
        driver = stack.enter_context(driven(driver_part))
        feeding = Feeding(driver, tasks, QUICK_STUCK_S if frame.quick else STUCK_S, frame.say)
        feeding.start()
        storm.rage(feeding.over.is_set, QUICK_RAGE_S_MAX if frame.quick else RAGE_S_MAX)
        storm.watch(feeding.over.is_set, RAGE_S_MAX)
        feeding.join()
        storm.watch(lambda: False, SETTLE_S)
        return storm, feeding


def ignore(_: object) -> None:
    """A call whose answer is not wanted."""


class Feeding(threading.Thread):
    """The conversation with the publisher, beside the storm: submit slice by slice, then wait for the last end."""

    def __init__(self, driver: Driver, tasks: int, stuck_s: float, say: Callable[[str], None]) -> None:
        super().__init__(name="feeding", daemon=True)
        self.over = threading.Event()
        self.missing = tasks
        self.trouble = ""
        self.seconds = 0.0
        self._driver, self._tasks, self._stuck_s, self._say = driver, tasks, stuck_s, say
        self._moved_at = 0.0
        """When a task last ended, in monotonic seconds; 0 while tasks are still submitted."""

    def still_s(self) -> float:
        """Since when no task has ended; 0 while tasks are still submitted."""
        return time.monotonic() - self._moved_at if self._moved_at else 0.0

    def run(self) -> None:
        """Until all have ended, or nothing has for a while."""
        begun = time.monotonic()
        try:
            self._feed()
        except RamifyError as error:
            self.trouble = str(error)
            self._say(f"the publisher: {error}")
        finally:
            self.seconds = time.monotonic() - begun
            self.over.set()

    def _feed(self) -> None:
        for first in range(0, self._tasks, SLICE):
            self._driver.ask("submit", SUBMIT_S, count=min(SLICE, self._tasks - first))
            time.sleep(SLICE_PAUSE_S)
        self._moved_at = time.monotonic()
        while self.missing and self.still_s() < self._stuck_s:
            missing = self._driver.ask("collect", LOOK_S + SUBMIT_S, within_s=LOOK_S)["missing"]
            if missing < self.missing:
                self._moved_at = time.monotonic()
            self.missing = missing


def report(frame: Frame, verdict: Verdict, storm: Chaos, feeding: Feeding, looks: int) -> None:
    """The rows and the aims."""
    who = "Ramify"
    never = max(len(verdict.open), feeding.missing)
    counts: tuple[tuple[str, int, str], ...] = (
        (LOST, len(verdict.lost), f"of {verdict.promised} with a result in an outbox, {looks} looks"),
        (TWICE, len(verdict.twice), ""),
        (STALE, verdict.stale_accepted, f"of {verdict.leases} leases, {verdict.leases_lost} of which ended early"),
        (OPEN, never, f"of {verdict.tasks} on the ledger"),
        ("other objections of the auditor", len(verdict.objections) - verdict.stale_accepted, ""),
        ("tasks parked", len(verdict.parked), "after too many deaths or failures; with a reason, and resubmittable"),
        ("outbox rows refused", verdict.refused, "stale ones, set aside in the workers' folders"),
        ("outbox rows without a receipt at the end", verdict.pending, ""),
        ("results of lost leases recorded under a new one", verdict.late, ""),
    )
    for metric, count, remark in counts:
        frame.row(who, metric, count, SHARE, remark)
    for blow in Blow:
        frame.row(who, f"struck: {blow}", storm.struck[blow], SHARE)
    by_themselves = ", ".join(f"{name} {count}" for name, count in sorted(storm.ended.items()))
    frame.row(who, "processes that ended by themselves", sum(storm.ended.values()), SHARE, by_themselves)
    frame.row(who, "first submit to last end", feeding.seconds, "s")
    for metric, count in ((LOST, len(verdict.lost)), (TWICE, len(verdict.twice)), (STALE, verdict.stale_accepted)):
        frame.at_most(metric, 0, SHARE, [count])
    frame.at_most(OPEN, 0, SHARE, [never])


def kept(frame: Frame, home: Path, seed: int) -> str:
    """Keep the folder for whoever looks into it; where it is, in a clause."""
    target = Path(tempfile.mkdtemp(prefix=f"ramify-durability-{seed}-"))
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(home, target, dirs_exist_ok=True)
    return f"logs, outboxes and the broker's store are in {target}"


# -- peers ------------------------------------------------------------------------------------------------------------


def compare(frame: Frame, peer: Peer, python: Path, tasks: int, seed: int) -> None:
    """The same tasks and script with a peer; lost is what never came back to its driver."""
    versions = ", ".join(f"{name} {version}" for name, version in table.versions(python, peer.packages).items())
    frame.say(f"{peer.name}: {tasks} tasks, seed {seed}")
    try:
        with frame.home() as home, peer_in(peer, home, python) as (targets, driver):
            storm = Chaos(targets, chaos.script(seed, MEAN_S), frame.say)
            feeding = Feeding(driver, tasks, PEER_STILL_S + PEER_CALM_S, frame.say)
            feeding.start()
            storm.rage(lambda: feeding.over.is_set() or feeding.still_s() > PEER_STILL_S, RAGE_S_MAX)
            storm.watch(feeding.over.is_set, RAGE_S_MAX)
            feeding.join()
            if feeding.trouble:
                frame.fail(peer.name, "lost results", SHARE, feeding.trouble)
                return
    except RamifyError as error:
        frame.fail(peer.name, "lost results", SHARE, str(error))
        return
    struck = ", ".join(f"{count} {blow}" for blow, count in sorted(storm.struck.items()))
    frame.row(peer.name, "lost results", feeding.missing, SHARE, f"of {tasks}; {versions}; struck: {struck}")
    frame.row(peer.name, "first submit to last end", feeding.seconds, "s", peer.remark)


@contextlib.contextmanager
def peer_in(peer: Peer, home: Path, python: Path) -> Iterator[tuple[Targets, Driver]]:
    """A running peer with WORKERS workers; what can be hit, and its driver."""
    setup = table.setup(peer, home, python, env={"PEER_VISIBILITY_S": f"{PEER_VISIBILITY_S:g}"})
    workers = tuple(
        Part(f"{part.name}-{number}", part.argv, home, env=part.env)
        for part in setup.workers
        for number in range(1, WORKERS + 1)
    )
    with running(*setup.brokers), driven(setup.driver) as driver, running(*workers):
        yield Targets(servers=setup.brokers, workers=workers, supervised=False), driver
