"""Measures: by what two models are compared on the same items, and how that is told.

    the items have labels    accuracy, and beside it the loss
    they have none           the loss alone, in nats per item (of documents: per byte)

Items have no labels when every one of them names the same one and no model ever answers another: then nothing is right
or wrong, and an accuracy would be 1 for all (so language models write their outcomes). A model's accuracy is never
looked at there, neither in comparing nor by the gate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from consensus.comparison import ACCURACY, LOSS, Differences, accuracy_differences, loss_differences
from consensus.evidence import Items

BYTE_VALUES = 256

NOTHING_KNOWN = math.log(BYTE_VALUES)
"""Nats per byte of who knows nothing about bytes: what a model of documents must beat."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """What decides."""

    name: str
    tie: float
    """Difference below which two lines that chance can not tell apart count as equal."""
    of: Callable[[Items], float]
    differences: Callable[[Items, Items], Differences]
    """Per item, positive where the first is better."""

    def told(self, name: str, items: Items, *, again: bool = False) -> str:
        """'the evolver answers 0.9000 of 200 holdout items right'; `again`: the same of a second one, shorter."""
        value = f"{self.of(items):.4f}"
        if again:
            return f"the {name} {value}"
        if self.name == ACCURACY:
            return f"the {name} answers {value} of {len(items)} holdout items right"
        return f"the {name} loses {value} nats on each of {len(items)} holdout items"


BY_ACCURACY = Measure(ACCURACY, 0.005, lambda items: items.accuracy, accuracy_differences)
"""Half a point is less than what a model twice as large should bring."""

BY_LOSS = Measure(LOSS, 0.002, lambda items: items.mean_loss, loss_differences)
"""Of documents, per byte: a fifth of a percent of what a small language model has left to learn."""


def labelled(*outcomes: Items) -> bool:
    """Do these outcomes of the same items tell right from wrong?"""
    labels = {label for items in outcomes for label in (min(items.label), max(items.label))}
    answers = {answer for items in outcomes for answer in (min(items.predicted), max(items.predicted))}
    return len(labels) > 1 or not answers <= labels | {-1}


def measure_of(*outcomes: Items) -> Measure:
    """What decides about these items; accuracy where there are none."""
    return BY_ACCURACY if not outcomes or labelled(*outcomes) else BY_LOSS
