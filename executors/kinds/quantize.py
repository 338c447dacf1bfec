"""Quantize: a model in int8 or int4, measured beside the original.

In:    `model` (classify, baseline, language-model, or a Hugging Face folder: classifier, causal model, encoder);
       `split` (what `evaluate` would take for that model; for an encoder, texts)
Out:   `model`, in the layout of docs/executors/quantize.md; `claims` and `original`, the outcomes of both; `reference`,
       for an encoder: texts and the original's vectors, which `evaluate` takes as its split
How:   executors/quantizing.py: weights rounded after training, no further training; the kernel is chosen by measurement
Says:  when few bits gain nothing on this machine, the recommendation is the original
Not:   adapters (merge first); calibration with data; GPU kernels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

SCHEMES = ("dynamic-int8", "int8", "int4")

WAYS = (
    "auto", "expanded", "torch-int8", "torch-int4", "torch-int8-int8", "onnx-int8-int8", "onnx-int4",
)  # fmt: skip


class QuantizeSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to round, and how to measure."""

    scheme: str = "dynamic-int8"
    """'dynamic-int8' (weights int8, activations int8 row by row), 'int8' (weights only), 'int4' (weights only, in
    groups)."""
    group: int = 64
    """Columns that share a scale in int4: 16, 32, 64, 128 or 256."""
    symmetric: bool = False
    """int4 without a zero point of each group: a little smaller, a little worse."""
    keep: tuple[str, ...] = ()
    """Parts of names of tensors that stay as they are."""
    way: str = "auto"
    """How dense layers are computed; 'auto': the fastest here."""
    batches: tuple[int, ...] = (1, 128)
    """Sizes of batches for which speed counts."""
    latency_rounds: int = 30
    latency_s_max: float = 10.0
    """Seconds per size of batch, after which no further round begins."""
    loss_rise_max: float = 0.01
    """Nats per item (of an encoder: cosine) that the loss may rise for a recommendation."""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme is one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.way not in WAYS:
            raise ValueError(f"way is one of {', '.join(WAYS)}, got {self.way!r}")
        if self.group not in (16, 32, 64, 128, 256):
            raise ValueError(f"group is 16, 32, 64, 128 or 256, got {self.group}")
        if not 1 <= len(self.batches) <= 8 or not all(1 <= size <= 4_096 for size in self.batches):
            raise ValueError(f"batches are one to eight sizes of 1 to 4096, got {self.batches}")
        if len(self.keep) > 100 or not all(0 < len(part) <= 200 for part in self.keep):
            raise ValueError("keep is at most 100 parts of names of 1 to 200 letters")
        if not 3 <= self.latency_rounds <= 10_000 or not 0.01 <= self.latency_s_max <= 600:
            raise ValueError("latency_rounds is 3 to 10000, latency_s_max 0.01 to 600")
        if not 0.0 <= self.loss_rise_max <= 100.0:
            raise ValueError(f"loss_rise_max must be 0 to 100, got {self.loss_rise_max}")


class Quantize:
    """The kind `quantize`."""

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("model", "split"))
    Settings: ClassVar[type[port.Settings]] = QuantizeSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, ONNX Runtime and transformers, the model three times (as it is, expanded, and
        packed with its kernels), the items and what a batch of them makes."""
        given = facts.get("input_bytes") or {}
        model, split = int(given.get("model") or 100 * MIB), int(given.get("split") or facts.get("bytes") or 2 * MIB)
        memory = 560 * MIB + 3 * model + 8 * min(split, 512 * MIB)
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + 3 * model + split)

    def run(self, job: Job, context: Context) -> Made:
        """Fold, measure, recommend."""
        from executors import quantizing

        made = quantizing.make(job, context)
        facts = {"kind": job.kind, "architecture": f"{made.facts['model']}, {made.facts['scheme']}"}
        return Made(outputs=made.folders, media=made.media, facts_of={"model": facts}, kpis=made.kpis, facts=made.facts)
