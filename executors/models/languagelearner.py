"""A language model's training as the loop sees it: windows of a stream of tokens, cross-entropy, bits per byte.

    stream     start d1 … start d2 … start d3 … end        all documents one behind the other, in the corpus' order
    windows    |---------|---------|---------|--           a row is one of them: `sequence` tokens and those after each

A window may hold the end of one document and the beginning of the next: the token between them says so. Which windows
form a step is the loop's choice, a function of the step (executors/data.py); each is read once in an epoch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executors.data import Ints
from executors.models import reading
from executors.models.tokens import Encoded, Tokens, Vocabulary
from executors.models.transformer import IGNORED, Transformer
from executors.trainable import Base, Evaluation


@dataclasses.dataclass(frozen=True, slots=True)
class Windows:
    """A step's part: tokens and targets [n, sequence]."""

    tokens: Tensor
    targets: Tensor
    count: int
    """Targets that are asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOut:
    """Documents that validation reads."""

    documents: Encoded
    sizes: NDArray[np.int64]
    """Bytes of each."""


def stream_of(documents: Encoded, vocabulary: Vocabulary) -> Tokens:
    """All documents one behind the other, each between its start and end; where these are the same token it stands
    once between two documents."""
    count, split = len(documents), vocabulary.start != vocabulary.end
    lengths = np.diff(documents.offsets)
    framed = np.empty(len(documents.tokens) + count * (2 if split else 1) + (0 if split else 1), documents.tokens.dtype)
    places = documents.offsets[:-1] + np.arange(count) * (2 if split else 1)
    inside = np.ones(len(framed), np.bool_)
    inside[places] = False
    framed[places] = vocabulary.start
    ends = places + lengths + 1 if split else np.array([len(framed) - 1])
    inside[ends] = False
    framed[ends] = vocabulary.end
    framed[inside] = documents.tokens
    return framed


class LanguageLearner(Base):
    """What trains. Best is what foretells the validation documents with the fewest bits per byte."""

    def __init__(
        self,
        network: Transformer,
        vocabulary: Vocabulary,
        stream: Tokens,
        held_out: HeldOut,
        sequence: int,
        device: torch.device,
    ) -> None:
        """stream: at least two tokens; sequence: tokens of a window, at most the network's context."""
        self.network: Transformer = network
        self.vocabulary, self.held_out, self.sequence, self.device = vocabulary, held_out, sequence, device
        self._stream = stream

    @property
    def rows(self) -> int:
        """Windows."""
        return -(-(len(self._stream) - 1) // self.sequence)

    def build(self, rows: Ints) -> Windows:
        """Some windows; what the last one lacks is asked of nobody."""
        places = rows[:, None] * self.sequence + np.arange(self.sequence + 1)
        beyond = places >= len(self._stream)
        found = self._stream[np.where(beyond, 0, places)].astype(np.int64)
        tokens, targets = found[:, :-1].copy(), found[:, 1:].copy()
        targets[beyond[:, 1:]] = IGNORED
        count = int((~beyond[:, 1:]).sum())
        return Windows(torch.from_numpy(tokens).to(self.device), torch.from_numpy(targets).to(self.device), count)

    def targets(self, batch: Windows) -> int:
        """One per token that has a next one."""
        return batch.count

    def loss(self, batch: Windows) -> Tensor:
        """Summed cross-entropy in nats."""
        return self.network.loss(batch.tokens, batch.targets)

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Bits per byte over the validation documents, in windows side by side; loss in nats per token."""
        held = self.held_out
        found = reading.read(
            self.network, held.documents, self.vocabulary, self.device, tick, context=self.sequence, overlap=False
        )
        nats = float(found.nats.sum())
        bits = reading.bits_per_byte(nats, int(held.sizes.sum()))
        return Evaluation(-bits, nats / float(found.tokens.sum()), {"validation_bits_per_byte": bits})


class RememberingLearner(LanguageLearner):
    """One whose tokenizer was trained here, and stands in every checkpoint: whoever resumes cuts the texts as before,
    whatever library is installed there."""

    @functools.cached_property
    def _tokenizer(self) -> Tensor:
        return torch.frombuffer(bytearray(self.vocabulary.json()), dtype=torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """The content of tokenizer.json."""
        return {"tokenizer": self._tokenizer}
