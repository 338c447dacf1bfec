"""What is inferred from columns: roles, numbers in text, label and input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from executors.datasets import delimited, names, numerals
from executors.datasets.roles import Role, describe
from executors.datasets.table import Table
from executors.datasets.text import normalise, terms
from tests.support.datasets import profile, questions, table, tensors_of, written


def texts(*values: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.large_string())])


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", " -2.5 ", "+3e2", ".5", "6."], [1.0, -2.5, 300.0, 0.5, 6.0]),
        (["1,5", "2", "-0,25", "1.234,5"], [1.5, 2.0, -0.25, 1234.5]),
        (["1,234.5", "12", "1,234,567"], [1234.5, 12.0, 1234567.0]),
        (["\u22124", "NA", "", "n/a", "?"], [-4.0, None, None, None, None]),
    ],
)
def test_numbers_in_text(cells: list[str], values: list[float | None]) -> None:
    parsed = numerals.parse(texts(*cells))
    assert parsed is not None
    assert np.array_equal(parsed.values, np.array([np.nan if v is None else v for v in values]), equal_nan=True)


@pytest.mark.parametrize(
    "cells", [["a", "b"], ["", "NA"], ["1", "2", "x3"], ["12:30", "13:45"], ["1.2.3"], ["nan", "inf"]]
)
def test_what_is_no_column_of_numbers(cells: list[str]) -> None:
    assert numerals.parse(texts(*cells)) is None


def test_a_stray_remark_is_missing_and_its_row_is_named(tmp_path: Path) -> None:
    rows = [("broken" if k == 70 else f"{k}.5", f"{k * 3 % 17}", "ab"[k % 2]) for k in range(100)]
    made = profile(written(tmp_path / "data.csv", table(rows, header=("size", "weight", "class"))), tmp_path)
    assert any("'size' are no numbers" in warning and "row 72" in warning for warning in made.facts["warnings"])
    missing = sum(int(np.isnan(tensors_of(split)["x"]).sum()) for split in made.outputs.values())
    assert missing == 1


def test_headers_are_told_from_data() -> None:
    assert delimited.has_header([["text", "label"], ["a", "b"]])
    assert delimited.has_header([["length", "width", "kind"], ["1", "2", "a"], ["3", "4", "a"]])
    assert not delimited.has_header([["1.5", "2", "a"], ["3", "4", "b"]])
    assert not delimited.has_header([["some words", "spam"], ["other words", "spam"], ["more", "ham"]])
    assert not delimited.has_header([["a" * 90, "x"], ["b", "y"]])
    assert not delimited.has_header([["name", "name"], ["b", "y"]])


def roles(columns_: dict[str, list[str]]) -> dict[str, Role]:
    made = Table(names=list(columns_), columns=[texts(*cells) for cells in columns_.values()])
    return {name: describe(made, index).role for index, name in enumerate(columns_)}


def test_roles() -> None:
    rows = range(120)
    assert roles(
        {
            "id": [str(900 - k) for k in rows],
            "n": [str(k) for k in rows],
            "x": [str(k % 7 * 1.5) for k in rows],
            "say": [f"these are words {k}" for k in rows],
            "zh": [f"我的银行卡在哪里{k % 60}呢" for k in rows],
            "kind": ["round", "flat", "tall"] * 40,
            "country": ["United States of America", "Papua New Guinea"] * 60,
            "code": [f"A-{k:04x}" for k in rows],
            "same": ["x"] * 120,
            "none": [""] * 120,
        }
    ) == {
        "id": Role.IDENTIFIER,
        "n": Role.IDENTIFIER,
        "x": Role.NUMBERS,
        "say": Role.TEXT,
        "zh": Role.TEXT,
        "kind": Role.CATEGORY,
        "country": Role.CATEGORY,
        "code": Role.IDENTIFIER,
        "same": Role.CONSTANT,
        "none": Role.EMPTY,
    }


def test_several_text_columns_are_joined_and_may_be_chosen(tmp_path: Path) -> None:
    rows = [(f"title of {text}", text, label, str(k)) for k, (text, label) in enumerate(questions())]
    path = written(tmp_path / "data.csv", table(rows, header=("title", "body", "topic", "id")))
    assert profile(path, tmp_path).facts["text_columns"] == ["title", "body"]
    assert profile(path, tmp_path, text_column="body").facts["text_columns"] == ["body"]
    assert profile(path, tmp_path, text_column="Body, title").facts["text_columns"] == ["body", "title"]


def test_a_table_with_a_column_of_names_stays_a_table(tmp_path: Path) -> None:
    rows = [
        (f"Mr. John Smith {k}", f"{20 + k % 50}", ("male", "female")[k % 2], f"{k % 9 * 3.25}", str(k % 2))
        for k in range(200)
    ]
    made = profile(
        written(tmp_path / "data.csv", table(rows, header=("Name", "Age", "Sex", "Fare", "Survived"))), tmp_path
    )
    schema = json.loads((made.outputs["train"] / "schema.json").read_text())
    assert schema["features"] == ["Age", "Fare", "Sex=female", "Sex=male"]
    assert made.facts["label_column"] == "Survived"
    assert any("'Name'" in warning and "--text" in warning for warning in made.facts["warnings"])


def test_single_words_are_texts_when_nothing_else_is_there(tmp_path: Path) -> None:
    rows = [(f"{'aeiou'[k % 5]}name{k}", ("cz", "pl")[k % 2]) for k in range(100)]
    made = profile(written(tmp_path / "data.csv", table(rows, header=("name", "country"))), tmp_path)
    assert (made.facts["modality"], made.facts["label_column"]) == ("text", "country")
    assert any("took column 'country' as the label" in warning for warning in made.facts["warnings"])


def test_a_column_that_repeats_the_label_is_left_out(tmp_path: Path) -> None:
    rows = [(str(k % 7), str(k % 3), "abc"[k % 3], f"{k * 0.1:.1f}") for k in range(200)]
    made = profile(written(tmp_path / "data.csv", table(rows, header=("x", "code", "label", "y2"))), tmp_path)
    assert made.facts["features"] == 2
    assert any("'code' says the same" in warning for warning in made.facts["warnings"])


def test_categories_are_those_of_train_and_missing_is_nan(tmp_path: Path) -> None:
    rows = [
        (("red", "blue", "", f"rare{k}")[min(3, k % 4 + (k % 40 == 0) * 3)], str(k % 13), "ab"[k % 2 ^ k % 3 % 2])
        for k in range(400)
    ]
    made = profile(written(tmp_path / "data.csv", table(rows, header=("colour", "n", "label"))), tmp_path)
    schema = json.loads((made.outputs["holdout"] / "schema.json").read_text())
    values = schema["encoding"][1]["values"]
    assert schema["encoding"][0] == {"column": "n", "kind": "number"}
    assert {"red", "blue"} <= set(values)
    x = tensors_of(made.outputs["train"])["x"][:, 1:]
    assert (x[:, values.index("red")] == 1).any()
    assert x[:, [values.index("red"), values.index("blue")]].max(axis=1).tolist().count(1.0) > 100
    missing = np.isnan(x).all(axis=1)
    assert missing.any()
    assert set(x[~missing].sum(axis=1).tolist()) == {0.0, 1.0}
    assert len(values) == 50


def test_nearest_names() -> None:
    assert names.nearest("lable", ["text", "label"]) == "did you mean 'label'?"
    assert names.nearest("zzz", ["text", "label"]) == "there are 'text', 'label'"
    assert names.unique_names(["a", "", "a", "column 2"]) == ["a", "column 2", "a (2)", "column 2 (2)"]


def test_texts_that_count_as_the_same() -> None:
    assert normalise("  Ｈｅｌｌｏ\u00a0 STRASSE\n") == normalise("hello straße")
    assert terms("don't pay 3 EUR für 銀行卡") == ["don't", "pay", "EUR", "für", "銀行", "行卡"]
