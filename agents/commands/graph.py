"""`bin/agent graph`: the specializations as a tree, each with its champion."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from agents.commands import flags, loop, output
from agents.commands.reach import reach_stored
from agents.commands.stored import bucket
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion

EXAMPLE = "bin/agent graph"

DEPTH_MAX = 32
"""A deeper tree is cut: nobody reads it, and a circle ends here too."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No options of its own but --json."""
    flags.add_json(parser, "the nodes")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs here and none ever did."""
    output.check_target(given.json)
    return loop.run_simply(_run(given))


async def _run(given: argparse.Namespace) -> int:
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        nodes = await bucket(there, "graph", Specialization)
        champions = await bucket(there, "champions", Champion)
    if given.json:
        output.write_json(given.json, {"nodes": document(nodes, champions)})
    if given.json != "-":
        output.say(picture(nodes, champions))
    return 0


def document(nodes: Mapping[str, Specialization], champions: Mapping[str, Champion]) -> list[dict[str, object]]:
    """Every node with its champion's model and figures."""
    return [
        {**output.builtin(node), "champion": output.builtin(champions.get(id_))} for id_, node in sorted(nodes.items())
    ]


def picture(nodes: Mapping[str, Specialization], champions: Mapping[str, Champion]) -> str:
    """The tree, children below their parents; nodes without a known parent stand at the left."""
    if not nodes:
        return 'the graph is empty; publish a topic: bin/agent run "handwritten digits" --data builtin:digits'
    lines: list[str] = []

    def draw(id_: str, depth: int) -> None:
        lines.append("  " * depth + _words(nodes[id_], champions.get(id_)))
        if depth < DEPTH_MAX:
            for child in sorted(key for key, node in nodes.items() if node.parent == id_ and key != id_):
                draw(child, depth + 1)

    for id_ in sorted(key for key, node in nodes.items() if node.parent not in nodes):
        draw(id_, 0)
    return "\n".join(lines)


def _words(node: Specialization, champion: Champion | None) -> str:
    parts = [node.id]
    if node.task:
        parts.append(f"{node.examples:,} examples, {node.labels} labels")
    if champion is not None:
        accuracy = champion.kpis.get("accuracy")
        measured = f", accuracy {output.number(accuracy)}" if accuracy is not None else ""
        parts.append(f"champion v{champion.version_number} ({champion.line.value}{measured})")
    elif node.task:
        parts.append("no champion yet")
    parts.append(node.why)
    return output.plain("  ".join(part for part in parts if part))
