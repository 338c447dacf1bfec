"""Per-item outcomes: what a claim and its check consist of. numpy only.

Labels are numbered as in the split's schema, so that models with other label lists can be compared item by item. An
answer that the split does not know counts as -1. The loss of an item is -ln p(true label), at most LOSS_MAX: a label
that the model was never shown has probability zero, and one infinite item would drown every average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from executors.data import Split
from mesh import codec
from mesh.messages.judgement import Outcomes

LOSS_MAX = 20.0
"""Nats; the loss of a label with probability 2e-9."""

OUTCOMES_BYTES_MAX = 64 * 1024 * 1024
"""Some 2.7 million items; the reader gives the same bound to the codec."""

FILE = "outcomes.msgpack"


def outcomes_of(
    split: Split,
    log_probabilities: NDArray[np.float32],
    labels: Sequence[str],
    *,
    model: str = "",
    split_digest: str = "",
) -> Outcomes:
    """What a model with `labels` answered, log_probabilities [n, labels], on the n items of `split`."""
    numbers = {label: number for number, label in enumerate(split.schema.labels)}
    as_split = np.array([numbers.get(label, -1) for label in labels], np.int32)
    known = {label: number for number, label in enumerate(labels)}
    as_model = np.array([known.get(label, -1) for label in split.schema.labels], np.int64)[split.labels]
    loss = np.full(len(split), LOSS_MAX, np.float32)
    rows = np.flatnonzero(as_model >= 0)
    loss[rows] = np.minimum(-log_probabilities[rows, as_model[rows]], LOSS_MAX)
    return Outcomes(
        model=model,
        split=split_digest,
        items=len(split),
        ids=split.ids.astype("<u8").tobytes(),
        clusters=split.clusters.astype("<u4").tobytes(),
        label=split.labels.astype("<i4").tobytes(),
        predicted=as_split[log_probabilities.argmax(axis=1)].astype("<i4").tobytes(),
        loss=loss.astype("<f4").tobytes(),
    )


def accuracy(outcomes: Outcomes) -> float:
    """Share of items answered right."""
    return float((np.frombuffer(outcomes.label, "<i4") == np.frombuffer(outcomes.predicted, "<i4")).mean())


def mean_loss(outcomes: Outcomes) -> float:
    """Nats per item, summed in float64."""
    return float(np.frombuffer(outcomes.loss, "<f4").astype(np.float64).mean())


def write(outcomes: Outcomes, folder: Path) -> Path:
    """A folder with the one file of an outcomes artifact."""
    folder.mkdir(parents=True, exist_ok=False)
    (folder / FILE).write_bytes(codec.encode(outcomes, bytes_max=OUTCOMES_BYTES_MAX))
    return folder


def read(folder: Path) -> Outcomes:
    """The inverse of `write`. Malformed when the file is no outcomes record."""
    return codec.decode((folder / FILE).read_bytes(), Outcomes, bytes_max=OUTCOMES_BYTES_MAX)
