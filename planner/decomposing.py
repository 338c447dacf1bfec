"""A topic without data: whose data it can use, or else which nodes are near and which specializations it would need.

    text ──> the named node's data, or that of the same text ─────────────────────────────> used
         └─> the nearest node with data, when it is clearly the one ──────────────────────> used, and it is said
         └─> its parts ("A, B and C"), each by the nearest field ──> nodes in the state `proposed`, and a refusal
             that names what is near with its scores

A guess about data is a promise of results, so it is only made when one node is near (CLEAR) and no other one is (AHEAD
times as near as the next). Everything else is told to the publisher, and the graph keeps what would be needed: a later
topic of that text with data takes its proposal's place (`planner/graph.py`).

Promises: pure and repeatable: the same topic on the resulting graph proposes nothing new. Proposals are bounded per
topic and in all; what people retired is not proposed again.
Not covered: understanding the sentence. Parts are what stands between commas and "and".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from mesh.messages.topics import Topic
from planner import graph, placing
from planner.advice import Advised
from planner.placing import Near

CLEAR = 0.45
"""Least score with which another node's data are used unasked: most of the words are the same."""

AHEAD = 1.5
"""And so many times as near as the next node with other data."""

PARTS_MAX = 6
"""Parts of a sentence that are looked at."""

PROPOSED_PER_TOPIC = 5
"""Proposals that one topic may leave."""

PROPOSED_MAX = 200
"""Open proposals in one graph: what people can look through."""

PART_CHARS_MAX = 200
"""A part's name."""

_BETWEEN = re.compile(r"[,;،؛:.!?؟()\n]+|\s+(?:and|or|und|et|y|as well as|ثم|او|أو)\s+|\s+و(?=ال)", re.IGNORECASE)
"""What parts a sentence: punctuation, "and" and "or", the Arabic "and" before an article."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decomposed:
    """What the graph says to a topic without data."""

    uses: Specialization | None
    """The node whose data it uses; None where none is clear."""
    why: str
    near: tuple[Near, ...] = ()
    """Nodes nearest to the whole text, best first."""
    proposed: tuple[Specialization, ...] = ()
    """Nodes to write; empty where data are used, or nothing is near."""

    @property
    def parent(self) -> str:
        """The field that the whole text is nearest to: where more would be proposed."""
        return self.near[0].id if self.near and self.near[0].score >= placing.NEAR else ROOT


def decompose(nodes: Mapping[str, Specialization], topic: Topic, advised: Sequence[Advised] = ()) -> Decomposed:
    """Whose data the topic uses, or what it would need. advised: an endpoint's, checked by planner/advice.py."""
    exact = graph.data_for(nodes, topic)
    if exact is not None:
        return Decomposed(exact, f"the data of {exact.id}")
    with_data = {node.id: node for node in nodes.values() if node.data and _is_used(node)}
    if topic.node is not None:
        with_data = {id_: node for id_, node in with_data.items() if topic.node in graph.path(nodes, id_)}
    places = placing.Places((node for node in nodes.values() if _is_used(node)), nodes)
    ranked = places.nearest(topic.text, limit=max(1, len(nodes)))
    clear = _clear([one for one in ranked if one.id in with_data])
    if clear is not None:
        return Decomposed(
            with_data[clear.id], f"the data of {clear.id}, the nearest with {clear.score:.2f}", ranked[:5]
        )
    fields = tuple(one for one in ranked if not nodes[one.id].task)[: placing.NEAR_LIMIT]
    proposed = _proposed(nodes, topic, places, advised)
    return Decomposed(None, _said(nodes, topic, ranked[:3], with_data), fields, proposed)


def _is_used(node: Specialization) -> bool:
    return node.state in (NodeState.SEED, NodeState.ACTIVE)


def _clear(ranked: Sequence[Near]) -> Near | None:
    """The first, when it is near enough and far enough ahead."""
    if not ranked or ranked[0].score < CLEAR:
        return None
    return ranked[0] if len(ranked) == 1 or ranked[0].score >= AHEAD * ranked[1].score else None


def _said(
    nodes: Mapping[str, Specialization], topic: Topic, near: Sequence[Near], with_data: Mapping[str, Specialization]
) -> str:
    """What is near, with scores, and which of it has data."""
    if not near:
        return "no node of the graph shares a word with it"
    told = [f"{one.id} ({one.score:.2f}{', with data' if one.id in with_data else ''})" for one in near]
    return f"the nearest nodes are {', '.join(told)}, and none with data is clearly meant"


# -- proposals --------------------------------------------------------------------------------------------------------


def parts(text: str) -> list[str]:
    """The parts of a sentence that say something, as they are written; at most PARTS_MAX."""
    found = [" ".join(part.split()) for part in _BETWEEN.split(text)]
    return [part[:PART_CHARS_MAX] for part in found if placing.words(part)][:PARTS_MAX]


def _proposed(
    nodes: Mapping[str, Specialization], topic: Topic, places: placing.Places, advised: Sequence[Advised]
) -> tuple[Specialization, ...]:
    """What is missing: each part below its field, then what was advised. Bounded, and only what was never there."""
    open_ones = [node for node in nodes.values() if node.state is NodeState.PROPOSED]
    room = min(PROPOSED_PER_TOPIC - sum(topic.id in node.topics for node in open_ones), PROPOSED_MAX - len(open_ones))
    made: dict[str, Specialization] = {}
    for node in (*_of_parts(nodes, topic, places), *_of_advice(nodes, topic, advised)):
        if len(made) < room and node.id not in nodes and not _is_called(nodes, node):
            made.setdefault(node.id, node)
    return tuple(made.values())


def _of_parts(nodes: Mapping[str, Specialization], topic: Topic, places: placing.Places) -> Iterable[Specialization]:
    found = parts(topic.text)
    for part in found if len(found) > 1 else [topic.text.strip()[:PART_CHARS_MAX]]:
        near = places.nearest(part)
        field = next((one for one in near if one.score >= placing.NEAR and not nodes[one.id].task), None)
        if field is not None and set(placing.words(part)) - placing.words_of([nodes[field.id]]):
            why = f"topic {topic.id} asks for it and has no data; under {field.id}, the nearest ({field.score:.2f})"
            yield _proposal(topic, graph.node_id(part, "", ""), part, field.id, why)


def _of_advice(
    nodes: Mapping[str, Specialization], topic: Topic, advised: Sequence[Advised]
) -> Iterable[Specialization]:
    for one in advised:
        if one.parent in nodes and not nodes[one.parent].is_over:
            why = f"an endpoint proposed it for topic {topic.id}, which has no data: {one.why}"
            yield _proposal(topic, one.id, one.name, one.parent, why).evolve(names=one.names, keywords=one.keywords)


def _proposal(topic: Topic, id_: str, name: str, parent: str, why: str) -> Specialization:
    return Specialization(
        id=id_, name=name, parent=parent, topics=(topic.id,), why=why, state=NodeState.PROPOSED,
        event=NodeEvent.PROPOSED, by=topic.id, reason=why,
    )  # fmt: skip


def _is_called(nodes: Mapping[str, Specialization], wanted: Specialization) -> bool:
    """Does a node of that name stand below the same field, in whatever state?"""
    name = graph.normalised(wanted.name)
    return any(
        node.parent == wanted.parent and name in map(graph.normalised, placing.names_of(node))
        for node in nodes.values()
    )


def refusal(topic: Topic, found: Decomposed, have: Sequence[str]) -> str:
    """The sentences with which a topic is refused: what is near, what was proposed, what to do. have: ids with data."""
    known = f" (these have: {', '.join(have[:5])}{' …' if len(have) > 5 else ''})" if have else ""
    where = f"the node {topic.node!r} has none" if topic.node else "no node of the same text has some"
    new = ", ".join(f"{node.id} under {node.parent}" for node in found.proposed)
    proposed = f" Proposed in the graph: {new}." if new else ""
    return (
        f"The topic {topic.id} was published without data, and {where}; {found.why}.{proposed} Publish it with --data "
        f"FILE, or under a node that has data with --specialization NODE{known}."
    )
