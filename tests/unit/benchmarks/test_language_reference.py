"""The references of a language model: shares sum to one, what was seen costs less, compressors know the past."""

from __future__ import annotations

import math

import pytest

from benchmarks.language_reference import Ngrams, bits_per_byte


def test_the_shares_of_all_bytes_sum_to_one_after_any_past() -> None:
    model = Ngrams(3).learn([b"abracadabra", b"abba"])
    for past in (b"", b"a", b"zz", b"ab"):
        total = sum(model._share(past, byte) for byte in range(256))
        assert total == pytest.approx(1.0)


def test_what_was_counted_by_hand_comes_out() -> None:
    model = Ngrams(2).learn([b"aa"])  # a after nothing, a after a, the end after a
    first = (2 + 2 / 256) / (3 + 2)
    then = (1 + 2 * first) / (2 + 2)
    ends = (1 + 2 * (1 + 2 / 256) / 5) / 4
    assert model.bits([b"aa"]) == pytest.approx(-math.log2(first) - math.log2(then) - math.log2(ends))


def test_text_like_the_training_text_costs_less_for_every_reference() -> None:
    train = [f"the {number}th sentence says what the others say, in the same words" for number in range(200)]
    like, other = [train[0].replace("0", "999")], ["QXZJ" * 20]
    near, far = bits_per_byte(train, like), bits_per_byte(train, other)
    assert set(near) == {"5-gram", "bzip2", "xz"}
    assert near["5-gram"] < 0.6 < 2.0 < far["5-gram"]
    assert near["xz"] < far["xz"] + 2.0
