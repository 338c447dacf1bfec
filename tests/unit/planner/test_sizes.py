"""Experts shaped by how hard their branch is: thirds, a fixed total, and widths that a kind takes."""

from __future__ import annotations

import random

import pytest

from planner.sizes import LARGE, SMALL, USUAL, scaled, shaped, stretched


def sizes(losses: list[float | None]) -> list[float]:
    return [shape.size for shape in shaped(losses, 100.0)]


def test_the_easy_third_is_small_and_the_hard_third_is_large() -> None:
    assert sizes([3.0, 1.0, 2.0]) == [LARGE, SMALL, USUAL]
    assert sizes([1.0, 2.0, 3.0, 4.0]) == [SMALL, USUAL, USUAL, LARGE]
    assert sizes([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == [LARGE, LARGE, USUAL, USUAL, SMALL, SMALL]


def test_the_total_is_fixed_whatever_the_losses_are() -> None:
    generator = random.Random(0)
    for _ in range(200):
        losses = [generator.choice([1.0, 2.0, generator.random()]) for _ in range(generator.randint(1, 9))]
        shapes = shaped(list(losses), 360.0)
        assert sum(shape.budget_s for shape in shapes) == pytest.approx(360.0)
        for one, shape in zip(losses, shapes, strict=True):
            for other, theirs in zip(losses, shapes, strict=True):
                assert one <= other or shape.size >= theirs.size  # never smaller for the harder
                assert one != other or shape.size == theirs.size


def test_ties_unknown_losses_and_two_branches_get_the_usual_size() -> None:
    assert sizes([1.0, 1.0, 1.0]) == [USUAL] * 3
    assert sizes([1.0, None, 3.0]) == [USUAL] * 3
    assert sizes([1.0, float("nan"), 3.0]) == [USUAL] * 3
    assert sizes([1.0, 2.0]) == [USUAL] * 2
    assert sizes([]) == []
    assert shaped([1.0, 2.0], 100.0)[0].budget_s == 50.0


def test_budgets_are_stretched_and_their_total_stays() -> None:
    assert stretched((10.0, 20.0, 30.0), [1.0, 2.0, None]) == (10.0, 20.0, 30.0)
    easy, middle, hard = stretched((10.0, 20.0, 30.0), [1.0, 2.0, 3.0])
    assert easy + middle + hard == pytest.approx(60.0)
    assert easy < 10.0 < middle < hard
    assert hard / easy == pytest.approx(3.0 * 1.5)
    assert stretched((), []) == ()


def test_a_shape_says_why() -> None:
    easy, _, hard = shaped([1.0, 2.0, 3.0], 90.0)
    assert "0.8: the flat model's loss here is 1, in the easy third of 3 branches" in easy.why
    assert "the hard third" in hard.why
    assert (easy.budget_s, hard.budget_s) == pytest.approx((24.0, 36.0))


def test_widths_are_scaled_in_blocks_and_the_rest_stays() -> None:
    assert scaled("classify", {"hidden": [256, 128], "dropout": 0.1}, LARGE) == {"hidden": [304, 160], "dropout": 0.1}
    assert scaled("classify", {"dropout": 0.1}, SMALL) == {"dropout": 0.1}
    assert scaled("language-model", {}, SMALL) == {"width": 208, "heads": 4}
    assert scaled("language-model", {"width": 128, "heads": 2}, LARGE) == {"width": 152, "heads": 2}
    assert scaled("lora", {"rank": 8}, LARGE) == {"rank": 8}
    assert scaled("classify", {"hidden": [8]}, SMALL) == {"hidden": [16]}
