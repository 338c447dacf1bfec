"""Contrastive: trains a dual encoder, so that texts that belong together are found by their nearness.

In:    `pairs` (a file of left and right texts; executors/pairs.py); `held_out` (pairs put aside by somebody else) and
       `encoder` (a transformers folder), where there are any
Out:   `model`; `claims`, its per-item outcomes on the held-out pairs; `held_out`, these pairs and the rest of the pool
How:   InfoNCE over the whole batch, computed in parts where memory asks for it (gradient caching), or against momentum
       encoders and queues (`method = moco`); towers over n-grams, over a frozen encoder's vectors, or over one that is
       tuned with them
Shows: recall@k, MRR and nDCG@10 with the size of the pool, and BM25's in the same pool
Stops: 'budget', 'early stop', 'epochs' or 'steps'; when the vectors collapse, with a sentence
Not:   builds no index (the kind `index` does)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime
from executors.recipe import TrainingSettings, one_of, wishing, within
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.trainable import Trainable

MIB = 1024 * 1024

PROGRAM_BYTES = 430 * MIB
"""A child with torch, scikit-learn's and bm25s' parts imported."""

ENCODER_BYTES = 260 * MIB
"""transformers imported, and a batch in an encoder."""

TOKEN_BYTES = MIB // 4
"""Activations of a word piece of a batch in an encoder of MiniLM's size, until its gradient is there."""

RANKING_BYTES = 60 * MIB
"""Blocks of scores."""


class ContrastiveSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. None: chosen by what the towers read (executors/models/contrasting.py), named in the result's
    facts."""

    batch: int | None = None  # type: ignore[assignment]
    """Pairs per step: each is compared with all others. Computed `micro_batch` at a time, with the same gradients."""
    learning_rate: float | None = None  # type: ignore[assignment]
    epochs_max: int | None = None  # type: ignore[assignment]
    evaluate_every: int | None = None  # type: ignore[assignment]
    method: str = "in-batch"
    """'in-batch', or 'moco': momentum encoders and queues on both sides beside it."""
    queue: int = 4_096
    """Vectors that moco remembers per side."""
    momentum: float = 0.995
    """Of moco's slow encoders; 0.995 to 0.999, lower values collapse."""
    tower: str = "linear"
    """'linear', or 'mlp': a residual layer behind the linear map."""
    shared: bool = False
    """One tower for both sides."""
    width: int | None = None
    """Numbers of a vector."""
    temperature: float = 0.05
    temperature_learned: bool = True
    dropout: float = 0.1
    """Share of an mlp tower's inner units left out in a training step."""
    input_dropout: float = 0.2
    """Share of a tower's inputs left out in a training step."""
    encoder_mode: str = "frozen"
    """With an encoder: 'frozen' (its vectors are computed once), or 'tuned' (it learns, too)."""
    encoder_learning_rate: float = 2e-5
    """Of an encoder that is tuned."""
    tokens_max: int | None = None
    """Word pieces that an encoder reads of a text; None: what its folder says."""
    word_max: int = 1
    """Longest sequence of words; 0 for none. Without an encoder, as the next four."""
    char_min: int = 3
    char_max: int = 0
    """Longest sequence of characters; 0 for none."""
    documents_min: int = 1
    """Training texts that an n-gram must stand in."""
    features_max: int = 30_000
    """N-grams that are read at most, the most frequent ones."""
    pool: str = "all"
    """'all': the partner is to be found among every right text of the data; 'held-out': of the held-out pairs."""
    pool_max: int = 20_000
    """Texts in the pool at most."""
    collapse: str = "stop"
    """When the vectors collapse: 'stop', or 'flag' (the run goes on, the result says so)."""
    effective_rank_min: float = 2.0
    """Dimensions that the validation's vectors use at least; fewer are a collapse."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "method", ("in-batch", "moco"))
        one_of(self, "tower", ("linear", "mlp"))
        one_of(self, "encoder_mode", ("frozen", "tuned"))
        one_of(self, "pool", ("all", "held-out"))
        one_of(self, "collapse", ("stop", "flag"))
        within(self, BOUNDS)
        if self.processes > 1:
            raise ValueError("every pair is compared with all others of its batch: leave `processes` at 1")
        if self.batch is not None and self.batch < 2:
            raise ValueError(f"batch is at least 2, for pairs are compared with each other, got {self.batch}")
        if self.char_max and self.char_min > self.char_max:
            raise ValueError(f"char_min must not exceed char_max, got {self.char_min} and {self.char_max}")
        if not self.word_max and not self.char_max:
            raise ValueError("a text needs words or characters: word_max and char_max are both 0")


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("queue", 1, 1_000_000),
    ("momentum", 0.0, 0.99999),
    ("width", 2, 8_192),
    ("temperature", 0.01, 0.5),
    ("dropout", 0.0, 0.95),
    ("input_dropout", 0.0, 0.95),
    ("encoder_learning_rate", 1e-8, 1.0),
    ("tokens_max", 4, 8_192),
    ("word_max", 0, 5),
    ("char_min", 1, 8),
    ("char_max", 0, 8),
    ("documents_min", 1, 1_000),
    ("features_max", 100, 2_000_000),
    ("pool_max", 2, 1_000_000),
    ("effective_rank_min", 1.0, 1_000.0),
)
"""Setting, least, most."""


class Contrastive:
    """The kind `contrastive`."""

    name: ClassVar[str] = "contrastive"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("pairs",), ("held_out", "encoder"))
    Settings: ClassVar[type[port.Settings]] = ContrastiveSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, the texts as the towers read them, weights (with gradient, moments, best ones, a
        snapshot and moco's copies), and the ranking. facts: `rows`, and `input_bytes` of `pairs` and `encoder`."""
        given = facts.get("input_bytes") or {}
        size = int(given.get("pairs") or facts.get("bytes") or 4 * MIB)
        rows = int(facts.get("examples") or facts.get("rows") or size // 200)
        encoder = int(given.get("encoder") or 0)
        copies = 9 + (2 if settings.method == "moco" else 0)
        towers = 1 if settings.shared else 2
        if encoder:
            width = settings.width or 384
            vectors = 3 * 4 * width * 2 * rows if settings.encoder_mode == "frozen" else 8 * size
            parts = settings.micro_batch or settings.batch or 64
            activations = parts * (settings.tokens_max or 128) * TOKEN_BYTES
            read = ENCODER_BYTES + encoder + vectors + (activations if settings.encoder_mode == "tuned" else 0)
            weights = 4 * towers * width * 384 + (encoder if settings.encoder_mode == "tuned" else 0)
        else:
            width = settings.width or 256
            read = 40 * MIB + 30 * min(size, 2_048 * MIB)
            weights = 4 * towers * width * min(settings.features_max, max(1_000, size // 8))
        queues = 3 * 2 * 4 * width * settings.queue if settings.method == "moco" else 0
        pool = 3 * 4 * width * min(settings.pool_max, rows)
        memory = PROGRAM_BYTES + RANKING_BYTES + 4 * size + read + copies * weights + queues + pool
        needs = Needs(cores=1.0, memory_bytes=memory, disk_bytes=64 * MIB + 12 * weights + 2 * encoder + 2 * size)
        return wishing(needs, read + copies * weights + queues + pool, settings) if encoder else needs

    def run(self, job: Job, context: Context) -> Made:
        """Train, rank, claim."""
        from executors.models import contrasting

        return contrasting.learn(job, context)

    def gradcheck_instance(self) -> Mapping[str, Trainable]:
        """Tiny towers over made-up pairs, for `bin/agent gradcheck`."""
        from executors.models import checkablepairs

        return checkablepairs.duals()
