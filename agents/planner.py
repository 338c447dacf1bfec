"""Planner: turns topics into tasks, divides them into branches, and says when they are over.

In:    topics (TOPICS); ended profile, embed and branch tasks, verdicts, topics that are over (RESULTS); questions
       (`think`, agents/planner_thinking.py)
Out:   submits, refusals and settlements (COMMANDS, put if absent, ids derived from the topic), topics of branches
       (TOPICS, put if absent), nodes of the graph (compare-and-set)
Keeps: nothing: whatever a decision needs is read again, so any number of planners may run and any of them may die
Loses: nothing: an input is acknowledged after its command is stored; handled twice, it changes nothing
Not:   decides nothing itself (planner/), reads no dataset, never sees a worker
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from agents.handling import handle
from agents.planner_advice import Adviser
from agents.planner_books import WRITER, Books
from agents.planner_past import Reader
from agents.planner_thinking import Thinker
from agents.planner_trees import Trees
from agents.runtime import Agent
from executors import kinds
from mesh.bus import Stored
from mesh.errors import Retry
from mesh.messages.base import Record, derived_id
from mesh.messages.commands import Refuse
from mesh.messages.judgement import Audit, Verdict
from mesh.messages.results import TaskEnded, TopicSettled, TopicTurnedDown
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from mesh.messages.topics import Topic
from planner import branches, changes, decomposing, encoders, plans, trees
from planner.advice import Advised
from planner.graph import Source

__all__ = ["WRITER", "Planner", "body"]

R = TypeVar("R", bound=Record)

GRAPH_TRIES = 5
"""Lost compare-and-sets on the graph before the input goes back with a delay; more means that something is wrong."""

SOW_AGAIN_S = 1.0
"""Pause before the seeds are tried again in an outage."""


class Planner:
    """The handlers of one planner agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._books = Books(agent)
        self._adviser = Adviser(agent.settings.planner_llm, agent.log)
        self._past = Reader(agent, self._books)
        self._thinker = Thinker(agent, self._books, self._past)
        self._trees = Trees(agent, self._books)

    async def run(self) -> None:
        """Handle topics and what becomes of them until the agent stops."""
        await self._sow()
        subjects = self._agent.subjects
        await self._thinker.serve()
        topics = handle(
            self._agent,
            self._agent.stream("TOPICS"),
            subjects.topics(),
            subjects.durable("planner-topics"),
            (Topic,),
            self.on_topic,
        )
        self._agent.spawn(topics, "topics")
        self._hear(Verdict, "verdicts", self.on_verdict)
        self._hear(Audit, "audits", self.on_verdict)
        self._hear(TopicSettled, "settled", self.on_end)
        self._hear(TopicTurnedDown, "turned-down", self.on_end)
        await self._handled(TaskEnded, "profiles", self.on_task_ended)

    async def _sow(self) -> None:
        """See to the seeds of the graph before the first topic is placed, however long the broker is away meanwhile."""
        while not self._agent.stopping.is_set():
            try:
                return await self._books.sow()
            except Retry as error:
                self._agent.log.warning("the graph's seeds are not written yet: %s", error)
            await self._agent.pause(SOW_AGAIN_S)

    def _hear(self, kind: type[R], what: str, handler: Callable[[R, Stored], Awaitable[None]]) -> None:
        self._agent.spawn(self._handled(kind, what, handler), what)

    async def _handled(self, kind: type[R], what: str, handler: Callable[[R, Stored], Awaitable[None]]) -> None:
        """Hand every result of this kind to the handler until the agent stops."""
        subjects = self._agent.subjects
        durable = subjects.durable(f"planner-{what}")
        await handle(
            self._agent, self._agent.stream("RESULTS"), subjects.results("*", kind.kind), durable, (kind,), handler
        )

    async def on_topic(self, topic: Topic, _: Stored) -> None:
        """A topic becomes a profile task, or is refused with a sentence; a branch of a topic that is over ends, too."""
        if topic.parent and await self._books.end(topic.parent) is not None:
            return await self._books.command(trees.orphaned(topic))
        source = await self._without_data(topic) if topic.data is None else plans.source_of(topic, {})
        await self._books.command(source if isinstance(source, Refuse) else plans.profile_submit(topic, source))

    async def _without_data(self, topic: Topic) -> Source | Refuse:
        """The data of another node, or a refusal; then what the topic would need stands in the graph, as a proposal."""
        advised: tuple[Advised, ...] | None = None
        for _ in range(GRAPH_TRIES):
            nodes, revision = await self._books.graph()
            found = decomposing.decompose(nodes, topic, advised or ())
            if found.uses is None and advised is None and self._adviser.enabled and found.parent in nodes:
                below = changes.children(nodes, found.parent)
                advised = await self._adviser.branches(topic.text, nodes[found.parent], below, nodes)
                found = decomposing.decompose(nodes, topic, advised)
            if await self._books.write(found.proposed, revision):
                self._agent.log.info("topic %s has no data: %s", topic.id, found.why)
                return plans.source_from(topic, nodes, found)
        raise Retry(f"the graph changed {GRAPH_TRIES} times while {topic.id} was decomposed")

    async def on_task_ended(self, ended: TaskEnded, _: Stored) -> None:
        """A profile becomes the plan of its topic, or, with an encoder, first the vectors of its splits; any other task
        is none of the planner's business."""
        stage = ended.task.executor
        if stage == branches.KIND and ended.task.id == branches.task_id(ended.topic):
            return await self._trees.advance(ended.topic)
        if stage not in ("profile", encoders.KIND) or ended.task.id != derived_id(ended.topic, stage):
            return
        if ended.state is TaskState.SUCCEEDED and ended.outcome is not None:
            await self._go_on(ended.topic, ended.task, ended.outcome)
        elif ended.state is TaskState.PARKED:
            await self._books.command(plans.refusal_of(ended.topic, ended.reason))
        elif ended.state is TaskState.CANCELED:
            await self._books.command(trees.withdrawn(ended))

    async def on_verdict(self, verdict: Verdict | Audit, _: Stored) -> None:
        """A judged topic is branched, goes on with its tree, or is over."""
        await self._trees.on_verdict(verdict)

    async def on_end(self, end: TopicSettled | TopicTurnedDown, _: Stored) -> None:
        """A topic is over: whatever waited for it goes on."""
        await self._trees.on_end(end)

    async def _go_on(self, id_: str, task: TaskSpec, outcome: Outcome) -> None:
        """The next command of a topic after its profile, or after its vectors."""
        topic = await self._books.topic(id_)
        if task.executor == encoders.KIND:
            profiled, found = encoders.carried(task)
            return await self._plan(topic, profiled, found, outcome.outputs)
        profile = plans.profile_of(outcome) if topic.encoder is not None else None
        if profile is None or encoders.why_not(profile):  # without an encoder, or refused by the plan with a sentence
            return await self._plan(topic, task, outcome, {})
        needs = kinds.needs_of(encoders.KIND, {}, encoders.with_encoder(outcome.facts, topic.encoder))
        await self._books.command(encoders.submit(topic, task, outcome, needs))

    async def _plan(self, topic: Topic, task: TaskSpec, outcome: Outcome, vectors: Mapping[str, str]) -> None:
        """Write the graph, then submit: whoever sees the plan finds its node. task: the profile, outcome: its own."""
        for _ in range(GRAPH_TRIES):
            nodes, graph_revision = await self._books.graph()
            source = plans.profiled_source(topic, task)
            specialization = plans.specialization_id(topic, outcome)
            champion, revision = await self._books.champion(specialization)
            past = await self._past.past(specialization, nodes, topic)
            plan = plans.plan(topic, source, outcome, nodes, champion, revision, kinds.needs_of, vectors, past)
            if isinstance(plan, Refuse):
                return await self._books.command(plan)
            if await self._books.write(plan.placement.changed, graph_revision):
                self._agent.log.info("topic %s: %s", topic.id, plan.placement.why)
                return await self._books.command(plan.submit)
        raise Retry(f"the graph changed {GRAPH_TRIES} times while {topic.id} was placed")


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    await Planner(agent).run()
