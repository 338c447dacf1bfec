"""A mesh in memory for one or two agents: streams, a stand-in for the ledger, and agents that run and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from agents.runtime import Agent
from mesh import codec, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Stored
from mesh.memory import Faults, MemoryServer
from mesh.messages.base import Record
from mesh.messages.commands import Recommend, Submit
from mesh.messages.judgement import Champion, Outcomes
from mesh.messages.results import Planned, RecommendationMade, TaskEnded
from mesh.settings import load
from mesh.subjects import Subjects

DEADLINE_S = 20.0
"""Everything that a test waits for comes at once; a test that would wait for ever ends here."""

Body = Callable[[Agent], Awaitable[None]]


class MemoryMesh:
    """The broker, and the leader's hand to write results with."""

    def __init__(self, folder: Path, faults: Faults | None = None) -> None:
        self.subjects = Subjects()
        self.settings = load({"home": str(folder / "home")}, {"HOME": str(folder)}, folder)
        self.server = MemoryServer(self.subjects, faults=faults)
        self.leader = self.server.connect("leader")
        self.store = ArtifactStore(self.leader, self.subjects, cache=folder / "cache", cache_bytes_max=1 << 30)
        self._folder = folder
        self._count = 0

    async def start(self) -> MemoryMesh:
        """Make the streams."""
        await streams.ensure_all(self.leader, streams.table(self.subjects, artifact_bytes_max=1 << 30))
        return self

    def agent(self, role: str) -> Agent:
        """An agent on a connection of its own."""
        return Agent(role, role, self.settings, self.server.connect(role))

    @contextlib.asynccontextmanager
    async def running(self, role: str, body: Body) -> AsyncIterator[Agent]:
        """An agent whose body runs inside the block; it must end by itself when it is asked to stop."""
        agent = self.agent(role)
        life = asyncio.create_task(_living(agent, body), name=role)
        try:
            yield agent
        finally:
            agent.stopping.set()
            async with asyncio.timeout(DEADLINE_S):
                await life
            await agent.broker.close()

    # -- what the leader would write ----------------------------------------------------------------------------------

    async def result(self, record: Planned | TaskEnded | RecommendationMade) -> int:
        """Put a record on RESULTS, as the leader's projection does."""
        self._count += 1
        subject = self.subjects.result(record.topic, record.kind, f"r{self._count}")
        return await self.leader.append(subject, codec.encode(record), subject_seq=0)

    async def artifact(self, outcomes: Outcomes) -> str:
        """Store outcomes as an evaluation does; their digest."""
        self._count += 1
        folder = self._folder / f"outcomes-{self._count}"
        folder.mkdir()
        (folder / "outcomes.msgpack").write_bytes(codec.encode(outcomes, bytes_max=1 << 24))
        return await self.store.put(folder, media="outcomes")

    async def promote(self, champion: Champion, *, revision: int = 0) -> int:
        """Write a champion's record as an earlier verdict did."""
        subject = self.subjects.key("champions", champion.specialization)
        return await self.leader.append(subject, codec.encode(champion), subject_seq=revision)

    # -- what the agents wrote ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[AsyncIterator[Submit | Recommend]]:
        """Every submit and recommendation that is put, as it comes."""
        async with self.leader.tail(self.subjects.stream("COMMANDS"), self.subjects.commands()) as stored:
            yield _decoded(stored)

    async def first(self, stream: str, subject: str) -> Stored:
        """The first message of a subject, waited for."""
        async with asyncio.timeout(DEADLINE_S), self.leader.tail(stream, subject) as messages:
            return await anext(aiter(messages))

    async def all(self, name: str, subject: str) -> list[Stored]:
        """All messages of a subject that are there."""
        return await self.leader.read(name, subject)

    async def champion(self, specialization: str) -> tuple[Champion | None, int]:
        """The champion's newest record and its revision."""
        subject = self.subjects.key("champions", specialization)
        stored = await self.leader.last(self.subjects.bucket("champions"), subject)
        return (codec.decode(stored.data, Champion), stored.seq) if stored else (None, 0)


async def _living(agent: Agent, body: Body) -> None:
    await body(agent)


async def _decoded(messages: AsyncIterator[Stored]) -> AsyncIterator[Submit | Recommend]:
    wanted: tuple[type[Record], ...] = (Submit, Recommend)
    async for message in messages:
        command = codec.decode(message.data, *wanted)
        assert isinstance(command, Submit | Recommend)
        yield command
