"""What a planner is asked: what would the two lines of this topic try, and why?

    think ──> topic, its plan, the graph, champions, the past ──> the mind (planner/thinking.py) ──> thought

Any planner may answer, so a queue group shares the questions. Nothing is decided and nothing is written: a lost
question or answer costs the asker a repetition. A question that can not be answered gets a sentence.
"""

from __future__ import annotations

from agents.planner_books import Books
from agents.planner_past import Reader
from agents.runtime import Agent
from mesh import codec, limits
from mesh.bus import Message
from mesh.errors import BusUnavailable, Malformed, NotFound, Reject, Retry
from mesh.messages.base import NAME, Record
from mesh.messages.judgement import Champion
from mesh.messages.results import Planned
from mesh.messages.services import Problem, Think, Thought
from mesh.messages.topics import Topic
from planner import thinking
from planner.thinking import Known

QUEUE = "planner"


class Thinker:
    """Answers for one planner agent."""

    def __init__(self, agent: Agent, books: Books, past: Reader) -> None:
        self._agent, self._books, self._past = agent, books, past

    async def serve(self) -> None:
        """Be there for questions until the agent's connection closes."""
        await self._agent.serve("think", self._agent.subjects.asked("planner"), self.on_question, queue=QUEUE)

    async def on_question(self, message: Message) -> None:
        """Answer one question."""
        subjects = self._agent.subjects
        if not subjects.may_answer(message.reply, subjects.asker(message.subject)):
            return
        found: Record
        try:
            found = await self.thought(codec.decode(message.data, Think))
        except (Malformed, NotFound, Reject, Retry, ValueError) as error:
            found = Problem(reason=str(error)[: limits.TEXT_CHARS_MAX])
        try:
            await self._agent.broker.publish(message.reply, codec.encode(found))
        except BusUnavailable:
            return  # the asker has a deadline of its own

    async def thought(self, question: Think) -> Thought:
        """The answer. NotFound for a kind that no line trains."""
        nodes, _ = await self._books.graph()
        topic = await self._topic(question.about)
        plan = await self._plan(topic.id) if topic is not None else None
        subject = thinking.subject_of(question, nodes, topic, plan.specialization if plan is not None else "")
        node = subject.node
        below = [one.id for one in nodes.values() if node is not None and one.parent == node.id]
        champion, _revision = await self._books.champion(node.id if node is not None else "")
        known = Known(
            nodes=nodes,
            topic=topic,
            plan=plan,
            last_plan=await self._plan(node.topics[-1]) if node is not None and node.topics else None,
            champion=champion,
            champions=await self._champions(below[: thinking.BRANCHES_MAX]),
            past=await self._past.past(node.id if node is not None else "", nodes, topic),
        )
        return thinking.answer(question, subject, known)

    async def _topic(self, about: str) -> Topic | None:
        """The topic of that id; None when there is none."""
        if len(about) > limits.NAME_CHARS_MAX or not NAME.match(about):
            return None
        try:
            return await self._books.topic(about)
        except NotFound:
            return None

    async def _plan(self, topic: str) -> Planned | None:
        """The plan of a topic's lines; None while there is none."""
        records = await self._books.records(topic)
        plans = (one for one in records if isinstance(one, Planned))
        return next((one for one in plans if "baseline" in one.facts), None)

    async def _champions(self, nodes: list[str]) -> dict[str, Champion]:
        found = {}
        for node in nodes:
            champion, _ = await self._books.champion(node)
            if champion is not None:
                found[node] = champion
        return found
