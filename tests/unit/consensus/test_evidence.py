"""What counts as reproduced, what is a structural fault, and how much so many claims can prove."""

from __future__ import annotations

import math
import random

import pytest

from consensus import evidence
from consensus.evidence import check, fault_of, lower_wanted, mismatch_of, sufficient, wilson_lower
from tests.support.outcomes import first, items


def test_an_honest_claim_is_reproduced_item_by_item() -> None:
    claim = items(first(90, 100))
    again = items(first(90, 100), loss=[loss + 1e-4 for loss in claim.loss])
    found, fault = check(claim, again, independent=True, checked_by="b.2")
    assert fault == ""
    assert (found.claims, found.reproduced, found.rate) == (100, 100, 1.0)
    assert found.independent
    assert found.checked_by == "b.2"


def test_an_invented_claim_is_not_reproduced_where_it_lies() -> None:
    found, fault = check(items(first(100, 100)), items(first(70, 100)), independent=True)
    assert fault == ""
    assert found.reproduced == 70
    assert sufficient(found, independent_required=False).startswith("70 of 100 claims were reproduced")


def test_the_same_loss_with_another_answer_is_not_reproduced() -> None:
    found, fault = check(items([True] * 4, loss=[0.7] * 4), items(first(3, 4), loss=[0.7] * 4), independent=True)
    assert (found.reproduced, fault) == (3, "")


@pytest.mark.parametrize(
    ("claimed", "again", "counts"),
    [(0.5, 0.5099, True), (0.5, 0.5101, False), (40.0, 40.39, True), (40.0, 40.41, False), (-0.0, 0.0, True)],
)
def test_the_tolerance_is_absolute_below_one_nat_and_relative_above(claimed: float, again: float, counts: bool) -> None:
    found, _ = check(items([True], loss=[claimed]), items([True], loss=[again]), independent=True)
    assert found.reproduced == int(counts)


def test_a_claim_of_other_items_reproduces_nothing_and_says_why() -> None:
    claim, again = items(first(9, 10)), items(first(9, 10), first_id=1_001)
    found, fault = check(claim, again, independent=True)
    assert found.reproduced == 0
    assert fault == "expected the same ids in the same order, got another one at item 0 of 10"


def test_other_labels_other_lengths_other_digests_and_losses_that_are_not_finite_are_faults() -> None:
    good = items(first(9, 10), model="m1", split="s1")
    assert "true labels" in mismatch_of(good, items(first(9, 10), label=[0] * 10))
    assert "10 and 9 items" in mismatch_of(good, items(first(9, 9)))
    assert "model m2" in fault_of(good, model="m2")
    assert "split s2" in fault_of(good, split="s2")
    assert fault_of(good, model="m1", split="s1") == ""
    assert fault_of(items(first(2, 2)), model="m1", split="s1") == "", "an executor that was not told says nothing"
    assert "got nan for item 1 of 3" in fault_of(items(first(3, 3), loss=[0.1, math.nan, 0.1]))
    assert "got inf for item 2 of 3" in fault_of(items(first(3, 3), loss=[0.1, 0.1, math.inf]))
    found, fault = check(good, items(first(9, 10), loss=[math.nan] * 10), independent=True)
    assert found.reproduced == 0
    assert fault.startswith("check: expected finite losses")


def test_the_wilson_bound_has_its_known_values() -> None:
    assert wilson_lower(10, 10) == pytest.approx(0.7225, abs=1e-4)
    assert wilson_lower(35, 35) == pytest.approx(0.9011, abs=1e-4)
    assert wilson_lower(90, 100) == pytest.approx(0.8256, abs=1e-4)
    assert wilson_lower(0, 5) == 0.0
    assert wilson_lower(0, 0) == 0.0


def test_the_wilson_bound_solves_its_own_equation() -> None:
    """The share p whose normal interval just reaches the observed rate: (rate - p)^2 = z^2 p (1 - p) / n."""
    generator = random.Random(5)
    for _ in range(200):
        n = generator.randint(1, 500)
        k = generator.randint(1, n)
        p = wilson_lower(k, n)
        assert (k / n - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / n, rel=1e-4)


def test_few_claims_have_to_prove_no_more_than_they_can() -> None:
    assert lower_wanted(10_000) == 0.90
    assert lower_wanted(10) == wilson_lower(10, 10)
    for claims, reproduced, carries in (
        (10, 10, True),
        (10, 9, False),
        (35, 35, True),
        (200, 190, True),
        (200, 188, False),
    ):
        found, _ = check(items([True] * claims), items(first(reproduced, claims)), independent=True)
        assert (sufficient(found, independent_required=True) == "") is carries, (claims, reproduced)


def test_independence_matters_only_where_it_is_required() -> None:
    found, _ = check(items([True] * 40), items([True] * 40), independent=False)
    assert sufficient(found, independent_required=False) == ""
    assert "requires another one" in sufficient(found, independent_required=True)
    assert "nobody" in sufficient(None, independent_required=False)


def test_items_know_their_accuracy_loss_and_what_chance_reaches() -> None:
    found = items(first(3, 4), label=[0, 0, 0, 1], loss=[0.1, 0.2, 0.3, 1.0])
    assert found.accuracy == 0.75
    assert found.mean_loss == pytest.approx(0.4)
    assert found.majority_accuracy == 0.75
    assert found.chance_loss == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert len(found) == 4
    assert evidence.CONFIDENCE == 0.95
