"""From logits to probabilities, and the one number that makes them honest. numpy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mesh.errors import NonFinite

Floats = NDArray[np.float32]


def log_softmax(logits: Floats) -> Floats:
    """Row by row, in float32, safe for large logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


PRIOR_NATS = 1.0
"""What a temperature e times too high or too low costs beside the data: on a few dozen examples that are all answered
right, the loss alone would ask for certainty, and the first wrong answer would pay for it."""


def fitted_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The temperature with the smallest summed loss on these examples plus PRIOR_NATS * ln(temperature)^2, between 0.05
    and 20 (golden section over its logarithm)."""
    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5.0) - 1.0) / 2.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.float32(math.exp(log_temperature)))
        losses = -scaled[np.arange(len(labels)), labels].astype(np.float64)
        return float(losses.sum() + PRIOR_NATS * log_temperature**2)

    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    while high - low > 1e-3:
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(b)
    return round(math.exp((low + high) / 2.0), 4)


def check_finite(log_probabilities: Floats) -> None:
    """NonFinite unless every answer is a number."""
    if not np.isfinite(log_probabilities).all():
        bad = int((~np.isfinite(log_probabilities)).any(axis=1).sum())
        raise NonFinite(f"the model answers {bad} of {len(log_probabilities)} examples with values that are no numbers")
