"""A collector at work on the broker in memory, with a ledger that a test fills, and hands that put and name things."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from agents.runtime import Agent
from agents.scheduler_collecting import Collecting
from agents.scheduler_history import History
from mesh import codec, coding, limits, object_lists, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker
from mesh.memory import Faults, MemoryBroker, MemoryServer
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.messages.ledger import SnapshotAt
from mesh.messages.object_names import ObjectName
from mesh.messages.tasks import TaskSpec
from mesh.object_lists import list_of
from mesh.objects import JetStreamBackend
from mesh.subjects import Subjects
from planner.ledger import Checkpoint, Ledger, Task
from tests.support import agents

SUBJECTS = Subjects()

WAIT_S, EVERY_S, KEEP_S = 60.0, 600.0, 3_600.0


@dataclasses.dataclass
class Snapshots:
    """What the collector asks of a scheduler's snapshots."""

    newest: SnapshotAt | None = None


class StagedHistory:
    """What the collector asks of a scheduler's history."""

    def __init__(self, folder: Path, ledger: Ledger | None = None) -> None:
        self.ledger, self.snapshots = ledger or Ledger(), Snapshots()
        self._folder = folder

    def beside(self, name: str) -> Path:
        return self._folder / name


class CollectingStage:
    """The mesh's streams, one collector's surroundings, and hands."""

    def __init__(self, folder: Path, *, limit_bytes: int = 1 << 30, faults: Faults | None = None) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.server = MemoryServer(SUBJECTS, faults=faults)
        self.hand: MemoryBroker = self.server.connect("hand")
        self.backend = JetStreamBackend(self.hand, SUBJECTS)
        self.history = StagedHistory(folder)
        self._count = 0

    async def start(self) -> CollectingStage:
        await streams.ensure_all(self.hand, streams.table(SUBJECTS, artifact_bytes_max=self.limit_bytes))
        return self

    @property
    def ledger(self) -> Ledger:
        return self.history.ledger

    def agent(self, name: str = "scheduler", **flags: object) -> Agent:
        times = {"collect_every_s": EVERY_S, "collect_wait_s": WAIT_S, "unnamed_keep_s": KEEP_S}
        settings = {f"scheduler.{key}": value for key, value in times.items()} | flags
        return agents.make(self.server, "scheduler", self.folder / name, name=name, **cast(Any, settings))

    @contextlib.asynccontextmanager
    async def collecting(
        self,
        name: str = "scheduler",
        history: StagedHistory | None = None,
        backend: Callable[[Broker, Path], ArtifactStore] | None = None,
        **flags: object,
    ) -> AsyncIterator[Collecting]:
        """A collector that runs inside the block. backend: makes its store, in another way than the settings say."""
        agent = self.agent(name, **flags)
        if backend is not None:
            agent._store = backend(agent.broker, self.folder / name / "cache")
        collector = Collecting(agent, cast(History, history or self.history))
        agent.broker.on_state(lambda connected: collector.disturbed() if connected else None)
        task = asyncio.create_task(collector.run())
        try:
            yield collector
        finally:
            agent.stop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await agent.broker.close()

    # -- what is stored -----------------------------------------------------------------------------------------------

    async def put_object(self, body: bytes) -> ObjectName:
        name = object_names.whole(codec.digest(body))
        await self.backend.put(name, coding.RAW_HEADER + body)
        return name

    async def put(self, *bodies: bytes, media: str = "model", facts: Facts | None = None, rows: int = 0) -> str:
        """An artifact of one file, put in one go; its digest. rows: objects of a list, in which they stand then."""
        lists = listed(bodies, rows)
        for body in (*bodies, *lists):
            await self.put_object(body)
        manifest = manifest_of(bodies, media, facts, tuple(map(codec.digest, lists)))
        data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        digest = codec.digest(data)
        await self.backend.put(object_names.manifest(digest), data, over=True)
        return digest

    async def stored(self) -> set[ObjectName]:
        """Everything that is in the store now."""
        return {name async for name in self.backend.names()}

    async def holds(self, digest: str) -> bool:
        """Is an artifact in the store, whole?"""
        data = await self.backend.get(object_names.manifest(digest))
        if data is None:
            return False
        found = codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        parts = {part for entry in found.files for part in (*entry.objects, *entry.lists)}
        for name in object_lists.list_names(found.files):
            if (stored := await self.backend.get(name)) is not None:
                listing = object_lists.read_list(name.digest, bytes(coding.decode(stored)))
                parts.update(digest for digest, _ in listing.parts())
        return {object_names.whole(part) for part in parts} <= await self.stored()

    # -- what names it ------------------------------------------------------------------------------------------------

    def open_task(self, name: str, *, checkpoints: tuple[Checkpoint, ...] = (), **fields: Any) -> Task:
        """A task that is ready, as if it had been planned, with these checkpoints, newest first."""
        self.ledger._plan(TaskSpec(id=name, topic=fields.pop("topic", "t1"), executor="noop", **fields))
        task = self.ledger.tasks[name]
        task.checkpoint, task.older = (checkpoints or (None,))[0], checkpoints[1:]
        return task


def manifest_of(
    bodies: tuple[bytes, ...], media: str = "model", facts: Facts | None = None, lists: tuple[str, ...] = ()
) -> Manifest:
    """The manifest of an artifact of one file. lists: digests of the lists that name its objects in its place."""
    entry = FileEntry(
        path="file.bin",
        size_bytes=sum(map(len, bodies)),
        objects=() if lists else tuple(map(codec.digest, bodies)),
        sizes=() if lists else tuple(map(len, bodies)),
        lists=lists,
    )
    return Manifest(media=media, files=(entry,), facts=facts or {})


def listed(bodies: Sequence[bytes], rows: int) -> list[bytes]:
    """The lists of so many objects each; none for no rows."""
    cut = [bodies[first : first + rows] for first in range(0, len(bodies), rows)] if rows else []
    return [list_of([codec.digest(body) for body in some], [len(body) for body in some]) for some in cut]
