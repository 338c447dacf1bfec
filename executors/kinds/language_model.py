"""Language model: a small causal transformer over a corpus of text, from zero or from another model's weights.

In:    `train`, a corpus (executors/corpus.py); `validation`, another one (else a share of `train`, cut by the hash of
       each document); `champion` or `base`, a language model to go on from; `tokenizer`, a tokenizer.json
Out:   `model`, a folder that transformers loads as a Llama; `claims`, nats per byte of each validation document
How:   bytes, or byte pairs merged on the training documents; windows of their stream; best is the fewest bits per byte
Keeps: a checkpoint every `checkpoint_s`, on a better validation, when asked to stop, and at the end
Stops: 'budget', 'early stop', 'steps' or 'epochs'; a model to go on from that is not beaten is the answer
Not:   sees no holdout; follows no instructions; reads no more than `sequence` tokens at once
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port, room
from executors.port import Context, Job, Made, Runtime
from executors.recipe import TrainingSettings, one_of, shared_out, wishing, within
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.trainable import Trainable

TOKENIZERS = ("bpe", "bytes")

MIB = 1024 * 1024

PROGRAM_BYTES = 440 * MIB
"""A child with torch, numpy, pyarrow and tokenizers imported, and what a first step makes torch allocate."""

CORPUS_BYTES_USUAL = 10_000_000
"""Of a corpus whose size nobody knows."""

CORPORA = ("train", "validation")

LAYERS, WIDTH, HEAD_WIDTH = 4, 256, 64
"""A network that a core trains in minutes: 3.2 million numbers beside the vocabulary."""

RATE, CONTINUED_SHARE = 1e-3, 0.3
"""The usual learning rate at its peak, and how much of it a model to go on from bears."""


class LanguageModelSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. None: the usual size, or that of the model to go on from."""

    tokenizer: str = "bpe"
    """'bpe', byte pairs merged on the training documents, or 'bytes'."""
    vocabulary: int = 2048
    """Tokens of `bpe`, at most."""
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    """Keys and values; divides `heads`. None: as many as heads."""
    inner: int | None = None
    """Width of the feed-forward half. None: 8/3 of the width, rounded up to 64."""
    tied: bool | None = None
    """The output layer is the embedding. None: yes."""
    theta: float | None = None
    """Base of the rotary positions. None: 10000."""
    sequence: int = 256
    """Tokens of a window: what the network sees at once."""
    dropout: float = 0.1
    validation_share: float = 0.05
    """Of the training corpus' documents, where no validation corpus is given."""
    salt: str = ""
    """Another salt holds out other documents."""
    validation_bytes_max: int = 200_000
    """Read in each validation while training; the claims read all."""
    sample_tokens: int = 100
    """Tokens that the model writes for its card; 0: none."""
    sample_temperature: float = 0.8
    learning_rate: float | None = None  # type: ignore[assignment]
    batch: int = 16
    weight_decay: float = 0.1
    warmup_steps: int = 100
    schedule: str = "cosine"
    evaluate_every: int = 200
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "tokenizer", TOKENIZERS)
        within(self, BOUNDS)
        sizes = self.sizes(self.vocabulary)
        if sizes["heads"] % sizes["kv_heads"]:
            raise ValueError(f"kv_heads divides heads ({sizes['heads']}), got {sizes['kv_heads']}")
        if sizes["width"] % sizes["heads"] or sizes["width"] // sizes["heads"] % 2:
            raise ValueError(f"heads divides width ({sizes['width']}) into even parts, got {sizes['heads']}")

    def sizes(self, vocabulary: int) -> dict[str, Any]:
        """Of a new network, by the names of executors/models/transformer.py's Shape."""
        width = self.width or (WIDTH if not self.heads else self.heads * HEAD_WIDTH)
        heads = self.heads or max(1, width // HEAD_WIDTH)
        return {
            "vocabulary": vocabulary,
            "width": width,
            "layers": self.layers or LAYERS,
            "heads": heads,
            "kv_heads": self.kv_heads or heads,
            "head_width": width // heads,
            "inner": self.inner or -(-width * 8 // 3 // 64) * 64,
            "tied": self.tied is not False,
            "theta": self.theta or 10_000.0,
        }

    def rate(self, *, continued: bool) -> float:
        """The learning rate where none is asked for."""
        return RATE * (CONTINUED_SHARE if continued else 1.0)


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("vocabulary", 300, 200_000),
    ("layers", 1, 200),
    ("width", 8, 16_384),
    ("heads", 1, 256),
    ("kv_heads", 1, 256),
    ("inner", 8, 65_536),
    ("theta", 100.0, 1e9),
    ("sequence", 8, 65_536),
    ("dropout", 0.0, 0.9),
    ("validation_share", 1e-6, 0.5),
    ("validation_bytes_max", 1_000, 1_000_000_000),
    ("sample_tokens", 0, 1_000),
    ("sample_temperature", 0.05, 5.0),
)
"""Setting, least, most."""


class LanguageModel:
    """The kind `language-model`."""

    name: ClassVar[str] = "language-model"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("train",), ("validation", "champion", "base", "tokenizer"))
    Settings: ClassVar[type[port.Settings]] = LanguageModelSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, the corpus as text and as tokens, the network (weights, gradient, two moments,
        the best one, a snapshot of all but the gradient, two more while it changes hands), and what a part of a step
        leaves for its way back. facts: `input_bytes`, by input; a model to go on from counts by its size."""
        given = facts.get("input_bytes") or {}
        size = sum(int(given.get(name, 0)) for name in CORPORA) or int(facts.get("bytes") or CORPUS_BYTES_USUAL)
        vocabulary = settings.vocabulary if settings.tokenizer == "bpe" else 257
        sizes = settings.sizes(vocabulary)
        wide, inner, usual = sizes["width"], sizes["inner"], parameters_of(sizes)
        parameters = max(usual, int(given.get("base") or given.get("champion") or 0) // 4)
        at_once = (settings.micro_batch or settings.batch) * settings.sequence
        layers = sizes["layers"] * (15 * wide + 5 * inner) + 4 * wide
        per_token = 4 * (layers * (parameters / usual) ** (2 / 3) + 5 * vocabulary)
        moving = (11 + 2 * settings.accumulate_float64) * 4 * parameters
        memory = int(PROGRAM_BYTES + moving + at_once * per_token + 8 * size)
        disk = 64 * MIB + room.of_training(16 * parameters, 4 * parameters) + 2 * size
        needs = shared_out(Needs(cores=1.0, memory_bytes=memory, disk_bytes=disk), settings)
        return wishing(needs, int(moving + at_once * per_token), settings)

    def run(self, job: Job, context: Context) -> Made:
        """Train, read the validation documents, claim."""
        from executors.models import languagelearning

        return languagelearning.learn(job, context)

    def gradcheck_instance(self) -> Mapping[str, Trainable]:
        """Tiny networks over made-up documents, for `bin/agent gradcheck`."""
        from executors.models import languagecheck

        return languagecheck.instances()


def parameters_of(sizes: Mapping[str, Any]) -> int:
    """Numbers of a network of these sizes."""
    attention = 2 * sizes["width"] * sizes["head_width"] * (sizes["heads"] + sizes["kv_heads"])
    layer = attention + 3 * sizes["width"] * sizes["inner"] + 2 * sizes["width"]
    embedding = sizes["vocabulary"] * sizes["width"] * (1 if sizes["tied"] else 2)
    return int(sizes["layers"] * layer + sizes["width"] + embedding)
