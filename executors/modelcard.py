"""The model card: README.md beside a model that was just trained, with the metadata that model hubs read.

Whatever people wrote (topics, labels, names of files) goes into the metadata as JSON strings, which YAML reads as they
are, and into the text with its own marks taken away. The card of a model that leaves the mesh is championcard.py's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

LABELS_SHOWN_MAX = 50
"""Label names written out; config.json has them all."""

LIMITS = """`model.safetensors` holds the features and the weights, `config.json` everything to rebuild the network;
nothing is pickled. The model knows no other label than those above and always names one of them; it was
measured on data like that which it was trained on, and on no other."""


def card(config: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """config: the model's description as in config.json; kpis: what was measured on validation."""
    measured = {name: kpis[f"validation_{name}"] for name in ("accuracy", "loss") if f"validation_{name}" in kpis}
    metadata = [
        *own_metadata(config),
        "tags:",
        "- ramify",
        f"- {json.dumps(config['architecture'])}",
        *model_index("ramify-classifier", task_of(config), "validation split", "validation", measured),
    ]
    return joined(
        block(metadata),
        f"# A classifier of {config['modality']} data, {len(config['labels'])} labels",
        *what_it_is(config),
        "## Measured on validation",
        table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
        "The validation examples chose the best step and the temperature; the figures flatter the model a little.",
        *how_trained(config),
        "## Files and limits",
        LIMITS,
    )


# -- metadata ---------------------------------------------------------------------------------------------------------


def task_of(config: Mapping[str, Any]) -> str:
    """The hubs' name for what the model does. A tree of language models names no labels."""
    if not config["labels"]:
        return "text-generation"
    return "text-classification" if config["modality"] == "text" else "tabular-classification"


def own_metadata(config: Mapping[str, Any]) -> list[str]:
    """Lines that every model of this program has."""
    return ["library_name: ramify", f"pipeline_tag: {task_of(config)}"]


def model_index(name: str, task: str, dataset: str, split: str, measured: Mapping[str, float]) -> list[str]:
    """The results as hubs read them; nothing without a measure."""
    if not measured:
        return []
    lines = ["model-index:", f"- name: {json.dumps(name)}", "  results:", "  - task:", f"      type: {task}"]
    lines += ["    dataset:", f"      name: {json.dumps(dataset)}", "      type: private", f"      split: {split}"]
    lines += ["    metrics:"]
    for metric, value in measured.items():
        lines += [f"    - type: {metric}", f"      value: {value:.6f}"]
    return lines


def block(lines: Sequence[str]) -> str:
    """The metadata block at the head of a card."""
    return "\n".join(["---", *lines, "---"])


# -- text -------------------------------------------------------------------------------------------------------------


def what_it_is(config: Mapping[str, Any]) -> list[str]:
    """Paragraphs: who trained it, what it reads, what it answers."""
    labels = [str(label) for label in config["labels"]]
    shown = ", ".join(code(label) for label in labels[:LABELS_SHOWN_MAX])
    more = f" and {len(labels) - LABELS_SHOWN_MAX} more" if len(labels) > LABELS_SHOWN_MAX else ""
    columns = config.get("features", {}).get("columns", [])
    reads = f"It reads rows of {len(columns)} numbers; config.json names the columns in their order."
    trained = f"Trained by Ramify (kind {code(config['kind'])}, architecture {code(config['architecture'])})."
    return [trained, *([reads] if columns else []), f"**Labels**: {shown}{more}"]


def how_trained(config: Mapping[str, Any]) -> list[str]:
    """Paragraphs: the facts of the training, as they stand in config.json."""
    trained = json.dumps(config.get("trained", {}), indent=1, ensure_ascii=False, sort_keys=True, default=str)
    return ["## How it was trained", "```json\n" + trained.replace("```", "'''") + "\n```"]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def joined(*paragraphs: str) -> str:
    """The card's text."""
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def code(text: object) -> str:
    """A label or a name as inline code, whatever it contains."""
    return "`" + " ".join(str(text).replace("`", "'").split())[:80] + "`"


def plain(text: str) -> str:
    """Somebody's sentence on one line, without what Markdown or HTML would take for a mark of theirs."""
    text = text.translate(str.maketrans("[]", "()"))  # no link, and still a bracket
    return " ".join(re.sub(r"[<>`*#|\\]", " ", text).split())[:500].rstrip(". ")
