"""What `language-model`, and `evaluate` of its model, say that a task takes, beside what real children take."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from executors.models import language, tokens
from executors.models.transformer import Shape, Transformer
from tests.support.footprint import footprint

pytestmark = pytest.mark.process

QUICK = {
    "steps_max": 3, "evaluate_every": 3, "checkpoint_steps": 1, "checkpoint_overhead": 1.0, "compile": "off",
    "sample_tokens": 0, "validation_bytes_max": 2_000, "validation_share": 0.03,
}  # fmt: skip


def corpus_of(documents: int, folder: Path) -> Path:
    """Made-up documents of 60 words."""
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(3_000)]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(documents)]
    file = folder / "corpus.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return file


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 4, "width": 448, "inner": 1216, "sequence": 16, "batch": 2, "vocabulary": 1_000},
        {"layers": 3, "width": 128, "sequence": 256, "batch": 16, "vocabulary": 2_000},
    ],
    ids=["many weights", "many tokens at once"],
)
def test_no_task_takes_more_than_its_kind_says_nor_far_less(settings: dict[str, Any], tmp_path: Path) -> None:
    corpus = corpus_of(150, tmp_path)
    facts = {"input_bytes": {"train": corpus.stat().st_size}}
    found = footprint("language-model", {**QUICK, **settings}, {"train": corpus}, facts, tmp_path / "child")
    assert 0.4 <= found.share <= 1.0, f"{found.estimate >> 20} MiB said, {found.peak >> 20} MiB taken"
    assert found.snapshots, "without a snapshot its buffer is not measured"


def test_asking_a_model_takes_what_evaluate_says(tmp_path: Path) -> None:
    corpus = corpus_of(6, tmp_path)
    shape = Shape(tokens.BYTES_VOCABULARY, 640, 2, 10, 10, 64, 1_728, context=512)
    made = language.LanguageModel(Transformer(shape), tokens.bytewise())
    model = language.save(made, tmp_path / "model", {"kind": "language-model"}, "card")
    sizes = {"model": sum(file.stat().st_size for file in model.iterdir()), "split": corpus.stat().st_size}
    inputs = {"model": model, "split": corpus}
    found = footprint("evaluate", {"latency_items": 3}, inputs, {"input_bytes": sizes}, tmp_path / "child")
    assert 0.4 <= found.share <= 1.0, f"{found.estimate >> 20} MiB said, {found.peak >> 20} MiB taken"
