"""The verdict on a durability run, from outside: every outbox, the LEDGER stream and the RESULTS stream, side by side.

    outboxes   copied (database and write-ahead log) while their worker is dead, and once more at the end: whatever
               result ever stood in one of them was promised to be recorded
    ledger     read by an auditor of its own (benchmarks/chaos_books.py)
    results    what subscribers saw

A task whose result stood in an outbox must have exactly one success on the ledger and exactly one record on RESULTS.

Not covered: rows that came and went in an outbox between two looks at it, where the outbox has let go of receipted rows
because they are too many (64 MiB of them, some 150,000): only runs of several 100,000 tasks come there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

from agents.commands.reach import Reach, reach
from benchmarks.chaos_books import Books
from mesh import codec, settings
from mesh.messages.commands import ResultFound
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import TaskState
from mesh.packed import split

READ_MESSAGES = 500

SENTENCES_MAX = 5
"""Of each complaint, so many are shown."""


@dataclasses.dataclass
class Outboxes:
    """What stood in the workers' outboxes, over all looks."""

    promised: set[str] = dataclasses.field(default_factory=set)
    """Tasks with a result in one of them."""
    refused: set[str] = dataclasses.field(default_factory=set)
    """Rows that were refused and set aside, by file name."""
    pending: int = 0
    """Rows without a receipt at the last look."""
    looks: int = 0

    def look(self, folder: Path) -> int:
        """Look into a worker's folder while nobody has it open; how many of its rows are pending."""
        self.looks += 1
        self.refused |= {f"{folder.name}/{path.name}" for path in (folder / "refused").glob("*.msgpack")}
        if not (folder / "outbox.db").exists():
            return 0
        with tempfile.TemporaryDirectory(prefix="ramify-look-") as copy:
            for name in ("outbox.db", "outbox.db-wal"):
                if (folder / name).exists():
                    shutil.copy2(folder / name, copy)
            db = sqlite3.connect(Path(copy, "outbox.db"))
            try:
                named = db.execute("select distinct task from rows where kind = ?", (ResultFound.kind,))
                self.promised |= {str(task) for (task,) in named}
                ((pending,),) = db.execute("select count(*) from rows where settled_at is null")
            finally:
                db.close()
        return int(pending)

    def look_at_all(self, folders: list[Path]) -> None:
        """The last look, at all workers."""
        self.pending = sum(self.look(folder) for folder in folders)


@dataclasses.dataclass
class Verdict:
    """What was found. Every list holds sentences or names; all of them empty is what was promised."""

    tasks: int
    lost: list[str]
    """Tasks with a result in an outbox and not exactly one on the ledger and on RESULTS."""
    twice: list[str]
    """Tasks with more than one recorded result."""
    open: list[str]
    """Tasks that never ended, submitted ones that the ledger does not know included."""
    parked: list[str]
    objections: list[str]
    stale_accepted: int
    refused: int
    promised: int
    pending: int
    leases: int
    leases_lost: int
    late: int
    """Results that were recorded although their lease had been lost: leased to their maker again."""
    terms: int
    reasons: list[str]
    """Why tasks were parked."""

    def sentences(self) -> list[str]:
        """What is wrong, for people; a few of each kind."""
        found = [
            *(f"lost: {name}" for name in self.lost[:SENTENCES_MAX]),
            *(f"recorded twice: {name}" for name in self.twice[:SENTENCES_MAX]),
            *(f"never ended: {name}" for name in self.open[:SENTENCES_MAX]),
            *(f"ledger: {sentence}" for sentence in self.objections[:SENTENCES_MAX]),
            *(f"parked: {sentence}" for sentence in self.reasons[:SENTENCES_MAX]),
        ]
        return [*found, f"{self.pending} outbox rows without a receipt"] if self.pending else found


def judge(url: str, home: Path, wanted: int, outboxes: Outboxes) -> Verdict:
    """Read the streams of a broker whose mesh has stopped, and weigh them against the outboxes.

    wanted: how many tasks were submitted. BusUnavailable when the broker can not be read.
    """
    return asyncio.run(_judge(url, home, wanted, outboxes))


async def _judge(url: str, home: Path, wanted: int, outboxes: Outboxes) -> Verdict:
    async with reach(settings.load({"nats.url": url, "home": str(home)}, {}, home), name="judge") as there:
        books = await audited(there)
        told, reasons = await told_of(there)
    return weigh(books, told, reasons, wanted, outboxes)


def weigh(books: Books, told: Counter[str], reasons: list[str], wanted: int, outboxes: Outboxes) -> Verdict:
    """Side by side. told: how many successes RESULTS has of each task."""
    lines = books.lines
    lost = [
        f"{task} ({lines[task].successes if task in lines else 'unknown, no'} on the ledger, {told[task]} on RESULTS)"
        for task in sorted(outboxes.promised)
        if task not in lines or lines[task].successes != 1 or told[task] != 1
    ]
    succeeded = {name for name, line in lines.items() if line.successes}
    untold = [f"{name} succeeded, and RESULTS does not say so" for name in sorted(succeeded - told.keys())]
    invented = [f"{name} succeeded only on RESULTS" for name in sorted(told.keys() - succeeded)]
    unknown = [f"{wanted - len(lines)} submitted tasks are not on the ledger"] if len(lines) < wanted else []
    return Verdict(
        tasks=len(lines),
        lost=lost,
        twice=sorted({name for name, line in lines.items() if line.successes > 1} | {n for n in told if told[n] > 1}),
        open=[*sorted(books.tasks_that_ended("")), *unknown],
        parked=sorted(books.tasks_that_ended("parked")),
        objections=[*books.objections, *untold, *invented],
        stale_accepted=books.stale_accepted,
        refused=len(outboxes.refused),
        promised=len(outboxes.promised),
        pending=outboxes.pending,
        leases=books.leases,
        leases_lost=books.leases_ended,
        late=sum(line.earned_under is not None for line in lines.values()),
        terms=books.terms,
        reasons=reasons,
    )


async def audited(there: Reach) -> Books:
    """The whole ledger, read by the auditor."""
    books, seq = Books(), 0
    stream, subject = there.stream("LEDGER"), there.subjects.ledger()
    while entries := await there.broker.read(stream, subject, from_seq=seq + 1, messages_max=READ_MESSAGES):
        for stored in entries:
            books.read(stored.data)
            seq = stored.seq
    return books


async def told_of(there: Reach) -> tuple[Counter[str], list[str]]:
    """Successes on RESULTS by task, and the reasons of tasks that ended otherwise."""
    told: Counter[str] = Counter()
    reasons: list[str] = []
    stream, subject, seq = there.stream("RESULTS"), there.subjects.results(kind=TaskEnded.kind), 0
    while records := await there.broker.read(stream, subject, from_seq=seq + 1, messages_max=READ_MESSAGES):
        for stored in records:
            for one in split(stored):
                record = codec.decode(one.data, TaskEnded)
                if record.state is TaskState.SUCCEEDED:
                    told[record.task.id] += 1
                else:
                    reasons.append(f"{record.task.id} {record.state}: {record.reason}")
            seq = stored.seq
    return told, reasons
