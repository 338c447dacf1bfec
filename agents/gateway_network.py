"""The mesh as a whole: its status, its graph, what a planner thinks. Every answer is another agent's.

What many ask at once is asked of the mesh once: an answer, or why there is none, serves all who come within a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from agents.commands import known_models
from agents.commands.asking import answer_of
from agents.commands.asking import ask as ask_leader
from agents.commands.reach import Reach
from agents.commands.stored import bucket
from agents.gateway_bodies import Expand, Expanded, GraphDocument, GraphNode, Models, ThinkDual
from agents.gateway_routes import Call, Part, Route
from agents.gateway_tokens import OPERATORS, PUBLISHERS, READERS
from agents.runtime import Agent, now_s
from mesh.errors import BusUnavailable, RamifyError
from mesh.graph_bucket import GraphBucket
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.services import Status, Think, Thought
from planner import changes

T = TypeVar("T")

STATUS_KEEP_S = 0.25
"""How old a status may be: the leader answers each gateway four times a second at most."""

GRAPH_KEEP_S = 1.0
"""Likewise for the graph and the models, which are read as a whole."""

THINK_S = 9.0
"""Patience with a planner: within the deadline of a request."""


class Shared(Generic[T]):
    """One answer for all who ask within `keep_s`, and one question at a time."""

    def __init__(self, keep_s: float, read: Callable[[], Awaitable[T]], clock: Callable[[], float] = now_s) -> None:
        self._keep_s, self._read, self._clock = keep_s, read, clock
        self._lock = asyncio.Lock()
        self._got: tuple[float, T | RamifyError] | None = None

    async def get(self) -> T:
        """The answer; whatever the reading raised, to all who waited for it."""
        async with self._lock:
            if self._got is None or self._clock() - self._got[0] >= self._keep_s:
                found: T | RamifyError
                try:
                    found = await self._read()
                except RamifyError as error:
                    found = error
                self._got = self._clock(), found
            _, known = self._got
        if isinstance(known, RamifyError):
            raise known
        return known

    def forget(self) -> None:
        """The next one asks anew."""
        self._got = None


def reach_of(agent: Agent) -> Reach:
    """This agent's connection, as commands use one: the gateway is a door like the command line."""
    return Reach(agent.settings, agent.broker, agent.subjects)


class Network(Part):
    """Status, graph, models and thoughts."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._reach = reach_of(agent)
        self._graph = GraphBucket(agent.broker, agent.subjects)
        self._status = Shared(STATUS_KEEP_S, self._read_status)
        self._nodes = Shared(GRAPH_KEEP_S, self._read_graph)
        self._models = Shared(GRAPH_KEEP_S, lambda: known_models.known(self._reach))

    def routes(self) -> tuple[Route, ...]:
        """As in the design's list."""
        return (
            Route(
                "GET", "/api/v1/network/status", self.status, summary="The leader's view of the mesh",
                answer=Status, roles=READERS,
            ),
            Route(
                "GET", "/api/v1/network/graph", self.graph, summary="The specializations, with their champions",
                answer=GraphDocument, roles=READERS,
            ),
            Route(
                "POST", "/api/v1/network/graph/expand", self.expand, summary="Put a new node below another one",
                body=Expand, answer=Expanded, roles=OPERATORS, statuses=(404,),
                about="By the same rules, and against the same graph, as `bin/agent graph expand`. Asked twice, it "
                "changes nothing the second time.",
            ),
            Route(
                "POST", "/api/v1/network/think/dual", self.think, summary="What the two lines of a topic would try",
                body=ThinkDual, answer=Thought, roles=PUBLISHERS, statuses=(404,),
                about="A planner answers, as it answers `bin/agent think`; nothing is published.",
            ),
            Route(
                "GET", "/api/v1/models", self.models, summary="Champions and pushed models", answer=Models,
                roles=READERS,
            ),
        )  # fmt: skip

    async def status(self, _: Call) -> Status:
        """One question to the leader for all who ask now."""
        return await self._status.get()

    async def _read_status(self) -> Status:
        try:
            return await ask_leader(self._reach, "status")
        except BusUnavailable:  # its own words name the broker, which is none of a caller's business
            raise BusUnavailable("no scheduler of this mesh answers now: try again soon.") from None

    async def graph(self, _: Call) -> GraphDocument:
        """All nodes, each with its champion."""
        return await self._nodes.get()

    async def _read_graph(self) -> GraphDocument:
        nodes = await bucket(self._reach, "graph", Specialization)
        champions = await bucket(self._reach, "champions", Champion)
        rows = (GraphNode(**msgspec.structs.asdict(nodes[id_]), champion=champions.get(id_)) for id_ in sorted(nodes))
        return GraphDocument(nodes=tuple(rows))

    async def models(self, _: Call) -> Models:
        """By name."""
        known = await self._models.get()
        return Models(
            models=tuple(known.champions[id_] for id_ in sorted(known.champions)),
            pushed=tuple(known.pushed[name] for name in sorted(known.pushed)),
        )

    async def expand(self, call: Call) -> Expanded:
        """By compare-and-set, through the same mind as the command line."""
        asked = call.body(Expand)
        done = await self._graph.change(
            lambda graph: changes.expanded(
                graph.nodes, asked.parent, asked.name, by=f"{call.identity.name}@gateway", why=asked.why,
                id_=asked.id or "", keywords=asked.keywords, names=asked.names, taken=graph.taken,
            ),
            lambda: int(time.time() * 1_000),
        )  # fmt: skip
        self._nodes.forget()
        return Expanded(sentence=done.sentence, changed=tuple(done.nodes))

    async def think(self, call: Call) -> Thought:
        """A planner's answer."""
        asked = call.body(ThinkDual)
        question = Think(about=asked.topic, budget_s=asked.budget_s, task=asked.task, modality=asked.modality)
        try:
            return await answer_of(self._reach, "planner", question, Thought, timeout_s=THINK_S)
        except BusUnavailable:
            raise BusUnavailable("no planner of this mesh answers now: try again soon.") from None
