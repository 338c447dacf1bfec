"""`bin/agent graph expand`, `merge`, `retire`, `rename`, `move`, `log`: people change the graph, and read who did."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from collections.abc import Sequence

from agents.commands import flags, graph_drawing, output, publishing
from agents.commands.reach import Reach, reach_stored
from mesh.errors import NotFound
from mesh.graph_bucket import Graph, GraphBucket, Revision
from mesh.messages.graph import Specialization
from planner import changes
from planner.changes import Change

BY_A_PERSON = "a person's wish"
"""The reason where none was given and none is asked for."""


def now_ms() -> int:
    """The wall clock, in milliseconds."""
    return int(time.time() * 1_000)


async def edit(given: argparse.Namespace) -> int:
    """Make one change, and say what it came to."""
    by = publishing.publisher()
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        await check_graph(there)
        done = await GraphBucket(there.broker, there.subjects).change(lambda graph: decided(given, graph, by), now_ms)
    tell(given.json, done)
    return 0


async def check_graph(there: Reach) -> None:
    """NotFound with a sentence where the mesh has no graph."""
    try:
        await there.broker.state(there.subjects.bucket("graph"))
    except NotFound:
        raise NotFound(
            f"the broker at {there.where} has no graph: no scheduler of the mesh {there.subjects.prefix!r} ever ran "
            "there; check --server and --prefix."
        ) from None


def decided(given: argparse.Namespace, graph: Graph, by: str) -> Change:
    """What the command line asks for, on the graph as it was read."""
    nodes, words, why = graph.nodes, given.words, given.why or BY_A_PERSON
    keywords = tuple(word.strip() for word in (given.keywords or "").replace("،", ",").split(",") if word.strip())
    names = {"ar": given.arabic} if given.arabic else {}
    match given.action:
        case "expand":
            return changes.expanded(
                nodes, words[0], words[1], by=by, why=why, id_=given.id or "", keywords=keywords, names=names,
                taken=graph.taken,
            )  # fmt: skip
        case "merge":
            return changes.merged(nodes, words[0], words[1] if len(words) > 1 else "", by=by, why=why)
        case "retire":
            return changes.retired(nodes, words[0], by=by, why=why, below=given.below)
        case "move":
            return changes.moved(nodes, words[0], words[1], by=by, why=why)
    name = words[1] if len(words) > 1 else ""
    return changes.renamed(nodes, words[0], name, by=by, why=why, keywords=keywords, names=names)


def tell(target: str | None, done: Change) -> None:
    """The change as a sentence, or as a document."""
    if target:
        output.write_json(target, {"sentence": done.sentence, "changed": list(done.nodes)})
    if target != "-":
        output.say(output.plain(done.sentence))


# -- the history ------------------------------------------------------------------------------------------------------


async def log(given: argparse.Namespace) -> int:
    """Every change that is stored, oldest first. NotFound for a node that never was."""
    node = given.words[0] if given.words else ""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        await check_graph(there)
        bucket = GraphBucket(there.broker, there.subjects)
        if node:
            changes.found({**(await bucket.read()).nodes}, node)
        revisions = await bucket.history(node)
    if given.json:
        output.write_json(given.json, {"changes": [row(one) for one in revisions]})
    if given.json != "-":
        output.say(told(revisions))
    return 0


def row(revision: Revision) -> dict[str, object]:
    """A change as a document says it: its place in the order, and the node as it was from then on."""
    return {"seq": revision.seq, "id": revision.id, "node": revision.node}


def told(revisions: Sequence[Revision]) -> str:
    """One line per change: when, who, what, which node, why."""
    if not revisions:
        return "nothing has changed yet."
    before: dict[str, Specialization] = {}
    rows = []
    for one in revisions:
        rows.append((when(one.node), *_who_and_what(one, before.get(one.id))))
        if one.node is not None:
            before[one.id] = one.node
    return output.table(("when", "by", "what", "node", "change", "why"), rows)


def when(node: Specialization | None) -> str:
    """UTC, to the second; '-' where it was not said."""
    if node is None or not node.changed_at_ms:
        return "-"
    moment = dt.datetime.fromtimestamp(node.changed_at_ms / 1_000, dt.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"


def _who_and_what(one: Revision, before: Specialization | None) -> tuple[str | None, str, str, str, str]:
    node = one.node
    if node is None:
        return None, "erased", one.id, "", ""
    reason = node.reason or node.why
    return node.by or None, node.event or "written", one.id, difference(before, node), graph_drawing.isolated(reason)


def difference(before: Specialization | None, node: Specialization) -> str:
    """What is different from the value before, in a few words."""
    if before is None:
        return f"new below {node.parent}" if node.parent else "new"
    found = []
    if before.parent != node.parent:
        found.append(f"{before.parent or 'nothing'} > {node.parent}")
    if before.state != node.state:
        found.append(f"{before.state.value} > {node.state.value}")
    if before.name != node.name:
        found.append(f"called {node.name}")
    if before.data != node.data or before.examples != node.examples:
        found.append(f"{node.examples:,} examples")
    if before.keywords != node.keywords or before.names != node.names:
        found.append("words")
    return ", ".join(found) or "-"
