"""What the planner reads and writes in the mesh: topics, their records, the graph, champions, commands.

Reads are of what stands there now; writes are put if absent, or by compare-and-set. So whoever dies between two of
them is repeated by the next one, and two planners do no harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from agents.runtime import Agent
from mesh import codec
from mesh.bus import Stored
from mesh.errors import Conflict, NotFound
from mesh.graph_bucket import GraphBucket
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Cancel, Refuse, Settle, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Audit, Champion, Verdict
from mesh.messages.results import Planned, TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.topics import Topic
from mesh.packed import split
from planner import changes

WRITER = "planner"
"""Commands carry the role's name, not the incarnation's: two planners that plan one topic put the same command."""

RECORDS_PAGE = 500
"""Records of a topic that are read at once."""

RECORDS_MAX = 20_000
"""Records of one kind of one topic that are considered: a topic is some ten tasks, a large one some thousand."""

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
        found: list[Stored] = []
        for kind in _READ:
            found += await self._pages(self._subjects.results(topic, kind.kind))
        in_order = sorted(found, key=lambda stored: stored.seq)
        return [codec.decode(one.data, *_READ) for stored in in_order for one in split(stored)]

    async def end(self, topic: str) -> TopicSettled | TopicTurnedDown | None:
        """How a topic has ended; None while it goes on."""
        settled = await self._pages(self._subjects.results(topic, TopicSettled.kind))
        if settled:
            return codec.decode(split(settled[0])[0].data, TopicSettled)
        turned_down = await self._pages(self._subjects.results(topic, TopicTurnedDown.kind))
        return codec.decode(split(turned_down[0])[0].data, TopicTurnedDown) if turned_down else None

    async def _pages(self, subject: str) -> list[Stored]:
        found: list[Stored] = []
        from_seq = 1
        while len(found) < RECORDS_MAX:
            page = await self._log.read(
                self._agent.stream("RESULTS"), subject, from_seq=from_seq, messages_max=RECORDS_PAGE
            )
            found += page
            if len(page) < RECORDS_PAGE:
                break
            from_seq = page[-1].seq + 1
        return found

    async def graph(self) -> tuple[dict[str, Specialization], int]:
        """All nodes by id, and the sequence at which they stood so."""
        graph = await self._bucket.read()
        return graph.nodes, graph.last_seq

    async def champion(self, specialization: str) -> tuple[Champion | None, int]:
        """The champion's newest record and its revision; None and 0 without one."""
        if not specialization:
            return None, 0
        subject = self._subjects.key("champions", specialization)
        stored = await self._log.last(self._subjects.bucket("champions"), subject)
        return (codec.decode(stored.data, Champion), stored.seq) if stored is not None else (None, 0)

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
        try:
            await self._log.append(self._subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
        except Conflict:
            self._agent.log.debug("%s is published already", topic.id)
        else:
            self._agent.log.info("topic %s: a branch of %s", topic.id, topic.parent)

    async def command(self, command: Command) -> None:
        """Put a command; that it is there already means that it was handled before."""
        subject = self._subjects.command(WRITER, command.kind, _id_of(command))
        try:
            await self._log.append(subject, codec.encode(command), subject_seq=0)
        except Conflict:
            self._agent.log.debug("%s is stored already", subject)
        else:
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
