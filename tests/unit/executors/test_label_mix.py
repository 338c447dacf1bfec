"""The mix of the labels in a classifier's loss: rarer ones count more, the loss as a whole weighs the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from executors.models import checkable
from executors.models.learner import weights_of

LABELS = np.array([0] * 80 + [1] * 15 + [2] * 5)


def test_without_balance_every_example_weighs_the_same() -> None:
    assert weights_of(LABELS, 3, 0.0) is None


@pytest.mark.parametrize("balance", [0.25, 0.5, 1.0])
def test_rarer_labels_weigh_more_and_the_mean_over_the_examples_is_one(balance: float) -> None:
    weights = weights_of(LABELS, 4, balance)
    assert weights is not None
    assert weights[LABELS].mean() == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]
    assert float(weights[2] / weights[0]) == pytest.approx((80 / 5) ** balance, rel=1e-5)
    assert float(weights[3]) == 0.0  # a label that does not occur


def test_fully_balanced_each_label_weighs_the_same() -> None:
    weights = weights_of(LABELS, 3, 1.0)
    assert weights is not None
    sums = [float(weights[label]) * np.count_nonzero(LABELS - label == 0) for label in range(3)]
    assert sums == pytest.approx([100.0 / 3] * 3, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_examples() -> None:
    learner = checkable.classifiers()["table"]
    learner.network.eval()
    learner.label_smoothing = 0.0
    for parameter in learner.network.parameters():
        parameter.requires_grad_(False)
    rows = np.arange(learner.rows)
    labels = learner.train.labels
    apart = torch.stack([learner.loss(learner.build(rows[index : index + 1])) for index in range(len(rows))])
    assert float(learner.loss(learner.build(rows))) == pytest.approx(float(apart.sum()), rel=1e-5)
    learner.weights = weights_of(labels, len(learner.classifier.labels), 0.7)
    assert learner.weights is not None
    expected = float((apart * learner.weights[torch.from_numpy(labels)]).sum())
    assert float(learner.loss(learner.build(rows))) == pytest.approx(expected, rel=1e-5)
