"""What learns when an adapter is trained, as the loop sees it: labels of texts, or the next token.

The loop is given `Adapted`, which shows of the network only what is trained. So a checkpoint holds the adapter, its
moments and the best adapter, and not the base, which is an input of the task and the same on every attempt.

    LabelTuning    batches of texts padded to their longest; cross-entropy; best by right answers, then by loss
    NextTuning     documents behind one another in windows of `tokens_max`; cross-entropy of every token; best by nats
                   per byte on the validation documents
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from executors.corpus import Corpus
from executors.device import Device
from executors.models.hf_folder import Loaded
from executors.models.probabilities import log_softmax
from executors.models.tuned import IGNORED, Rows, TunedClassifier, TunedLanguageModel, masked, padded, windows_of
from executors.trainable import Base, Evaluation

Labels = NDArray[np.int64]


class Adapted(nn.Module):
    """A network of which only the trained parameters are seen, saved and restored."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **named: Any) -> Any:
        """As the network itself."""
        return self.inner(*args, **named)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that learn."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if parameter.requires_grad:
                yield name, parameter

    def state_dict(self, *args: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """Of those that learn."""
        whole = super().state_dict(*args, **named)
        return {name: whole[name] for name, _ in self.named_parameters(prefix=named.get("prefix", "")) if name in whole}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Into those that learn; each of them has to be there."""
        if strict and (wrong := state_dict.keys() ^ self.state_dict().keys()):
            raise RuntimeError(f"the adapter has not {sorted(wrong)[0]}, or it is missing")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """Tokenized texts and their labels; a label of -1 is one that the classifier does not know."""

    rows: Rows
    labels: Labels


class LabelTuning(Base):
    """Learns labels."""

    def __init__(self, model: TunedClassifier, train: Texts, validation: Texts, place: Device) -> None:
        self.network = Adapted(model.network)
        self._model, self._train, self._validation, self._place = model, train, validation, place

    @property
    def rows(self) -> int:
        """Training examples."""
        return len(self._train.rows)

    def build(self, rows: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens [n, t], where they are real [n, t], labels [n])."""
        part = [self._train.rows[row] for row in rows]
        labels = torch.from_numpy(self._train.labels[rows])
        tensors = padded(part, self._model.base.pad), masked(part), labels
        ids, mask, wanted = (tensor.to(self._place.torch) for tensor in tensors)
        return ids, mask, wanted

    def targets(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        """One per text."""
        return len(batch[2])

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Summed cross-entropy in nats."""
        ids, mask, labels = batch
        logits = self.network(input_ids=ids, attention_mask=mask).logits
        return functional.cross_entropy(_precise(logits), labels, reduction="sum")

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Right answers and loss over the validation texts whose labels are known."""
        known = np.flatnonzero(self._validation.labels >= 0)
        with self._place.autocast():
            logits = self._model.logits([self._validation.rows[row] for row in known], self._place.torch, tick)
        labels = self._validation.labels[known]
        loss = float(-log_softmax(logits)[np.arange(len(labels)), labels].astype(np.float64).mean())
        accuracy = float((logits.argmax(axis=1) == labels).sum() / len(self._validation.labels))
        return Evaluation(accuracy, loss, {"validation_accuracy": accuracy})


class NextTuning(Base):
    """Learns the next token."""

    def __init__(self, model: TunedLanguageModel, windows: Rows, validation: Corpus, place: Device) -> None:
        self.network = Adapted(model.network)
        self._model, self._windows, self._validation, self._place = model, windows, validation, place

    @property
    def rows(self) -> int:
        """Training windows."""
        return len(self._windows)

    def build(self, rows: Labels) -> Tensor:
        """Tokens [n, t], IGNORED where a window is shorter."""
        return padded([self._windows[row] for row in rows], IGNORED).to(self._place.torch)

    def targets(self, batch: Tensor) -> int:
        """Every token but the first of a window."""
        return int((batch[:, 1:] != IGNORED).sum())

    def loss(self, batch: Tensor) -> Tensor:
        """Summed cross-entropy in nats."""
        logits = self.network(input_ids=batch[:, :-1].clamp_min(0)).logits
        return functional.cross_entropy(
            _precise(logits).flatten(0, 1), batch[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def evaluate(self, tick: Callable[[], None]) -> Evaluation:
        """Nats per byte over the validation documents."""
        with self._place.autocast():
            nats, tokens = self._model.nats(self._validation, self._place.torch, tick)
        loss = float((nats / self._validation.sizes).mean())
        return Evaluation(-loss, loss, {"validation_nats_per_token": float(nats.sum() / tokens)})


def packed_windows(base: Loaded, corpus: Corpus, tokens_max: int, tick: Callable[[], None]) -> Rows:
    """Training windows: short documents stand behind one another, each with its start token, so that no place is
    wasted; what is left of a window goes on in the next one."""
    windows, _ = windows_of(base, corpus.texts, tokens_max, tick)
    whole = [window for window in windows if len(window) == tokens_max + 1]
    rest = [window for window in windows if len(window) <= tokens_max]
    if rest:
        stream = np.concatenate(rest)
        starts = range(0, max(1, len(stream) - 1), tokens_max)
        whole.extend(stream[start : start + tokens_max + 1] for start in starts)
    return whole


def _precise(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
