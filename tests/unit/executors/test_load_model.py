"""docs/load_model.py, the loader that people copy, answers what the program itself answers, and needs little."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from executors.data import Split, read_split
from executors.kinds.baseline import Baseline
from executors.kinds.classify import Classify
from executors.models import classifier as classifiers
from tests.support.executing import made_by
from tests.support.splits import write_four

SCRIPT = Path(__file__).parents[3] / "docs" / "load_model.py"
TEXTS = [
    "the card has not arrived, please track it", "raise my limit, the maximum is too low", "refund: money back!",
    "ＣＡＲＤ_7 ﬁnally ARRIVED", "δεν έφτασε η κάρτα", "卡 没有 到", "a b c", "", "   ", "x", "🙂 card 🙂🙂",
    "limit-limit  limit\tlimit", "tab\u00a0space card_card 3½ ²", "wor\u0301d",
]  # fmt: skip
LABELS = ["arrival", "limit", "refund"]


@pytest.fixture(scope="module")
def loader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = [f"{text} {number % 41}" for number in range(30) for text in TEXTS]
    return write_four(tmp_path_factory.mktemp("texts"), inputs, [index % 3 for index in range(len(inputs))], LABELS)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = np.random.default_rng(5)
    rows = drawn.normal(size=(300, 4)).astype(np.float32) * [1, 10, 1e6, 0]
    labels = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 3)
    rows[drawn.random(rows.shape) < 0.1] = np.nan
    return write_four(tmp_path_factory.mktemp("table"), rows, labels.tolist(), LABELS, list("abcd"))


def inputs_of(split: Split) -> list[Any]:
    """A split's inputs as the loader takes them."""
    return split.texts or [[None if value != value else value for value in row] for row in split.table.tolist()]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Classify(), {"epochs_max": 2, "hidden": [8], "features_max": 100}),
        (Classify(), {"epochs_max": 2, "hidden": [8, 6], "architecture": "deep", "linear_path": False}),
        (Classify(), {"epochs_max": 2, "architecture": "linear", "linear_path": False, "word_max": 0, "char_min": 1}),
        (Classify(), {"epochs_max": 1, "hidden": [4], "word_max": 3, "char_max": 0, "linear_path": False}),
        (Baseline(), {}),
    ],
)
@pytest.mark.parametrize("data", ["texts", "table"])
def test_it_answers_what_the_program_answers(
    request: pytest.FixtureRequest, loader: ModuleType, tmp_path: Path, kind: Any, settings: dict[str, Any], data: str
) -> None:
    splits: Path = request.getfixturevalue(data)
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    model = made_by(kind, inputs, tmp_path / "line", settings).outputs["model"]
    split, own = read_split(splits / "holdout"), classifiers.load(model)
    wanted = np.exp(own.log_probabilities(own.encode(split), torch.device("cpu")))
    loaded = loader.Classifier(model)
    assert loaded.labels == LABELS
    assert loaded.columns == list(split.schema.features)
    found = loaded.probabilities(inputs_of(split)).numpy()
    assert np.abs(found - wanted).max() < 1e-5
    assert loaded.predict(inputs_of(split)) == [LABELS[index] for index in wanted.argmax(axis=1)]
    assert loaded.probabilities([]).shape == (0, 3)


@pytest.mark.parametrize("network", [0.4, 0.0])
@pytest.mark.parametrize("data", ["texts", "table"])
def test_it_blends_the_two_paths_as_the_program_does(
    request: pytest.FixtureRequest, loader: ModuleType, tmp_path: Path, network: float, data: str
) -> None:
    splits: Path = request.getfixturevalue(data)
    inputs = {"train": splits / "train", "validation": splits / "validation"}
    settings = {"epochs_max": 2, "hidden": [8], "features_max": 120, "linear_path": False}
    own = classifiers.load(made_by(Classify(), inputs, tmp_path / "line", settings).outputs["model"])
    own.linear = classifiers.linear_path(own.features.width, 3, sparse=data == "texts")
    torch.nn.init.normal_(own.linear.state_dict()["wide.weight"], generator=torch.Generator().manual_seed(1))
    own.blend, own.temperature = classifiers.Blend(network, 0.7), 1.3
    folder = own.save(tmp_path / "blended", {"kind": "classify"}, "card")
    split = read_split(splits / "holdout")
    wanted = np.exp(own.log_probabilities(own.encode(split), torch.device("cpu")))
    assert np.abs(loader.Classifier(folder).probabilities(inputs_of(split)).numpy() - wanted).max() < 1e-5


def test_it_needs_torch_and_safetensors_only(texts: Path, tmp_path: Path) -> None:
    inputs = {"train": texts / "train", "validation": texts / "validation"}
    model = made_by(Classify(), inputs, tmp_path / "line", {"epochs_max": 1, "hidden": [4]}).outputs["model"]
    program = """
import sys, warnings
warnings.simplefilter("ignore")
for name in ("numpy", "msgspec", "sklearn", "executors", "mesh"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
from load_model import Classifier
print(Classifier(sys.argv[2]).predict(["refund: money back!"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPT.parent), str(model)],
        capture_output=True, text=True, timeout=100, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"'))[0] in LABELS


def test_another_format_and_another_row_are_refused(loader: ModuleType, table: Path, tmp_path: Path) -> None:
    inputs = {"train": table / "train", "validation": table / "validation"}
    folder = made_by(Baseline(), inputs, tmp_path / "line").outputs["model"]
    with pytest.raises(ValueError, match="4 numbers"):
        loader.Classifier(folder).predict([[1.0, 2.0]])
    config = json.loads((folder / "config.json").read_text())
    config["ramify"]["format"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="format 2"):
        loader.Classifier(folder)
