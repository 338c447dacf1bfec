"""What may be done to the graph: each change as the values to write, with who, what and why; else a refusal.

    seeded      the seeds that were never there                expanded    a node made by a person
    merged      a node into another, with all below it         retired     a node is given up, with all below it if said
    moved       another parent                                 renamed     another name, other keywords
    imported    a graph from a file                            merged_back branches that brought nothing

Decisions rest on the nodes that are given, so a lost compare-and-set is repaired by reading and deciding again. What is
done already is done: such a change has no values. The values stand in an order in which every beginning leaves a tree,
because a writer may be interrupted between any two.

Nothing is ever removed. A merged or retired node keeps its record, its champion and its history, and can be revived by
making it again under the same id.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from mesh import limits
from mesh.errors import NotFound, SettingsInvalid
from mesh.messages.base import check_name
from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from planner import graph, seeds

NAME_CHARS_MAX = 200
"""A node's name: a line in the drawn tree."""

KEYWORD_CHARS_MAX, KEYWORDS_MAX = 80, 48
"""One keyword, and those of one node: two languages with two dozen each."""

DEPTH_MAX = 32
"""Levels below the root: nobody reads a deeper tree, and drawing stops here."""

CHILDREN_MAX = 1_000
"""Live nodes directly below one node."""

Nodes = Mapping[str, Specialization]


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """Values of nodes to write in this order, and what they mean in a sentence."""

    nodes: tuple[Specialization, ...]
    sentence: str


def applied(nodes: Nodes, change: Change) -> dict[str, Specialization]:
    """The graph after a change."""
    return {**nodes, **{node.id: node for node in change.nodes}}


# -- the seeds --------------------------------------------------------------------------------------------------------


def seeded(nodes: Nodes, taken: Collection[str] = ()) -> Change:
    """The seeds that have no record yet. taken: ids that once were used: what people erased stays erased.

    A seed whose parent is gone, retired or merged is left out: whoever gave up a field gave up what belongs to it.
    """
    there = dict(nodes)
    made = []
    for node in seeds.nodes():
        parent = there.get(node.parent)
        if node.id in there or node.id in taken or (node.parent and (parent is None or parent.is_over)):
            continue
        there[node.id] = node.evolve(reason=node.why)
        made.append(there[node.id])
    return Change(tuple(made), f"{len(made)} seeds are written" if made else "the seeds are there")


# -- by a person ------------------------------------------------------------------------------------------------------


def expanded(
    nodes: Nodes,
    parent: str,
    name: str,
    *,
    by: str,
    why: str,
    id_: str = "",
    keywords: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    taken: Collection[str] = (),
) -> Change:
    """A new node below `parent`. Without an id it gets one from its name. A retired or merged one is revived."""
    above = live(nodes, parent)
    name = _name(name)
    why = _why(why)
    id_ = _id(id_) if id_ else free_id(nodes, name, above.id, taken)
    if id_ in taken and id_ not in nodes:
        raise SettingsInvalid(f"the id {id_!r} was used before and its record is gone: give another with --id.")
    known = nodes.get(id_)
    if known is not None and not known.is_over:
        if known.parent == above.id and graph.normalised(known.name) == graph.normalised(name):
            return Change((), f"{id_} stands below {above.id} already")
        raise SettingsInvalid(
            f"the id {id_!r} belongs to {known.name!r} below {known.parent or 'nothing'}: give another with --id."
        )
    _check_room(nodes, above.id)
    before = known if known is not None else Specialization(id=id_, name=name, why=why)
    made = before.evolve(
        name=name,
        parent=above.id,
        names={**before.names, **_names(names or {})},
        keywords=_keywords(keywords) or before.keywords,
        state=NodeState.ACTIVE,
        event=NodeEvent.EXPANDED if known is None else NodeEvent.REVIVED,
        by=by,
        reason=why,
        into="",
        changed_at_ms=0,
    )
    again = "" if known is None else " again"
    return Change((made,), f"{id_} stands below {above.id}{again}")


def merged(nodes: Nodes, id_: str, into: str = "", *, by: str, why: str) -> Change:
    """`id_` becomes part of `into` (else of its parent), which takes its words and what lives below it."""
    node = changeable(nodes, id_)
    if node.state is NodeState.MERGED:
        return Change((), f"{id_} is merged into {node.into or node.parent} already")
    target = live(nodes, into or node.parent)
    if target.id == id_ or id_ in graph.path(nodes, target.id):
        raise SettingsInvalid(f"{id_} can not be merged into {target.id}, which lies below it: name another node.")
    _check_depth(nodes, id_, target.id, own=0)
    reason = _why(why)
    words = dict.fromkeys((*target.keywords, *(() if target.id == ROOT else (node.name, *node.keywords))))
    fuller = _changed(target, NodeEvent.MERGED, by, f"took in {id_}: {reason}", keywords=tuple(words)[:KEYWORDS_MAX])
    moved_up = [
        _changed(child, NodeEvent.MOVED, by, f"{id_} is merged into {target.id}: {reason}", parent=target.id)
        for child in children(nodes, id_)
    ]
    gone = _changed(node, NodeEvent.MERGED, by, reason, state=NodeState.MERGED, into=target.id)
    changed = [fuller] if fuller.keywords != target.keywords else []
    below = f" with {len(moved_up)} below it" if moved_up else ""
    return Change((*changed, *moved_up, gone), f"{id_} is merged into {target.id}{below}")


def retired(nodes: Nodes, id_: str, *, by: str, why: str, below: bool = False) -> Change:
    """`id_` is given up. below: with all that lives below it, deepest first; else that is a refusal."""
    node = changeable(nodes, id_)
    if node.state is NodeState.RETIRED:
        return Change((), f"{id_} is retired already")
    alive = descendants(nodes, id_)
    if alive and not below:
        some = ", ".join(child.id for child in alive[:3]) + (" …" if len(alive) > 3 else "")
        raise SettingsInvalid(
            f"{id_} has {len(alive)} nodes below it ({some}): retire them with it (--below), or merge it instead."
        )
    reason = _why(why)
    gone = [_changed(one, NodeEvent.RETIRED, by, reason, state=NodeState.RETIRED) for one in (*reversed(alive), node)]
    more = f" with {len(alive)} below it" if alive else ""
    return Change(tuple(gone), f"{id_} is retired{more}")


def moved(nodes: Nodes, id_: str, parent: str, *, by: str, why: str) -> Change:
    """`id_` and all below it hang below `parent` from now on."""
    node, above = changeable(nodes, id_), live(nodes, parent)
    if node.is_over:
        raise SettingsInvalid(f"{id_} is {node.state.value}: it hangs nowhere that could be changed.")
    if node.parent == above.id:
        return Change((), f"{id_} stands below {above.id} already")
    if id_ in graph.path(nodes, above.id):
        raise SettingsInvalid(f"{id_} can not move below {above.id}, which lies below it: name another node.")
    _check_depth(nodes, id_, above.id, own=1)
    _check_room(nodes, above.id, deeper=False)
    changed = _changed(node, NodeEvent.MOVED, by, _why(why), parent=above.id)
    return Change((changed,), f"{id_} stands below {above.id} now")


def renamed(
    nodes: Nodes,
    id_: str,
    name: str = "",
    *,
    by: str,
    why: str,
    keywords: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Change:
    """Another name, names in other languages, or keywords; the id stays, champions and plans rest on it."""
    node = changeable(nodes, id_)
    other = node.evolve(
        name=_name(name) if name else node.name,
        names={**node.names, **_names(names or {})},
        keywords=_keywords(keywords) or node.keywords,
    )
    if other == node:
        return Change((), f"{id_} is called so already")
    return Change((_changed(other, NodeEvent.RENAMED, by, _why(why)),), f"{id_} is called {other.name!r} now")


def imported(nodes: Nodes, wanted: Sequence[Specialization], *, by: str, why: str) -> Change:
    """Each of `wanted` stands as it is said there; nodes that are not named stay as they are.

    The result is checked as a whole before anything is written. SettingsInvalid with the first faults of it.
    """
    twice = [id_ for id_, count in collections.Counter(node.id for node in wanted).items() if count > 1]
    if twice:
        raise SettingsInvalid(f"a node stands once in a graph, and {twice[0]} stands there more often.")
    different = {node.id: node for node in wanted if not graph.is_same(nodes.get(node.id), node)}
    result = {**nodes, **different}
    before = set(graph.faults(nodes))
    wrong = [fault for fault in graph.faults(result) if fault not in before]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise SettingsInvalid(f"with these nodes the graph would be no tree: {wrong[0]}{more}.")
    deep = [id_ for id_ in different if len(graph.path(result, id_)) > DEPTH_MAX + 1]
    if deep:
        raise SettingsInvalid(f"{deep[0]} would lie more than {DEPTH_MAX} levels deep.")
    made = [_changed(node, NodeEvent.IMPORTED, by, _why(why)) for node in _in_order(nodes, result, different)]
    new = sum(node.id not in nodes for node in made)
    if not made:
        return Change((), "the graph says it all already")
    return Change(tuple(made), f"{new} nodes are new and {len(made) - new} are changed")


def _in_order(nodes: Nodes, result: Nodes, different: Nodes) -> list[Specialization]:
    """What lives first, parents before their children; then what is over: new records likewise, and what lives until
    now deepest first, so that nothing lives below what is over at any moment."""
    alive = sorted((id_ for id_, node in different.items() if not node.is_over), key=lambda id_: _depth(result, id_))
    over = [id_ for id_, node in different.items() if node.is_over]
    fresh = sorted((id_ for id_ in over if id_ not in nodes), key=lambda id_: _depth(result, id_))
    before = sorted((id_ for id_ in over if id_ in nodes), key=lambda id_: _depth(nodes, id_), reverse=True)
    return [different[id_] for id_ in (*alive, *fresh, *before)]


def _depth(nodes: Nodes, id_: str) -> int:
    return len(graph.path(nodes, id_))


# -- by data ----------------------------------------------------------------------------------------------------------


def merged_back(nodes: Nodes, ids: Iterable[str], *, by: str, why: str) -> Change:
    """Branches that brought nothing: each is merged into its parent, with what lives below it, deepest first."""
    wanted = [nodes[id_] for id_ in ids if id_ in nodes and not nodes[id_].is_over]
    gone = dict.fromkeys(one.id for node in wanted for one in (*reversed(descendants(nodes, node.id)), node))
    made = [
        _changed(nodes[id_], NodeEvent.MERGED, by, why, state=NodeState.MERGED, into=nodes[id_].parent) for id_ in gone
    ]
    return Change(tuple(made), f"{len(made)} branches are merged back: {why}")


# -- what is there ----------------------------------------------------------------------------------------------------


def found(nodes: Nodes, id_: str) -> Specialization:
    """A node by its id; NotFound with the nearest ids."""
    node = nodes.get(id_)
    if node is None:
        near = difflib.get_close_matches(id_, list(nodes), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`bin/agent graph` lists them."
        raise NotFound(f"the graph has no node {id_[:96]!r}; {hint}")
    return node


def live(nodes: Nodes, id_: str) -> Specialization:
    """A node that something may hang below. NotFound, or SettingsInvalid when it is history or only a proposal."""
    node = found(nodes, id_)
    if node.is_over:
        where = f" into {node.into}" if node.into else ""
        raise SettingsInvalid(f"{id_} is {node.state.value}{where}: name a node that lives, or expand it again first.")
    return node


def changeable(nodes: Nodes, id_: str) -> Specialization:
    """A node that may be merged, retired, moved, renamed: any but the root."""
    node = found(nodes, id_)
    if not node.parent:
        raise SettingsInvalid(f"{id_} is the node above all others: it stays as it is.")
    return node


def children(nodes: Nodes, id_: str) -> list[Specialization]:
    """What lives directly below a node, in the order of ids."""
    return [node for _, node in sorted(nodes.items()) if node.parent == id_ and node.id != id_ and not node.is_over]


def descendants(nodes: Nodes, id_: str) -> list[Specialization]:
    """What lives anywhere below a node, parents first. A circle is walked once."""
    by_parent: dict[str, list[Specialization]] = {}
    for _, node in sorted(nodes.items()):
        if not node.is_over:
            by_parent.setdefault(node.parent, []).append(node)
    seen: dict[str, Specialization] = {}
    layer = by_parent.get(id_, [])
    while layer:
        fresh = [node for node in layer if node.id not in seen and node.id != id_]
        seen.update((node.id, node) for node in fresh)
        layer = [child for node in fresh for child in by_parent.get(node.id, [])]
    return list(seen.values())


def _check_depth(nodes: Nodes, id_: str, above: str, own: int) -> None:
    """own: 1 where `id_` itself moves below `above`, 0 where only what is below it does."""
    here = len(graph.path(nodes, id_))
    height = max((len(graph.path(nodes, one.id)) - here for one in descendants(nodes, id_)), default=0)
    depth = len(graph.path(nodes, above)) - 1 + height + own
    if depth > DEPTH_MAX:
        raise SettingsInvalid(f"the tree would be {depth} levels deep below {above}, and {DEPTH_MAX} are allowed.")


def free_id(nodes: Nodes, name: str, parent: str, taken: Collection[str] = ()) -> str:
    """An id for a node of this name below this parent; the same for the same name and parent."""
    plain = graph.slug(name)
    known = nodes.get(plain)
    is_ours = known is not None and known.parent == parent and graph.normalised(known.name) == graph.normalised(name)
    if plain != "topic" and plain not in taken and (known is None or is_ours):
        return plain
    digits = hashlib.sha256(f"{graph.normalised(name)}\x00{parent}".encode()).hexdigest()[:6]
    return f"{plain}-{digits}"


def _check_room(nodes: Nodes, parent: str, *, deeper: bool = True) -> None:
    if deeper and len(graph.path(nodes, parent)) > DEPTH_MAX:
        raise SettingsInvalid(f"{parent} lies {DEPTH_MAX} levels deep, the most that is allowed: choose one above it.")
    if len(children(nodes, parent)) >= CHILDREN_MAX:
        raise SettingsInvalid(f"{parent} has {CHILDREN_MAX:,} nodes below it, the most that is allowed: group some.")


def _changed(node: Specialization, event: NodeEvent, by: str, reason: str, **fields: object) -> Specialization:
    """The next value of a node. Its time is that of its writing: a mind has no clock."""
    return node.evolve(**fields, event=event, by=by, reason=reason[: limits.TEXT_CHARS_MAX], changed_at_ms=0)


# -- what people write ------------------------------------------------------------------------------------------------


def _id(text: str) -> str:
    try:
        check_name(text, "a node's id")
    except ValueError as error:
        raise SettingsInvalid(f"{error}.") from None
    return text


def _name(text: str) -> str:
    line = " ".join(text.split())
    if not line or len(line) > NAME_CHARS_MAX:
        raise SettingsInvalid(f"a node's name has 1 to {NAME_CHARS_MAX} characters, got {len(line)}.")
    return line


def _names(names: Mapping[str, str]) -> dict[str, str]:
    return {language: _name(name) for language, name in names.items() if name.strip()}


def _why(text: str) -> str:
    line = " ".join(text.split())
    if not line or len(line) > limits.TEXT_CHARS_MAX:
        raise SettingsInvalid(
            f"a change of the graph says why in 1 to {limits.TEXT_CHARS_MAX} characters, got {len(line)}: add --why."
        )
    return line


def _keywords(words: Sequence[str]) -> tuple[str, ...]:
    kept = tuple(dict.fromkeys(line for word in words if (line := " ".join(word.split()))))
    if len(kept) > KEYWORDS_MAX or any(len(word) > KEYWORD_CHARS_MAX for word in kept):
        raise SettingsInvalid(
            f"a node has at most {KEYWORDS_MAX} keywords of at most {KEYWORD_CHARS_MAX} characters, got {len(kept)}."
        )
    return kept
