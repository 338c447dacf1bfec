"""The graph's bucket: all nodes read at once, changed by compare-and-set on the bucket as a whole, with its history.

    read ──> decide (a mind, pure) ──> write node by node, each only if the bucket is still what was read
      ^                                      │
      └────────── somebody wrote first ──────┘   at most TRIES times in a row without a node of ours written

Two nodes that are changed at the same time by two writers can break a rule that each of them kept (one retires a node,
the other hangs a new one below it; two moves make a circle). A compare-and-set per key does not see that. So every
write names the last sequence of the whole bucket: the changes of the graph stand in one order, and each was decided on
exactly what stood before it.

Promises: no writer undoes or overlooks another's change; somebody always gets on. A change of several nodes may be
interrupted between two of them: what was written stands, and the rest is decided anew. Deciding therefore has to be
repeatable, and every beginning of a change has to be a whole graph (`planner/changes.py` sees to both).
Not covered: writers that name only a key's sequence are seen by ours, and see ours only where the key is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mesh import codec
from mesh.bus import Log
from mesh.errors import BusUnavailable, Conflict, Malformed, Retry
from mesh.messages.graph import Specialization
from mesh.subjects import Subjects

TRIES = 24
"""Lost races in a row without a node of ours written: each means that another's change came through, so this many
writers would have to be at work at once."""

AWAY_MAX = 3
"""Answers of the broker that did not come, in a row."""

PAGE = 1_000
"""Records read at once."""

NODES_MAX = 100_000
"""A graph beyond this is not read: deciding about it needs it in memory."""


class Writes(Protocol):
    """What a mind decided: the values of nodes to write, in this order. Empty when all is as it should be."""

    @property
    def nodes(self) -> Sequence[Specialization]: ...


W = TypeVar("W", bound=Writes)


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """The graph as it was read."""

    nodes: dict[str, Specialization]
    taken: frozenset[str]
    """Ids whose newest value was erased or is not readable here: they are not used again."""
    last_seq: int
    """Last sequence of the bucket: a change is written against it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Revision:
    """One stored value of a node."""

    seq: int
    id: str
    node: Specialization | None
    """None where the value was erased, or can not be read by this program."""


class GraphBucket:
    """The graph of one mesh."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log, self._subjects = log, subjects

    async def read(self) -> Graph:
        """All nodes as they stand now. Retry when there are more than NODES_MAX; NotFound when there is no bucket."""
        begun = await self._log.state(self._subjects.bucket("graph"))
        nodes: dict[str, Specialization] = {}
        taken: set[str] = set()
        last_seq = begun.last_seq
        for revision in await self.history():
            last_seq = max(last_seq, revision.seq)
            nodes.pop(revision.id, None)
            taken.add(revision.id)
            if revision.node is not None:
                nodes[revision.id] = revision.node
        if len(nodes) > NODES_MAX:
            raise Retry(f"the graph has {len(nodes):,} nodes, and at most {NODES_MAX:,} are read: retire some.")
        return Graph(nodes, frozenset(taken - set(nodes)), last_seq)

    async def history(self, node: str = "") -> list[Revision]:
        """Every stored value in the order of writing, of one node or of all; the broker keeps the last ones of each."""
        subject = self._subjects.key("graph", node) if node else self._subjects.keys("graph")
        found: list[Revision] = []
        from_seq = 1
        while True:
            page = await self._log.read(self._subjects.bucket("graph"), subject, from_seq=from_seq, messages_max=PAGE)
            for stored in page:
                found.append(Revision(stored.seq, stored.subject.rpartition(".")[2], _decoded(stored.data)))
            if len(page) < PAGE:
                return found
            from_seq = page[-1].seq + 1

    async def change(self, decide: Callable[[Graph], W], now_ms: Callable[[], int]) -> W:
        """Have `decide` say what to write, and write it; what it decided on the graph that the last write was made on.

        now_ms: the time with which each written value is stamped. Retry when others were always first; whatever
        `decide` raises.
        """
        lost = away = 0
        while True:
            try:
                graph = await self.read()
                decided = decide(graph)
                written = await self.write(decided.nodes, graph.last_seq, now_ms)
                if written == len(decided.nodes):
                    return decided
                lost, away = (0 if written else lost + 1), 0
            except BusUnavailable:  # it may have been written: the next turn reads it
                away += 1
                if away == AWAY_MAX:
                    raise
            if lost == TRIES:
                raise Retry(f"the graph was changed by others {TRIES} times in a row, each time first: try again.")

    async def write(self, nodes: Sequence[Specialization], last_seq: int, now_ms: Callable[[], int]) -> int:
        """Write the nodes in order, as long as nobody else does; how many were written.

        last_seq: of the graph on which they were decided. A node without a time of its own gets that of its writing.
        """
        for number, node in enumerate(nodes):
            stamped = node if node.changed_at_ms else node.evolve(changed_at_ms=now_ms())
            try:
                last_seq = await self._log.append(
                    self._subjects.key("graph", node.id), codec.encode(stamped), stream_seq=last_seq
                )
            except Conflict:
                return number
        return len(nodes)


def _decoded(data: bytes) -> Specialization | None:
    if not data:  # an erased key has an empty last record
        return None
    try:
        return codec.decode(data, Specialization)
    except Malformed:
        return None
