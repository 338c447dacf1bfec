"""What a kind says that a task takes, beside what it takes in a real child: a scheduler can trust it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from executors.kinds.profile import Profile
from tests.support.executing import made_by
from tests.support.footprint import footprint

pytestmark = pytest.mark.process

LINES = ("train", "validation")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """500 texts of 60 made-up words: as many n-grams as texts many times as long have in practice."""
    draw = random.Random(5)
    lines = ["text,label"]
    for number in range(500):
        words = ("".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(60))
        lines.append(f"{' '.join(words)} {'xyz'[number % 3] * 4},{number % 3}")
    file = tmp_path_factory.mktemp("texts") / "texts.csv"
    file.write_text("\n".join(lines))
    return str(file)


def profiled(folder: Path, data: str) -> tuple[dict[str, Path], Mapping[str, Any]]:
    """The splits of built-in data, and what its profile says."""
    made = made_by(Profile(), {"data": Path(data)}, folder)
    return {name: made.outputs[name] for name in LINES}, made.facts


@pytest.mark.parametrize(
    ("kind", "data", "settings"),
    [
        ("classify", "builtin:digits", {"epochs_max": 2, "checkpoint_steps": 20}),
        ("classify", "", {"hidden": [256], "epochs_max": 1, "checkpoint_steps": 10}),
        ("baseline", "builtin:digits", {}),
    ],
    ids=["a table", "texts", "the yardstick"],
)
def test_no_task_takes_more_than_its_kind_says_nor_far_less(tmp_path, texts, kind, data, settings):
    inputs, facts = profiled(tmp_path / "profile", data or texts)
    found = footprint(kind, settings, inputs, facts, tmp_path / "child", budget_s=8.0)
    assert 0.4 <= found.share <= 1.0, f"{found.estimate >> 20} MiB said, {found.peak >> 20} MiB taken"
    assert found.snapshots >= (kind == "classify"), "without a snapshot its buffer is not measured"
