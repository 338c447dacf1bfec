"""Planner: turns topics into tasks.

In:    topics (TOPICS), ended profile and embed tasks (RESULTS)
Out:   submits and refusals (COMMANDS, put if absent, ids derived from the topic), nodes of the graph (compare-and-set)
Keeps: nothing: whatever a decision needs is read again, so any number of planners may run and any of them may die
Loses: nothing: an input is acknowledged after its command is stored; handled twice, it changes nothing
Not:   decides nothing itself (planner/), reads no dataset, never sees a worker
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.handling import handle
from agents.runtime import Agent
from executors import kinds
from mesh import codec
from mesh.bus import Stored
from mesh.errors import Conflict, NotFound, Retry
from mesh.messages.base import derived_id
from mesh.messages.commands import Refuse, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from mesh.messages.topics import Topic
from planner import encoders, plans

WRITER = "planner"
"""Commands carry the role's name, not the incarnation's: two planners that plan one topic put the same command."""

GRAPH_TRIES = 5
"""Lost compare-and-sets on the graph before the input goes back with a delay; more means that something is wrong."""

GRAPH_PAGE = 1_000
"""Graph records read at once."""

NODES_MAX = 100_000
"""A graph beyond this is read no further: placing needs it in memory."""


class Planner:
    """The handlers of one planner agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.broker
        self._subjects = agent.subjects

    async def run(self) -> None:
        """Handle topics and ended profiles until the agent stops."""
        subjects = self._subjects
        topics = handle(
            self._agent,
            self._agent.stream("TOPICS"),
            subjects.topics(),
            subjects.durable("planner-topics"),
            (Topic,),
            self.on_topic,
        )
        self._agent.spawn(topics, "topics")
        await handle(
            self._agent,
            self._agent.stream("RESULTS"),
            subjects.results("*", TaskEnded.kind),
            subjects.durable("planner-profiles"),
            (TaskEnded,),
            self.on_task_ended,
        )

    async def on_topic(self, topic: Topic, _: Stored) -> None:
        """A topic becomes a profile task, or is refused with a sentence."""
        nodes, _revisions = await self._graph() if topic.data is None else ({}, {})
        source = plans.source_of(topic, nodes)
        await self._command(source if isinstance(source, Refuse) else plans.profile_submit(topic, source))

    async def on_task_ended(self, ended: TaskEnded, _: Stored) -> None:
        """A profile becomes the plan of its topic, or, with an encoder, first the vectors of its splits; any other task
        is none of the planner's business."""
        stage = ended.task.executor
        if stage not in ("profile", encoders.KIND) or ended.task.id != derived_id(ended.topic, stage):
            return
        if ended.state is TaskState.SUCCEEDED and ended.outcome is not None:
            await self._go_on(ended.topic, ended.task, ended.outcome)
        elif ended.state is TaskState.PARKED:
            await self._command(plans.refusal_of(ended.topic, ended.reason))

    async def _go_on(self, id_: str, task: TaskSpec, outcome: Outcome) -> None:
        """The next command of a topic after its profile, or after its vectors."""
        topic = await self._topic(id_)
        if task.executor == encoders.KIND:
            profiled, found = encoders.carried(task)
            return await self._plan(topic, profiled, found, outcome.outputs)
        profile = plans.profile_of(outcome) if topic.encoder is not None else None
        if profile is None or encoders.why_not(profile):  # without an encoder, or refused by the plan with a sentence
            return await self._plan(topic, task, outcome, {})
        needs = kinds.needs_of(encoders.KIND, {}, encoders.with_encoder(outcome.facts, topic.encoder))
        await self._command(encoders.submit(topic, task, outcome, needs))

    async def _plan(self, topic: Topic, task: TaskSpec, outcome: Outcome, vectors: Mapping[str, str]) -> None:
        """Write the graph, then submit: whoever sees the plan finds its node. task: the profile, outcome: its own."""
        for _ in range(GRAPH_TRIES):
            nodes, revisions = await self._graph()
            source = plans.profiled_source(topic, task)
            champion, revision = await self._champion(plans.specialization_id(topic, outcome))
            plan = plans.plan(topic, source, outcome, nodes, champion, revision, kinds.needs_of, vectors)
            if isinstance(plan, Refuse):
                return await self._command(plan)
            if await self._write(plan.placement.changed, revisions):
                self._agent.log.info("topic %s: %s", topic.id, plan.placement.why)
                return await self._command(plan.submit)
        raise Retry(f"the graph changed {GRAPH_TRIES} times while {topic.id} was placed")

    async def _topic(self, id_: str) -> Topic:
        stored = await self._log.last(self._agent.stream("TOPICS"), self._subjects.topic(id_))
        if stored is None:
            raise NotFound(f"the topic {id_} is no longer stored, so its profile leads to no plan: publish it again")
        return codec.decode(stored.data, Topic)

    async def _graph(self) -> tuple[dict[str, Specialization], dict[str, int]]:
        """All nodes by id, and the sequence of each node's newest record."""
        nodes: dict[str, Specialization] = {}
        revisions: dict[str, int] = {}
        from_seq = 1
        while len(nodes) < NODES_MAX:
            page = await self._log.read(
                self._subjects.bucket("graph"),
                self._subjects.keys("graph"),
                from_seq=from_seq,
                messages_max=GRAPH_PAGE,
            )
            for stored in page:
                id_ = stored.subject.rpartition(".")[2]
                revisions[id_] = stored.seq
                nodes.pop(id_, None)
                if stored.data:  # an erased key has an empty last record
                    nodes[id_] = codec.decode(stored.data, Specialization)
            if len(page) < GRAPH_PAGE:
                break
            from_seq = page[-1].seq + 1
        return nodes, revisions

    async def _write(self, nodes: tuple[Specialization, ...], revisions: Mapping[str, int]) -> bool:
        """Write each node if it is still as it was read; False when somebody else wrote first."""
        for node in nodes:
            subject = self._subjects.key("graph", node.id)
            try:
                await self._log.append(subject, codec.encode(node), subject_seq=revisions.get(node.id, 0))
            except Conflict:
                return False
        return True

    async def _champion(self, specialization: str) -> tuple[Champion | None, int]:
        if not specialization:
            return None, 0
        subject = self._subjects.key("champions", specialization)
        stored = await self._log.last(self._subjects.bucket("champions"), subject)
        return (codec.decode(stored.data, Champion), stored.seq) if stored is not None else (None, 0)

    async def _command(self, command: Submit | Refuse) -> None:
        """Put a command; that it is there already means that it was handled before."""
        id_ = command.id if isinstance(command, Submit) else derived_id(command.topic, "refused")
        subject = self._subjects.command(WRITER, command.kind, id_)
        try:
            await self._log.append(subject, codec.encode(command), subject_seq=0)
        except Conflict:
            self._agent.log.debug("%s is stored already", subject)
        else:
            self._agent.log.info("%s", subject)


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    await Planner(agent).run()
