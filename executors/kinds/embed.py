"""Embed: the vectors of splits through a sentence encoder, computed once for all tasks that read them.

In:    `encoder` (a transformers folder); one split or more: `train`, `validation`, …
Out:   for each split its `…_vectors`: the vectors in the split's order, its ids, the encoder's digest
Why:   both lines of a topic read the same splits through the same encoder, and encoding is what costs: they get these
       artifacts as inputs. The same encoder and split give the same bytes, so the store keeps them once
Not:   never sees a holdout in a topic's plan: whoever evaluates a model encodes for himself, or the check of a claim
       would rest on the claimant's vectors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from executors import port
from executors.port import Context, Job, Made, Runtime
from executors.recipe import GPU_MARGIN, PRECISIONS, one_of, within
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

SPLITS = ("train", "validation", "holdout", "audit")
"""Names of inputs that are splits."""

PROGRAM_BYTES = 620 * MIB
"""A child with torch and transformers imported, and a batch in an encoder of MiniLM's size."""


BATCH_BYTES = 512 * MIB
"""A batch of long texts in an encoder, on a GPU."""


class EmbedSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to encode."""

    tokens_max: int | None = None
    """Word pieces that are read of a text; None: what the encoder's folder says."""
    precision: str = "auto"
    """'fp32' ('auto'), or 'bf16' where the hardware computes in it: twice as fast, vectors 0.99996 alike."""

    for_plan: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the planner wants back with the result; not read here."""

    def __post_init__(self) -> None:
        one_of(self, "precision", PRECISIONS)
        within(self, (("tokens_max", 4, 8_192),))


class Embed:
    """The kind `embed`."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("encoder",), SPLITS)
    Settings: ClassVar[type[port.Settings]] = EmbedSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, transformers, the encoder and one split's texts and vectors. facts: `examples`,
        `bytes`, `input_bytes` of the encoder."""
        given = facts.get("input_bytes") or {}
        rows = int(facts.get("examples") or facts.get("rows") or 10_000)
        size = int(facts.get("bytes") or rows * 200)
        encoder = int(given.get("encoder") or 90 * MIB)
        vectors = 3 * 4 * 384 * rows
        memory = PROGRAM_BYTES + encoder + vectors + 3 * size
        disk = 64 * MIB + encoder + vectors + 2 * size
        wish = int(GPU_MARGIN * encoder) + BATCH_BYTES
        return Needs(cores=1.0, memory_bytes=memory, disk_bytes=disk, gpu_wish_bytes=wish)

    def run(self, job: Job, context: Context) -> Made:
        """Encode every split."""
        from executors.models import embedding

        return embedding.embed(job, context, [name for name in SPLITS if name in job.inputs])
