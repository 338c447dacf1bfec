"""Tiny instances of a dual encoder's training, for the gradient check: both inputs, both towers, with and without
queues."""

from __future__ import annotations

import numpy as np
import torch

from executors import pairs
from executors.models.contrastlearner import ContrastLearner, Side
from executors.models.dual import Dual, Shape
from executors.models.queues import Queues
from executors.models.sides import DenseInputs, Inputs, SparseInputs
from executors.ngrams import Sparse

ROWS, INPUTS, WIDTH = 10, 14, 6


def duals() -> dict[str, ContrastLearner]:
    """Sparse inputs with two mlp towers; dense ones with a shared linear tower, a queue behind it."""
    drawn = np.random.default_rng(13)
    where = np.arange(ROWS)

    def sparse() -> Inputs:
        present = np.concatenate([np.sort(drawn.choice(INPUTS, size=4, replace=False)) for _ in range(ROWS)])
        values = drawn.random(4 * ROWS).astype(np.float32)
        return SparseInputs(Sparse(present, values, np.arange(0, 4 * ROWS + 1, 4)), where)

    def dense() -> Inputs:
        return DenseInputs(drawn.normal(size=(ROWS, INPUTS)).astype(np.float32), where)

    one = Dual(Shape(INPUTS, WIDTH, True, "mlp", False), temperature=0.2)
    other = Dual(Shape(INPUTS, WIDTH, False, "linear", True), temperature=0.3)
    queued = _learner(other, dense(), dense(), Queues(other, 8, 0.9))
    assert queued.queues is not None
    with torch.no_grad():
        queued.queues.keys([queued.build(where[:5])])
        queued.queues.moved()
    return {"n-grams, mlp": _learner(one, sparse(), sparse(), None), "vectors, moco": queued}


def _learner(network: Dual, left: Inputs, right: Inputs, queues: Queues | None) -> ContrastLearner:
    some = pairs.of([(f"left {number % 8}", f"right {number}") for number in range(ROWS)])
    side = Side(left, right, some)
    return ContrastLearner(network, side, side, torch.device("cpu"), queues=queues)
