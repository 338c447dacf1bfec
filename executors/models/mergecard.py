"""The card of a merged model: what it is made of, and what it is worth beside each of its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executors.modelcard import block, code, joined, table

SOURCES = {
    "average": "the mean of all candidates (Wortsman et al. 2022, Model soups)",
    "greedy": "a greedy soup: the mean of those candidates that did no harm (Wortsman et al. 2022, Model soups)",
    "arithmetic": "the ancestor plus the scaled sum of differences (Ilharco et al. 2023, Task arithmetic)",
    "ties": "the ancestor plus trimmed differences of elected signs (Yadav et al. 2023, TIES-Merging)",
}


def card(ramify: Mapping[str, Any], facts: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """ramify: the model's description; facts: of the merge; kpis: what was measured."""
    pipeline = "text-generation" if not ramify.get("labels") else (
        "text-classification" if ramify.get("modality") == "text" else "tabular-classification"
    )  # fmt: skip
    metadata = [f"pipeline_tag: {pipeline}", "tags:", "- ramify", "- merge"]
    measures = sorted(facts["merged"])
    rows = [(code(row["name"]), row["model"][:12] or "-", *(f"{row[name]:.6g}" for name in measures))
            for row in facts["candidates"]]  # fmt: skip
    rows.append(("**merged**", "", *(f"{facts['merged'][name]:.6g}" for name in measures)))
    scale = f", scale {facts['scale']:g}" if "scale" in facts else ""
    density = f", density {facts['density']:g}" if "density" in facts else ""
    ancestor = (
        f"All come from {code(facts['ancestor'])}." if facts["ancestor"] else "They are linear and need no ancestor."
    )
    return joined(
        block(metadata),
        f"# A merge of {len(facts['members'])} models of the kind {code(ramify['kind'])}",
        f"Made by Ramify: {SOURCES[facts['method']]}{scale}{density}. Members: "
        f"{', '.join(map(code, facts['members']))}. {ancestor}",
        f"**Note**: {facts['warning']}." if "warning" in facts else "",
        "## Measured",
        f"On the {facts['evidence_items']} validation items that chose nothing; {facts['choosing_items']} others chose "
        "the members, the scale and the temperature.",
        table(("model", "digest", *measures), rows),
        table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
    )
