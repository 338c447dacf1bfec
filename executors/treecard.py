"""The card of a tree: what it consists of, how it answers, and what was measured. Standard library only: the card of a
champion that leaves the mesh has the same paragraphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executors.modelcard import block, code, joined, plain, table

USE = """With Ramify: `bin/agent ask NAME TEXT` asks it in a mesh; `bin/agent task evaluate --input model=DIR --input
split=SPLIT` asks it about a whole split; `bin/agent models push DIR` takes this folder into a mesh.

Without it: `members/0`, `members/1` … and `flat` are whole models, each with a card that says how it is loaded alone.
`router/` is plain numbers (`router.json`, `router.safetensors`, `vocabulary.txt`): w_j = exp(-|h - c_j|^2 /
temperature) over the branch centres c_j, the `top` largest, scaled to sum 1; the answer is the sum of w_j p_j."""


def card(ramify: Mapping[str, Any], facts: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """ramify: the tree's description; facts: how it was made; kpis: what was measured."""
    pipeline = "text-classification" if ramify["labels"] else "text-generation"
    return joined(
        block(["library_name: ramify", f"pipeline_tag: {pipeline}", "tags:", "- ramify", "- tree"]),
        f"# A tree of {len(ramify['members'])} specialists",
        *what_it_is(ramify),
        f"**Note**: {plain(facts['warning'])}." if "warning" in facts else "",
        "## Measured on validation",
        table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
        "The validation items chose how it mixes and flatter it a little; `apart_` figures come from items that did "
        "not choose.",
        *by_branch(facts),
        "## How to load it",
        USE,
    )


def what_it_is(ramify: Mapping[str, Any]) -> list[str]:
    """Paragraphs: what answers what."""
    way = "how well each one has foretold the text so far" if ramify["routing"] == "likelihood" else (
        f"the distance of the text from the branch centres (temperature {ramify['temperature']:g}, the nearest "
        f"{ramify['top']})"
    )  # fmt: skip
    names = ", ".join(code(name) for name in ramify["names"][:50])
    lone = int(ramify["branches"]) - len(ramify["members"])
    flat = f" The flat model has a share of {ramify['flat_share']:g}" if ramify["flat"] else ""
    empty = f" and answers in {lone} branches that have no specialist" if lone else ""
    labels = f"It names {len(ramify['labels'])} labels." if ramify["labels"] else "It foretells text, token by token."
    return [
        f"Several models that answer as one: their probabilities are mixed by {way}.{flat}{empty}{'.' if flat else ''}",
        labels,
        f"**Branches**: {names}",
    ]


def by_branch(facts: Mapping[str, Any]) -> list[str]:
    """A table: each branch, its specialist against the flat model."""
    rows = []
    for one in facts.get("by_branch", []):
        figures = [_figure(one.get(who)) for who in ("specialist", "flat", "tree")]
        rows.append((str(one["branch"]), code(one["name"]), str(one["items"]), *figures))
    if not rows:
        return []
    return ["## By branch", table(("branch", "name", "items", "its specialist", "flat model", "tree"), rows)]


def _figure(measured: Mapping[str, float] | None) -> str:
    if not measured:
        return "-"
    right = f"{measured['accuracy']:.3f} right, " if "accuracy" in measured else ""
    return f"{right}{measured['loss']:.4f} nats"
