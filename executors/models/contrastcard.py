"""The card of a dual encoder: README.md beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executors.modelcard import block, code, how_trained, joined, table

LIMITS = """`model.safetensors` holds the towers (and the weights of its n-grams), `encoder/` the sentence encoder where
there is one, a transformers folder of its own; nothing is pickled. Scores are comparable within one model only."""


def card(config: Mapping[str, Any], kpis: Mapping[str, float]) -> str:
    """config: the model's description as in config.json; kpis: what was measured on the held-out pairs."""
    metadata = ["library_name: ramify", "pipeline_tag: sentence-similarity", "tags:", "- ramify", "- dual-encoder"]
    beside = [(name, kpis[name], kpis.get(f"bm25_{name}")) for name in sorted(kpis) if f"bm25_{name}" in kpis]
    pool, held_out = int(kpis["pool"]), int(kpis["held_out_pairs"])
    return joined(
        block(metadata),
        f"# A dual encoder: which text belongs to this one? It reads {config['reader']['reads']}",
        f"Trained by Ramify (kind {code(config['kind'])}) with InfoNCE over pairs.",
        "## Measured on held-out pairs",
        f"{held_out} pairs that share no text with the training; the partner is one of a pool of {pool} texts.",
        table(("measure", "this model", "BM25"), [(name, f"{a:.4f}", f"{b:.4f}") for name, a, b in beside]),
        table(("further", "value"), [(n, f"{v:.6g}") for n, v in sorted(kpis.items()) if "bm25" not in n]),
        *how_trained(config),
        "## Files and limits",
        LIMITS,
    )
