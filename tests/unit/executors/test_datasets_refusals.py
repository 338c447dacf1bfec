"""Data that can not be used: one sentence, with the row or the flag that helps."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.datasets import columns, examples, look, reading, splits
from executors.datasets.look import quick_look, quick_look_at
from mesh.errors import DataRefused
from tests.support.datasets import profile, questions, refused, table, written


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    assert "nothing at" in str(refused(tmp_path / "away.csv", tmp_path))
    assert "is empty" in str(refused(written(tmp_path / "empty.csv", ""), tmp_path))
    assert "is empty" in str(refused(written(tmp_path / "blank.csv", "\ufeff \n\n \n"), tmp_path))
    assert "no rows below" in str(refused(written(tmp_path / "header.csv", "text,label\n"), tmp_path))
    assert "one column only" in str(refused(written(tmp_path / "one.csv", "a\nb\nc\n"), tmp_path))
    assert "gunzip" in str(refused(written(tmp_path / "data.csv.gz", gzip.compress(b"a,b\n1,2\n")), tmp_path))
    assert "Excel" in str(refused(written(tmp_path / "data.xlsx", b"PK\x03\x04" + bytes(100)), tmp_path))
    assert "not text" in str(refused(written(tmp_path / "data.csv", bytes(range(256)) * 40), tmp_path))


def test_structure_is_refused_with_the_row_as_a_person_counts(tmp_path: Path) -> None:
    lines = table(questions()).splitlines(keepends=True)
    ragged = lines[:]
    ragged[100] = "too,many,fields\n"
    error = refused(written(tmp_path / "ragged.csv", "".join(ragged)), tmp_path)
    assert (error.row, "row 101" in str(error), "has 3 fields where 2 are expected" in str(error)) == (101, True, True)
    short = lines[:]
    short[50] = "short\n"
    assert refused(written(tmp_path / "short.csv", "".join(short)), tmp_path).row == 51
    zero = lines[:]
    zero[9] = zero[9].replace("please", "ple\x00ase")
    error = refused(written(tmp_path / "zero.csv", "".join(zero)), tmp_path)
    assert (error.row, "zero byte" in str(error)) == (10, True)


def test_rows_count_records_not_lines(tmp_path: Path) -> None:
    rows = table([("two\nlines of words here", "a"), ("another one of them", "b")] * 30)
    assert refused(written(tmp_path / "data.csv", rows + "x,y,z\n"), tmp_path).row == 62


def test_surplus_empty_fields_and_blank_rows_are_let_through(tmp_path: Path) -> None:
    lines = table(questions()).splitlines()
    lines[5] += ",,"
    lines.insert(7, "")
    made = profile(written(tmp_path / "data.csv", "\n".join(lines)), tmp_path)
    assert (made.facts["examples"], made.facts["dropped"]) == (240, {"blank row": 1})


def test_a_never_closed_quote_names_its_row(tmp_path: Path) -> None:
    lines = [f'"{text}, really",{label}\n' for text, label in questions(60)]
    lines[30] = lines[30].replace(', really"', ", really")
    error = refused(written(tmp_path / "data.csv", "text,label\n" + "".join(lines)), tmp_path)
    assert error.row == 32
    huge = '"' + "word " * 300_000 + '",a\n'
    assert "1,000,000 characters" in str(refused(written(tmp_path / "huge.csv", table(questions()) + huge), tmp_path))


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", table(questions(), header=("question", "category")))
    assert "did you mean 'category'?" in str(refused(path, tmp_path, label_column="catgory"))
    assert "did you mean 'question'?" in str(refused(path, tmp_path, text_column="Questions"))
    assert "both name" in str(refused(path, tmp_path, text_column="category", label_column="category"))
    assert "--task 'regress' is not supported" in str(refused(path, tmp_path, task="regress"))


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    same = [(text, "only") for text, _ in questions()]
    assert "same value in every row" in str(refused(written(tmp_path / "same.csv", table(same)), tmp_path))
    each = [(text, f"name{k}") for k, (text, _) in enumerate(questions())]
    assert "nearly one for each row" in str(refused(written(tmp_path / "each.csv", table(each)), tmp_path))
    price = [(text, f"{k * 7 % 230}.{k % 10}") for k, (text, _) in enumerate(questions(480))]
    assert "regression" in str(refused(written(tmp_path / "price.csv", table(price)), tmp_path))
    none = [(text, "") for text, _ in questions()]
    assert "is empty" in str(refused(written(tmp_path / "none.csv", table(none)), tmp_path))
    long = [(text, "very long label " * 20 + label) for text, label in questions()]
    assert "short names" in str(refused(written(tmp_path / "long.csv", table(long)), tmp_path, label_column="label"))


def test_too_little_data(tmp_path: Path) -> None:
    assert "at least 20" in str(refused(written(tmp_path / "few.csv", table(questions(18))), tmp_path))
    assert "at least 20" in str(refused(written(tmp_path / "again.csv", table(questions(6) * 30)), tmp_path))


def test_a_label_that_can_not_be_told_has_to_be_named(tmp_path: Path) -> None:
    rows = [(str(k), f"{k * 1.5}", f"{k * 7919 % 1009}.5") for k in range(100)]
    error = refused(written(tmp_path / "data.csv", table(rows, header=("a", "b", "c"))), tmp_path)
    assert "--label" in str(error)


def test_the_quick_look_says_the_same_without_libraries(tmp_path: Path) -> None:
    quick_look(written(tmp_path / "good.csv", table(questions())))
    quick_look(written(tmp_path / "unknown suffix.data", table(questions())))
    for name, content in (("empty.csv", b""), ("program.csv", b"\x7fELF\x02\x01"), ("no.parquet", b"text")):
        with pytest.raises(DataRefused):
            quick_look(written(tmp_path / name, content))
    quick_look_at("builtin:digits")
    quick_look_at(str(tmp_path / "good.csv"))
    with pytest.raises(DataRefused, match="builtin:python-docs"):
        quick_look_at("builtin:mnist")
    with pytest.raises(DataRefused, match="permissions"):
        quick_look(tmp_path / ("n" * 300))


SUFFIXES = st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt", ""])
LINES = st.lists(
    st.sampled_from(
        ["a,b", "1;2", '"', "x\ty", '{"a": 1}', "[", "]", "\r", "label,text", "é", "\ud7ff", "1,5", "\x0b", ""]
    ),
    max_size=60,
)
RUBBISH = st.one_of(
    st.binary(max_size=600),
    st.text(max_size=600).map(lambda text: text.encode("utf-8", "replace")),
    LINES.map(lambda lines: "\n".join(lines).encode()),
    LINES.map(lambda lines: "\n".join(lines).encode("utf-16")),
    st.binary(max_size=200).map(lambda data: b"PAR1" + data + b"PAR1"),
)


@given(data=RUBBISH, suffix=SUFFIXES)
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_dataset_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = written(tmp_path_factory.getbasetemp() / f"rubbish{suffix}", data)
    sentence = ""
    try:
        whole_way(path)
    except DataRefused as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 1_000


CELL = st.one_of(
    st.sampled_from(["", "a", "b", "NA", "1", "-2.5", "1e400", "3,5", "ÄÖ ü", "two words", '"']), st.text(max_size=12)
)


@given(rows=st.lists(st.tuples(CELL, CELL, st.sampled_from(["x", "y", "z", ""])), min_size=20, max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_table_gives_whole_splits_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    text = table(rows, header=("one", "two", "label"))
    path = written(tmp_path_factory.getbasetemp() / "table.csv", text.encode("utf-8", "replace"))
    try:
        made, split = whole_way(path)
    except DataRefused:
        return
    assert set(split.tolist()) == {0, 1, 2, 3}
    assert set(made.y[split == splits.TRAIN].tolist()) == set(range(len(made.labels)))


def whole_way(path: Path) -> tuple[examples.Examples, examples.Array]:
    """From a path to assigned examples."""
    found = reading.read(str(path), path.name, lambda share: None)
    choice = columns.choose(found)
    columns.check_label(choice.label, found.rows)
    made = examples.make(found, choice, "salt", lambda share: None)
    return made, splits.assign(made)


def test_the_look_needs_no_libraries() -> None:
    import subprocess
    import sys

    program = "import sys, executors.datasets.look; print(sorted({'numpy', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    assert look.BUILTINS == ("digits", "python-docs")


def test_refusals_name_the_file_as_the_user_does(tmp_path: Path) -> None:
    inside = written(tmp_path / "cache" / "0123" / "data.csv", "a,b\n")
    assert "'mine.csv'" in str(refused(inside.parent, tmp_path, name="mine.csv"))
    assert "'sheet.xlsx'" in str(refused(written(tmp_path / "x" / "blob", b"PK\x03\x04"), tmp_path, name="sheet.xlsx"))
