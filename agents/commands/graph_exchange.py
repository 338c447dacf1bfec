"""`bin/agent graph export` and `graph import`: the whole graph as JSON, there and back without a difference.

    {"format": 1, "nodes": [{"id": "root", "name": "everything", …}, …]}

A document holds what the nodes are, not what made them so: who imports it is the author of that change. It is read as
something from outside: every field is checked, the result has to be a tree, and only then the first node is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.commands import flags, graph_editing, output, publishing
from agents.commands.reach import reach_stored
from mesh import codec
from mesh.errors import DataRefused, Malformed
from mesh.graph_bucket import NODES_MAX, GraphBucket
from mesh.messages.base import check_text
from mesh.messages.graph import Specialization
from planner import changes
from planner.changes import Change

FORMAT = 1
"""Raised when an older program would misread the document."""

FILE_BYTES_MAX = 64 << 20
"""A document of 100,000 nodes of 600 bytes."""

MADE_BY = ("event", "by", "reason", "changed_at_ms")
"""Fields of a node that tell of its last change: left out."""


async def export(given: argparse.Namespace) -> int:
    """Write the graph to a file or to stdout."""
    target = given.words[0]
    output.check_target(target)
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        await graph_editing.check_graph(there)
        graph = await GraphBucket(there.broker, there.subjects).read()
    output.write_json(target, document(graph.nodes))
    if target != "-":
        output.say(f"{len(graph.nodes)} nodes are in {target}")
    return 0


def document(nodes: Mapping[str, Specialization]) -> dict[str, Any]:
    """The graph as it is exported."""
    return {"format": FORMAT, "nodes": [_fields(node) for _, node in sorted(nodes.items())]}


def _fields(node: Specialization) -> dict[str, Any]:
    return {name: value for name, value in output.builtin(node).items() if name not in MADE_BY}


def look(source: str) -> list[Specialization]:
    """The nodes of a document. DataRefused with a sentence for the first thing that is wrong with it."""
    try:
        text = sys.stdin.read(FILE_BYTES_MAX + 1) if source == "-" else _text(Path(source))
        found = json.loads(text)
    except OSError as error:
        raise DataRefused(f"{source!r} can not be read ({error.strerror or error}): name another file.") from None
    except (ValueError, RecursionError) as error:
        raise DataRefused(
            f"{source!r} is no JSON document ({str(error)[:120]}): write one with graph export."
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("nodes"), list):
        raise DataRefused(f"{source!r} is no graph of format {FORMAT}: write one with `bin/agent graph export FILE`.")
    if len(found["nodes"]) > NODES_MAX:
        raise DataRefused(f"a graph has at most {NODES_MAX:,} nodes, {source!r} has {len(found['nodes']):,}.")
    return [node_of(fields, number) for number, fields in enumerate(found["nodes"], 1)]


def _text(path: Path) -> str:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"it has more than {FILE_BYTES_MAX >> 20} MiB")
    return path.read_text(encoding="utf-8")


def node_of(fields: Any, number: int) -> Specialization:
    """One node of a document. DataRefused with its number, its id and what is wrong."""
    if not isinstance(fields, dict):
        raise DataRefused(f"node {number} of the graph is a map of fields, got {type(fields).__name__}.")
    where = f"node {number} ({str(fields.get('id'))[:60]!r})"
    unknown = set(fields) - (set(Specialization.__struct_fields__) - set(MADE_BY))
    if unknown:
        raise DataRefused(f"{where} of the graph has the field {min(map(str, unknown))[:60]!r}, which no node has.")
    try:
        node = msgspec.convert(fields, Specialization)
        check_text(node.name, "a node's name")
        codec.encode(node)
    except (msgspec.ValidationError, ValueError, Malformed) as error:
        raise DataRefused(f"{where} of the graph is not valid: {str(error)[:300]}.") from None
    return node


async def take_in(given: argparse.Namespace, wanted: list[Specialization]) -> int:
    """Write what differs, or say what would be written."""
    by, why = publishing.publisher(), given.why or f"imported from {Path(given.words[0]).name}"

    def decide(nodes: Mapping[str, Specialization]) -> Change:
        return changes.imported(nodes, wanted, by=by, why=why)

    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        await graph_editing.check_graph(there)
        bucket = GraphBucket(there.broker, there.subjects)
        if given.dry_run:
            graph = await bucket.read()
            done = decide(graph.nodes)
            if given.json != "-":
                for node in done.nodes:
                    output.say(output.plain(f"{node.id}: {graph_editing.difference(graph.nodes.get(node.id), node)}"))
            done = Change(done.nodes, f"nothing is written; {done.sentence.replace(' are ', ' would be ')}")
        else:
            done = await bucket.change(lambda graph: decide(graph.nodes), graph_editing.now_ms)
    graph_editing.tell(given.json, done)
    return 0
