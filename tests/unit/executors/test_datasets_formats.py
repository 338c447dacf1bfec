"""Every format that is read, in the ways people write it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.datasets import profile, questions, refused, table, tensors_of, texts_of, written


@pytest.mark.parametrize(
    ("separator", "suffix"), [(",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "txt"), ("\t", "csv")]
)
def test_separators_are_found(tmp_path: Path, separator: str, suffix: str) -> None:
    rows = [(f"{text}, or; else", label) for text, label in questions()]
    path = written(tmp_path / f"data.{suffix}", table(rows, separator=separator))
    facts = profile(path, tmp_path).facts
    assert (facts["examples"], facts["labels"], facts["text_columns"], facts["label_column"]) == (
        240,
        3,
        ["text"],
        "label",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_in_every_form_is_read_the_same(tmp_path: Path, encoding: str) -> None:
    rows = [(f"{text} – žluťoučký 質問", label) for text, label in questions(600)]
    plain = profile(written(tmp_path / "plain.csv", table(rows)), tmp_path)
    other = profile(written(tmp_path / "other.csv", table(rows), encoding), tmp_path)
    assert other.facts["warnings"] == plain.facts["warnings"] == []
    assert texts_of(other.outputs["train"]) == texts_of(plain.outputs["train"])


def test_latin_1_is_read_with_a_warning(tmp_path: Path) -> None:
    rows = [(f"où est ma carte numéro {number}", label) for number, (_, label) in enumerate(questions())]
    made = profile(written(tmp_path / "data.csv", table(rows), "latin-1"), tmp_path)
    assert texts_of(made.outputs["train"])[0].startswith("où est ma carte numéro")
    assert "not UTF-8" in made.facts["warnings"][0]


def test_quotes_line_breaks_and_bare_carriage_returns(tmp_path: Path) -> None:
    rows = [(f'she said "{text}"\nand left, twice', label) for text, label in questions()]
    made = profile(written(tmp_path / "data.csv", table(rows)), tmp_path)
    assert made.facts["examples"] == 240
    assert all("\nand left, twice" in text for text in texts_of(made.outputs["train"]))
    old = table(questions()).replace("\n", "\r")
    assert profile(written(tmp_path / "old.csv", old), tmp_path).facts["examples"] == 240


def test_loose_quotation_marks_of_a_tsv_are_characters(tmp_path: Path) -> None:
    rows = questions()
    text = "label\ttext\n" + "".join(
        f"{label}\t{'' if k % 7 else chr(34)}{text}\n" for k, (text, label) in enumerate(rows)
    )
    made = profile(written(tmp_path / "spam.tsv", text), tmp_path)
    assert made.facts["examples"] == 240
    assert any("quotation marks" in warning for warning in made.facts["warnings"])


def test_a_file_without_header_is_recognised(tmp_path: Path) -> None:
    rows = [(label, text) for text, label in questions()]
    made = profile(written(tmp_path / "data.tsv", table(rows, header=(), separator="\t")), tmp_path)
    assert (made.facts["rows"], made.facts["label_column"], made.facts["text_columns"]) == (
        240,
        "column 1",
        ["column 2"],
    )
    assert any("no header" in warning for warning in made.facts["warnings"])
    again = profile(written(tmp_path / "two.tsv", table(rows, header=(), separator="\t")), tmp_path, label_column="1")
    assert again.facts["label_column"] == "column 1"


def test_headers_that_are_easily_mistaken(tmp_path: Path) -> None:
    frame = "".join(f"{k},{k % 5}.5,{k * 3 % 11},{'ab'[k % 2]}\n" for k in range(100))
    saved = profile(written(tmp_path / "saved.csv", ",0,1,2\n" + frame), tmp_path).facts
    assert (saved["rows"], saved["features"], saved["label_column"]) == (100, 2, "2")
    row_names = "".join(f'"{k}","text number {k} of many words",{"ab"[k % 2]}\n' for k in range(1, 101))
    from_r = profile(written(tmp_path / "r.csv", '"text","label"\n' + row_names), tmp_path).facts
    assert (from_r["rows"], from_r["text_columns"], from_r["label_column"]) == (100, ["text"], "label")


def test_json_lines_and_a_json_array(tmp_path: Path) -> None:
    records = [{"text": text, "label": label, "extra": [1, 2], "id": k} for k, (text, label) in enumerate(questions())]
    lines = "\n".join(json.dumps(record) for record in records)
    one = profile(written(tmp_path / "data.jsonl", lines), tmp_path)
    two = profile(written(tmp_path / "data.json", json.dumps(records, indent=2)), tmp_path)
    assert one.facts["examples"] == two.facts["examples"] == 240
    assert texts_of(one.outputs["holdout"]) == texts_of(two.outputs["holdout"])
    assert any("lists or maps" in warning and "extra" in warning for warning in one.facts["warnings"])
    assert "lists or maps" in str(refused(tmp_path / "data.jsonl", tmp_path, text_column="extra"))


def test_json_keys_may_come_late_and_values_may_be_missing(tmp_path: Path) -> None:
    records = [
        {"y": label, "q": text} if k % 3 else {"q": text, "y": None, "late": k}
        for k, (text, label) in enumerate(questions())
    ]
    made = profile(
        written(tmp_path / "data.jsonl", "\n\n".join(map(json.dumps, records)) + "\n"), tmp_path, text_column="q"
    )
    assert made.facts["dropped"] == {"row without a label": 80, "blank row": 239}
    assert "row 3" in str(refused(written(tmp_path / "bad.jsonl", '{"a": 1}\n{"a": 2}\n{"a": \n'), tmp_path))
    error = refused(written(tmp_path / "list.jsonl", '{"a": 1}\n[1]\n'), tmp_path)
    assert error.row == 2


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    rows = range(200)
    columns = {
        "size": pa.array([k * 0.5 if k % 9 else None for k in rows]),
        "kind": pa.array(["round" if k % 3 else "flat" for k in rows]).dictionary_encode(),
        "flag": pa.array([k % 4 == 0 for k in rows]),
        "parts": pa.array([[k] for k in rows]),
        "raw": pa.array([b"x" for _ in rows]),
        "target": pa.array([k % 2 for k in rows], pa.int8()),
    }
    pq.write_table(pa.table(columns), path)
    made = profile(path, tmp_path)
    schema = json.loads((made.outputs["train"] / "schema.json").read_text())
    assert schema["features"] == ["size", "kind=flat", "kind=round", "flag=false", "flag=true"]
    assert schema["labels"] == ["0", "1"]
    assert "damaged" not in str(made.facts["warnings"])
    path.write_bytes(path.read_bytes()[:-40] + b"PAR1")
    assert "Parquet" in str(refused(path, tmp_path))


def test_parquet_with_broken_texts_is_refused(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\x8e\xff")]
    )
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": broken, "label": ["a", "b"]}), path)
    assert "UTF8" in str(refused(path, tmp_path)).replace("-", "")


def test_a_folder_of_texts_takes_the_labels_from_its_sub_folders(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    for number, (text, label) in enumerate(questions(90)):
        written(folder / label / f"year {number % 3}" / f"{number}.txt", text, "utf-8" if number % 2 else "utf-16")
    written(folder / "card" / ".hidden", "no")
    written(folder / "card" / "image.bin", bytes(range(256)) * 8)
    made = profile(folder, tmp_path)
    assert (made.facts["examples"], made.facts["label_names"]) == (90, ["card", "fees", "loan"])
    assert made.facts["dropped"] == {"file that is no text": 1}


def test_folders_that_are_no_texts_by_label(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for number in range(3):
        written(flat / f"{number}.csv", "some,words\n1,2\n")
    assert "one sub-folder per label" in str(refused(flat, tmp_path))
    splits = tmp_path / "imdb"
    for name in ("train", "test"):
        written(splits / name / "pos" / "1.txt", "good")
    assert "look like splits" in str(refused(splits, tmp_path))
    (tmp_path / "nothing").mkdir()
    assert "is empty" in str(refused(tmp_path / "nothing", tmp_path))


def test_an_artifact_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    written(tmp_path / "artifact" / "data.csv", table(questions(), separator=";"))
    assert profile(tmp_path / "artifact", tmp_path, name="mine.csv").facts["examples"] == 240


def test_built_in_digits(tmp_path: Path) -> None:
    made = profile("builtin:digits", tmp_path)
    assert (made.facts["modality"], made.facts["examples"], made.facts["labels"]) == ("tabular", 1797, 10)
    assert tensors_of(made.outputs["holdout"])["x"].shape == (made.facts["splits"]["holdout"], made.facts["features"])
    assert "python-docs" in str(refused("builtin:mnist", tmp_path))
