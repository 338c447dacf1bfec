"""How much a network may say beside the linear model: what validation can not show is not tried."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from executors.models.blending import CAUTION, Blend, choose

LABELS = np.arange(400, dtype=np.int64) % 4


def logits(right: NDArray[np.bool_], sure: float = 3.0) -> NDArray[np.float32]:
    """Answers that are right where `right` says so, else one label too high."""
    answers = np.where(right, LABELS, (LABELS + 1) % 4)
    return (sure * np.eye(4, dtype=np.float32)[answers]).astype(np.float32)


def wrong(*rows: range) -> NDArray[np.bool_]:
    """Right everywhere but in these rows."""
    found = np.ones(len(LABELS), np.bool_)
    for part in rows:
        found[part.start : part.stop] = False
    return found


def test_a_clearly_better_network_answers() -> None:
    chosen = choose(logits(wrong(range(10))), logits(wrong(range(60))), LABELS)
    assert chosen.weight > 0.5
    assert chosen.gain == pytest.approx(50 / 400)


def test_a_worse_or_equal_network_says_nothing() -> None:
    linear = logits(wrong(range(40)))
    for network in (linear, logits(wrong(range(60)))):
        chosen = choose(network, linear, LABELS)
        assert (chosen.weight, chosen.blend.network) == (0.0, 0.0)
        assert chosen.blend.linear > 0.0


def test_a_gain_within_the_noise_is_left_lying() -> None:
    """Nine items won and seven lost are half a standard error; twelve and two are more than two and a half."""
    linear = logits(wrong(range(40)))
    assert choose(logits(wrong(range(9, 40), range(40, 47)), 4.0), linear, LABELS).weight == 0.0
    assert choose(logits(wrong(range(12, 40), range(40, 42)), 4.0), linear, LABELS).weight > 0.0


def test_two_halves_that_are_sure_of_different_things_are_mixed() -> None:
    """Each path is sure where it is right and unsure where it is wrong: together they are right everywhere."""
    one = logits(wrong(range(40)))
    other = logits(wrong(range(40, 80)))
    one[0:40] *= 0.1
    other[40:80] *= 0.1
    chosen = choose(one, other, LABELS)
    assert 0.0 < chosen.weight < 1.0
    mixed = chosen.blend.network * one + chosen.blend.linear * other
    assert (mixed.argmax(axis=1) == LABELS).all()


def test_the_chosen_gain_survives_its_caution() -> None:
    """On random answers of equally good models, whatever is chosen has a gain above CAUTION standard errors."""
    draw, taken = np.random.default_rng(3), 0
    for _ in range(60):
        network, linear = (draw.normal(size=(400, 4)).astype(np.float32) for _ in range(2))
        for answers in (network, linear):
            answers[np.arange(400), LABELS] += 1.5
        chosen = choose(network, linear, LABELS)
        if chosen.weight:
            assert chosen.gain > CAUTION * chosen.error
            taken += 1
    assert taken > 30, "two independent halves are better together"


def test_a_blend_is_read_as_it_was_written() -> None:
    blend = Blend(0.25, 1.5)
    assert Blend.of(blend.config()) == blend
    for bad in ({"network": 0.0, "linear": 0.0}, {"network": -1.0, "linear": 1.0}, {"network": "x", "linear": 1.0}):
        with pytest.raises(ValueError):
            Blend.of(bad)
