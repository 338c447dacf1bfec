"""The card of an adapter, or of a model with an adapter in its weights: README.md with the metadata that hubs read.

peft's own card is thrown away: it names the base by its path on the machine that trained. This one names the base by
its public name or by the digest of its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from executors.modelcard import LABELS_SHOWN_MAX, block, code, how_trained, joined, model_index, table
from executors.modelfolder import FORM_WHOLE

PIPELINES = {"classify": "text-classification", "language-model": "text-generation"}

CLASSES = {"classify": "AutoModelForSequenceClassification", "language-model": "AutoModelForCausalLM"}


def card(ramify: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """ramify: the model's description as it is stored; kpis: what was measured on validation."""
    task, base = str(ramify["task"]), ramify["base"]
    whole = ramify.get("form") == FORM_WHOLE
    measured = {
        name: kpis[f"validation_{name}"]
        for name in ("accuracy", "loss", "bits_per_byte", "nats_per_token") if f"validation_{name}" in kpis
    }  # fmt: skip
    metadata = [
        f"library_name: {'transformers' if whole else 'peft'}",
        f"pipeline_tag: {PIPELINES[task]}",
        *([f"base_model: {json.dumps(base['name'])}"] if base.get("name") else []),
        "tags:",
        "- ramify",
        "- lora",
        *model_index("ramify-lora", PIPELINES[task], "validation split", "validation", measured),
    ]
    named = f"{code(base['name'])}, whose" if base.get("name") else "a base whose"
    made = f"Made by Ramify (kind {code(ramify['kind'])}) on {named} tensors have the SHA-256 {code(base['digest'])}."
    return joined(
        block(metadata),
        f"# A {'merged model' if whole else 'LoRA adapter'}: {task} with {ramify['architecture']}",
        made,
        *_labels(ramify),
        "## Measured on validation",
        table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
        "The validation items chose the best step and the temperature; the figures flatter the model a little.",
        "## Loading it",
        _loading(task, whole, ramify),
        *how_trained(ramify),
    )


def _labels(ramify: Mapping[str, Any]) -> list[str]:
    labels = [str(label) for label in ramify.get("labels") or ()]
    if not labels:
        return []
    more = f" and {len(labels) - LABELS_SHOWN_MAX} more" if len(labels) > LABELS_SHOWN_MAX else ""
    return [f"**Labels**, in the order of the outputs: {', '.join(map(code, labels[:LABELS_SHOWN_MAX]))}{more}"]


def _loading(task: str, whole: bool, ramify: Mapping[str, Any]) -> str:
    counted = f", num_labels={len(ramify['labels'])}" if task == "classify" and not whole else ""
    lines = [f"from transformers import {CLASSES[task]}"]
    if whole:
        lines.append(f"model = {CLASSES[task]}.from_pretrained(THIS_FOLDER)")
    else:
        lines += ["from peft import PeftModel", f"base = {CLASSES[task]}.from_pretrained(BASE_FOLDER{counted})",
                  "model = PeftModel.from_pretrained(base, THIS_FOLDER)"]  # fmt: skip
    scaled = (
        f"\n\nProbabilities are softmax(logits / {ramify.get('temperature', 1.0)}); texts were cut after "
        f"{ramify['tokens_max']} tokens."
    )
    return "```python\n" + "\n".join(lines) + "\n```" + (scaled if task == "classify" else "")
