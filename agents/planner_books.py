"""What the planner reads and writes in the mesh: topics, their records, the graph, champions, commands.

Reads are of what stands there now; writes are put if absent, or by compare-and-set. So whoever dies between two of
them is repeated by the next one, and two planners do no harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from agents import records
from agents.runtime import Agent
from mesh import codec
from mesh.errors import NotFound
from mesh.graph_bucket import GraphBucket
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Cancel, Refuse, Settle, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Audit, Champion, Verdict
from mesh.messages.results import Planned, TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.topics import Topic
from planner import changes

WRITER = "planner"
"""Commands carry the role's name, not the incarnation's: two planners that plan one topic put the same command."""

_READ: tuple[type[Record], ...] = (Planned, TaskEnded, Verdict, Audit, TopicSettled, TopicTurnedDown)
"""Kinds of results that the mind looks at; leases and checkpoints, the bulk of a topic's records, are never read."""

Command = Submit | Refuse | Settle | Cancel


class Books:
    """Reading and writing for one planner agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.broker
        self._subjects = agent.subjects
        self._bucket = GraphBucket(agent.broker, agent.subjects)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def topic(self, id_: str) -> Topic:
        """A topic as it was published; NotFound when it is no longer stored."""
        stored = await self._log.last(self._agent.stream("TOPICS"), self._subjects.topic(id_))
        if stored is None:
            raise NotFound(f"the topic {id_} is no longer stored, so nothing can be planned for it: publish it again")
        return codec.decode(stored.data, Topic)

    async def records(self, topic: str) -> list[Record]:
        """The topic's plans, ended tasks, verdicts and its end, in the order of the stream."""
        return await records.results(self._agent, topic, *_READ)

    async def end(self, topic: str) -> TopicSettled | TopicTurnedDown | None:
        """How a topic has ended; None while it goes on."""
        for kind in (TopicSettled, TopicTurnedDown):
            for end in await records.results(self._agent, topic, kind):
                assert isinstance(end, TopicSettled | TopicTurnedDown)
                return end
        return None

    async def graph(self) -> tuple[dict[str, Specialization], int]:
        """All nodes by id, and the sequence at which they stood so."""
        graph = await self._bucket.read()
        return graph.nodes, graph.last_seq

    async def champion(self, specialization: str) -> tuple[Champion | None, int]:
        """The champion's newest record and its revision; None and 0 without one."""
        return await records.champion(self._agent, specialization)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self, nodes: Sequence[Specialization], revision: int) -> bool:
        """Write the nodes if the graph is still as it was read; False when somebody else wrote first."""
        return await self._bucket.write(nodes, revision, _now_ms) == len(nodes)

    async def sow(self) -> None:
        """Write the seeds that were never there."""
        sown = await self._bucket.change(lambda graph: changes.seeded(graph.nodes, graph.taken), _now_ms)
        if sown.nodes:
            self._agent.log.info("graph: %s", sown.sentence)

    async def publish(self, topic: Topic) -> None:
        """Put the topic of a branch; that it is there already means that it was put before."""
        if await records.put_once(self._agent, self._subjects.topic(topic.id), topic):
            self._agent.log.info("topic %s: a branch of %s", topic.id, topic.parent)

    async def command(self, command: Command) -> None:
        """Put a command; that it is there already means that it was handled before."""
        subject = self._subjects.command(WRITER, command.kind, _id_of(command))
        if await records.put_once(self._agent, subject, command):
            self._agent.log.info("%s", subject)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _id_of(command: Command) -> str:
    match command:
        case Refuse():
            return derived_id(command.topic, "refused")
        case Settle():
            return derived_id(command.topic, "settled")
        case Submit() | Cancel():
            return command.id
