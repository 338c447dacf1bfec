"""The blend of a network with the tuned linear model beside it: how much the network may say.

Aim: a classifier that is not worse than the linear model on data that nobody has seen yet, whatever the data is.

How it proceeds: both logits are divided by their own temperature, so that they speak of probabilities, and mixed:

    logits = w * network / T_network  +  (1 - w) * linear / T_linear        w in WEIGHTS

For every weight the gain over the linear model is counted item by item on validation. The weight whose gain is greatest
after CAUTION standard errors were taken off is chosen; when none is left with a gain, the linear model answers alone.
So what little validation data can not show is not tried: on a few dozen items the network must win clearly.

Not covered: the network's best step was chosen on the same items, which flatters it a little; CAUTION pays for that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors.models.probabilities import fitted_temperature, log_softmax

WEIGHTS = (0.5, 1.0)
"""Shares of the network that are tried, beside none at all: each further one is another chance to be fooled by noise,
and between a half and all there is little to gain."""

CAUTION = 1.5
"""Standard errors that a gain must survive. At 1, some thousand questions in 8 classes promoted a network that lost six
of 252 new items; at 2, handwritten digits, where it wins five of 170, go to the linear model every other time."""

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Blend:
    """What each path's logits are multiplied with: its weight over its temperature."""

    network: float = 1.0
    linear: float = 0.0

    def config(self) -> dict[str, float]:
        """For config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Blend:
        """The inverse of `config`. KeyError, TypeError or ValueError when it is none."""
        found = cls(float(config["network"]), float(config["linear"]))
        shares = (found.network, found.linear)
        if not all(math.isfinite(share) and share >= 0.0 for share in shares) or not any(shares):
            raise ValueError(f"a blend's shares are at least 0 and not both 0, got {shares}")
        return found


NETWORK_ALONE = Blend()


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """A blend, and what validation said for it."""

    blend: Blend
    weight: float
    """Share of the network, 0 to 1."""
    gain: float
    """Accuracy over the linear model's."""
    error: float
    """Standard error of that gain."""


def choose(network: Floats, linear: Floats, labels: NDArray[np.int64]) -> Chosen:
    """The blend of two models' logits [n, labels] on validation examples with these labels (n is at least 1)."""
    cool = np.float32(1.0 / fitted_temperature(network, labels)), np.float32(1.0 / fitted_temperature(linear, labels))
    right = (linear.argmax(axis=1) == labels).astype(np.int64)
    alone = Chosen(Blend(0.0, float(cool[1])), 0.0, 0.0, 0.0)
    best, best_order = alone, (0.0, 0.0)
    for weight in WEIGHTS:
        blend = Blend(weight * float(cool[0]), (1.0 - weight) * float(cool[1]))
        mixed = np.float32(blend.network) * network + np.float32(blend.linear) * linear
        gains = (mixed.argmax(axis=1) == labels) - right
        gain, error = float(gains.mean()), float(gains.std() / math.sqrt(len(labels)))
        loss = -log_softmax(mixed)[np.arange(len(labels)), labels].astype(np.float64).mean()
        order = (gain - CAUTION * error, -float(loss))
        if order[0] > 0.0 and (best is alone or order > best_order):
            best, best_order = Chosen(blend, weight, gain, error), order
    return best
