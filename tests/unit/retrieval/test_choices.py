"""Choosing an index: by size, with a reason; what contradicts itself is refused in a sentence."""

from __future__ import annotations

import dataclasses

import pytest

from mesh.errors import TaskRefused
from retrieval.choices import FAMILIES, FLAT_ROWS_MAX, Spec, Wishes, choose, codes_for

GIB = 1 << 30


def test_few_vectors_are_all_compared() -> None:
    spec, why = choose(1_000, 384, Wishes(), GIB)
    assert spec == Spec(family="flat", metric="cosine", dimension=384)
    assert "1000 vectors are few enough" in why


def test_many_vectors_get_cells_and_very_many_get_codes() -> None:
    whole, why = choose(200_000, 384, Wishes(), GIB)
    assert (whole.family, whole.cells, whole.probes) == ("ivf", 1789, 42)
    assert "fit into 1024 MiB" in why
    coded, why = choose(200_000, 384, Wishes(), GIB // 8)
    assert (coded.family, coded.codes, coded.bits) == ("ivf-pq", 96, 8)
    assert "there are 128 MiB" in why
    assert coded.index_bytes(200_000) < GIB // 8 < whole.index_bytes(200_000)


def test_cells_never_have_too_few_rows_to_learn_from() -> None:
    spec, _ = choose(FLAT_ROWS_MAX + 1, 8, Wishes(), GIB)
    assert spec.cells * 39 <= FLAT_ROWS_MAX + 1
    assert choose(500, 8, Wishes(family="ivf"), GIB)[0].cells == 12


def test_codes_have_as_many_bits_as_there_are_rows_to_learn_from() -> None:
    assert choose(9_984, 16, Wishes(family="pq"), GIB)[0].bits == 8
    assert choose(9_983, 16, Wishes(family="pq"), GIB)[0].bits == 7
    assert choose(100, 16, Wishes(family="pq"), GIB)[0].bits == 4


def test_codes_divide_the_dimension() -> None:
    assert [codes_for(dimension) for dimension in (384, 32, 30, 7, 1, 3)] == [96, 8, 6, 1, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_asked_for(family: str) -> None:
    spec, why = choose(2_000, 24, Wishes(family=family, metric="l2"), GIB)
    assert (spec.family, spec.metric) == (family, "l2")
    assert why.startswith(f"{family}: asked for")
    assert spec.index_bytes(2_000) > 0


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"family": "tree"}, "family is one of"),
        ({"metric": "hamming"}, "metric is one of"),
        ({"family": "pq", "codes": 7}, "codes must divide the dimension"),
        ({"family": "pq", "bits": 9}, "bits of a pq index is 4 to 8, got 9"),
        ({"family": "ivf", "cells": 10, "probes": 11}, "probes of a ivf index is 1 to 10"),
        ({"family": "ivf", "cells": 101}, "101 cells need at least 101 vectors"),
        ({"family": "pq", "bits": 8}, "codes of 8 bits need at least 256 vectors"),
        ({"family": "hnsw", "links": 1000}, "links of a hnsw index is 2 to 512"),
    ],
)
def test_wishes_that_can_not_be_met_are_refused(wishes: dict[str, object], said: str) -> None:
    with pytest.raises(TaskRefused, match=said):
        choose(100, 24, dataclasses.replace(Wishes(), **wishes), GIB)


def test_what_a_family_does_not_use_is_no_part_of_its_spec() -> None:
    with pytest.raises(ValueError, match="cells of a flat index is 0 to 0"):
        Spec(family="flat", metric="l2", dimension=4, cells=3)


def test_no_vectors_make_no_index() -> None:
    with pytest.raises(TaskRefused, match="1 to 2147483647 vectors, got 0"):
        choose(0, 4, Wishes(), GIB)
