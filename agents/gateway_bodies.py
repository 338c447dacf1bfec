"""What is sent to the gateway and what it answers, as JSON: one struct each, from which the OpenAPI document is made.

Bodies are decoded strictly: a field that is not here, or of another type, is refused with its name. Where an answer is
a record of the mesh (mesh/messages/), it is the same as what `bin/agent … --json` prints.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mesh import limits
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Audit, Champion, Verdict
from mesh.messages.models import PushedModel
from mesh.messages.tasks import OnDisconnect
from mesh.messages.topics import Independent, Kpi, Topic

Text = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_CHARS_MAX, pattern=r"\S")]
Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Word = Annotated[str, Meta(min_length=1, max_length=200)]
Budget = Annotated[float, Meta(ge=1, le=30 * 86_400)]
Priority = Annotated[int, Meta(ge=0, le=9)]
Branches = Annotated[int, Meta(ge=1, le=limits.BRANCHES_MAX)]
Cursor = Annotated[str, Meta(max_length=40, pattern=r"^[0-9]{1,18}(\.[0-9]{1,6})?$")]

PAGE_ROWS_MAX = 1_000
"""Most results in one answer."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a caller sends."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway answers."""


# -- the graph --------------------------------------------------------------------------------------------------------


class GraphNode(Specialization, frozen=True, kw_only=True):
    """A node of the graph, with its champion."""

    champion: Champion | None = None


class GraphDocument(Answer, frozen=True, kw_only=True):
    """Every node, as `bin/agent graph --json` prints them."""

    nodes: tuple[GraphNode, ...]


class Expand(Body, frozen=True, kw_only=True):
    """A new node of the graph."""

    parent: Name
    """Id of the node below which it stands."""
    name: Word
    why: Text
    """The reason, which the graph's history tells."""
    id: Name | None = None
    """Else it follows from the name."""
    keywords: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    names: Annotated[dict[str, Word], Meta(max_length=16)] = {}
    """Its name in other languages, by language code."""


class Expanded(Answer, frozen=True, kw_only=True):
    """What the change came to."""

    sentence: str
    changed: tuple[Specialization, ...]
    """Nodes that were written; none when all was so already."""


# -- topics -----------------------------------------------------------------------------------------------------------


class Enqueue(Body, frozen=True, kw_only=True):
    """A topic to train specialists for, as `bin/agent publish` puts one. `topic`, `node_id` or both are needed."""

    topic: Text | None = None
    """A sentence; left out, it is the name of the node."""
    node_id: Name | None = None
    """Node of the graph under which it is put by hand."""
    priority: Priority = 5
    """0 (last) to 9 (first)."""
    data: Annotated[str, Meta(max_length=100)] | None = None
    """The digest of a stored artifact, or `builtin:digits`, `builtin:python-docs`."""
    data_name: Word | None = None
    """Name of the data's file, whose suffix says its format; else as the artifact says it."""
    text_column: Word | None = None
    label_column: Word | None = None
    task: Name | None = None
    """Executor kind that trains; else it is inferred from the data."""
    base: Word | None = None
    """Model of the mesh from which the evolver starts: a name or digest."""
    encoder: Word | None = None
    """Pushed model by which the lines read texts: a name or digest."""
    kpis: Annotated[tuple[Kpi, ...], Meta(max_length=32)] = ()
    """More conditions of the gate: each a metric with its minimum or its maximum."""
    budget_s: Budget = 180.0
    """Training seconds for each line."""
    branches: Branches | None = None
    """Branches that become specialists of their own: null lets the data decide, 1 keeps the topic whole."""
    independent: Independent = Independent.PREFER
    on_disconnect: OnDisconnect = OnDisconnect.REPLACE
    wait_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 600.0


class Enqueued(Answer, frozen=True, kw_only=True):
    """A topic was published."""

    topic: str
    """Its id."""
    events: str
    """Where to follow it: a stream of server-sent events."""
    new: bool = True
    """False when it had been published before, under the same Idempotency-Key."""


class TopicDocument(Answer, frozen=True, kw_only=True):
    """A topic, and what became of it."""

    topic: Topic
    state: Literal["published", "planned", "settled", "turned down"]
    why: str = ""
    """Of a topic that is over."""
    specialization: str = ""
    champion: str = ""
    """Digest of the model that stands for it in the end, '' without one."""


class ResultsQuery(Body, frozen=True, kw_only=True):
    """Which results."""

    after: Cursor = "0"
    """The cursor of the page before, or the id of an event; 0: from the first that is kept."""
    kind: Literal[
        "planned", "turned-down", "settled", "task-moved", "task-ended", "recommendation", "verdict", "audit", ""
    ] = ""  # fmt: skip
    """Only records of this kind."""
    rows: Annotated[int, Meta(ge=1, le=PAGE_ROWS_MAX)] = 100
    """Most messages in one answer."""


class Result(Answer, frozen=True, kw_only=True):
    """One record of the result stream."""

    id: str
    """Its place in the stream, as in the events."""
    topic: str
    record: str
    """Its kind."""
    data: msgspec.Raw
    """The record itself, with its kind as `record`: what an event carries."""


class Results(Answer, frozen=True, kw_only=True):
    """Some records in the order of the stream."""

    results: tuple[Result, ...]
    after: str
    """Cursor of the next page."""
    more: bool
    """Is there more now?"""


class VerdictsQuery(Body, frozen=True, kw_only=True):
    """Which verdicts."""

    specialization: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    """Only those about this node."""


class Verdicts(Answer, frozen=True, kw_only=True):
    """What the gate decided, oldest first, and what the audit split said afterwards."""

    verdicts: tuple[Verdict, ...]
    audits: tuple[Audit, ...]


class Models(Answer, frozen=True, kw_only=True):
    """Champions by specialization, and what people pushed, as `bin/agent models --json` prints them."""

    models: tuple[Champion, ...]
    pushed: tuple[PushedModel, ...]


# -- thinking ---------------------------------------------------------------------------------------------------------


class ThinkDual(Body, frozen=True, kw_only=True):
    """What would the two lines of a topic try? Nothing is published."""

    topic: Text
    """A topic's id, a node's id, or the text of a topic that nobody has published yet."""
    budget_s: Budget = 180.0
    """Per line, for what is not published yet."""
    task: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    """Executor kind, where nothing is known of the data."""
    modality: Literal["", "text", "tabular", "corpus", "encoder"] = ""
    """Form of the data, where nothing is known of it."""


# -- events -----------------------------------------------------------------------------------------------------------


class EventsQuery(Body, frozen=True, kw_only=True):
    """From where, and until when."""

    after: Cursor | None = None
    """Id of the last event that was seen; the header Last-Event-ID goes before it. 0: from the first that is kept."""


class TopicEventsQuery(EventsQuery, frozen=True, kw_only=True):
    """From where, and until when; without `after` from the topic's first event on."""

    until_settled: bool = False
    """End the stream after the topic's last event (`settled` or `turned-down`), in place of waiting on."""
