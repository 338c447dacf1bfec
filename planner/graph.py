"""The graph of specializations: names of nodes, where a topic belongs, and why the graph grew.

A specialization is found again by what it is, not by who asked: its id is a readable slug and six hex digits of the
SHA-256 of (normalised text, task kind, label set). So the same sentence over the same labels continues the same
champion, while another label set is another specialization.

    root ─┬─ handwritten-digits-3fa1c2           placed under the root
          └─ stats-bayesian ── coins-77b0e1      a node that a person named, made when it was not there

Promises: placing is a pure function of the topic, the profile and the nodes read; placing the same topic again changes
nothing; every node that is made says why; no placement makes a circle.
Not here: discovering sub-domains, branching and nearness by text or data. Nodes come from topics and people only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mesh.messages.graph import Specialization
from mesh.messages.topics import DataRef, Topic
from planner.profile import Profile

ROOT = "root"
"""Id of the node above all others."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where a topic belongs: its node, and what has to be written for that, parents first."""

    node: Specialization
    changed: tuple[Specialization, ...]
    """New or different nodes, the topic's own last; empty when the graph says it all already."""
    why: str


def place(nodes: Mapping[str, Specialization], topic: Topic, source: Source, profile: Profile) -> Placement:
    """Put `topic` under the node that a person named, else where its specialization stands, else under the root.

    nodes: the graph as read, by id. The answer rests on nothing else, so a lost compare-and-set is repaired by reading
    again and placing again.
    """
    id_ = node_id(topic.text, profile.task, profile.label_digest)
    known = nodes.get(id_)
    parent, why = _parent(nodes, id_, known, topic.node)
    node = _touched(known, id_, parent, why, topic, source, profile)
    wanted = [*_missing_above(nodes, parent), node]
    return Placement(node, tuple(one for one in wanted if nodes.get(one.id) != one), why)


def _parent(
    nodes: Mapping[str, Specialization], id_: str, known: Specialization | None, named: str | None
) -> tuple[str, str]:
    """(parent's id, why)."""
    if named is None or named == id_:
        if known is not None and known.parent:
            return known.parent, f"{id_} stands under {known.parent} already"
        return ROOT, "under the root: no node was named"
    if known is not None and id_ in path(nodes, named):
        stays = known.parent or ROOT
        return stays, f"stays under {stays}: {named} lies below {id_} itself"
    return named, f"under {named}: named by a person"


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
    before = () if known is None else known.topics
    topics = before if topic.id in before else (*before, topic.id)
    return Specialization(
        id=id_,
        name=known.name if known is not None else topic.text.strip(),
        parent=parent,
        task=profile.task,
        labels=profile.labels,
        keywords=profile.keywords[:KEYWORDS_PER_NODE_MAX],
        topics=topics[-TOPICS_PER_NODE_MAX:],
        examples=profile.examples,
        data=source.data.source,
        data_name=source.data.name,
        text_column=source.text_column,
        label_column=source.label_column,
        why=known.why if known is not None and known.why else f"topic {topic.id} asked for it; {why}",
    )


def _missing_above(nodes: Mapping[str, Specialization], parent: str) -> list[Specialization]:
    """The root and a named parent where they do not exist yet."""
    made = []
    if ROOT not in nodes:
        made.append(Specialization(id=ROOT, name="everything", why="the graph begins here"))
    if parent != ROOT and parent not in nodes:
        made.append(Specialization(id=parent, name=parent, parent=ROOT, why="named by a person"))
    return made


def path(nodes: Mapping[str, Specialization], id_: str) -> tuple[str, ...]:
    """Ids from the root down to `id_`; stops where a parent is unknown or comes a second time."""
    up: list[str] = []
    while id_ in nodes and id_ not in up:
        up.append(id_)
        id_ = nodes[id_].parent
    return tuple(reversed(up))


def faults(nodes: Mapping[str, Specialization]) -> list[str]:
    """What is wrong with a graph, in sentences: unknown parents, circles, several roots. Empty when it is a tree."""
    found = []
    for id_, node in sorted(nodes.items()):
        if not node.parent:
            if id_ != ROOT:
                found.append(f"{id_} has no parent, and only {ROOT} may have none")
        elif node.parent not in nodes:
            found.append(f"{id_} names the parent {node.parent}, which does not exist")
        elif nodes[path(nodes, id_)[0]].parent:
            found.append(f"{id_} does not hang on the root: its parents form a circle or end nowhere")
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
        below = [node for node in nodes.values() if node.parent == topic.node and node.data]
    else:
        wanted = normalised(topic.text)
        below = [node for node in nodes.values() if node.data and normalised(node.name) == wanted]
    return below[0] if len(below) == 1 else None


def with_data(nodes: Iterable[Specialization]) -> Sequence[str]:
    """Ids of the nodes that have data, in order: what a refusal can suggest."""
    return sorted(node.id for node in nodes if node.data)
