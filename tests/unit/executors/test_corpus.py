"""Corpora: every form gives the same documents and ids; a cut by ids holds; what is none is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from executors import corpus
from executors.corpus import held_out, read_corpus
from mesh.errors import DataRefused
from tests.support.splits import write_table_split, write_text_split

TEXTS = [f"document {number}:\n\nÄpfel und Birnen, {number * 7}\n" for number in range(40)]


def folder(path: Path) -> Path:
    (path / "below").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (path / ("below" if number % 2 else ".") / f"{number:03d}.{'md' if number % 3 else 'txt'}").write_text(text)
    (path / "notes.bin").write_bytes(b"\0\1\2")
    (path / ".hidden.txt").write_text("hidden")
    return path


def written(path: Path) -> dict[str, Path]:
    lines = path / "lines.jsonl"
    lines.write_text("\n\n".join(json.dumps({"n": 1, "text": text}) for text in TEXTS))
    table = path / "table.parquet"
    pq.write_table(pa.table({"text": TEXTS, "n": list(range(40))}), table)
    split = write_text_split(path / "split", TEXTS, [number % 2 for number in range(40)], ["a", "b"])
    return {"folder": folder(path / "folder"), "jsonl": lines, "parquet": table, "split": split}


def test_every_form_gives_the_same_documents_and_ids(tmp_path: Path) -> None:
    first = "document 0: äpfel und birnen, 0"
    for form, path in written(tmp_path).items():
        found = read_corpus(path)
        assert sorted(found.texts) == sorted(TEXTS), form
        assert found.size_bytes == sum(len(text.encode()) for text in TEXTS)
        row = found.texts.index(TEXTS[0])
        assert int(found.ids[row]) == int.from_bytes(hashlib.sha256(first.encode()).digest()[:8], "little"), form


def test_a_folder_is_read_in_one_order_and_documents_of_a_file_form_a_cluster(tmp_path: Path) -> None:
    found = read_corpus(written(tmp_path)["folder"])
    assert found.texts == [TEXTS[n] for n in (*range(0, 40, 2), *range(1, 40, 2))]
    assert len(set(found.clusters.tolist())) == 40
    assert set(read_corpus(tmp_path / "lines.jsonl").clusters.tolist()) == {0}


def test_the_built_in_docstrings_are_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [f"Gives back the number {number} and nothing else, whatever it is asked." for number in range(45)]
    (tmp_path / "many.py").write_text("\n".join(f"def f{n}():\n    {text!r}" for n, text in enumerate(said)))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    ticks: list[int] = []
    assert read_corpus("builtin:python-docs", lambda: ticks.append(1)).texts == said
    assert ticks
    with pytest.raises(DataRefused, match="holds no texts"):
        read_corpus("builtin:digits")


def test_a_text_is_on_the_same_side_of_every_cut(tmp_path: Path) -> None:
    whole = read_corpus(written(tmp_path)["jsonl"])
    train, validation = held_out(whole, 0.2, "salt")
    assert len(train) + len(validation) == 40
    assert 2 <= len(validation) <= 16
    half = whole.take(np.arange(1, 40, 2))
    part, held = held_out(half.take(np.arange(len(half))[::-1]), 0.2, "salt") if len(half) >= 20 else (half, half)
    assert set(held.texts) == set(validation.texts) & set(half.texts)
    assert set(part.texts) <= set(train.texts)
    assert set(held_out(whole, 0.2, "other")[1].texts) != set(validation.texts)


def test_a_small_share_still_holds_something_out(tmp_path: Path) -> None:
    whole = read_corpus(written(tmp_path)["jsonl"])
    train, validation = held_out(whole, 1e-6)
    assert len(validation) == 2
    assert len(train) == 38


def test_a_long_document_is_cut_behind_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "DOCUMENT_CHARS_MAX", 10)
    assert list(corpus.pieces("abc\ndefg\nhijklmnopqrstuvw\nx")) == ["abc\ndefg\n", "hijklmnopq", "rstuvw\nx"]
    assert list(corpus.pieces("\n" * 25)) == ["\n" * 10, "\n" * 10, "\n" * 5]
    assert list(corpus.pieces("")) == [""]


def test_half_a_character_and_empty_documents_are_no_obstacle(tmp_path: Path) -> None:
    lines = tmp_path / "odd.jsonl"
    lines.write_text('{"text": "a \\ud800 b"}\n{"text": "  "}\n')
    found = read_corpus(lines)
    assert found.texts == ["a ? b"]
    assert found.empty == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "holds no text"),
        ("blank.jsonl", b"\n", "is empty"),
        ("torn.jsonl", b'{"text": "a"}\n{"text": "b', "row 2 of 'torn.jsonl'"),
        ("list.jsonl", b'[1, 2]\n', "row 1 of 'list.jsonl'"),
        ("other.jsonl", b'{"body": "a"}\n', "missing required field `text`"),
        ("number.jsonl", b'{"text": 3}\n', "Expected `str`"),
        ("program.txt", b"\x7fELF\0\0\0\0" * 9, "is not text"),
        ("table.parquet", b"PAR1 nothing", "is no readable Parquet file"),
    ],
)  # fmt: skip
def test_what_is_no_corpus_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataRefused, match=said):
        read_corpus(tmp_path / name)


def test_wrong_inputs_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataRefused, match="there is no"):
        read_corpus(tmp_path / "missing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataRefused, match="holds no corpus"):
        read_corpus(tmp_path / "nothing")
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "body.parquet")
    with pytest.raises(DataRefused, match="no column 'text' \\(it has body\\)"):
        read_corpus(tmp_path / "body.parquet")
    table = write_table_split(tmp_path / "table", np.zeros((3, 2)), [0, 1, 0], ["a", "b"], ["x", "y"])
    with pytest.raises(DataRefused, match="the split 'table' is tabular"):
        read_corpus(table)
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "one"}\n' * 30)
    with pytest.raises(DataRefused, match="1 different documents, and 20 are needed"):
        held_out(read_corpus(few), 0.1)
    monkeypatch.setattr(corpus, "CORPUS_BYTES_MAX", 60)
    with pytest.raises(DataRefused, match="take a sample"):
        read_corpus(few)
