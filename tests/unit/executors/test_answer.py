"""answer: labels with probabilities, texts that go on, and who of a tree answered; bounded, and the same each time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from executors import kinds
from executors.kinds.answer import Answer
from executors.kinds.classify import Classify
from executors.kinds.tree import Tree
from executors.models import asking, language, tokens
from executors.models.language import LanguageModel
from executors.models.loading import load_model, nothing
from executors.models.transformer import Shape, Transformer
from executors.questions import TEXTS_BYTES_MAX, AnswerSettings
from mesh.errors import TaskRefused
from tests.support import hand_routers
from tests.support.executing import made_by
from tests.support.splits import write_table_split, write_text_split

QUICK: dict[str, Any] = {"epochs_max": 3, "hidden": [4], "features_max": 200, "char_max": 0, "linear_path": False,
                         "warmup_steps": 1}  # fmt: skip
CPU = torch.device("cpu")


def asked(model: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    return dict(made_by(Answer(), {"model": model}, folder, settings).facts)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    lines = {}
    for part, size, seed in (("train", 90, 1), ("validation", 30, 2)):
        found = hand_routers.examples(size, seed)
        labels = sorted({label for _, label in found})
        lines[part] = write_text_split(
            folder / part, [text for text, _ in found], [labels.index(one) for _, one in found], labels, split=part
        )
    return made_by(Classify(), lines, folder, QUICK).outputs["model"]


def random_network(folder: Path, seed: int) -> Path:
    cut = tokens.bytewise()
    shape = Shape(vocabulary=cut.size, width=8, layers=1, heads=1, kv_heads=1, head_width=8, inner=8, context=16)
    torch.manual_seed(seed)
    return language.save(LanguageModel(Transformer(shape), cut), folder, {"kind": language.KIND}, "")


def test_a_flat_classifier_names_its_likeliest_labels(flat: Path, tmp_path: Path) -> None:
    told = asked(flat, tmp_path, texts=["card arrive", "rain snow"], top=2)
    model: Any = load_model(flat).model  # type: ignore[attr-defined]
    answers = np.exp(model.answers(asking.split_of(model, ["card arrive", "rain snow"]), CPU, nothing))
    assert told["form"] == "labels"
    for row, one in enumerate(told["answers"]):
        likeliest = [model.labels[place] for place in np.argsort(-answers[row])[:2]]
        assert [label for label, _ in one["labels"]] == likeliest
        assert [share for _, share in one["labels"]] == pytest.approx(sorted(answers[row], reverse=True)[:2])
        assert one["through"] == []


def test_a_tree_says_through_whom(flat: Path, tmp_path: Path) -> None:
    found = hand_routers.examples(40, 4)
    labels = sorted({label for _, label in found})
    validation = write_text_split(
        tmp_path / "validation", [text for text, _ in found], [labels.index(one) for _, one in found], labels
    )
    router = hand_routers.router().save(tmp_path / "router")
    inputs = {"router": router, "flat": flat, "member-1": flat, "validation": validation}
    grid = {"temperatures": [0.05], "tops": [1], "flat_shares": [0.25]}
    tree = made_by(Tree(), inputs, tmp_path / "tree", grid).outputs["model"]
    first, second = asked(tree, tmp_path / "asked", texts=["refund money", "snow"])["answers"]
    assert [(name, round(share, 3)) for name, share in first["through"]] == [("money back", 0.75), ("flat", 0.25)]
    assert second["through"] == [["flat", 1.0]]


def test_a_row_of_a_table_is_read_as_numbers(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    lines = {part: write_table_split(tmp_path / part, draw.random((40, 3)), [row % 2 for row in range(40)], ["a", "b"],
                                     ["x", "y", "z"], split=part) for part in ("train", "validation")}  # fmt: skip
    model = made_by(Classify(), lines, tmp_path / "made", QUICK).outputs["model"]
    told = asked(
        model,
        tmp_path / "asked",
        texts=["0.5, 0.25, 1", "[0.5 0.25 1]", '{"z": 1, "x": 0.5, "y": 0.25, "w": 3}', "0.5,,1"],
    )
    told = told["answers"]
    assert told[0] == told[1] == told[2]
    assert len(told[3]["labels"]) == 2
    for number, wrong in enumerate(("0.5 1", "many words here", '{"x"')):
        with pytest.raises(TaskRefused, match=r"rows of 3 numbers \(x, y, z …\)|no JSON map"):
            asked(model, tmp_path / str(number), texts=[wrong])


def test_a_text_goes_on_and_the_seed_decides_how(tmp_path: Path) -> None:
    model = random_network(tmp_path / "model", 1)
    told = [asked(model, tmp_path / str(n), texts=["ab", "cd"], tokens=30, seed=seed, temperature=2.0)
            for n, seed in enumerate((5, 5, 6))]  # fmt: skip
    assert told[0]["answers"] == told[1]["answers"] != told[2]["answers"]
    for one in told[0]["answers"]:
        assert one["tokens"] <= 30
        assert one["ended"] == (one["tokens"] < 30)
        assert one["through"] == []


def test_at_temperature_zero_the_likeliest_token_follows(tmp_path: Path) -> None:
    model = random_network(tmp_path / "model", 2)
    (one,) = asked(model, tmp_path / "asked", texts=["abc"], tokens=4, temperature=0.0)["answers"]
    network, own = language.load(model).network.eval(), [0, *(byte + 1 for byte in b"abc")]
    for _ in range(one["tokens"]):
        with torch.inference_mode():
            own.append(int(network(torch.tensor([own]))[0, -1].argmax()))
    assert one["text"] == tokens.bytewise().decode(own[4:])


def test_draws_follow_the_probabilities() -> None:
    draw, share = np.random.default_rng(3), np.array([0.5, 0.25, 0.25])
    for temperature, wanted in ((1.0, share), (0.5, share**2 / (share**2).sum())):
        found = np.bincount([asking.drawn(np.log(share), temperature, draw) for _ in range(4_000)], minlength=3) / 4_000
        assert found == pytest.approx(wanted, abs=0.03)


def test_a_tree_of_language_models_goes_on(tmp_path: Path) -> None:
    inputs = {name: random_network(tmp_path / name, seed) for seed, name in enumerate(("flat", "member-0", "member-2"))}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": f"card money rain {n}"}) for n in range(30)))
    inputs |= {"router": hand_routers.router(lead_bytes=12).save(tmp_path / "router"), "validation": corpus}
    grid = {"temperatures": [0.1], "tops": [2], "flat_shares": [0.0], "routings": ["centres"], "reread": 4}
    tree = made_by(Tree(), inputs, tmp_path / "tree", grid).outputs["model"]
    (one,) = asked(tree, tmp_path / "asked", texts=["rain snow wind"], tokens=12)["answers"]
    assert sum(share for _, share in one["through"]) == pytest.approx(1.0)
    assert one["through"][0][0] == "weather"


def test_answers_without_room_are_refused(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ANSWERS_BYTES_MAX", 100)
    with pytest.raises(TaskRefused, match="ask fewer texts at once"):
        asked(flat, tmp_path, texts=["a", "b"])


@pytest.mark.parametrize(
    "wrong",
    [{"texts": ()}, {"texts": ("a",) * 65}, {"texts": ("é" * TEXTS_BYTES_MAX,)}, {"top": 0}, {"tokens": 0},
     {"temperature": -1.0}, {"temperature": math.nan}, {"seed": -1}],
)  # fmt: skip
def test_settings_are_bounded(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"texts|top|temperature|seed"):
        AnswerSettings(**wrong)


def test_what_it_takes_follows_the_model() -> None:
    small, large = (kinds.needs_of("answer", {}, {"input_bytes": {"model": size}}) for size in (1 << 20, 1 << 30))
    assert small is not None
    assert large is not None
    assert large.memory_bytes - small.memory_bytes >= 1 << 30
