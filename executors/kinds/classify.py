"""Classify: trains a text or tabular classifier, from zero or from another model's weights.

In:    `train`, `validation` (splits); `champion` or `base` (a model of this kind or of `baseline`), where there is one
       to go on from: the specialization's own, or one that the topic names; `encoder` (a transformers folder) to read
       texts by, with their `train_vectors` and `validation_vectors` where `embed` made them
Out:   `model`; `claims`, its per-item outcomes on validation
How:   a network by gradient steps, then the tuned linear model of `baseline` beside it, then a blend of the two that
       validation chooses with caution, so that the answer is not worse than the linear model alone
Keeps: a checkpoint of the network every `checkpoint_s`, on a better validation, when asked to stop, and at the end
Stops: 'budget', 'early stop' or 'epochs'; the network is the best one that validation saw, and a model to go
       on from that is not beaten is the answer
Not:   sees no holdout; compares nothing
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from executors import port, room
from executors.port import Context, Job, Made, Runtime
from executors.recipe import TrainingSettings, one_of, shared_out, wishing, within
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.trainable import Trainable

ARCHITECTURES = ("auto", "linear", "deep", "wide-deep")

MIB = 1024 * 1024

PROGRAM_BYTES = 420 * MIB
"""A child with torch, numpy and scikit-learn imported."""

TEXT_BYTES = 60 * MIB
"""Intermediate arrays of n-grams, whatever the size of the data."""


ENCODER_BYTES = 260 * MIB
"""transformers imported, and a batch in an encoder."""

TOKEN_BYTES = MIB // 4
"""Activations of a word piece of a batch in an encoder of MiniLM's size, until its gradient is there."""

ENCODER_WIDTH = 384
"""Numbers of a vector, as of most small encoders."""


class ClassifySettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. None: chosen by modality and size (executors/models/choices.py), and named in the result's
    facts."""

    architecture: str = "auto"
    """'linear' (one weight per feature and label), 'deep' (hidden layers), 'wide-deep' (both), or 'auto'."""
    hidden: tuple[int, ...] | None = None
    """Widths of the deep path's layers, 1 to 4 of them."""
    learning_rate: float | None = None  # type: ignore[assignment]
    batch: int | None = None  # type: ignore[assignment]
    epochs_max: int | None = None  # type: ignore[assignment]
    weight_decay: float | None = None  # type: ignore[assignment]
    evaluate_every: int | None = None  # type: ignore[assignment]
    dropout: float | None = None
    """Share of hidden units left out in a training step."""
    feature_dropout: float | None = None
    """Share of input features left out in a training step."""
    label_smoothing: float | None = None
    balance: float = 0.0
    """Mix of the labels in the network's loss: 0, every example counts the same; 1, every label does, however rare; of
    an encoder that is tuned always 0."""
    linear_path: bool = True
    """Fit the tuned linear model beside the network and let validation say how much each counts."""
    clip: float = 5.0
    word_max: int = 2
    """Longest sequence of words; 0 for none. Text only, as the next four."""
    char_min: int = 2
    char_max: int = 5
    """Longest sequence of characters; 0 for none."""
    documents_min: int | None = None
    """Training texts an n-gram must stand in."""
    features_max: int | None = None
    """N-grams that the network reads at most, the most frequent ones; the linear path reads more."""
    encoder_mode: str = "frozen"
    """With the input `encoder`: 'frozen' (its vectors are computed once), or 'tuned' (it learns, too)."""
    encoder_learning_rate: float = 3e-5
    """Of an encoder that is tuned."""
    tokens_max: int | None = None
    """Word pieces that an encoder reads of a text; None: what its folder says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "architecture", ARCHITECTURES)
        one_of(self, "encoder_mode", ("frozen", "tuned"))
        if self.hidden is not None and not (
            0 < len(self.hidden) <= 4 and all(0 < width <= 8192 for width in self.hidden)
        ):
            raise ValueError(f"hidden is one to four widths of 1 to 8192, got {self.hidden}")
        within(self, BOUNDS)
        if self.char_max and self.char_min > self.char_max:
            raise ValueError(f"char_min must not exceed char_max, got {self.char_min} and {self.char_max}")
        if not self.word_max and not self.char_max:
            raise ValueError("a text needs words or characters: word_max and char_max are both 0")


BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("dropout", 0.0, 0.95),
    ("feature_dropout", 0.0, 0.95),
    ("label_smoothing", 0.0, 0.5),
    ("balance", 0.0, 1.0),
    ("word_max", 0, 5),
    ("char_min", 1, 8),
    ("char_max", 0, 8),
    ("documents_min", 1, 1_000),
    ("features_max", 100, 5_000_000),
    ("encoder_learning_rate", 1e-8, 1.0),
    ("tokens_max", 4, 8_192),
)
"""Setting, least, most."""


class Classify:
    """The kind `classify`."""

    name: ClassVar[str] = "classify"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(
        ("train", "validation"), ("champion", "base", "encoder", "train_vectors", "validation_vectors")
    )
    Settings: ClassVar[type[port.Settings]] = ClassifySettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch, the features and the larger of two stages: the network (weights, gradient, two
        moments, the best one, a snapshot of all but the gradient, and its largest tensor anew while it is replaced),
        then the linear path over all features beside the network's best."""
        from executors.models.choices import choose

        rows, labels = int(facts.get("examples") or facts.get("rows") or 10_000), int(facts.get("labels") or 10)
        size = int(facts.get("bytes") or rows * 200)
        if encoder := int((facts.get("input_bytes") or {}).get("encoder") or 0):
            needs = _needs_with_encoder(settings, encoder, rows, labels, size)
            return wishing(shared_out(needs, settings), needs.memory_bytes - PROGRAM_BYTES, settings)
        text = facts.get("modality") != "tabular"
        chosen = choose(settings, "text" if text else "tabular", rows, labels, continued=False)
        if text:
            grams = max(1_000, size // 2)  # different ones; of long texts fewer, of codes and random names as many
            width, wide = min(chosen.features_max, grams), min(200_000, grams)
            encoded, all_encoded = TEXT_BYTES + min(40 * size, 8_192 * MIB), TEXT_BYTES + min(60 * size, 12_288 * MIB)
        else:
            width = wide = int(facts.get("features") or 100)
            encoded = all_encoded = 3 * 8 * rows * width
        widths = (width, *chosen.hidden, labels) if chosen.hidden else (0,)
        layers = [labels * width * (chosen.architecture != "deep"), *(a * b for a, b in itertools.pairwise(widths))]
        network, largest = 4 * sum(layers), 4 * max(layers)
        linear = 4 * min(wide * labels, 40_000_000)
        stages = encoded + 9 * network + 3 * largest, all_encoded + 5 * linear + 3 * network
        disk = 64 * MIB + room.of_training(4 * network, network + linear) + 2 * size
        needs = Needs(cores=1.0, memory_bytes=PROGRAM_BYTES + max(stages), disk_bytes=disk)
        return shared_out(needs, settings)

    def run(self, job: Job, context: Context) -> Made:
        """Train, calibrate, claim."""
        from executors.models import learning

        return learning.learn(job, context)

    def gradcheck_instance(self) -> Mapping[str, Trainable]:
        """Tiny networks over made-up rows, for `bin/agent gradcheck`."""
        from executors.models import checkable

        return checkable.classifiers()


def _needs_with_encoder(settings: Any, encoder: int, rows: int, labels: int, size: int) -> Needs:
    """With a sentence encoder of so many bytes: its weights (when it is tuned: with gradient, moments, best ones, a
    snapshot, and a batch's activations), the texts, their vectors in some copies, and what is fitted to these."""
    tuned = settings.encoder_mode == "tuned"
    pieces = min(settings.tokens_max or 256, 16 + size // max(1, rows))  # of a batch's longest text; 4 bytes each
    parts = (settings.micro_batch or settings.batch or 32) * pieces
    copies, activations = (10 * encoder, parts * TOKEN_BYTES) if tuned else (encoder, 0)
    vectors = 0 if tuned else 6 * 4 * ENCODER_WIDTH * rows
    head = 4 * ENCODER_WIDTH * (256 + labels)
    memory = PROGRAM_BYTES + ENCODER_BYTES + copies + activations + vectors + 3 * size + 20 * head
    disk = 64 * MIB + room.of_training(copies, 2 * encoder) + 2 * size
    return Needs(cores=1.0, memory_bytes=memory, disk_bytes=disk)
