"""Topics over HTTP: publish one, see what became of it, read the records and verdicts of it and of all.

    enqueue ── node, model and data looked up ── topic, put if absent ── TOPICS

A caller who did not hear the answer sends the same request with the same Idempotency-Key again: the topic's id follows
from the key and the caller's name, so that it is published once.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Literal

import msgspec
from aiohttp import web

from agents.commands import known_models
from agents.commands.stored import records
from agents.gateway_bodies import (
    Enqueue,
    Enqueued,
    Result,
    Results,
    ResultsQuery,
    TopicDocument,
    Verdicts,
    VerdictsQuery,
)
from agents.gateway_events import WHOLE, events_of, place_of
from agents.gateway_network import reach_of
from agents.gateway_problems import refuse
from agents.gateway_routes import JSON, Call, Part, Route
from agents.gateway_tokens import PUBLISHERS, READERS
from agents.runtime import Agent
from executors.datasets.look import BUILTINS
from mesh import codec, traced
from mesh.errors import Conflict, DataRefused, ModelRefused, NotFound, TaskRefused
from mesh.graph_bucket import GraphBucket
from mesh.messages.base import DIGEST
from mesh.messages.judgement import Audit, Verdict
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.results import Planned, TopicSettled, TopicTurnedDown
from mesh.messages.topics import DataRef, Topic
from planner import changes
from planner.graph import slug

BUILTIN = "builtin:"

KEY_CHARS_MAX = 200
"""Of an Idempotency-Key."""


class Topics(Part):
    """What a publisher and his readers ask."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._reach = reach_of(agent)
        self._graph = GraphBucket(agent.broker, agent.subjects)

    def routes(self) -> tuple[Route, ...]:
        """Publishing, and reading in pages."""
        key = {"Idempotency-Key": "Sent again with the same key, the topic is published once"}
        return (
            Route(
                "POST", "/api/v1/network/training/enqueue", self.enqueue, summary="Publish a topic",
                body=Enqueue, answer=Enqueued, roles=PUBLISHERS, status=201, statuses=(200, 404, 409), headers=key,
                about="200 with the same answer when it was published before under the same Idempotency-Key.",
            ),
            Route(
                "GET", "/api/v1/topics/{topic}", self.topic, summary="A topic, and what became of it",
                answer=TopicDocument, roles=READERS,
            ),
            Route(
                "GET", "/api/v1/topics/{topic}/results", self.results, summary="A topic's records, in pages",
                query=ResultsQuery, answer=Results, roles=READERS,
            ),
            Route(
                "GET", "/api/v1/results", self.results, summary="All records, in pages",
                query=ResultsQuery, answer=Results, roles=READERS,
            ),
            Route(
                "GET", "/api/v1/verdicts/{topic}", self.verdicts, summary="What the gate decided about a topic",
                query=VerdictsQuery, answer=Verdicts, roles=READERS,
            ),
            Route(
                "GET", "/api/v1/verdicts", self.verdicts, summary="What the gate decided",
                query=VerdictsQuery, answer=Verdicts, roles=READERS,
            ),
        )  # fmt: skip

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def enqueue(self, call: Call) -> web.Response:
        """Publish, once."""
        asked = call.body(Enqueue)
        text = asked.topic or await self._name_of(asked.node_id)
        if asked.topic is not None and asked.node_id is not None:
            await self._name_of(asked.node_id)
        topic = await self._topic(call, asked, text)
        new = True
        try:
            data = codec.encode(traced.stamped(topic))
            await self.agent.broker.append(self.agent.subjects.topic(topic.id), data, subject_seq=0)
        except Conflict:
            new = False
            await self._check_same(topic)
        where = f"/api/v1/topics/{topic.id}"
        body = msgspec.json.encode(Enqueued(topic=topic.id, events=f"{where}/events", new=new))
        return web.Response(status=201 if new else 200, body=body, content_type=JSON, headers={"Location": where})

    async def _name_of(self, node: str | None) -> str:
        """Name of a node that lives. NotFound, SettingsInvalid for one that does not."""
        if node is None:
            raise refuse("invalid", "expected a topic (a sentence), a node_id, or both; got neither.")
        return changes.live((await self._graph.read()).nodes, node).name

    async def _topic(self, call: Call, asked: Enqueue, text: str) -> Topic:
        base = await self._base(asked.base)
        return Topic(
            id=f"{slug(text)}-{_tail(call)}",
            text=text.strip(),
            data=await self._data(asked),
            text_column=asked.text_column,
            label_column=asked.label_column,
            task=asked.task,
            node=asked.node_id,
            kpis=asked.kpis,
            budget_s=asked.budget_s,
            priority=asked.priority,
            independent=asked.independent,
            on_disconnect=asked.on_disconnect,
            wait_s=asked.wait_s,
            publisher=f"{call.identity.name}@gateway",
            published_at_ms=int(time.time() * 1_000),
            base=base,
            encoder=await self._encoder(asked.encoder),
            branches=asked.branches,
        )

    async def _data(self, asked: Enqueue) -> DataRef | None:
        """Where the data are: built in, or an artifact that the mesh has. DataRefused, ArtifactMissing."""
        source = asked.data
        if source is None:
            return None
        if source.startswith(BUILTIN):
            name = source.removeprefix(BUILTIN)
            if name not in BUILTINS:
                known = ", ".join(BUILTIN + one for one in BUILTINS)
                raise DataRefused(f"there is no built-in dataset {source!r}; the built-ins are {known}.")
            return DataRef(source=source, name=name)
        if not DIGEST.match(source):
            raise DataRefused(f"data is the digest of a stored artifact or builtin:NAME, got {source!r}.")
        manifest = await self.agent.store().manifest(source)
        named = asked.data_name or manifest.facts.get("name") or manifest.files[0].path
        return DataRef(source=source, name=str(named), size_bytes=manifest.size_bytes)

    async def _base(self, name: str | None) -> BaseModel | None:
        if name is None:
            return None
        found = await known_models.base_of(self._reach, name)
        await known_models.check_there(self._reach, found.model)
        return found

    async def _encoder(self, name: str | None) -> DataRef | None:
        if name is None:
            return None
        found = await known_models.base_of(self._reach, name)
        if found.format is not ModelFormat.TRANSFORMERS:
            raise ModelRefused(f"an encoder is a transformers model, and {name!r} is a {found.format.value}.")
        await known_models.check_there(self._reach, found.model)
        return DataRef(source=found.model, name=name, size_bytes=found.size_bytes)

    async def _check_same(self, topic: Topic) -> None:
        """Conflict when the key was used for another topic."""
        known = await self._published(topic.id)
        if known.evolve(published_at_ms=0, trace="") != topic.evolve(published_at_ms=0, trace=""):
            raise Conflict(f"the Idempotency-Key was used before, for the topic {topic.id!r} with other options.")

    # -- reading ------------------------------------------------------------------------------------------------------

    async def topic(self, call: Call) -> TopicDocument:
        """As it was published, and its last word."""
        topic = await self._published(call.path["topic"])
        state: Literal["published", "planned", "settled", "turned down"] = "published"
        why = specialization = champion = ""
        results = self.agent.stream("RESULTS")
        for one in await records(self._reach, results, self.agent.subjects.results(topic.id, Planned.kind), Planned):
            state, specialization = "planned", one.specialization or specialization
        refused = self.agent.subjects.results(topic.id, TopicTurnedDown.kind)
        for no in await records(self._reach, results, refused, TopicTurnedDown):
            state, why = "turned down", no.reason
        over = self.agent.subjects.results(topic.id, TopicSettled.kind)
        for end in await records(self._reach, results, over, TopicSettled):
            state, why = "settled", end.why
            specialization = end.specialization or specialization
            champion = str(end.facts.get("champion") or "")
        return TopicDocument(topic=topic, state=state, why=why, specialization=specialization, champion=champion)

    async def results(self, call: Call) -> Results:
        """Some records behind a cursor, in the order of the stream; those of one message come together."""
        asked = call.query(ResultsQuery)
        if topic := call.path.get("topic", ""):
            await self._published(topic)
        after = place_of(asked.after) or (0, WHOLE)
        subject = self.agent.subjects.results(topic or "*", asked.kind or "*")
        page = await self.agent.broker.read(
            self.agent.stream("RESULTS"), subject, from_seq=max(1, after[0] + (after[1] == WHOLE)),
            messages_max=asked.rows,
        )  # fmt: skip
        found = [event for stored in page for event in events_of(stored) if event.place > after]
        rows = tuple(Result(id=one.id, topic=one.topic, record=one.kind, data=msgspec.Raw(one.data)) for one in found)
        cursor = str(page[-1].seq) if page else asked.after
        return Results(results=rows, after=cursor, more=len(page) == asked.rows)

    async def verdicts(self, call: Call) -> Verdicts:
        """All that is kept, oldest first."""
        asked = call.query(VerdictsQuery)
        if topic := call.path.get("topic", ""):
            await self._published(topic)
        results, subjects = self.agent.stream("RESULTS"), self.agent.subjects
        found = await records(self._reach, results, subjects.results(topic or "*", Verdict.kind), Verdict)
        if asked.specialization:
            found = [one for one in found if one.specialization == asked.specialization]
        looks = await records(self._reach, results, subjects.results(topic or "*", Audit.kind), Audit)
        ids = {one.id for one in found}
        return Verdicts(verdicts=tuple(found), audits=tuple(one for one in looks if one.verdict in ids))

    async def _published(self, topic: str) -> Topic:
        stored = await self.agent.broker.last(self.agent.stream("TOPICS"), self.agent.subjects.topic(topic))
        if stored is None:
            raise NotFound(f"no topic {topic!r} was published to this mesh.")
        return codec.decode(stored.data, Topic)


def _tail(call: Call) -> str:
    """The part of a topic's id that makes it this publication's own."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return secrets.token_hex(4)
    if not key.strip() or len(key) > KEY_CHARS_MAX:
        raise TaskRefused(f"an Idempotency-Key has 1 to {KEY_CHARS_MAX} characters, got {len(key)}.")
    return hashlib.sha256(f"{call.identity.name}\n{key}".encode()).hexdigest()[:16]
