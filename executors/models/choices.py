"""What the settings leave open: numbers chosen by modality and size, each measured on several public sets.

The choices are functions of the training split's size alone, so a resumed attempt chooses the same.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

STEPS_WANTED = 600
"""Small sets are seen so often that a run has about this many steps: fewer leave a network half-trained."""

PARAMETERS_WANTED = 12_000_000
"""Numbers in a text network: 48 MB of weights, some 200 MB of checkpoint. More labels leave room for fewer n-grams."""

EPOCHS_MAX = 200
"""Beyond this even a tiny set teaches nothing new."""

LINEAR_RATE = 5.0
"""How many times faster a linear path may learn alone: no hidden layer multiplies its steps."""

CONTINUED_RATE = 0.3
"""Share of the usual learning rate when a run starts from the champion: it is to be improved, not shaken up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """Every setting of a training run with a value."""

    architecture: str
    hidden: tuple[int, ...]
    learning_rate: float
    batch: int
    epochs_max: int
    weight_decay: float
    dropout: float
    feature_dropout: float
    label_smoothing: float
    documents_min: int
    features_max: int
    evaluate_every: int


def choose(settings: Any, modality: str, rows: int, labels: int, *, continued: bool) -> Choices:
    """`settings` (of classify) with its gaps filled for `rows` training examples of `labels` labels. modality: 'text',
    'tabular', or 'vectors' and 'tuned' for texts through an encoder."""
    usual = _text(rows, labels) if modality == "text" else _USUAL[modality](rows)
    values = dataclasses.asdict(usual)
    for name in values:
        asked = getattr(settings, name, None)
        if asked is not None and asked != "auto":
            values[name] = asked
    if continued and settings.learning_rate is None and modality != "tuned":
        values["learning_rate"] *= CONTINUED_RATE
    if values["architecture"] == "linear":
        values["hidden"] = ()
        if settings.learning_rate is None and modality != "tuned":
            values["learning_rate"] *= LINEAR_RATE
    per_epoch = -(-rows // values["batch"])
    if settings.epochs_max is None and modality != "tuned":
        wanted = math.ceil(STEPS_WANTED / per_epoch)
        values["epochs_max"] = max(values["epochs_max"], min(EPOCHS_MAX, wanted))
    values["evaluate_every"] = _evaluate_every(per_epoch, per_epoch * values["epochs_max"])
    return Choices(**values)


def _text(rows: int, labels: int) -> Choices:
    return Choices(
        architecture="wide-deep",
        hidden=(128,),
        learning_rate=0.004,
        batch=_power_of_two(rows / 60, 8, 256),
        epochs_max=12,
        weight_decay=0.05,
        dropout=0.5,
        feature_dropout=0.2,
        label_smoothing=0.0,
        documents_min=1 if rows < 20_000 else 2,
        features_max=max(20_000, min(100_000, PARAMETERS_WANTED // (labels + 128))),
        evaluate_every=0,
    )


def _tabular(rows: int) -> Choices:
    return Choices(
        architecture="wide-deep",
        hidden=(256, 128),
        learning_rate=0.003,
        batch=_power_of_two(rows / 20, 16, 512),
        epochs_max=40,
        weight_decay=0.05,
        dropout=0.3,
        feature_dropout=0.05,
        label_smoothing=0.05,
        documents_min=1,
        features_max=0,
        evaluate_every=0,
    )


def _vectors(rows: int) -> Choices:
    """Over a frozen encoder's vectors: like a table without gaps, of which each column says a little."""
    return dataclasses.replace(_tabular(rows), hidden=(256,), feature_dropout=0.1)


def _tuned(rows: int) -> Choices:
    """With an encoder that learns, too: few passes, for each costs as much as a hundred over vectors."""
    return dataclasses.replace(
        _tabular(rows), architecture="linear", hidden=(), batch=32, epochs_max=4, weight_decay=0.01, dropout=0.0,
        feature_dropout=0.0, learning_rate=0.002,
    )  # fmt: skip


_USUAL = {"tabular": _tabular, "vectors": _vectors, "tuned": _tuned}


def _evaluate_every(per_epoch: int, steps: int) -> int:
    """Once per epoch, but not more than some forty times in a run, and at least every 400 steps."""
    return max(1, min(400, max(per_epoch, steps // 40)))


def _power_of_two(wanted: float, low: int, high: int) -> int:
    return int(min(high, max(low, 2 ** round(math.log2(max(1.0, wanted))))))
