"""Lora: trains a LoRA adapter on a model of the transformers library: texts to labels, or the next token.

In:    `base` (a transformers folder: safetensors and tokenizer), `train`, `validation` (text splits; for `task`
       language-model also corpora, and without `validation` a part of `train` is held out); `champion` (an adapter of
       the same base to go on from), where there is one
Out:   `model`, the adapter as peft loads it; `claims`, its per-item outcomes on validation; with `merge_adapter` also
       `merged`, a whole model that transformers loads alone
How:   the base is frozen; only the adapter and, for labels, the head learn (executors/models/lora.py)
Keeps: checkpoints of the adapter and its moments, not of the base
Stops: 'budget', 'early stop', 'epochs' or 'steps'; the adapter is the best one that validation saw
Not:   fetches nothing; adapts no quantized base, no encoder-decoder
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from executors.recipe import TrainingSettings, one_of, shared_out, wishing, within
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.trainable import Trainable

TASKS = ("classify", "language-model")
BIASES = ("none", "all", "lora_only")

MIB = 1024 * 1024

LIBRARIES_BYTES = 460 * MIB
"""A child with torch, transformers and peft, before it has a model."""

BASE_BYTES = 91 * MIB
"""Where nobody says how large the base is: a small sentence encoder."""

ASKED_PLACES = 4_096
"""Tokens of a batch when a model is only asked (executors/models/encoder.py)."""


class LoraSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to adapt; how to train as every kind (executors/recipe.py)."""

    task: str = "classify"
    """'classify' (a text split's labels) or 'language-model' (the next token)."""
    rank: int = 8
    """Of an adapter that is gone on from: at least its own."""
    alpha: float = 16.0
    """The adapter's part is scaled by alpha / rank."""
    dropout: float = 0.05
    """Share of inputs of the adapter left out in a training step."""
    bias: str = "none"
    """Biases that learn, too: 'none', 'all', or 'lora_only' (those of adapted modules)."""
    targets: tuple[str, ...] = ()
    """Ends of the names of the modules to adapt, or 'all-linear'; (): those usual for the architecture."""
    tokens_max: int = 128
    """Tokens of a text, or of a window; at most what the base has places for."""
    merge_adapter: bool = False
    """Write the base with the adapter in its weights as a second output."""
    base_name: str = ""
    """What the adapter calls its base, say a hub's name; '': its weights' digest. Never a path."""
    held_out: float = 0.05
    """Share of the corpus set aside when no `validation` is given; language-model only."""

    batch: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_steps: int = 20
    epochs_max: int = 3
    evaluate_every: int = 100
    patience: int = 5
    precision: str = "bf16"
    """'bf16' is half as fast again on a CPU that computes in it, and falls back to fp32, with the reason, where none
    does; the adapter itself, its moments and the claims are fp32 always."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "task", TASKS)
        one_of(self, "bias", BIASES)
        within(self, BOUNDS)
        if self.sharding != "none":
            raise ValueError("sharding is none for an adapter: its base is frozen, and each process holds it whole")
        if len(self.targets) > 64 or not all(0 < len(name) <= 200 for name in self.targets):
            raise ValueError("targets are at most 64 ends of module names of 1 to 200 characters")
        if len(self.base_name) > 200 or self.base_name.startswith(("/", "~", ".", "\\")):
            raise ValueError(
                f"base_name is a public name of at most 200 characters and no path, got {self.base_name!r}"
            )


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("rank", 1, 1_024),
    ("alpha", 1e-3, 1e4),
    ("dropout", 0.0, 0.95),
    ("tokens_max", 2, 131_072),
    ("held_out", 0.001, 0.5),
)


class Lora:
    """The kind `lora`."""

    name: ClassVar[str] = "lora"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("base", "train"), ("validation", "champion"))
    Settings: ClassVar[type[port.Settings]] = LoraSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for the libraries, the base in fp32, the activations of what is computed at once, the
        adapter with all that belongs to it, and the texts as tokens. facts: `input_bytes`, by input."""
        sizes = facts.get("input_bytes") or {}
        base = int(sizes.get("base") or BASE_BYTES)
        texts = int(facts.get("bytes") or sizes.get("train") or 2 * MIB)
        rows = int(facts.get("examples") or facts.get("rows") or 0)
        tokens = min(settings.tokens_max, 16 + 2 * texts // rows) if rows else settings.tokens_max
        states = states_bytes(base, (settings.micro_batch or settings.batch) * tokens, tokens, settings.task)
        adapter = 4 * 6 * settings.rank * width_of(base) * 48
        merged = base if settings.merge_adapter else 0
        memory = LIBRARIES_BYTES + base + merged + states + adapter + 12 * texts
        disk = 64 * MIB + base + merged + 3 * adapter + 2 * texts
        needs = shared_out(Needs(cores=1.0, memory_bytes=memory, disk_bytes=disk), settings)
        return wishing(needs, base + merged + states + adapter, settings)

    def run(self, job: Job, context: Context) -> Made:
        """Adapt, claim."""
        from executors.models import lora

        return lora.adapt(job, context)

    def gradcheck_instance(self) -> Mapping[str, Trainable]:
        """Tiny networks of the same making, one per task, for the check of gradients."""
        from executors.models import lora

        return lora.tiny()


def width_of(base_bytes: int) -> int:
    """About how wide the states of a model of so many bytes are: MiniLM's 90 MB have 384, BERT's 440 MB have 768."""
    return max(16, int(384 * (base_bytes / (91 * MIB)) ** 0.45))


def states_bytes(base_bytes: int, places: int, tokens: int, task: str) -> int:
    """Memory for what a network keeps on the way there for the way back: per token and layer some 38 numbers of its
    width, and a little more for longer texts; measured on BERT's kind with dropout. At least what it takes to ask the
    model."""
    numbers, width = base_bytes // 4, width_of(base_bytes)
    layered = 0.8 * numbers / (12 * width)  # layers * width, were most of the numbers in them
    kept = 4 * places * layered * (38 + 0.7 * tokens / 32)
    asked = 4 * ASKED_PLACES * width * (24 + tokens / 32)
    words = min(160_000, numbers // (2 * width)) if task == "language-model" else 0
    return int(max(kept + 12 * places * words, asked + 128 * MIB * bool(words)))
