"""Scenarios as text: blocks of commands, a line of dashes, and what is expected; rewritten with `--rewrite`.

# a comment
command
----
expected line
(an empty line ends the block)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass
class Block:
    """Comments and commands of one block, and what stood below them."""

    head: list[str]
    expected: list[str]


def read(path: Path) -> list[Block]:
    """The blocks of a transcript."""
    blocks = []
    for text in path.read_text(encoding="utf-8").strip("\n").split("\n\n"):
        head, _, expected = text.partition("\n----")
        blocks.append(Block(head.split("\n"), expected.strip("\n").split("\n") if expected.strip() else []))
    return blocks


def play(path: Path, run: Callable[[str], list[str]], rewrite: bool) -> None:
    """Run every block and compare; with `rewrite`, write down what was seen instead."""
    seen = []
    for block in read(path):
        commands = [line for line in block.head if line.strip() and not line.startswith("#")]
        output = [line for command in commands for line in run(command)]
        if commands:
            output = output or ["(nothing)"]
        seen.append("\n".join([*block.head, *(["----", *output] if commands else [])]))
        if not rewrite:
            assert output == block.expected, f"{path.name}: {' / '.join(commands)}"
    if rewrite:
        path.write_text("\n\n".join(seen) + "\n", encoding="utf-8")
