"""The model card: README.md of a model folder, with the metadata that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LABELS_SHOWN_MAX = 50
"""Label names written out; config.json has them all."""


def card(config: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """config: the model's description as in config.json; kpis: what was measured on validation."""
    labels = [str(label) for label in config["labels"]]
    shown = ", ".join(_code(label) for label in labels[:LABELS_SHOWN_MAX])
    more = f" and {len(labels) - LABELS_SHOWN_MAX} more" if len(labels) > LABELS_SHOWN_MAX else ""
    return "\n".join(
        [
            *_metadata(config, kpis),
            "",
            f"# A classifier of {config['modality']} data, {len(labels)} labels",
            "",
            f"Trained by Ramify (kind `{config['kind']}`, architecture `{config['architecture']}`).",
            "",
            f"**Labels**: {shown}{more}",
            "",
            "## Measured on validation",
            "",
            "| measure | value |",
            "|---|---|",
            *(f"| {name} | {value:.6g} |" for name, value in sorted(kpis.items())),
            "",
            "The validation examples chose the best step and the temperature; the figures flatter the model a little.",
            "",
            "## How it was trained",
            "",
            "```json",
            json.dumps(config.get("trained", {}), indent=1, ensure_ascii=False, sort_keys=True, default=str),
            "```",
            "",
            "## Files and limits",
            "",
            "`model.safetensors` holds the features and the weights, `config.json` everything to rebuild the network;",
            "nothing is pickled. The model knows no other label than those above and always names one of them; it was",
            "measured on data like that which it was trained on, and on no other.",
            "",
        ]
    )


def _metadata(config: Mapping[str, Any], kpis: Mapping[str, float]) -> list[str]:
    task = "text-classification" if config["modality"] == "text" else "tabular-classification"
    lines = ["---", "library_name: ramify", f"pipeline_tag: {task}", "tags:", "- ramify", f"- {config['architecture']}"]
    lines += ["model-index:", "- name: ramify-classifier", "  results:", "  - task:", f"      type: {task}"]
    lines += ["    dataset:", "      name: validation split", "      type: private", "    metrics:"]
    for name in ("validation_accuracy", "validation_loss"):
        if name in kpis:
            lines += [f"    - type: {name.removeprefix('validation_')}", f"      value: {kpis[name]:.6f}"]
    return [*lines, "---"]


def _code(label: str) -> str:
    """A label as inline code, whatever it contains."""
    return "`" + " ".join(label.replace("`", "'").split())[:80] + "`"
