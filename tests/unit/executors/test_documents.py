"""Plain text: what becomes documents, how they are cut, on which side they fall, and what a profile says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from executors.corpus import read_corpus
from executors.datasets import corpora, documents, look
from executors.datasets.documents import DOCUMENT_BYTES, SOURCES_LEAST
from executors.datasets.splits import SPLITS
from executors.port import Made
from mesh.errors import DataRefused
from planner.profile import Profile as PlannersProfile
from tests.support.datasets import profile, questions, table, written

WORDS = ("river", "stone", "copper", "lantern", "harbour", "willow", "anvil", "meadow")


def page(number: int, lines: int = 60) -> str:
    """A text that no other number has."""
    return "\n".join(f"{WORDS[(number + k % 2) % 8]} {number} {k * number} and the {k}" for k in range(lines))


def pages(folder: Path, count: int = 80) -> Path:
    """So many files, of all kinds of names, some in folders below each other."""
    for number in range(count):
        written(
            folder / ("deep/er" if number % 5 == 0 else ".") / f"{number}.{('txt', '1', 'py')[number % 3]}",
            page(number),
        )
    return folder


def kept(made: Made) -> dict[str, list[dict[str, str]]]:
    """The lines of each split."""
    return {
        name: [json.loads(line) for line in (path / documents.FILE_NAME).read_text().splitlines()]
        for name, path in made.outputs.items()
    }


def test_a_folder_of_plain_text_is_a_corpus_split_by_its_files(tmp_path: Path) -> None:
    made = profile(pages(tmp_path / "notes"), tmp_path, task="language-model")
    facts = PlannersProfile.of(made.facts)
    assert (facts.task, facts.modality, facts.fits, facts.labels) == ("language-model", "corpus", "corpus", 0)
    assert facts.sources == 80
    assert {"language-model", "evaluate"} == set(facts.needs)
    assert set(facts.keywords) & set(WORDS)
    lines = kept(made)
    sides = {name: {line["source"] for line in of} for name, of in lines.items()}
    assert sum(map(len, sides.values())) == 80, "a source stands on one side"
    assert set(made.media.values()) == {"corpus"}
    texts = [line["text"] for of in lines.values() for line in of]
    assert sorted("".join(texts)) == sorted("".join(page(number) for number in range(80)))
    corpus = read_corpus(made.outputs["train"])
    assert corpus.texts == [line["text"] for line in lines["train"]]
    assert len(set(corpus.clusters.tolist())) == len(sides["train"])


def test_what_is_written_anew_falls_on_the_same_sides(tmp_path: Path) -> None:
    """A branch of a corpus is some documents with their sources: its own profile splits it as the whole was."""
    whole = documents.read(str(pages(tmp_path / "notes")), "", "ramify", lambda share: None)
    rows = [row for row in range(len(whole)) if row % 3]
    columns = {"text": [whole.texts[row] for row in rows], "source": [whole.sources[row] for row in rows]}
    path = tmp_path / "branch.parquet"
    pq.write_table(pa.table(columns), path)
    part = documents.read(str(path), path.name, "ramify", lambda share: None)
    assert part.texts == columns["text"]
    assert part.sources == columns["source"]
    assert part.split.tolist() == whole.split[rows].tolist()
    again = kept(profile(path, tmp_path, task="language-model"))
    assert {line["source"] for line in again["holdout"]} <= {
        whole.sources[row] for row in np.flatnonzero(whole.split == SPLITS.index("holdout")).tolist()
    }


def test_what_is_asked_about_is_bounded_and_comes_from_every_source(tmp_path: Path) -> None:
    for number in range(60):
        written(tmp_path / "notes" / f"{number}.txt", page(number, 3_000))
    made = profile(tmp_path / "notes", tmp_path)
    lines = kept(made)
    found = documents.read(str(tmp_path / "notes"), "", "ramify", lambda share: None)
    for side, name in enumerate(SPLITS):
        sources = {found.sources[row] for row in np.flatnonzero(found.split == side).tolist()}
        assert {line["source"] for line in lines[name]} == sources
        size = sum(len(line["text"].encode()) for line in lines[name])
        assert name == "train" or size <= corpora.ASKED_BYTES_MAX
    assert made.facts["dropped"]["more than is asked about"] > 100
    PlannersProfile.of(made.facts)


def test_equal_texts_count_once(tmp_path: Path) -> None:
    folder = pages(tmp_path / "notes")
    for number in range(0, 40, 2):
        written(folder / "copies" / f"{number}.md", page(number).upper())
    found = documents.read(str(folder), "", "ramify", lambda share: None)
    assert len(set(found.ids.tolist())) == len(found)
    assert found.repeated >= 20


def test_a_long_row_is_one_source_whatever_it_is_cut_into(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"text": page(number, 200)}) for number in range(60))
    found = documents.read(str(written(tmp_path / "rows.jsonl", lines)), "rows.jsonl", "ramify", lambda share: None)
    assert len(found) > 120
    assert len(set(found.sources)) == 60
    sides: dict[str, set[int]] = {source: set() for source in found.sources}
    for source, side in zip(found.sources, found.split.tolist(), strict=True):
        sides[source].add(side)
    assert {len(of) for of in sides.values()} == {1}


def test_a_few_long_files_are_split_by_documents_and_it_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "book.md", "\n".join(page(number, 20) for number in range(200)))
    made = profile(path, tmp_path)
    assert made.facts["modality"] == "corpus", "a book is no table"
    assert any(f"fewer than {SOURCES_LEAST}" in warning for warning in made.facts["warnings"])
    assert min(made.facts["splits"].values()) >= 1


def test_a_table_with_texts_and_without_labels_is_a_corpus(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"id": number, "text": page(number, 20)}) for number in range(60))
    made = profile(written(tmp_path / "rows.jsonl", lines), tmp_path)
    assert (made.facts["modality"], made.facts["text_columns"]) == ("corpus", ["text"])
    labelled = profile(written(tmp_path / "data.csv", table(questions(600))), tmp_path)
    assert labelled.facts["modality"] == "text"


def test_a_text_is_cut_behind_its_lines_and_never_inside_a_character() -> None:
    text = "ü" * 3_000 + "\n" + "a b c " * 900 + "\nend"
    pieces = list(documents.cut(text))
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= DOCUMENT_BYTES for piece in pieces)
    assert [list(documents.cut(piece)) for piece in pieces] == [[piece] for piece in pieces]


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("notes.txt", page(3), look.Format.CORPUS),
        ("table.txt", "text\tlabel\nsome words\tgood\nother words\tbad\n", look.Format.DELIMITED),
        ("ls.1", ".TH LS 1\n.SH NAME\nls, dir, vdir \\- list\n.SH OPTIONS\nmany\n", look.Format.CORPUS),
        ("module.py", "import os\n\n\ndef main():\n    print(os.sep, 3)\n", look.Format.CORPUS),
        ("readme.md", "# A title\n\nwords, and words\n", look.Format.CORPUS),
        ("data", '{"text": "a", "label": "b"}\n', look.Format.JSON_LINES),
    ],
)
def test_plain_text_is_told_from_a_table(tmp_path: Path, name: str, content: str, format_: look.Format) -> None:
    assert look.format_of(written(tmp_path / name, content)) is format_


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="at least 20 are needed"):
        documents.read(str(written(tmp_path / "small.txt", "a few words\n")), "", "ramify", lambda share: None)
    folder = tmp_path / "noise"
    written(folder / "a.bin", bytes(range(32)) * 50)
    written(folder / "b.bin", bytes(range(32)) * 50)
    with pytest.raises(DataRefused, match="no file in"):
        documents.read(str(folder), "", "ramify", lambda share: None)
    rows = "\n".join(json.dumps({"a": page(k, 9), "b": page(k + 99, 9)}) for k in range(30))
    with pytest.raises(DataRefused, match="name it with --text"):
        documents.read(str(written(tmp_path / "two.jsonl", rows)), "two.jsonl", "ramify", lambda share: None)
