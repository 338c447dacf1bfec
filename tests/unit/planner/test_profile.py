"""The planner's view of a profile: nothing is trusted before it was checked."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import Malformed
from mesh.messages.tasks import Needs
from planner.profile import Profile


def facts(**changes: Any) -> dict[str, Any]:
    plain = {
        "task": "classify",
        "modality": "text",
        "rows": 104,
        "examples": 100,
        "labels": 2,
        "label_names": ["no", "yes"],
        "label_digest": "0f" * 32,
        "text_columns": ["text"],
        "label_column": "label",
        "features": 0,
        "splits": {"train": 70, "validation": 15, "holdout": 10, "audit": 5},
        "duplicates": 3,
        "conflicting": 1,
        "dropped": {"row without text": 4},
        "imbalance": 1.5,
        "warnings": ["one sentence"],
        "keywords": ["word"],
        "bytes": 12_345,
        "needs": {"classify": {"cores": 1.0, "memory_bytes": 1_000}},
        "something of a later version": 1,
    }
    return {**plain, **changes}


def test_a_profile_is_read() -> None:
    profile = Profile.of(facts())
    assert (profile.labels, profile.label_names, profile.splits["audit"]) == (2, ("no", "yes"), 5)
    assert profile.needs_of("classify").memory_bytes == 1_000
    assert profile.needs_of("evaluate") == Needs()


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "video"},
        {"splits": {"train": 100}},
        {"splits": {"train": 85, "validation": 15, "holdout": 0, "audit": 0}},
        {"examples": 99},
        {"rows": 50},
        {"labels": 1, "label_names": ["no"]},
        {"label_names": ["no"]},
        {"label_digest": "xyz"},
        {"features": 3},
        {"modality": "tabular"},
        {"rows": "many"},
        {"needs": {"classify": {"cores": -1.0}}},
        {"splits": None},
    ],
)
def test_what_is_no_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="no profile"):
        Profile.of(facts(**changes))


def test_a_missing_fact_is_named() -> None:
    incomplete = facts()
    del incomplete["label_digest"]
    with pytest.raises(Malformed, match="label_digest"):
        Profile.of(incomplete)
