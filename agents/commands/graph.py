"""`bin/agent graph`: the specializations as a tree, each with its champion; and everything that people may do to it.

    graph                                    draws the tree
    graph expand PARENT NAME --why …         a new node            graph merge NODE [INTO]     part of another
    graph move NODE PARENT                   another place         graph retire NODE --why …   given up
    graph rename NODE [NAME]                 another name          graph log [NODE]            who changed what
    graph export FILE, graph import FILE     the whole graph as JSON, there and back

What is allowed is decided by planner/changes.py; it is written by compare-and-set, so that two people, or a person and
a planner, lose nothing of each other's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from agents.commands import flags, graph_drawing, graph_editing, graph_exchange, loop, output
from agents.commands.reach import reach_stored
from agents.commands.stored import bucket
from mesh.errors import SettingsInvalid
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion

EXAMPLE = """bin/agent graph
bin/agent graph expand stats-bayesian "hidden Markov models" --keywords "hmm, viterbi" --why "asked for by the lab"
bin/agent graph merge hidden-markov-models stats-mcmc --why "too few examples"
bin/agent graph log stats-mcmc
bin/agent graph export graph.json"""

WORDS: dict[str, tuple[int, int, str]] = {
    "show": (0, 0, "nothing more"),
    "expand": (2, 2, "PARENT NAME"),
    "merge": (1, 2, "NODE [INTO]"),
    "retire": (1, 1, "NODE"),
    "rename": (1, 2, "NODE [NAME]"),
    "move": (2, 2, "NODE PARENT"),
    "log": (0, 1, "[NODE]"),
    "export": (1, 1, "FILE, or - for stdout"),
    "import": (1, 1, "FILE, or - for stdin"),
}
"""Action to (fewest words, most words, what they are)."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "--id": ("expand",),
    "--keywords": ("expand", "rename"),
    "--arabic": ("expand", "rename"),
    "--why": ("expand", "merge", "retire", "rename", "move", "import"),
    "--below": ("retire",),
    "--dry-run": ("import",),
    "--all": ("show",),
}
"""Option to the actions that take it."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """An action with its words, and the options of the actions."""
    parser.add_argument(
        "action", metavar="ACTION", nargs="?", choices=sorted(WORDS), default="show",
        help=f"{', '.join(sorted(WORDS))} (default: show)",
    )  # fmt: skip
    parser.add_argument(
        "words", metavar="WORD", nargs="*",
        help="; ".join(f"{action}: {what}" for action, (_, most, what) in WORDS.items() if most),
    )  # fmt: skip
    parser.add_argument(
        "--id", metavar="ID", type=flags.name, help="expand: the node's id; else it follows from its name"
    )
    parser.add_argument(
        "--keywords", metavar="WORDS", help="expand, rename: words of this field, with commas between them"
    )
    parser.add_argument("--arabic", metavar="NAME", help="expand, rename: the node's name in Arabic")
    parser.add_argument("--why", metavar="TEXT", help="the reason, which the history tells; expand and retire need one")
    parser.add_argument("--below", action="store_true", help="retire: with all that lives below the node")
    parser.add_argument("--dry-run", action="store_true", help="import: say what would change, and change nothing")
    parser.add_argument("--all", action="store_true", help="show: also what was merged or retired")
    flags.add_json(parser, "the nodes, the changes or the history")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs here and none ever did, 6 for an unknown node, 2 for what the rules
    of the graph do not allow."""
    output.check_target(given.json)
    check(given)
    match given.action:
        case "show":
            return loop.run_simply(_show(given))
        case "log":
            return loop.run_simply(graph_editing.log(given))
        case "export":
            return loop.run_simply(graph_exchange.export(given))
        case "import":
            return loop.run_simply(graph_exchange.take_in(given, graph_exchange.look(given.words[0])))
    return loop.run_simply(graph_editing.edit(given))


def check(given: argparse.Namespace) -> None:
    """Refuse words and options that the action does not take."""
    least, most, what = WORDS[given.action]
    if not least <= len(given.words) <= most:
        raise SettingsInvalid(f"graph {given.action} expects {what}, got {len(given.words)} words.")
    for option, actions in OPTIONS.items():
        value = getattr(given, option[2:].replace("-", "_"))
        if value not in (None, False) and given.action not in actions:
            raise SettingsInvalid(f"{option} belongs to graph {' and '.join(actions)}, not to graph {given.action}.")
    if given.action in ("expand", "retire") and not (given.why or "").strip():
        raise SettingsInvalid(f"graph {given.action} says why: add --why TEXT, which the history tells.")


async def _show(given: argparse.Namespace) -> int:
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        nodes = await bucket(there, "graph", Specialization)
        champions = await bucket(there, "champions", Champion)
    if given.json:
        output.write_json(given.json, {"nodes": document(nodes, champions)})
    if given.json != "-":
        output.say(graph_drawing.picture(nodes, champions, graph_drawing.paper(), everything=given.all))
    return 0


def document(nodes: Mapping[str, Specialization], champions: Mapping[str, Champion]) -> list[dict[str, object]]:
    """Every node with its champion's model and figures."""
    return [
        {**output.builtin(node), "champion": output.builtin(champions.get(id_))} for id_, node in sorted(nodes.items())
    ]
