"""A classifier's features from a sentence encoder: what `features.TextFeatures` is for n-grams.

    texts ── kept vectors (the kind `embed`), checked ──┐
         └── encoder ───────────────────────────────────┴── times sqrt(width) ── float32 [n, width], about 1 each

The model that is made holds the encoder's folder in itself: it needs nothing else to answer. A frozen encoder's files
are the very files that came in, so a store that names bytes by their digest keeps them once for all models on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from executors.data import Split
from executors.features import Encoded
from executors.models import encoder as encoders
from executors.models import encoderfolder, vectors
from executors.models.encoder import Encoder
from mesh.errors import ArtifactCorrupt

FOLDER = "encoder"
"""Of the encoder inside a model."""

Floats = NDArray[np.float32]


def _nothing() -> None:
    """A tick that nobody waits for."""


@dataclasses.dataclass(slots=True)
class EncoderFeatures:
    """Vectors of a sentence encoder."""

    modality: ClassVar[str] = "text"
    sparse: ClassVar[bool] = False
    encoder: Encoder
    origin: str
    """Digest of the encoder that came in: still the same after this one was tuned."""
    tuned: bool = False
    kept: dict[bytes, Floats] | None = None
    """Vectors by split, for those who ask for the same one again; None: nothing is kept."""

    @property
    def width(self) -> int:
        """Numbers per example."""
        return self.encoder.width

    @property
    def scale(self) -> float:
        """By which a vector of length one is stretched, so that its numbers are about 1."""
        return math.sqrt(self.encoder.width)

    def encode(self, split: Split, tick: Callable[[], None] = _nothing) -> Encoded:
        """[n, width] float32."""
        if self.kept is None:
            return self.encoder.encode(split.texts, tick) * np.float32(self.scale)
        key = _key(split)
        if key not in self.kept:
            self.kept[key] = self.encoder.encode(split.texts, tick)
        return self.kept[key] * np.float32(self.scale)

    def take_over(self, folder: Path, split: Split, seed: int) -> str:
        """Use the vectors in `folder` for this split; why not, if not."""
        try:
            found = vectors.read(folder)
        except ValueError as error:
            return str(error)
        why = vectors.why_not(found, split, self.encoder, seed)
        if not why:
            self.kept = {**(self.kept or {}), _key(split): found.matrix}
        return why

    def head(self, encoded: Encoded, count: int) -> Encoded:
        """The same: a vector has no less frequent half."""
        return encoded

    def tensors(self) -> dict[str, NDArray[Any]]:
        """None in the model's own file: the encoder has a folder."""
        return {}

    def config(self) -> dict[str, Any]:
        """What the model's config keeps."""
        return {
            "modality": self.modality,
            "encoder": self.origin,
            "tuned": self.tuned,
            "tokens_max": self.encoder.tokens_max,
            "precision": self.encoder.precision,
        }

    def save(self, model: Path) -> None:
        """Write the encoder into a model's folder."""
        if self.tuned:
            self.encoder.save(model / FOLDER)
        else:
            encoderfolder.copied(self.encoder.folder, model / FOLDER)


def restore(model: Path, config: Mapping[str, Any]) -> EncoderFeatures:
    """The features of a stored model. ArtifactCorrupt when its parts do not fit together."""
    try:
        tokens_max, precision = int(config["tokens_max"]), str(config["precision"])
        origin, tuned = str(config["encoder"]), bool(config["tuned"])
        if precision not in vectors.NEAR:
            raise ValueError(f"precision {precision[:20]!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"the model's encoder is not described: {type(error).__name__} {error}") from None
    encoder = encoders.load(model / FOLDER, tokens_max=tokens_max, precision=precision)
    if not tuned and encoder.digest != origin:
        raise ArtifactCorrupt("the encoder in the model is not the one that its config names")
    return EncoderFeatures(encoder, origin, tuned)


def _key(split: Split) -> bytes:
    return hashlib.sha256(split.ids.tobytes()).digest()
