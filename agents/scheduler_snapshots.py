"""Snapshots of the ledger's state: on this machine's disk after every so many events, and in the mesh now and then.

    save      touched tasks, and what else changed  ->  the index's file, one transaction         (every scheduler)
    publish   that file, read by a thread  ->  files of records  ->  an artifact, which each later entry of the ledger
              names                                                                               (the leader)
    load      this machine's file, if its entry stands in the ledger; else the artifact that the newest entry names;
              else nothing, and the whole ledger is read

An artifact's files hold records one after the other, each behind its length (four bytes, big endian). Lines that have
not changed make equal files, which the store does not take twice.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from agents.runtime import Agent
from agents.scheduler_results import Projector
from mesh import codec, limits
from mesh.ended import EndedIndexOnDisk, SavedReader
from mesh.errors import ArtifactCorrupt, ArtifactMissing, DataRefused, DiskFull, Malformed
from mesh.ledger_log import LedgerLog
from mesh.messages.ledger import (
    AnyEvent,
    Recommended,
    SnapshotAt,
    SnapshotHead,
    SnapshotPart,
    TaskReopened,
    TopicPlanned,
    TopicRefused,
    TopicSettled,
    Untold,
    WorkerDrained,
)
from planner.ledger import Ledger
from planner.saving import head_of, ledger_of, saved

FILE_BYTES = 256 * 1024
"""A file of an artifact is closed beyond this size: one object of the store."""

LINE_PARTS_PER_FILE = 8
"""Parts of lines in one file: some 2,000 lines."""

PUBLISH_SHARE = 20
"""A snapshot is published when a twentieth of all ended tasks is new: the work stays in proportion."""

SAID_PER_PART = 500
UNTOLD_BYTES_PER_PART = 128 * 1024
HEAD_FILE = "head"


class Snapshots:
    """Saves, publishes and loads the state of one scheduler."""

    def __init__(self, agent: Agent, index: EndedIndexOnDisk, projector: Projector) -> None:
        self._agent, self._index, self._projector = agent, index, projector
        self._touched: dict[str, None] = {}
        """Tasks that changed since the last save, in the order of their last changes: parked ones keep theirs."""
        self._said = self._drained = True
        self._untold = 0
        self._events = 0
        """Events since the last save."""
        self._commands = 0
        """Commands that the last save covers."""
        self._unpublished = 0
        """Events and commands between the last publication and the last save."""
        self._publishing: asyncio.Task[SnapshotAt | None] | None = None
        self.newest: SnapshotAt | None = None
        """What the ledger's next entry names."""

    # -- save ---------------------------------------------------------------------------------------------------------

    def heard(self, event: AnyEvent) -> None:
        """An event was folded or committed."""
        self._events += 1
        if isinstance(event, TopicPlanned):
            self._touched.update((spec.id, None) for spec in event.tasks)
        elif isinstance(event, TopicRefused | TopicSettled | Recommended):
            self._said = True
        elif isinstance(event, WorkerDrained):
            self._drained = True
        elif name := getattr(event, "task", ""):
            self._touched.pop(name, None)
            self._touched[name] = None
            if isinstance(event, TaskReopened):
                self._touched.update((waiting, None) for waiting in event.waiting)

    def save_if_due(self, ledger: Ledger, log: LedgerLog, *, leads: bool) -> None:
        """Save when enough has happened. Only when the fold is what the log says: right after a commit, or reading."""
        every = self._agent.settings.scheduler.snapshot_events
        self._collect()
        # Commands count too: those that decided nothing would else stay in their stream for ever.
        if self._events + ledger.commands_seq - self._commands >= every:
            self.save(ledger, log)
        ended = sum(count for state, count in ledger.counts.items() if state.ended)
        if leads and self._publishing is None and self._unpublished >= max(every, ended // PUBLISH_SHARE):
            self._unpublished = 0
            self._publishing = asyncio.create_task(self._publish(self._index.reader()), name="snapshot")

    def save(self, ledger: Ledger, log: LedgerLog) -> None:
        """Write what has changed since the last time."""
        touched = ((name, ledger.tasks.get(name) or ledger.dead_letters.get(name)) for name in self._touched)
        self._index.put_parts(
            (f"task {name}", None if task is None else SnapshotPart(tasks=(saved(task),))) for name, task in touched
        )
        if self._said:
            self._put_all("said", [SnapshotPart(said=part) for part in _cut(ledger.all_said, SAID_PER_PART)])
        if self._drained:
            self._put_all("drained", [SnapshotPart(drained=(event,)) for event in ledger.drained.values()])
        self._put_all("untold", list(_untold_parts(self._projector.untold())))
        self._index.save(head_of(ledger, log.seq, log.digest))
        self._unpublished += self._events + ledger.commands_seq - self._commands
        self._commands = ledger.commands_seq
        self._touched.clear()
        self._said = self._drained = False
        self._events = 0

    def _put_all(self, name: str, parts: list[SnapshotPart]) -> None:
        self._index.remove_parts(name)
        for number, part in enumerate(parts):
            self._index.put_part(f"{name} {number}", part)

    # -- publish ------------------------------------------------------------------------------------------------------

    async def _publish(self, reader: SavedReader) -> SnapshotAt | None:
        folder = Path(tempfile.mkdtemp(prefix="snapshot-", dir=self._index.path.parent))
        try:
            head = await asyncio.to_thread(_write_files, reader, folder / "files")
            manifest = await self._agent.store().put(folder / "files", media="snapshot")
            self._agent.log.info("a snapshot of ledger entry %d is stored as %s", head.seq, manifest[:16])
            return SnapshotAt(manifest=manifest, seq=head.seq, commands_seq=head.commands_seq)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    def _collect(self) -> None:
        """Take the outcome of a publication that has ended."""
        task = self._publishing
        if task is None or not task.done():
            return
        self._publishing = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.newest = task.result()
        else:
            self._agent.failed("snapshot", f"the snapshot could not be stored, a later one will be: {error}")

    async def stop(self) -> None:
        """Publish no more."""
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)
            self._publishing = None

    # -- load ---------------------------------------------------------------------------------------------------------

    async def load(self, log: LedgerLog) -> tuple[Ledger, list[Untold]]:
        """The state that may be trusted, and what was perhaps not told of it; `log` stands where the state does."""
        await self.stop()
        self._index.undo()
        self._touched.clear()
        self._events = 0
        newest = await log.newest()
        self.newest = newest.snapshot if newest is not None else None
        head = self._index.head()
        if head is None or not await log.holds(head.seq, head.digest):
            head = await self._fetch(self.newest, log) if self.newest is not None else None
        if head is None:
            self._index.clear()
            self._said = self._drained = True
            self._commands = 0
            return Ledger(self._index), []
        log.stand_at(head.seq, head.digest)
        self._commands = head.commands_seq
        parts = list(self._index.parts())
        ledger = ledger_of(
            head,
            (task for part in parts for task in part.tasks),
            (event for part in parts for event in part.drained),
            (what for part in parts for what in part.said),
            self._index,
        )
        return ledger, [untold for part in parts for untold in part.untold]

    async def _fetch(self, at: SnapshotAt, log: LedgerLog) -> SnapshotHead | None:
        """A snapshot of the mesh, into the index; None when it can not be used."""
        store = self._agent.store()
        try:
            folder = await store.get(at.manifest)
            with store.hold(at.manifest):
                head = await asyncio.to_thread(_read_head, folder)
                if not await log.holds(head.seq, head.digest):
                    return None
                self._index.clear()
                for part in _records(sorted(path for path in folder.iterdir() if path.name != HEAD_FILE)):
                    self._take(part)
                    await asyncio.sleep(0)
        except (ArtifactMissing, ArtifactCorrupt, Malformed, DataRefused, DiskFull, OSError) as error:
            self._agent.log.warning("the snapshot %s can not be used, the ledger is read: %s", at.manifest[:16], error)
            return None
        self._index.save(head)
        return head

    def _take(self, part: SnapshotPart) -> None:
        self._index.put_all(part.lines)
        for task in part.tasks:
            self._index.put_part(f"task {task.spec.id}", SnapshotPart(tasks=(task,)))
        if part.drained or part.said or part.untold:
            rest = part.evolve(tasks=(), lines=())
            name = "drained" if part.drained else "said" if part.said else "untold"
            self._index.put_part(f"{name} {codec.digest(codec.encode(rest))}", rest)


def _cut(items: tuple[str, ...], count: int) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(items), count):
        yield items[first : first + count]


def _untold_parts(untold: Iterable[Untold]) -> Iterator[SnapshotPart]:
    waiting, size = list[Untold](), 0
    for one in untold:
        if waiting and size + len(one.data) > UNTOLD_BYTES_PER_PART:
            yield SnapshotPart(untold=tuple(waiting))
            waiting, size = [], 0
        waiting.append(one)
        size += len(one.data)
    if waiting:
        yield SnapshotPart(untold=tuple(waiting))


def _write_files(reader: SavedReader, folder: Path) -> SnapshotHead:
    """The files of a snapshot; the reader is closed then."""
    try:
        return _written(reader, folder)
    finally:
        reader.close()


def _written(reader: SavedReader, folder: Path) -> SnapshotHead:
    folder.mkdir()
    head = reader.head()
    (folder / HEAD_FILE).write_bytes(head)
    lines = ((f"lines-{number // LINE_PARTS_PER_FILE:08d}", data) for number, data in reader.lines())
    for name, records in itertools.groupby(itertools.chain(lines, _in_files(reader.parts())), operator.itemgetter(0)):
        with (folder / name).open("wb") as file:
            file.writelines(len(data).to_bytes(4, "big") + data for _, data in records)
    return codec.decode(head, SnapshotHead)


def _in_files(parts: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Parts of the state, each with the name of its file."""
    count = size = 0
    for data in parts:
        if size + len(data) > FILE_BYTES:
            count, size = count + 1, 0
        size += len(data)
        yield f"state-{count:08d}", data


def _read_head(folder: Path) -> SnapshotHead:
    return codec.decode((folder / HEAD_FILE).read_bytes(), SnapshotHead)


def _records(paths: Iterable[Path]) -> Iterator[SnapshotPart]:
    """The records of files, in order. Malformed when a file is none of ours."""
    for path in paths:
        with path.open("rb") as file:
            while length := file.read(4):
                size = int.from_bytes(length, "big")
                if size > limits.REPEATING_BYTES_MAX:
                    raise Malformed(f"{path.name} holds a record of {size} bytes")
                yield codec.decode(file.read(size), SnapshotPart)
