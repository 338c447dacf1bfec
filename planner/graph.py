"""The graph of specializations: names of nodes, where a topic belongs, and why the graph grew.

A specialization is found again by what it is, not by who asked: its id is a readable slug and six hex digits of the
SHA-256 of (normalised text, task kind, label set). So the same sentence over the same labels continues the same
champion, while another label set is another specialization.

    root ─┬─ handwritten-digits-3fa1c2                           nothing is near: under the root
          └─ … statistics ── stats-bayesian ─┬─ coins-77b0e1     nearest by its text and its data's words
                                             └─ priors-90ab12    named by a person

Promises: placing is a pure function of the topic, the profile and the nodes read; placing the same topic again changes
nothing; every node that is made says why; no placement makes a circle. A node that a person named wins always; what
stands somewhere already stays there.
Not here: what nearness is (`planner/placing.py`), what people and branches change (`planner/changes.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from mesh.messages.topics import DataRef, Topic
from planner import placing
from planner.placing import Near
from planner.profile import Profile

__all__ = [
    "ROOT", "Placement", "Source", "data_for", "faults", "identity", "is_same", "node_id", "normalised", "path",
    "place", "place_branch", "slug", "with_data",
]  # fmt: skip

SLUG_CHARS_MAX = 48
"""Readable part of an id: with its digits and a task's suffix it stays far below the limit for names."""

TOPICS_PER_NODE_MAX = 20
"""Topics remembered by a node, newest last; older ones stand in the streams."""

KEYWORDS_PER_NODE_MAX = 12
"""Keywords remembered by a node."""

_LETTERS = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i",
    "α": "a", "β": "v", "γ": "g", "δ": "d", "ε": "e", "ζ": "z", "η": "i", "θ": "th", "ι": "i", "κ": "k", "λ": "l",
    "μ": "m", "ν": "n", "ξ": "x", "ο": "o", "π": "p", "ρ": "r", "σ": "s", "ς": "s", "τ": "t", "υ": "y", "φ": "f",
    "χ": "ch", "ψ": "ps", "ω": "o",
    "а": "a", "б": "b", "в": "v", "г": "g", "д": "d", "е": "e", "ж": "zh", "з": "z", "и": "i", "к": "k", "л": "l",
    "м": "m", "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t", "у": "u", "ф": "f", "х": "kh", "ц": "ts",
    "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ы": "y", "ь": "", "э": "e", "ю": "yu", "я": "ya", "є": "ye", "і": "i",
}  # fmt: skip
"""Letters that Unicode does not take apart into an ASCII letter and marks: Latin, Greek and Cyrillic, lower case."""


def slug(text: str) -> str:
    """A readable token of a-z, 0-9 and '-' for any text: transliterated where possible, else 'topic'."""
    letters = "".join(_LETTERS.get(letter, letter) for letter in _apart(text))
    words = re.findall(r"[a-z0-9]+", letters)
    kept = ""
    for word in words:
        longer = f"{kept}-{word}" if kept else word[:SLUG_CHARS_MAX]
        if len(longer) > SLUG_CHARS_MAX:
            break
        kept = longer
    return kept or "topic"


def _apart(text: str) -> str:
    """Lower case, accents dropped, apostrophes closed up: "Œuvre d'été" becomes "œuvre dete"."""
    decomposed = unicodedata.normalize("NFKD", text.replace("'", "").replace("’", "").lower()).lower()
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def normalised(text: str) -> str:
    """What two people mean when they type the same sentence: case, spacing and closing punctuation do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .!?;:,")


def node_id(text: str, task: str, label_digest: str) -> str:
    """Id of the specialization for this text, task kind and label set."""
    identity = "\x00".join((normalised(text), task, label_digest))
    return f"{slug(text)}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The data that a topic works on, and how its columns are read."""

    data: DataRef
    text_column: str | None
    label_column: str | None


def identity(topic: Topic, profile: Profile) -> str:
    """Id of the specialization that a topic trains: a branch's topic names its node, any other describes it."""
    if topic.parent and topic.node is not None:
        return topic.node
    return node_id(topic.text, profile.task, profile.label_digest)


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where a topic belongs: its node, and what has to be written for that, parents first."""

    node: Specialization
    changed: tuple[Specialization, ...]
    """New or different nodes, parents before children; empty when the graph says it all already."""
    why: str
    placed: tuple[tuple[str, float], ...] = ()
    """The nodes nearest to the topic with their scores, best first; empty where nobody had to look."""


def place(nodes: Mapping[str, Specialization], topic: Topic, source: Source, profile: Profile) -> Placement:
    """Put `topic` under the node that a person named, else where its specialization stands, else under the nearest.

    nodes: the graph as read, by id. The answer rests on nothing else, so a lost compare-and-set is repaired by reading
    again and placing again.
    """
    if topic.parent:
        return place_branch(nodes, topic, source, profile)
    id_ = identity(topic, profile)
    known = nodes.get(id_)
    parent, why, near = _parent(nodes, id_, known, topic, profile)
    node = _touched(known, id_, parent, why, topic, source, profile)
    wanted = [*_above(nodes, parent, topic), node, *_taken_up(nodes, topic, node)]
    return Placement(node, _changed(nodes, wanted), why, tuple((one.id, one.score) for one in near))


def place_branch(nodes: Mapping[str, Specialization], topic: Topic, source: Source, profile: Profile) -> Placement:
    """The topic of a branch belongs to the node that it names, wherever that stands."""
    id_ = identity(topic, profile)
    known = nodes.get(id_)
    parent = known.parent if known is not None and known.parent in nodes else ROOT
    why = f"under {parent}: a branch that the topic {topic.parent} showed"
    node = _touched(known, id_, parent, why, topic, source, profile)
    wanted = [*_above(nodes, parent, topic), node]
    return Placement(node, _changed(nodes, wanted), why)


def _parent(
    nodes: Mapping[str, Specialization], id_: str, known: Specialization | None, topic: Topic, profile: Profile
) -> tuple[str, str, tuple[Near, ...]]:
    """(parent's id, why, what is near)."""
    named = topic.node
    if named is not None and named != id_:
        if known is not None and id_ in path(nodes, named):
            stays = known.parent or ROOT
            return stays, f"stays under {stays}: {named} lies below {id_} itself", ()
        return named, f"under {named}: named by a person", ()
    if known is not None and known.parent and known.parent in nodes and not nodes[known.parent].is_over:
        return known.parent, f"{id_} stands under {known.parent} already", ()
    proposal = _proposal(nodes, topic)
    if proposal is not None:
        return proposal.parent, f"under {proposal.parent}: {proposal.id} was proposed there", ()
    return _nearest(nodes, id_, topic, profile)


def _nearest(
    nodes: Mapping[str, Specialization], id_: str, topic: Topic, profile: Profile
) -> tuple[str, str, tuple[Near, ...]]:
    """The nearest node that groups others, or the parent of a specialization that is nearer still."""
    own = id_ in nodes  # what lies below it can not hold it
    holders = (one for one in nodes.values() if _may_hold(one) and not (own and id_ in path(nodes, one.id)))
    places = placing.Places(holders, nodes)
    near = places.nearest(topic.text, profile.keywords if profile.modality != "tabular" else ())
    found = placing.place(near, lambda one: bool(nodes[one].task))
    said = ", ".join(f"{one.id} {one.score:.2f}" for one in near[:3])
    if found is None:
        return ROOT, f"under the root: nothing is near ({said or 'no node shares a word with it'})", near
    if not nodes[found.id].task:
        return found.id, f"under {found.id}: the nearest ({said})", near
    parent = nodes[found.id].parent or ROOT
    return parent, f"under {parent}, beside {found.id}, the nearest ({said})", near


def _may_hold(node: Specialization) -> bool:
    """May something be placed by this node? Branches are their topic's own affair, proposals hold nothing yet."""
    return node.state in (NodeState.SEED, NodeState.ACTIVE)


def _touched(
    known: Specialization | None,
    id_: str,
    parent: str,
    why: str,
    topic: Topic,
    source: Source,
    profile: Profile,
) -> Specialization:
    """The topic's node with this topic's data and facts; its first reason stays."""
    first = f"topic {topic.id} asked for it; {why}"
    before = known if known is not None else Specialization(id=id_, name=topic.text.strip(), why=first)
    topics = before.topics if topic.id in before.topics else (*before.topics, topic.id)
    event = NodeEvent.EXPANDED if known is None else NodeEvent.REVIVED if known.is_over else NodeEvent.DATA
    if known is not None and known.parent != parent and not known.is_over:
        event = NodeEvent.MOVED
    return before.evolve(
        parent=parent,
        task=profile.task,
        labels=profile.labels,
        keywords=before.keywords or profile.keywords[:KEYWORDS_PER_NODE_MAX],
        topics=topics[-TOPICS_PER_NODE_MAX:],
        examples=profile.examples,
        data=source.data.source,
        data_name=source.data.name,
        text_column=source.text_column,
        label_column=source.label_column,
        why=before.why or first,
        state=NodeState.HYPOTHESIS if before.state is NodeState.HYPOTHESIS else NodeState.ACTIVE,
        event=event,
        by=topic.id,
        reason=why,
        into="",
    )


def _changed(nodes: Mapping[str, Specialization], wanted: Iterable[Specialization]) -> tuple[Specialization, ...]:
    """Those that the graph does not say already. Their time is that of their writing: a mind has no clock."""
    return tuple(one.evolve(changed_at_ms=0) for one in wanted if not is_same(nodes.get(one.id), one))


def is_same(before: Specialization | None, after: Specialization) -> bool:
    """Does the graph say it already? What made a value so (event, by, when, why) is no difference."""
    if before is None:
        return False
    return before.evolve(event="", by="", reason="", changed_at_ms=0) == after.evolve(
        event="", by="", reason="", changed_at_ms=0
    )


def _above(nodes: Mapping[str, Specialization], parent: str, topic: Topic) -> list[Specialization]:
    """The root and a named parent where they do not exist yet; a named one that was given up lives again."""
    made = []
    if ROOT not in nodes:
        made.append(Specialization(id=ROOT, name="everything", why="the graph begins here"))
    known = nodes.get(parent)
    if known is None and parent != ROOT:
        made.append(Specialization(id=parent, name=parent, parent=ROOT, why="named by a person"))
    made = [one.evolve(event=NodeEvent.EXPANDED, by=topic.id, reason=one.why) for one in made]
    if known is None:
        return made
    if not _may_hold(known) and known.state is not NodeState.HYPOTHESIS:
        alive = next((up for up in reversed(path(nodes, parent)[:-1]) if not nodes[up].is_over), ROOT)
        made.append(
            known.evolve(
                parent=alive, state=NodeState.ACTIVE, event=NodeEvent.REVIVED, by=topic.id, into="",
                reason=f"topic {topic.id} was published under it",
            )
        )  # fmt: skip
    return made


def _proposal(nodes: Mapping[str, Specialization], topic: Topic) -> Specialization | None:
    """What was proposed for a topic of the same text when it had no data."""
    wanted = normalised(topic.text)
    same = (node for node in nodes.values() if node.state is NodeState.PROPOSED and normalised(node.name) == wanted)
    return min(same, key=lambda node: node.id, default=None)


def _taken_up(nodes: Mapping[str, Specialization], topic: Topic, node: Specialization) -> list[Specialization]:
    """The proposal that has come true with this node: it is history now."""
    proposal = _proposal(nodes, topic)
    if proposal is None or proposal.id == node.id or proposal.id == node.parent:
        return []
    reason = f"topic {topic.id} came with data"
    return [proposal.evolve(state=NodeState.MERGED, into=node.id, event=NodeEvent.MERGED, by=topic.id, reason=reason)]


def path(nodes: Mapping[str, Specialization], id_: str) -> tuple[str, ...]:
    """Ids from the root down to `id_`; stops where a parent is unknown or comes a second time."""
    up: list[str] = []
    while id_ in nodes and id_ not in up:
        up.append(id_)
        id_ = nodes[id_].parent
    return tuple(reversed(up))


def faults(nodes: Mapping[str, Specialization]) -> list[str]:
    """What is wrong with a graph, in sentences: unknown parents, circles, several roots, life below what is given up.
    Empty when it is a tree."""
    found = []
    for id_, node in sorted(nodes.items()):
        if not node.parent:
            if id_ != ROOT:
                found.append(f"{id_} has no parent, and only {ROOT} may have none")
        elif node.parent not in nodes:
            found.append(f"{id_} names the parent {node.parent}, which does not exist")
        elif nodes[path(nodes, id_)[0]].parent:
            found.append(f"{id_} does not hang on the root: its parents form a circle or end nowhere")
        elif not node.is_over and nodes[node.parent].is_over:
            found.append(f"{id_} lives, and its parent {node.parent} is {nodes[node.parent].state.value}")
    return found


def data_for(nodes: Mapping[str, Specialization], topic: Topic) -> Specialization | None:
    """The node whose data a topic without data of its own uses.

    The named node's own data; else that of the only node below it that has some; without a name, the newest data of a
    node of the same normalised text. None when there is none, or more than one could be meant.
    """
    if topic.node is not None:
        named = nodes.get(topic.node)
        if named is not None and named.data:
            return named
        below = [node for node in nodes.values() if node.parent == topic.node and node.data and not node.is_over]
    else:
        wanted = normalised(topic.text)
        below = [node for node in nodes.values() if node.data and not node.is_over and normalised(node.name) == wanted]
    return below[0] if len(below) == 1 else None


def with_data(nodes: Iterable[Specialization]) -> Sequence[str]:
    """Ids of the nodes that have data, in order: what a refusal can suggest."""
    return sorted(node.id for node in nodes if node.data and not node.is_over)
