"""Feeder: keeps the queue filled with topics of the specializations where more training is expected to help most.

    every sleep_s:  read what is new ── ask the leader how long the queue is ── choose ── publish a burst of topics

In:    topics (TOPICS), verdicts and ended topics (RESULTS), the graph (KV), the leader's counts
Out:   topics (TOPICS, put if absent under ids derived from the topic before)
Keeps: what it has read, to read on from there; after a restart it reads again from the start
Loses: nothing: what was fed stands in TOPICS, so a budget is not spent twice
Not:   decides nothing itself (planner/feeding.py); feeds nothing while nobody leads: an unknown queue counts as full
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agents import records
from agents.runtime import Agent
from mesh import codec
from mesh.bus import Stored
from mesh.errors import BusUnavailable, Malformed, NotFound, Retry
from mesh.graph_bucket import GraphBucket
from mesh.messages.base import Record
from mesh.messages.judgement import Verdict
from mesh.messages.results import TopicSettled, TopicTurnedDown
from mesh.messages.services import Ask, Problem, Status
from mesh.messages.tasks import TaskState
from mesh.messages.topics import Topic
from mesh.packed import split
from planner import feeding
from planner.fed import LINES, Known

PAGE = 500
"""Messages read at once."""

TOPICS_MAX = 50_000
"""Topics and verdicts that are held; beyond it the oldest are forgotten."""

ANSWER_S = 3.0
ROWS_MAX = 1_000
"""Open tasks that the leader is asked for: with as many, the queue is full for any wish."""


class Feeder:
    """The loop of one feeder agent."""

    def __init__(self, agent: Agent, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._agent = agent
        self._log = agent.broker
        self._subjects = agent.subjects
        self._graph = GraphBucket(agent.broker, agent.subjects)
        self._settings = agent.settings.feeder
        self._wall_ms = wall_ms
        self._known = Known()
        self._read_to: dict[str, int] = {}
        """Last sequence that was read of each subject."""
        self._last_seq: dict[str, int] = {}
        """The highest that was seen of each stream."""
        self._told = ""

    async def run(self) -> None:
        """Feed until the agent stops; a broker or leader that is away costs a turn."""
        while not self._agent.stopping.is_set():
            try:
                await self.turn()
            except (BusUnavailable, NotFound, Retry) as error:
                self._tell(f"nothing is fed: {error}")
            await self._agent.pause(self._settings.sleep_s)

    async def turn(self) -> list[Topic]:
        """Look once and feed what is due; what was published."""
        queued = await self._queued()
        nodes = (await self._graph.read()).nodes
        now_ms = self._wall_ms()
        wishes = feeding.Wishes(
            min_queue=self._settings.min_queue,
            burst=self._settings.burst,
            budget_s_per_day=self._settings.day_budget_s,
            round_s=LINES * self._settings.round_budget_s,
        )
        meal = feeding.meal(self._known.arms(nodes, now_ms), wishes, queued, self._known.spent_s(now_ms))
        self._tell(meal.why)
        fed = []
        for food in meal.food:
            topic = self._known.next_topic(
                nodes[food.node],
                budget_s=self._settings.round_budget_s,
                priority=self._settings.priority,
                now_ms=now_ms,
            )
            if await self._publish(topic):
                self._agent.log.info("fed %s as %s: %s", food.node, topic.id, food.why)
                fed.append(topic)
        return fed

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _queued(self) -> int:
        """Tasks that wait for a worker, and topics of ours without tasks. BusUnavailable when nobody leads."""
        await self._read()
        deadline_ms = int((time.time() + ANSWER_S) * 1_000)
        question = Ask(what="tasks", open_only=True, rows_max=ROWS_MAX, deadline_ms=deadline_ms)
        subject = self._subjects.ask("scheduler", self._log.name)
        answer = await self._log.request(subject, codec.encode(question), timeout_s=ANSWER_S)
        status: Record = codec.decode(answer.data, Status, Problem)
        if not isinstance(status, Status):
            raise BusUnavailable("the scheduler did not say how long its queue is")
        waiting = sum(status.counts.get(state.value, 0) for state in (TaskState.READY, TaskState.WAITING))
        return waiting + self._known.unplanned(self._planned | {row.topic for row in status.tasks})

    async def _read(self) -> None:
        """What is new in the streams since the last turn; all of it when one of them came back older."""
        topics, results = self._agent.stream("TOPICS"), self._agent.stream("RESULTS")
        for stream in (topics, results):
            if (await self._log.state(stream)).last_seq < self._last_seq.get(stream, 0):
                self._known, self._read_to, self._last_seq = Known(), {}, {}
        for stored in await self._new(topics, self._subjects.topics()):
            if isinstance(topic := _decoded(stored, Topic), Topic):
                self._known.topics[topic.id] = topic
        for kind in (Verdict, TopicSettled, TopicTurnedDown):
            for stored in await self._new(results, self._subjects.results("*", kind.kind)):
                self._hear(_decoded(stored, kind))
        _forget(self._known.topics)
        _forget(self._known.verdicts)

    def _hear(self, record: Record | None) -> None:
        if isinstance(record, Verdict):
            self._known.verdicts[record.id] = record
        elif isinstance(record, TopicSettled | TopicTurnedDown):
            self._known.over.add(record.topic)

    @property
    def _planned(self) -> set[str]:
        """Topics of which something has come of: they have, or had, tasks."""
        return {verdict.topic for verdict in self._known.verdicts.values()}

    async def _new(self, stream: str, subject: str) -> list[Stored]:
        """Messages of a subject that were not read yet."""
        from_seq = self._read_to.get(subject, 0) + 1
        found: list[Stored] = []
        while True:
            page = await self._log.read(stream, subject, from_seq=from_seq, messages_max=PAGE)
            found += [one for stored in page for one in split(stored)]
            if page:
                self._read_to[subject] = page[-1].seq
                self._last_seq[stream] = max(self._last_seq.get(stream, 0), page[-1].seq)
                from_seq = page[-1].seq + 1
            if len(page) < PAGE:
                return found

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _publish(self, topic: Topic) -> bool:
        """Put the topic; False when another feeder has put it before."""
        if not await records.put_once(self._agent, self._subjects.topic(topic.id), topic):
            return False
        self._known.topics[topic.id] = topic
        self._agent.metrics.count("mesh_fed_topics_total")
        return True

    def _tell(self, why: str) -> None:
        """Say why nothing, or so much, is fed; not again while it stays the same."""
        if why != self._told:
            self._told = why
            self._agent.log.info("%s", why)


def _decoded(stored: Stored, kind: type[Record]) -> Record | None:
    """The record, None for an erased key or what this program can not read."""
    if not stored.data:
        return None
    try:
        return codec.decode(stored.data, kind)
    except Malformed:
        return None


def _forget(held: dict[str, Topic] | dict[str, Verdict]) -> None:
    """Keep the newest."""
    while len(held) > TOPICS_MAX:
        held.pop(next(iter(held)))


async def body(agent: Agent) -> None:
    """The role's life, for agents.runtime.run."""
    await Feeder(agent).run()
