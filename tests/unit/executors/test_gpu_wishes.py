"""Which kinds wish for a share of a GPU: those that gain by one, for about what they would hold there."""

from __future__ import annotations

from typing import Any

import pytest

from executors import kinds

MIB = 1 << 20
ENCODER = {"encoder": 90 * MIB}


@pytest.mark.parametrize(
    ("kind", "settings", "facts"),
    [
        ("language-model", {}, {"bytes": 10 * MIB}),
        ("lora", {}, {"input_bytes": {"base": 90 * MIB, "train": MIB}, "examples": 5_000}),
        ("embed", {}, {"examples": 5_000, "input_bytes": ENCODER}),
        ("classify", {"encoder_mode": "tuned"}, {"examples": 5_000, "modality": "text", "input_bytes": ENCODER}),
        ("contrastive", {}, {"rows": 5_000, "input_bytes": {"pairs": MIB, **ENCODER}}),
    ],
)
def test_it_wishes_for_more_than_its_weights_and_less_than_its_memory(
    kind: str, settings: dict[str, Any], facts: dict[str, Any]
) -> None:
    needs = kinds.needs_of(kind, settings, facts)
    assert needs is not None
    assert needs.gpus == 0
    assert 30 * MIB < needs.gpu_wish_bytes < 1.25 * needs.memory_bytes
    if kind != "embed":
        several = kinds.needs_of(kind, {**settings, "processes": 2}, facts)
        assert several is None or several.gpu_wish_bytes == 0  # contrastive refuses several


@pytest.mark.parametrize("kind", ["classify", "contrastive", "noop", "profile"])
def test_who_gains_nothing_wishes_for_none(kind: str) -> None:
    needs = kinds.needs_of(kind, {}, {"examples": 5_000, "rows": 5_000, "bytes": MIB, "modality": "text"})
    assert needs is not None
    assert needs.gpu_wish_bytes == 0
