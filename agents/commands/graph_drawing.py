"""The graph as a drawing: one line per node, branch lines before it, what it holds behind it.

    root  everything
    └─ mathematics
       ├─ statistics
       │  ├─ stats-bayesian ·························· 1,200 examples, 4 labels   v2 evolver, accuracy 0.91
       │  │  └─ priors-90ab12  ……

Widths are counted in columns as a terminal draws them (wide letters two, marks none), lines are cut at its width,
colour is only for a terminal. A name that is written from right to left stands between isolates (U+2068 and U+2069,
Unicode Standard Annex 9), so that it turns nothing around it; what could turn a line by itself is made visible by
`output.plain` before.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping

from agents.commands import output
from mesh.messages.graph import NodeState, Specialization
from mesh.messages.judgement import Champion

DEPTH_MAX = 34
"""A deeper tree is cut: nobody reads it, and a circle ends here too."""

FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"

LEFT_COLUMNS_MAX = 64
"""Where the second column stands at the latest."""

SCORES = ("accuracy", "bits_per_byte", "loss")
"""What a champion is measured by, the most telling first."""

COLOURS = {
    NodeState.SEED: "2", NodeState.ACTIVE: "1", NodeState.HYPOTHESIS: "33", NodeState.PROPOSED: "36",
    NodeState.MERGED: "2;9", NodeState.RETIRED: "2;9",
}  # fmt: skip
"""Select Graphic Rendition of a node's id by its state: dim, bold, yellow, cyan, dim and struck."""


@dataclasses.dataclass(frozen=True, slots=True)
class Paper:
    """What is drawn on. columns: 0 cuts nothing."""

    columns: int = 0
    colour: bool = False


def paper() -> Paper:
    """Standard output: its width and colours when it is a terminal."""
    if not sys.stdout.isatty():
        return Paper()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Paper(shutil.get_terminal_size().columns, not plain)


def picture(
    nodes: Mapping[str, Specialization], champions: Mapping[str, Champion], on: Paper, *, everything: bool = False
) -> str:
    """The tree, children below their parents; nodes without a known parent stand at the left."""
    if not nodes:
        return 'the graph is empty; publish a topic: bin/agent run "handwritten digits" --data builtin:digits'
    shown = {id_: node for id_, node in nodes.items() if everything or not node.is_over}
    rows = [(before, shown[id_]) for before, id_ in _walk(shown)]
    left = min(LEFT_COLUMNS_MAX, max((columns(before + _named(node)) for before, node in rows), default=0))
    lines = [_line(before, node, champions.get(node.id), left, on) for before, node in rows]
    hidden = len(nodes) - len(shown)
    if hidden:
        are = "nodes are" if hidden > 1 else "node is"
        lines.append(
            f"{hidden} {are} merged or retired; `bin/agent graph --all` shows {'them' if hidden > 1 else 'it'}"
        )
    return "\n".join(lines)


def _walk(nodes: Mapping[str, Specialization]) -> Iterator[tuple[str, str]]:
    """(branch lines, id) in the order of drawing; every node once, also those of a circle."""
    below: dict[str, list[str]] = {}
    for id_ in sorted(nodes):
        below.setdefault(nodes[id_].parent, []).append(id_)
    drawn: set[str] = set()

    def draw(id_: str, before: str, own: str, depth: int) -> Iterator[tuple[str, str]]:
        if id_ in drawn:
            return
        drawn.add(id_)
        yield before + own, id_
        children = below.get(id_, []) if depth < DEPTH_MAX else []
        deeper = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[own]
        for child in children:
            yield from draw(child, deeper, "└─ " if child == children[-1] else "├─ ", depth + 1)

    for id_ in sorted(nodes):
        if nodes[id_].parent not in nodes:
            yield from draw(id_, "", "", 0)
    for id_ in sorted(nodes):  # what is left hangs in a circle
        yield from draw(id_, "", "", 0)


def _line(before: str, node: Specialization, champion: Champion | None, left: int, on: Paper) -> str:
    name = _named(node)
    facts = "   ".join(_facts(node, champion))
    gap = " " * max(2, left - columns(before + name) + 2) if facts else ""
    whole = cut(f"{before}{name}{gap}{facts}", on.columns)
    if not on.colour:
        return whole
    start = f"{before}{node.id}"
    if not whole.startswith(start):
        return whole
    return f"\x1b[2m{before}\x1b[0m\x1b[{COLOURS[node.state]}m{node.id}\x1b[0m{whole.removeprefix(start)}"


def _named(node: Specialization) -> str:
    """Id and names: those that say more than the id."""
    names = [node.name, *node.names.values()]
    said = [isolated(output.plain(" ".join(name.split()))) for name in names if _says_more(node.id, name)]
    return "  ".join([node.id, *said])


def _says_more(id_: str, name: str) -> bool:
    words = "".join(letter for letter in name.lower() if letter.isalnum())
    return bool(words) and words not in "".join(letter for letter in id_ if letter.isalnum())


def _facts(node: Specialization, champion: Champion | None) -> Iterator[str]:
    if node.state not in (NodeState.ACTIVE, NodeState.SEED):
        yield node.state.value + (f" into {node.into}" if node.into else "")
    if node.task:
        labels = f", {node.labels} labels" if node.labels else ""
        yield f"{node.examples:,} examples{labels}"
    if champion is not None:
        score = next((f", {name} {output.number(champion.kpis[name])}" for name in SCORES if name in champion.kpis), "")
        yield f"v{champion.version_number} {champion.line.value}{score}"
    elif node.task:
        yield "no champion yet"
    if node.state is not NodeState.SEED and (node.reason or node.why):
        yield isolated(output.plain(node.reason if node.is_over else node.why))


# -- columns ----------------------------------------------------------------------------------------------------------


def isolated(text: str) -> str:
    """`text`, kept from turning what stands around it when any of it is written from right to left."""
    if any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text):
        return f"{FIRST_STRONG_ISOLATE}{text}{POP_ISOLATE}"
    return text


def columns(text: str) -> int:
    """Columns that a terminal takes for `text`: wide letters two, marks and isolates none."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def cut(text: str, most: int) -> str:
    """`text` in at most `most` columns (0: whole); an isolate that was begun is ended."""
    if not most or columns(text) <= most:
        return text
    kept, used = "", 0
    for letter in text:
        used += _columns(letter)
        if used > most - 1:
            break
        kept += letter
    is_open = kept.count(FIRST_STRONG_ISOLATE) > kept.count(POP_ISOLATE)
    return kept.rstrip() + "…" + (POP_ISOLATE if is_open else "")
