"""Mixing, against slow obvious second implementations, one item and one number at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.corpus import places
from executors.models import treechoosing, treemixing
from executors.models.tree import CENTRES, LIKELIHOOD, Mixing
from executors.outcomes import LOSS_MAX
from tests.support import hand_routers

SEEDS = st.integers(0, 2**32 - 1)


def slow_shares(weights: list[float], branches: list[int], flat_share: float | None) -> list[float]:
    total = sum(weights)
    own = [weights[branch] / total for branch in branches]
    if flat_share is None:
        return own
    lone = sum(weight / total for branch, weight in enumerate(weights) if branch not in branches)
    return [(1 - flat_share) * one for one in own] + [flat_share + (1 - flat_share) * lone]


def slow_posterior(told: list[list[float]], prior: list[float]) -> list[float]:
    """One document: told[model][token]."""
    found, past = [], [math.log(one) if one else -math.inf for one in prior]
    for token in range(len(told[0])):
        most = max(past)
        shares = [math.exp(one - most) for one in past]
        mixed = sum(share * math.exp(each[token]) for share, each in zip(shares, told, strict=True)) / sum(shares)
        found.append(math.log(mixed))
        past = [one + each[token] for one, each in zip(past, told, strict=True)]
    return found


@given(SEEDS, st.integers(1, 5), st.sampled_from([None, 0.0, 0.3, 1.0]))
@settings(max_examples=40, deadline=None)
def test_shares_are_those_of_the_slow_way(seed: int, count: int, flat_share: float | None) -> None:
    draw = np.random.default_rng(seed)
    weights = draw.random((4, count)) * (draw.random((4, count)) > 0.4) + 1e-9
    branches = (
        list(range(count)) if flat_share is None else sorted(draw.permutation(count)[: draw.integers(1, count + 1)])
    )
    found = treemixing.shares_of(weights, branches, flat_share)
    for row, told in zip(weights.tolist(), found, strict=True):
        assert told == pytest.approx(slow_shares(row, branches, flat_share), abs=1e-9)
    assert np.allclose(found.sum(axis=1), 1.0)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_tokens_are_mixed_as_in_the_slow_way(seed: int) -> None:
    draw = np.random.default_rng(seed)
    told, shares = -draw.exponential(3.0, (3, 7)), draw.random((2, 3))
    shares[0, 1] = 0.0
    rows = draw.integers(0, 2, 7)
    slow = [math.log(sum(shares[rows[t], m] * math.exp(told[m, t]) for m in range(3))) for t in range(7)]
    assert treemixing.token_mixed(told, shares, rows) == pytest.approx(slow, abs=1e-9)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_likelihood_weighs_by_the_past_alone(seed: int) -> None:
    draw = np.random.default_rng(seed)
    told, prior = -draw.exponential(3.0, (3, 9)), np.array([0.5, 0.5, 0.0])
    begins = np.array([0, 4, 5, 9])
    found = treemixing.posterior_mixed(told, prior, begins)
    for first, last in itertools.pairwise(begins):
        assert found[first:last] == pytest.approx(
            slow_posterior(told[:, first:last].tolist(), prior.tolist()), abs=1e-9
        )
    changed = told.copy()
    changed[:, 3] -= 1.0  # the last token of the first document: nothing before it may change, nor another document
    again = treemixing.posterior_mixed(changed, prior, begins)
    assert np.array_equal(again[:3], found[:3])
    assert np.allclose(again[4:], found[4:])


def test_tiny_probabilities_do_not_vanish() -> None:
    told = np.array([[-2000.0], [-2001.0]])
    assert treemixing.token_mixed(told, np.array([[0.5, 0.5]]), np.array([0])) == pytest.approx(
        [-2000.0 + math.log(0.5 * (1 + math.exp(-1)))]
    )


def test_before_the_router_has_read_the_flat_model_answers_or_all_alike() -> None:
    prior = np.array([0.5, 0.3, 0.2])
    assert treemixing.cold_of(prior, (0, 2), 0.1).tolist() == [0.0, 0.0, 1.0]
    assert treemixing.cold_of(prior, (0, 1, 2), None) == pytest.approx(prior)


@pytest.mark.parametrize("texts", [["card money", "snow", "nothing known", "rain wind card"]])
def test_the_router_weighs_by_distance(texts: list[str]) -> None:
    router = hand_routers.router(shares=(0.2, 0.5, 0.3))
    placed = router.embed(texts).astype(float)
    for row, text in enumerate(texts):
        squared = [sum((placed[row] - centre) ** 2) for centre in router.centres.astype(float)]
        weights = [math.exp(-one / 0.5) for one in squared] if text != "nothing known" else [0.2, 0.5, 0.3]
        kept = sorted(range(3), key=lambda branch: -weights[branch])[:2]
        slow = [weights[branch] / sum(weights[one] for one in kept) if branch in kept else 0.0 for branch in range(3)]
        assert router.weights([text], 0.5, 2)[0] == pytest.approx(slow, abs=1e-6)


# -- the grid ---------------------------------------------------------------------------------------------------------


def test_the_grid_holds_every_way_that_differs() -> None:
    found = treechoosing.grid((0.1, 0.5), (1, 2, 9), (0.0, 0.5), (CENTRES, LIKELIHOOD), 4, True, 64)
    assert len(found) == len(set(found)) == 2 + 4 + 4 + 2
    assert max(way.top for way in found) == 4
    alone = treechoosing.grid((0.1,), (1,), (0.0, 0.5), (CENTRES,), 2, False, 64)
    assert [(way.top, way.flat_share) for way in alone] == [(1, 0.0)]


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_every_way_is_worth_what_the_slow_way_says(seed: int) -> None:
    draw = np.random.default_rng(seed)
    answers = draw.dirichlet(np.ones(4), (3, 5)).astype(np.float32)
    truth = np.array([0, 1, 2, 3, -1])
    weights = draw.dirichlet(np.ones(3), 5)
    ways = (Mixing(flat_share=0.0), Mixing(flat_share=0.25))
    losses, right = treechoosing.label_worths(answers, [weights, weights], ways, (0, 2), True, truth)
    for number, way in enumerate(ways):
        for item in range(5):
            shares = slow_shares(weights[item].tolist(), [0, 2], way.flat_share)
            mixed = [
                sum(share * float(answers[m, item, label]) for m, share in enumerate(shares)) for label in range(4)
            ]
            loss = LOSS_MAX if truth[item] < 0 else -math.log(mixed[truth[item]])
            assert losses[number, item] == pytest.approx(loss, abs=1e-5)
            assert right[number, item] == (mixed.index(max(mixed)) == truth[item])


def worths(right: list[list[int]], loss: list[list[float]], tops: tuple[int, ...]) -> treechoosing.Worths:
    ways = tuple(Mixing(top=top) for top in tops)
    return treechoosing.Worths(ways, np.array(loss, np.float32), np.array(right, bool) if right else None)


def test_a_difference_inside_the_noise_does_not_choose() -> None:
    right = [[1] * 90 + [0] * 10, [1] * 89 + [0] * 11, [1] * 60 + [0] * 40]
    found = worths(right, [[0.5] * 100, [0.4] * 100, [0.1] * 100], (1, 2, 3))
    assert found.chosen() == 1  # one right answer less, but a better loss; the third is far behind
    assert worths([], [[0.5, 0.5], [0.5, 0.5]], (2, 1)).chosen() == 1  # of equals the one that asks fewer
    assert worths([], [[0.5, 0.5], [0.4995, 0.5]], (1, 2)).chosen() == 0  # too small a gain for another model
    assert worths([], [[0.5, 0.5], [0.49, 0.5]], (1, 2)).chosen() == 1


def test_each_half_is_judged_by_what_the_other_one_chose() -> None:
    ids = np.arange(200, dtype=np.uint64)
    first = places(ids, treechoosing.SALT) < 0.5
    loss = np.array([np.where(first, 0.0, 1.0), np.where(first, 1.0, 0.0)])
    found = treechoosing.Worths((Mixing(top=1), Mixing(top=2)), loss.astype(np.float32), None)
    assert found.apart(ids) == {"loss": 1.0}  # what suits one half is the worst for the other
    assert found.on(found.chosen())["loss"] < 0.6
