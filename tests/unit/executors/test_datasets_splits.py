"""Splits: who goes where, the same bytes every time, and the repairs for small sets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from executors import room
from executors.datasets import splits
from executors.datasets.text import normalise
from mesh.errors import DiskFull
from tests.support.datasets import profile, questions, refused, table, tensors_of, texts_of, written

EDGES = {"train": (0.0, 0.70), "validation": (0.70, 0.85), "holdout": (0.85, 0.95), "audit": (0.95, 1.0)}


def test_an_example_goes_by_the_hash_of_salt_and_normalised_input(tmp_path: Path) -> None:
    made = profile(written(tmp_path / "data.csv", table(questions(1_000))), tmp_path, salt="pepper")
    for name, split in made.outputs.items():
        ids = tensors_of(split)["id"].view(np.uint64)
        for text, identity in zip(texts_of(split), ids.tolist(), strict=True):
            key = normalise(text).encode()
            assert identity == int.from_bytes(hashlib.sha256(key).digest()[:8], "little")
            place = int.from_bytes(hashlib.sha256(b"pepper" + key).digest()[:8], "little") / 2**64
            assert EDGES[name][0] <= place < EDGES[name][1]
    sizes = made.facts["splits"]
    assert [abs(sizes[name] - 1_000 * (high - low)) < 45 for name, (low, high) in EDGES.items()] == [True] * 4


def test_the_split_does_not_depend_on_label_order_or_other_rows(tmp_path: Path) -> None:
    rows = questions(600)
    one = profile(written(tmp_path / "one.csv", table(rows)), tmp_path)
    other = [(f"  {text.upper()} ", {"card": "a", "loan": "b", "fees": "c"}[label]) for text, label in reversed(rows)]
    two = profile(written(tmp_path / "two.csv", table(other)), tmp_path)
    more = profile(written(tmp_path / "more.csv", table([*rows, ("something else entirely", "card")])), tmp_path)
    for name in EDGES:
        ids = set(tensors_of(one.outputs[name])["id"].tolist())
        assert ids == set(tensors_of(two.outputs[name])["id"].tolist())
        assert ids <= set(tensors_of(more.outputs[name])["id"].tolist())


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", table(questions(300)))
    for source in (path, "builtin:digits"):
        first, second = profile(source, tmp_path), profile(source, tmp_path)
        for name in EDGES:
            for file in ("examples.safetensors", "schema.json"):
                assert (first.outputs[name] / file).read_bytes() == (second.outputs[name] / file).read_bytes()
        assert first.facts == second.facts


def test_the_schema_and_the_arrays(tmp_path: Path) -> None:
    made = profile(written(tmp_path / "data.csv", table(questions())), tmp_path, salt="s")
    schema = json.loads((made.outputs["holdout"] / "schema.json").read_text())
    assert schema == {
        "task": "classify",
        "modality": "text",
        "labels": ["card", "fees", "loan"],
        "salt": "s",
        "split": "holdout",
        "text_columns": ["text"],
    }
    arrays = tensors_of(made.outputs["holdout"])
    kinds = {name: str(array.dtype) for name, array in arrays.items()}
    assert kinds == {"y": "int64", "id": "int64", "cluster": "int32", "text": "uint8", "text_offsets": "int64"}
    assert len(arrays["text_offsets"]) == len(arrays["y"]) + 1 == made.facts["splits"]["holdout"] + 1
    labels = [schema["labels"][index] for index in arrays["y"]]
    assert all(
        f"the {label} number" in text for label, text in zip(labels, texts_of(made.outputs["holdout"]), strict=True)
    )


def test_duplicates_stay_on_one_side_and_conflicts_are_told(tmp_path: Path) -> None:
    rows = questions(300)
    again = [(text.title(), label) for text, label in rows[:50]] + [(rows[0][0], "loan"), (rows[3][0], "fees")]
    made = profile(written(tmp_path / "data.csv", table(rows + again)), tmp_path)
    assert (made.facts["duplicates"], made.facts["conflicting"], made.facts["examples"]) == (52, 2, 352)
    assert any("2 inputs occur with more than one label" in warning for warning in made.facts["warnings"])
    seen: dict[int, str] = {}
    for name, split in made.outputs.items():
        for identity in tensors_of(split)["id"].tolist():
            assert seen.setdefault(identity, name) == name
    clusters = np.concatenate([tensors_of(split)["cluster"] for split in made.outputs.values()])
    assert len(np.unique(clusters)) == 300


def test_small_sets_have_every_split_and_every_label_in_train(tmp_path: Path) -> None:
    for seed in range(40):
        rows = [(f"words of set {seed} and number {k}", "abcd"[k % 4]) for k in range(21)] + [(f"once {seed}", "e")]
        made = profile(written(tmp_path / f"{seed}.csv", table(rows)), tmp_path)
        assert min(made.facts["splits"].values()) >= 1
        assert set(tensors_of(made.outputs["train"])["y"].tolist()) == set(range(5))
        assert any("fewer than 2 examples in train" in warning for warning in made.facts["warnings"])


def test_sets_that_can_not_be_split_are_refused(tmp_path: Path) -> None:
    rows = [(f"words and more words {k}", f"label{k // 2}") for k in range(24)]
    facts = profile(written(tmp_path / "two each.csv", table(rows)), tmp_path).facts
    assert facts["labels"] == 12
    pairs = [(f"some other words {k}", f"label{k % 12}") for k in range(12)] * 3 + rows[:8]
    error = refused(written(tmp_path / "one each.csv", table([(text, f"only {text}") for text, _ in pairs])), tmp_path)
    assert "too few examples per label" in str(error)


def test_missing_values_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = questions(300)
    rows[10], rows[20], rows[30] = ("", "card"), (rows[20][0], " "), ("   ", "loan")
    made = profile(written(tmp_path / "data.csv", table(rows)), tmp_path)
    assert made.facts["dropped"] == {"row without text": 2, "row without a label": 1}
    assert (made.facts["rows"], made.facts["examples"]) == (300, 297)


def test_long_texts_are_cut(tmp_path: Path) -> None:
    rows = [*questions(300), ("word " * 20_000, "card")]
    made = profile(written(tmp_path / "data.csv", table(rows)), tmp_path)
    assert max(len(text) for split in made.outputs.values() for text in texts_of(split)) == 50_000
    assert any("were cut" in warning for warning in made.facts["warnings"])


def test_decimal_comma_and_point_are_the_same_number(tmp_path: Path) -> None:
    rows = [(f"{k * 7 % 97}.25", f"{k % 11}.5", "ab"[k % 2]) for k in range(300)]
    comma = [(one.replace(".", ","), two.replace(".", ","), label) for one, two, label in rows]
    header = ("one", "two", "class")
    point = profile(written(tmp_path / "point.csv", table(rows, header)), tmp_path)
    other = profile(written(tmp_path / "comma.csv", table(comma, header, separator=";")), tmp_path)
    for name in EDGES:
        assert np.array_equal(tensors_of(point.outputs[name])["x"], tensors_of(other.outputs[name])["x"])
        assert np.array_equal(tensors_of(point.outputs[name])["id"], tensors_of(other.outputs[name])["id"])


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(splits, "save_file", full)
    monkeypatch.setattr(room, "ROOM_S", 0.0)
    path = written(tmp_path / "data.csv", table(questions()))
    with pytest.raises(DiskFull, match="no room for train"):
        profile(path, tmp_path)
    assert not list(tmp_path.rglob("examples.safetensors"))
