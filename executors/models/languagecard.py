"""The model card of a language model: README.md with the metadata that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executors.modelcard import block, code, how_trained, joined, model_index, table

SAMPLE_CHARS_MAX = 2_000
"""Of a sample that is shown."""

LIMITS = """`model.safetensors` and `config.json` are those of a Llama as transformers saves it, `tokenizer.json` is the
tokenizer; nothing is pickled. The model continues texts like those which it was trained on. What it writes is likely,
not true; it follows no instructions, and nobody looked at what it learnt to say."""

LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```"""


def card(config: Mapping[str, Any], kpis: Mapping[str, float], sample: str) -> str:
    """config: what stands in config.json under "ramify"; kpis: what was measured on validation; sample: a text that the
    model wrote, or nothing."""
    bits = {"bits_per_byte": kpis["validation_bits_per_byte"]}
    metadata = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- ramify",
        *model_index("ramify-language-model", "text-generation", "validation documents", "validation", bits),
    ]
    trained = config["trained"]
    shape, read = trained["shape"], trained["train"]
    return joined(
        block(metadata),
        f"# A language model of {kpis['parameters']:,.0f} parameters",
        f"Trained by Ramify (kind {code(config['kind'])}) on {read['documents']:,} documents, {read['bytes']:,} bytes. "
        f"{shape['layers']} layers of width {shape['width']}, {shape['vocabulary']} tokens, a context of "
        f"{shape['context']} tokens.",
        LOADING,
        "## Measured on validation",
        table(("measure", "value"), [(name, f"{value:.6g}") for name, value in sorted(kpis.items())]),
        "Bits per byte include the end of each document. The validation documents chose the best step; the figures "
        "flatter the model a little.",
        *_shown(sample),
        *how_trained(config),
        "## Files and limits",
        LIMITS,
    )


def _shown(sample: str) -> list[str]:
    """A sample as a block of code, whatever it contains."""
    if not sample:
        return []
    lines = sample[:SAMPLE_CHARS_MAX].replace("```", "'''").splitlines()
    return ["## What it writes, beginning with nothing", "```text\n" + "\n".join(lines) + "\n```"]
