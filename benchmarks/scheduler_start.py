"""How soon a scheduler answers after its start, with a long ledger behind it, and how much memory it takes.

    prepare   a ledger of so many ended tasks is written, as leaders write it  ->  one scheduler reads all of it and
              publishes a snapshot  ->  one more task, whose entry names it
    measure   from the start of `bin/agent scheduler` to its first answer: on the machine that knows the ledger, on a
              fresh one that fetches the snapshot, and without any snapshot; then the memory of each

The process's own start (Python, imports, connection) is part of every figure; an empty ledger shows how much it is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.frame import Frame
from benchmarks.parts import Part, nats_server, nats_url, running
from mesh import broker as mesh_broker
from mesh import codec, streams
from mesh.bus import Broker
from mesh.errors import BusUnavailable, NotFound, RamifyError
from mesh.ledger_log import START
from mesh.messages.base import Epoch
from mesh.messages.commands import Submit
from mesh.messages.ledger import AnyEvent, Entry, LeaderChosen, TaskLeased, TaskSucceeded, TopicPlanned
from mesh.messages.services import Ask, Status
from mesh.messages.tasks import Outcome, TaskSpec
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects

NAME = "scheduler-start"
WHY = "How soon a scheduler answers after its start with a long ledger behind it, and what it takes in memory."

TASKS, QUICK_TASKS = 100_000, 4_000
RUNS = 5
PER_ENTRY = 60
"""Tasks whose whole lives stand in one entry: three events each."""

ANSWER_S = 300.0
"""Patience with a scheduler that reads the whole ledger."""

START_S_MAX, MEMORY_MB_MAX = 2.0, 80.0
TAKES, MEMORY = "start to first answer", "memory once it answers"
SUBJECTS = Subjects()


def run(frame: Frame) -> None:
    """An empty ledger, then a long one in three ways."""
    tasks = frame.tasks or (QUICK_TASKS if frame.quick else TASKS)
    with frame.home() as home:
        empty = Measured()
        with running(server := nats_server(home, sync_always=False, name="empty")):
            empty.measure(home / "first", nats_url(server))
        empty.show(frame, "an empty ledger")
        with running(server := nats_server(home, sync_always=False, name="full")):
            url = nats_url(server)
            whole, known, fresh = Measured(), Measured(), Measured()
            try:
                asyncio.run(written(url, tasks))
                with whole.started(home / "known", url):
                    asyncio.run(snapshot_named(url))
                for number in range(frame.runs(RUNS)):
                    known.measure(home / "known", url)
                    fresh.measure(home / f"fresh-{number}", url)
            except RamifyError as error:
                known.trouble = fresh.trouble = str(error)
        whole.show(frame, f"{tasks:,} ended tasks, no snapshot")
        known.show(frame, f"{tasks:,} ended tasks, the machine that knows them")
        fresh.show(frame, f"{tasks:,} ended tasks, a fresh machine")
        frame.at_most("start from a snapshot, known machine", START_S_MAX, "s", known.seconds)
        frame.at_most("start from a snapshot, fresh machine", START_S_MAX, "s", fresh.seconds)
        frame.at_most("memory after it", MEMORY_MB_MAX, "MB", [*known.memory_mb, *fresh.memory_mb])


class Measured:
    """Starts of one kind."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.memory_mb: list[float] = []
        self.trouble = ""

    def started(self, home: Path, url: str) -> _Started:
        """A scheduler that answers, for as long as the context lasts."""
        home.mkdir(exist_ok=True)
        return _Started(self, scheduler(home, url), url)

    def measure(self, home: Path, url: str) -> None:
        """One start."""
        with self.started(home, url):
            pass

    def show(self, frame: Frame, who: str) -> None:
        """Rows of what was measured."""
        frame.row(who, TAKES, self.seconds, "s", self.trouble)
        frame.row(who, MEMORY, self.memory_mb, "MB", self.trouble)


class _Started:
    def __init__(self, into: Measured, part: Part, url: str) -> None:
        self._into, self._part, self._url = into, part, url

    def __enter__(self) -> None:
        try:
            self._into.seconds.append(asyncio.run(answered(self._part, self._url)))
            self._into.memory_mb.append(psutil.Process(self._part.pid).memory_info().rss / 1e6)
        except BaseException:
            self._part.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self._part.stop()


def scheduler(home: Path, url: str) -> Part:
    """One scheduler on a broker."""
    return Part("scheduler", [sys.executable, "-P", "-m", "agents", "scheduler"], home, env={"NATS_URL": url})


async def answered(part: Part, url: str) -> float:
    """Start it; seconds until it leads and says so. BusUnavailable when it does not."""
    async with connected(url) as broker:
        began = time.monotonic()
        part.start()
        question = codec.encode(Ask(what="status", rows_max=0))
        while time.monotonic() < began + ANSWER_S and part.running():
            try:
                message = await broker.request(SUBJECTS.ask("scheduler", broker.name), question, timeout_s=1.0)
                codec.decode(message.data, Status)
                return time.monotonic() - began
            except (BusUnavailable, NotFound):
                await asyncio.sleep(0.01)
    raise BusUnavailable(f"the scheduler does not answer{part.last_words()}")


class connected:
    """A connection of the benchmark's own."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Broker:
        self._broker: Broker = await mesh_broker.connect(NatsOptions(servers=(self._url,)), SUBJECTS, name="bench")
        return self._broker

    async def __aexit__(self, *_: object) -> None:
        await self._broker.close()


async def written(url: str, tasks: int) -> None:
    """Write the ledger of `tasks` tasks that were planned, leased and succeeded."""
    async with connected(url) as broker:
        await streams.ensure_all(broker, streams.table(SUBJECTS, artifact_bytes_max=1 << 30))
        previous, at_ms = START, time.time_ns() // 1_000_000 - 8 * 86_400_000  # older than RESULTS keeps
        for events in lives(tasks):
            entry = Entry(term=1, generation=1, commands_seq=0, previous=previous, at_ms=at_ms, events=events)
            data = codec.encode(entry)
            await broker.append(SUBJECTS.ledger(), data)
            previous = codec.digest(data)


def lives(tasks: int) -> Iterator[tuple[AnyEvent, ...]]:
    """Events of entry after entry."""
    yield (LeaderChosen(name="bench.1", term=1),)
    for first in range(0, tasks, PER_ENTRY):
        names = [f"task-{number}" for number in range(first, min(first + PER_ENTRY, tasks))]
        topic = f"topic-{first}"
        specs = tuple(TaskSpec(id=name, topic=topic, executor="noop", purpose="benchmark") for name in names)
        events: list[AnyEvent] = [TopicPlanned(submit=topic, topic=topic, tasks=specs)]
        epoch = Epoch(1, 1)
        for name in names:
            events.append(TaskLeased(task=name, epoch=epoch, incarnation="w1.1", attempt=1, why="fits w1"))
            outcome = Outcome(kpis={"loss": 0.5}, seconds=1.0)
            events.append(TaskSucceeded(task=name, epoch=epoch, number=1, incarnation="w1.1", outcome=outcome))
        yield tuple(events)


async def snapshot_named(url: str) -> None:
    """Submit tasks until an entry of the ledger names a snapshot. BusUnavailable when none does."""
    give_up_at = time.monotonic() + ANSWER_S
    async with connected(url) as broker:
        number = 0
        while time.monotonic() < give_up_at:
            number += 1
            id_ = f"one-more-{number}"
            submit = Submit(id=id_, topic=id_, tasks=(TaskSpec(id=id_, topic=id_, executor="noop"),))
            await broker.append(SUBJECTS.command("bench", submit.kind, id_), codec.encode(submit), subject_seq=0)
            await asyncio.sleep(0.5)
            stored = await broker.last(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger())
            if stored is not None and codec.decode(stored.data, Entry).snapshot is not None:
                return
    raise BusUnavailable("the ledger does not name a snapshot")
