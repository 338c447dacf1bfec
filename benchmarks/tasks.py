"""Tasks that compute nothing, from the publisher and back to it: what the mesh costs, beside its peers and the floor.

    pipelined      many tasks published at once, all results read back: tasks a second
    one at a time  publish, wait for the result, publish the next: median and 99th percentile
    processor      seconds of the whole family per 1,000 pipelined tasks: publisher, broker, agents, workers, children

Everybody gets one worker process, a warmed-up mesh and a publisher in a process of its own, in one run after another.
Ramify runs twice: with a broker that syncs every write, as the embedded one does, and with the broker's own default, a
sync every two minutes. Its results count when the publisher has read them from RESULTS: on the ledger, with the
worker's outbox synced before. Peers keep their tasks and results as their own documentation advises; Redis appends
every write to its log and syncs it once a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.driver import Driver, driven
from benchmarks.frame import Frame
from benchmarks.parts import Part, nats_server, nats_url, running
from benchmarks.peers import table
from benchmarks.peers.table import Peer
from benchmarks.processes import Tally
from mesh.errors import RamifyError

NAME = "tasks"
WHY = "What a task costs from its publisher to the durable result read back, beside other task queues."

MANY, ONE, WARM = 2_000, 300, 200
QUICK_MANY, QUICK_ONE = 100, 10

READY_S = 60.0
"""Patience with the first task of a fresh system."""

PHASE_S = 300.0
"""Patience with one phase."""

RATE, P50, P99 = "pipelined", "one at a time, median", "one at a time, 99th percentile"
CPU = "processor time per 1,000 tasks"


@dataclasses.dataclass
class Figures:
    """What was measured of one system, a value per round."""

    rates: list[float] = dataclasses.field(default_factory=list)
    p50_ms: list[float] = dataclasses.field(default_factory=list)
    p99_ms: list[float] = dataclasses.field(default_factory=list)
    cpu_s: list[float] = dataclasses.field(default_factory=list)
    trouble: str = ""

    def rate(self) -> float | None:
        """The median rate, None when no round came to an end."""
        return statistics.median(self.rates) if self.rates else None


Measure = Callable[[Frame], tuple[list[float], float, float]]
"""Measures one system once: seconds of the tasks one at a time, tasks a second, processor seconds per 1,000."""


def run(frame: Frame) -> None:
    """Every system once a round, so that a busy minute does not fall on one of them alone."""
    systems: dict[str, Measure] = {mode(sync): functools.partial(ramify, sync_always=sync) for sync in (True, False)}
    python = table.peers_python(frame.peers_python)
    remarks = {table.FLOOR.name: table.FLOOR.remark}
    systems[table.FLOOR.name] = functools.partial(peer_once, peer=table.FLOOR, python=Path(sys.executable))
    for peer in table.PEERS:
        why = "a quick run leaves the peers out" if frame.quick else table.missing(peer, python)
        if why:
            frame.skip(peer.name, RATE, "tasks/s", why)
            continue
        systems[peer.name] = functools.partial(peer_once, peer=peer, python=python)
        installed = table.versions(python, peer.packages).items()
        remarks[peer.name] = ", ".join([*(f"{name} {version}" for name, version in installed), peer.remark])
    figures = {who: Figures() for who in systems}
    for number in range(frame.runs(3)):
        for who, measure in systems.items():
            frame.say(f"round {number + 1}: {who}")
            _round(frame, measure, figures[who])
    for who, found in figures.items():
        rows(frame, who, found, remarks.get(who, ""))
    aims(frame, figures)


def mode(sync_always: bool) -> str:
    """How Ramify is called in the rows."""
    return f"Ramify, sync {'on every write' if sync_always else 'by default'}"


def _round(frame: Frame, measure: Measure, found: Figures) -> None:
    """One system once; a system that failed is not tried again."""
    if found.trouble:
        return
    try:
        seconds, rate, cpu_s = measure(frame)
    except (RamifyError, OSError) as error:
        found.trouble = str(error)
        frame.say(f"it failed: {error}")
        return
    ordered = sorted(seconds)
    found.p50_ms.append(1_000 * statistics.median(ordered))
    found.p99_ms.append(1_000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))])
    found.rates.append(rate)
    found.cpu_s.append(cpu_s)
    frame.say(f"{rate:,.0f} tasks/s, p50 {found.p50_ms[-1]:.2f} ms, {cpu_s:.3f} s of processor per 1,000")


def rows(frame: Frame, who: str, found: Figures, remark: str) -> None:
    """Four rows; one with the reason when nothing was measured."""
    frame.row(who, RATE, found.rates, "tasks/s", found.trouble or remark)
    if found.rates:
        frame.row(who, P50, found.p50_ms, "ms")
        frame.row(who, P99, found.p99_ms, "ms")
        frame.row(who, CPU, found.cpu_s, "s", "publisher, broker and workers together")


def aims(frame: Frame, figures: dict[str, Figures]) -> None:
    """Ratios are taken between medians of this run; where a peer is absent its aim has no figure."""
    durable = [rate for peer in table.PEERS if peer.durable and (rate := _rate(figures, peer.name)) is not None]
    floor, ray = _rate(figures, table.FLOOR.name), _rate(figures, "Ray actor")
    for sync, p50_ms in ((True, 10.0), (False, 5.0)):
        who, how = mode(sync), "sync on every write" if sync else "default sync"
        ours = _rate(figures, who)
        frame.at_least(f"against the best durable peer, {how}", 3.0, "1", ratio(ours, max(durable, default=None)))
        frame.at_least(f"against Ray's actor, not durable, {how}", 1.0, "1", ratio(ours, ray))
        frame.at_least(f"against the raw floor, {how}", 1 / 3, "1", ratio(ours, floor))
        frame.at_most(f"one task at a time, {how}", p50_ms, "ms", figures[who].p50_ms)


def ratio(value: float | None, base: float | None) -> list[float]:
    """One quotient, or none."""
    return [value / base] if value is not None and base else []


def _rate(figures: dict[str, Figures], who: str) -> float | None:
    return figures[who].rate() if who in figures else None


# -- systems ----------------------------------------------------------------------------------------------------------


def ramify(frame: Frame, *, sync_always: bool) -> tuple[list[float], float, float]:
    """A broker, a scheduler, a worker and the driver, on a home of their own."""
    with frame.home() as home, mesh(home, sync_always=sync_always) as url:
        part = Part("driver", [sys.executable, "-P", "-m", "benchmarks.flood", url], home)
        return _measured(frame, home, part, many=frame.tasks or MANY, one=ONE)


@contextlib.contextmanager
def mesh(home: Path, *, sync_always: bool, workers: int = 1) -> Iterator[str]:
    """A small mesh for tasks of no kind in particular; the broker's address."""
    server = nats_server(home, sync_always=sync_always)
    with running(server):
        url = nats_url(server)
        with running(scheduler(home, url), *(worker(home, url, f"w{number}") for number in range(1, workers + 1))):
            yield url


def scheduler(home: Path, url: str, name: str = "scheduler") -> Part:
    """A scheduler."""
    return Part(name, [sys.executable, "-P", "-m", "agents", "scheduler", "--name", name], home, env={"NATS_URL": url})


def worker(home: Path, url: str, name: str) -> Part:
    """A worker of one core under its supervisor."""
    argv = [sys.executable, "-P", "-m", "agents", "worker", "--name", name, "--cores", "1", "--memory", "4GiB"]
    return Part(name, argv, home, env={"NATS_URL": url})


def peer_once(frame: Frame, *, peer: Peer, python: Path) -> tuple[list[float], float, float]:
    """A peer's broker, worker and driver, on a home of their own."""
    with frame.home() as home:
        found = table.setup(peer, home, python)
        with running(*found.brokers):
            return _measured(frame, home, found.driver, many=peer.many, one=peer.one, workers=found.workers)


def _measured(
    frame: Frame, home: Path, part: Part, *, many: int, one: int, workers: tuple[Part, ...] = ()
) -> tuple[list[float], float, float]:
    """Drive a system: warm it up, one at a time, pipelined. The processor is read around the last phase only."""
    if frame.quick:
        many, one = min(many, QUICK_MANY), min(one, QUICK_ONE)
    with driven(part, frame.timeout_s(READY_S)) as driver, running(*workers):
        _warm(frame, driver, min(WARM, many // 10))
        seconds = driver.ask("one", frame.timeout_s(PHASE_S), count=one)["seconds"]
        tally = Tally(str(home))
        took_s = driver.ask("many", frame.timeout_s(PHASE_S), count=many)["seconds"]
        tally.look()
        return seconds, many / took_s, 1_000 * tally.cpu_s / many


def _warm(frame: Frame, driver: Driver, count: int) -> None:
    """The first task also waits for the system to be up."""
    driver.ask("one", frame.timeout_s(READY_S), count=1)
    driver.ask("many", frame.timeout_s(READY_S), count=max(1, count))
