"""The planner's part after a verdict: branches, their topics, the tree, the end of a topic.

    verdict, ended branch task, a topic that is over ──> read what is known ──> planner/trees.py ──> carry the step out

A step is carried out in one order: nodes of the graph, topics of the branches, the next task, what ends. Whoever dies
in between leaves the input unacknowledged, and the same step is taken again; what is there already changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.planner_books import Books
from agents.runtime import Agent
from executors import kinds
from mesh import traced, tracing
from mesh.errors import NotFound, Retry
from mesh.messages.base import Record
from mesh.messages.judgement import Audit, Champion, Verdict
from mesh.messages.results import TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.topics import Topic
from planner import branches, branching, drifting, trees
from planner.past import TOPICS_READ
from planner.tree_plans import newest
from planner.trees import Known, Step

WRITE_TRIES = 5
"""Lost compare-and-sets on the graph before the input goes back with a delay; more means that something is wrong."""


class Trees:
    """The handlers of one planner agent for what comes after a verdict."""

    def __init__(self, agent: Agent, books: Books) -> None:
        self._agent, self._books = agent, books

    async def on_verdict(self, verdict: Verdict | Audit) -> None:
        """The flat model's, or the tree's; or what the audit split said after it, without which no topic is over."""
        await self.advance(verdict.topic)

    async def on_end(self, end: TopicSettled | TopicTurnedDown) -> None:
        """A topic is over: the topic of which it is a branch may go on; where a person ended it, its branches end."""
        if isinstance(end, TopicSettled) and end.facts.get(trees.ENDED):
            await self.advance(end.topic)
        try:
            topic = await self._books.topic(end.topic)
        except NotFound:
            return  # a single task's, or older than the stream keeps: nothing waits for it
        if topic.parent:
            await self.advance(topic.parent)

    async def advance(self, topic: str) -> None:
        """Do what the mind says that comes next for this topic."""
        for _ in range(WRITE_TRIES):
            known, revision = await self._known(topic)
            step = trees.next_step(known, kinds.needs_of)
            if await self._books.write(step.nodes, revision):
                with tracing.within(tracing.current() or traced.of(known.topic)):  # the end of a branch names no trace
                    return await self._carry_out(topic, step)
        raise Retry(f"the graph changed {WRITE_TRIES} times while {topic} was branched")

    async def _carry_out(self, topic: str, step: Step) -> None:
        for child in step.topics:
            await self._books.publish(child)
        if step.submit is not None:
            await self._books.command(step.submit)
        for cancel in step.cancels:
            await self._books.command(cancel)
        for settle in step.settles:
            await self._books.command(settle)
        self._agent.log.info("topic %s: %s", topic, step.why)

    async def _known(self, id_: str) -> tuple[Known, int]:
        """All that the next step rests on, and the revision of the graph."""
        topic = await self._books.topic(id_)
        records = await self._books.records(id_)
        specialization = trees.specialization_of(records)
        found = trees.branches_of(records, id_)
        ends, champions = {}, {}
        for branch in found:
            child = branches.child_id(id_, branch.index)
            if (end := await self._books.end(child)) is not None:
                ends[child] = end
            node = branches.child_node_id(specialization, branch.name)
            champion, _ = await self._books.champion(node)
            if champion is not None:
                champions[node] = champion
        nodes, revision = await self._books.graph()
        champion, _ = await self._books.champion(specialization)
        tree, router, measured = await self._grown(champion, id_)
        own = nodes.get(specialization)
        seen = await self._seen(tree, records, own.topics if own is not None else ()) if router else None
        known = Known(
            topic=topic,
            depth=await self._depth(topic),
            records=records,
            ends=ends,
            champion=champion,
            champions=champions,
            nodes=nodes,
            tree=tree,
            router=router,
            measured=measured,
            seen=seen,
        )
        return known, revision

    async def _grown(self, champion: Champion | None, topic: str) -> tuple[str, str, TaskEnded | None]:
        """(the tree that was champion when the topic began, its router, how it was measured when it became champion),
        as long as the records of the topic that grew it are kept."""
        tree, grower = trees.tree_before(champion, topic)
        if not tree:
            return "", "", None
        records = await self._books.records(grower)
        ended = newest(records, branches.task_id(grower))
        if ended is None or (champion is not None and champion.model != tree and not trees.is_tree_of(records, tree)):
            return "", "", None
        return tree, branches.found_by(ended).router, drifting.evaluated(records, tree)

    async def _seen(self, tree: str, records: Sequence[Record], topics: Sequence[str]) -> TaskEnded | None:
        """How that tree was measured on this topic's holdout by an earlier topic of the node. records: of this topic;
        topics: of its node, oldest first."""
        holdouts = drifting.holdouts(records)
        if drifting.evaluated(records, tree) is not None:
            return None
        for id_ in reversed(topics[-TOPICS_READ:]):
            if found := drifting.measured_on(await self._books.records(id_), tree, holdouts):
                return found
        return None

    async def _depth(self, topic: Topic) -> int:
        """How many topics stand above this one; no more are counted than matter."""
        depth = 0
        while topic.parent and depth < branching.DEPTH_MAX:
            topic, depth = await self._books.topic(topic.parent), depth + 1
        return depth
