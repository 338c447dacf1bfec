"""What may be tried, declared per executor kind: the dials that the evolver turns, and the space of the reinventor.

    dials      of a training that goes on from trained weights: its rate, batch, regularisation, data mix. Never the
               architecture, because the weights have to fit
    drawn      values of settings from zero, for a reinventor that has no time to search
    searched   the same settings as a space, for a reinventor that is a short study (planner/studies.py)

The values lie around the kinds' measured defaults; a test shows that the kinds accept every one of them. A continued
network gets a lower rate than a new one: at the full rate it forgets more than it learns, so the rate is the dial that
is always turned.

An adapter's rank may rise: the matrices grow by rows that change nothing until they are trained. Not here: weights in
few bits, which nothing is trained for (planner/rounding.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts


@dataclasses.dataclass(frozen=True, slots=True)
class Dial:
    """A number of the training that the evolver may turn. New value = old * factor, kept within the bounds."""

    default: float
    """The kind's default: where a champion's settings do not name the dial."""
    factors: tuple[float, ...]
    low: float
    high: float
    whole: bool = False
    """Only whole numbers."""
    absent: float | None = None
    """The kind's default where it is 0: then `default` is the first step away from it."""

    @property
    def unset(self) -> float:
        """Its value in settings that do not name it."""
        return self.default if self.absent is None else self.absent

    def turned(self, old: float, factor: float) -> float:
        """The new value; from zero a factor leads nowhere, so zero becomes the lowest positive step."""
        new = old * factor if old > 0 else self.default * factor
        kept = min(self.high, max(self.low, new))
        return round(kept) if self.whole else float(f"{kept:.4g}")


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What may be tried for one modality."""

    dials: Mapping[str, Dial]
    """What the evolver may turn; only what can change on trained weights."""
    always: str
    """The dial that is turned every time; one of the others may follow."""
    drawn: Mapping[str, Sequence[Any]]
    """Setting to the values from which the reinventor draws."""
    searched: Mapping[str, Facts] = dataclasses.field(default_factory=dict)
    """Setting to what a study may draw, in the form of `search-step`'s `space`."""
    trials: Facts = dataclasses.field(default_factory=dict)
    """Settings of a study's trials alone: what makes them cheaper and does not change who is better."""
    last: Facts = dataclasses.field(default_factory=dict)
    """What the training of the best has in their place."""


def _log(low: float, high: float) -> Facts:
    return {"type": "log-float", "low": low, "high": high}


def _even(low: float, high: float) -> Facts:
    return {"type": "float", "low": low, "high": high}


def _one_of(*choices: Any) -> Facts:
    return {"type": "categorical", "choices": list(choices)}


_HALF_OR_TWICE = (0.5, 2.0)

_BALANCE = Dial(0.2, _HALF_OR_TWICE, 0.05, 1.0, absent=0.0)
"""The mix of the labels: how much more the rarer ones count."""

_TEXT = Space(
    always="learning_rate",
    dials={
        "learning_rate": Dial(0.004, (0.2, 0.3, 0.5, 2.0), 1e-4, 2e-3),
        "batch": Dial(64, _HALF_OR_TWICE, 8, 512, whole=True),
        "weight_decay": Dial(0.05, (0.3, 3.0), 1e-4, 0.3),
        "dropout": Dial(0.5, (0.6, 1.3), 0.05, 0.7),
        "feature_dropout": Dial(0.2, _HALF_OR_TWICE, 0.01, 0.4),
        "balance": _BALANCE,
    },
    drawn={
        "architecture": ("wide-deep", "wide-deep", "deep"),
        "hidden": ([128], [192], [256]),
        "learning_rate": (0.003, 0.004, 0.006),
        "weight_decay": (0.01, 0.05, 0.1),
        "dropout": (0.4, 0.5),
        "feature_dropout": (0.1, 0.2, 0.3),
        "label_smoothing": (0.0, 0.05),
        "features_max": (60_000, 100_000),
    },
    searched={
        "architecture": _one_of("wide-deep", "deep"),
        "hidden": _one_of([128], [192], [256]),
        "learning_rate": _log(0.002, 0.01),
        "weight_decay": _log(0.005, 0.2),
        "dropout": _even(0.3, 0.6),
        "feature_dropout": _even(0.05, 0.35),
        "label_smoothing": _even(0.0, 0.1),
    },
    trials={"linear_path": False},
    last={"linear_path": True},
)

_TABULAR = Space(
    always="learning_rate",
    dials={
        "learning_rate": Dial(0.003, (0.2, 0.3, 0.5, 2.0), 1e-4, 1.5e-3),
        "batch": Dial(64, _HALF_OR_TWICE, 16, 512, whole=True),
        "weight_decay": Dial(0.05, (0.3, 2.0), 1e-3, 0.3),
        "dropout": Dial(0.3, (0.5, 1.5), 0.05, 0.6),
        "feature_dropout": Dial(0.05, _HALF_OR_TWICE, 0.01, 0.3),
        "balance": _BALANCE,
    },
    drawn={
        "hidden": ([128], [128, 64], [256, 128], [512, 256]),
        "learning_rate": (0.002, 0.003, 0.005),
        "weight_decay": (0.02, 0.05, 0.1),
        "dropout": (0.1, 0.2, 0.3),
        "feature_dropout": (0.0, 0.05, 0.1),
        "label_smoothing": (0.0, 0.05),
    },
    searched={
        "hidden": _one_of([128], [128, 64], [256, 128], [512, 256]),
        "learning_rate": _log(0.001, 0.01),
        "weight_decay": _log(0.005, 0.2),
        "dropout": _even(0.0, 0.4),
        "feature_dropout": _even(0.0, 0.15),
        "label_smoothing": _even(0.0, 0.1),
    },
    trials={"linear_path": False},
    last={"linear_path": True},
)

_ENCODER = Space(
    always="learning_rate",
    dials={
        "learning_rate": Dial(0.003, (0.2, 0.3, 0.5, 2.0), 1e-4, 1.5e-3),
        "batch": Dial(64, _HALF_OR_TWICE, 16, 512, whole=True),
        "weight_decay": Dial(0.05, (0.3, 2.0), 1e-3, 0.3),
        "dropout": Dial(0.3, (0.5, 1.5), 0.05, 0.6),
        "feature_dropout": Dial(0.1, _HALF_OR_TWICE, 0.01, 0.3),
        "balance": _BALANCE,
    },
    drawn={
        "hidden": ([256], [128], [256, 128]),
        "learning_rate": (0.002, 0.003, 0.005),
        "weight_decay": (0.02, 0.05, 0.1),
        "dropout": (0.2, 0.3, 0.4),
        "feature_dropout": (0.05, 0.1, 0.2),
        "label_smoothing": (0.0, 0.05),
    },
    searched={
        "hidden": _one_of([128], [256], [256, 128]),
        "learning_rate": _log(0.001, 0.01),
        "weight_decay": _log(0.005, 0.2),
        "dropout": _even(0.1, 0.5),
        "feature_dropout": _even(0.0, 0.25),
        "label_smoothing": _even(0.0, 0.1),
    },
    trials={"linear_path": False},
    last={"linear_path": True},
)

_CORPUS = Space(
    always="learning_rate",
    dials={
        "learning_rate": Dial(3e-4, (0.5, 0.8, 1.2, 2.0), 2e-5, 1e-3),
        "batch": Dial(16, _HALF_OR_TWICE, 4, 64, whole=True),
        "weight_decay": Dial(0.1, (0.3, 2.0), 1e-3, 0.3),
        "dropout": Dial(0.1, _HALF_OR_TWICE, 0.02, 0.3),
    },
    drawn={
        "learning_rate": (7e-4, 1e-3, 2e-3),
        "batch": (8, 16, 32),
        "weight_decay": (0.03, 0.1),
        "dropout": (0.0, 0.05, 0.1),
    },
    searched={
        "learning_rate": _log(3e-4, 3e-3),
        "batch": _one_of(8, 16, 32),
        "weight_decay": _log(0.01, 0.3),
        "dropout": _even(0.0, 0.2),
    },
)

_ADAPTER = Space(
    always="learning_rate",
    dials={
        "learning_rate": Dial(5e-4, (0.2, 0.4, 0.8), 2e-5, 1e-3),
        "batch": Dial(16, _HALF_OR_TWICE, 4, 64, whole=True),
        "weight_decay": Dial(0.01, (0.3, 3.0), 1e-4, 0.1),
        "dropout": Dial(0.05, _HALF_OR_TWICE, 0.01, 0.2),
        "rank": Dial(8, (2.0,), 2, 64, whole=True),
    },
    drawn={
        "rank": (4, 8, 16, 32),
        "learning_rate": (3e-4, 5e-4, 1e-3),
        "batch": (8, 16, 32),
        "weight_decay": (0.0, 0.01),
        "dropout": (0.0, 0.05, 0.1),
        "precision": ("bf16", "fp32"),
    },
    searched={
        "rank": _one_of(4, 8, 16, 32),
        "learning_rate": _log(1e-4, 2e-3),
        "batch": _one_of(8, 16, 32),
        "dropout": _even(0.0, 0.15),
    },
)

DECLARED: dict[str, dict[str, Space]] = {
    "classify": {"text": _TEXT, "tabular": _TABULAR, "encoder": _ENCODER},
    "language-model": {"corpus": _CORPUS},
    "lora": {"text": _ADAPTER, "corpus": _ADAPTER},
}
"""Executor kind and modality to what may be tried. `encoder`: texts that a sentence encoder reads."""


def space_for(executor: str, modality: str) -> Space:
    """The declared space. A kind with one space has it for every modality; what is not declared has an empty one (the
    kind's defaults are proposed)."""
    declared = DECLARED.get(executor, {})
    if modality not in declared and len(declared) == 1:
        return next(iter(declared.values()))
    return declared.get(modality, Space(dials={}, always="", drawn={}))
