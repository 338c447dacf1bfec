"""What the planner reads of a specialization's past before it plans the lines of a topic.

    its node's last topics ──> verdicts; plan and result of the reinventor's newest candidate
    its champions' records ──> settings and cost of every champion that is still kept
    the parent topic ────────> what the flat model of a branch has cost, how hard the branches are
    the leading scheduler ───> kinds that live workers offer now

What is no longer kept, or can not be read, counts as not known: the lines are planned as for the first time then. The
mind that makes something of it is planner/past.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from agents.planner_books import Books
from agents.runtime import Agent
from mesh import codec
from mesh.bus import Stored
from mesh.errors import BusUnavailable, Malformed, NotFound
from mesh.messages.base import Record
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.services import Ask, Status
from mesh.messages.topics import Topic
from mesh.packed import split
from planner import accounts, branches
from planner import past as minds
from planner.past import Past

R = TypeVar("R", bound=Record)

WORKERS_WAIT_S = 2.0
"""Patience with the scheduler; without an answer nothing is searched, and the plan says so."""

WORKERS_MAX = 200

CHAMPIONS_MAX = 64
"""Records of one specialization's champions: as many as the bucket keeps."""

RECORDS_MAX = 1_000
"""Of one kind of one topic."""

LIVE = "live"


class Reader:
    """Reads for one planner agent; keeps nothing."""

    def __init__(self, agent: Agent, books: Books) -> None:
        self._agent, self._books = agent, books
        self._log, self._subjects = agent.broker, agent.subjects

    async def past(self, node: str, nodes: Mapping[str, Specialization], topic: Topic | None) -> Past:
        """What is known for planning lines in this node. topic: for which they are planned; it may be a branch."""
        champions = await self.champions(node)
        verdicts = await self._verdicts(node, nodes)
        plans, ended = await self._results(champions, verdicts)
        found = minds.past_of(verdicts, champions, plans, ended)
        if topic is not None and topic.parent:
            found = await self._with_parent(found, topic)
        return minds.offering(found, await self.offered())

    async def champions(self, node: str) -> list[Champion]:
        """The records of a node's champions that are still kept, oldest first."""
        if not node:
            return []
        bucket, subject = self._subjects.bucket("champions"), self._subjects.key("champions", node)
        return _read(await self._log.read(bucket, subject, messages_max=CHAMPIONS_MAX), Champion)

    async def offered(self) -> frozenset[str]:
        """Kinds that live workers offer."""
        question = codec.encode(Ask(what="workers", rows_max=WORKERS_MAX))
        try:
            answer = await self._log.request(
                self._subjects.ask("scheduler", self._log.name), question, timeout_s=WORKERS_WAIT_S
            )
            rows = codec.decode(answer.data, Status).workers
        except (NotFound, BusUnavailable, Malformed):
            return frozenset()
        return frozenset(kind for row in rows if row.state == LIVE and not row.drained for kind in row.kinds)

    # -- the records --------------------------------------------------------------------------------------------------

    async def _verdicts(self, node: str, nodes: Mapping[str, Specialization]) -> list[Verdict]:
        """Verdicts about a node from its last topics, oldest first."""
        known = nodes.get(node)
        topics = known.topics[-minds.TOPICS_READ :] if known is not None else ()
        found = [one for topic in topics for one in await self._of(topic, Verdict)]
        return sorted((one for one in found if one.specialization == node), key=lambda one: one.decided_at_ms)

    async def _results(
        self, champions: Iterable[Champion], verdicts: Iterable[Verdict]
    ) -> tuple[dict[str, Planned], dict[str, TaskEnded]]:
        """Plans with lines by topic, ended trainings by task: of the topics that a comparison needs."""
        topics = dict.fromkeys(minds.topics_needed(list(champions), list(verdicts)))
        plans: dict[str, Planned] = {}
        ended: dict[str, TaskEnded] = {}
        for topic in topics:
            for plan in await self._of(topic, Planned):
                if "baseline" in plan.facts:
                    plans.setdefault(topic, plan)
            ended |= {one.task.id: one for one in await self._of(topic, TaskEnded)}
        return plans, ended

    async def _with_parent(self, past: Past, topic: Topic) -> Past:
        """The past of a branch, with what its parent topic tells."""
        plans = await self._of(topic.parent, Planned)
        parent = next((plan.specialization for plan in plans if "baseline" in plan.facts), "")
        base = topic.base.model if topic.base is not None else ""
        cost = accounts.inherited_by(await self.champions(parent), base)
        branched = branches.task_id(topic.parent)
        ended = [one for one in await self._of(topic.parent, TaskEnded) if one.task.id == branched]
        return minds.with_parent(past, cost, topic, ended[-1] if ended else None)

    async def _of(self, topic: str, kind: type[R]) -> list[R]:
        """The results of one kind of a topic, in order."""
        subject = self._subjects.results(topic, kind.kind)
        return _read(await self._log.read(self._agent.stream("RESULTS"), subject, messages_max=RECORDS_MAX), kind)


def _read(found: Iterable[Stored], kind: type[R]) -> list[R]:
    """Records of one kind; what can not be read, and erased keys, are passed over."""
    rows = []
    for stored in found:
        for one in split(stored):
            try:
                rows.append(codec.decode(one.data, kind))
            except Malformed:
                continue
    return rows
