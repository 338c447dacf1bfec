"""What `language-model` says that a task takes, beside what it takes in a real child."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.footprint import footprint

pytestmark = pytest.mark.process

QUICK = {
    "steps_max": 3, "evaluate_every": 3, "checkpoint_steps": 1, "checkpoint_overhead": 1.0, "compile": "off",
    "sample_tokens": 0, "validation_bytes_max": 2_000, "validation_share": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 4, "width": 448, "inner": 1216, "sequence": 16, "batch": 2, "vocabulary": 1_000},
        {"layers": 3, "width": 128, "sequence": 256, "batch": 16, "vocabulary": 2_000},
    ],
    ids=["many weights", "many tokens at once"],
)
def test_no_task_takes_more_than_its_kind_says_nor_far_less(settings: dict[str, Any], tmp_path: Path) -> None:
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(3_000)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": " ".join(draw.choices(words, k=60))}) for _ in range(1_000)))
    facts = {"input_bytes": {"train": corpus.stat().st_size}}
    found = footprint("language-model", {**QUICK, **settings}, {"train": corpus}, facts, tmp_path / "child")
    assert 0.4 <= found.share <= 1.0, f"{found.estimate >> 20} MiB said, {found.peak >> 20} MiB taken"
    assert found.snapshots, "without a snapshot its buffer is not measured"
