"""CSV, TSV and their like.

Separator: of `,` `;` tab and `|`, the one under which most rows of the sample have as many fields as the first row.
Quotation: as in RFC 4180. A file that breaks these rules is read once more with quotation marks as plain characters
(many TSV files mean that), then once more leniently; only if every reading ends in rows of different length is it
refused, with the row number of the first reading.
Header: the first row is data, and the columns are called `column 1`, `column 2`, …, when one of its cells is a number,
occurs again further down in its own column, is empty (but for the first: a saved index) or long, or when two are equal.
A cell with a well-known column name (`label`, `text` …), or cells that count 0, 1, 2 …, make it a header all the same.
Rows are counted as a spreadsheet does: the header is row 1, a field with line breaks is still one row.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from executors.datasets import bounds, numerals
from executors.datasets.decoding import Source, open_text
from executors.datasets.names import LABEL_NAMES, TEXT_NAMES, unique_names
from executors.datasets.table import Columns, Progress, Table
from mesh.errors import DataRefused

_SEPARATORS = ("\t", ";", "|", ",")
_BY_SUFFIX = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
_HEADER_CHARS_MAX = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is cut into fields."""

    separator: str
    quoted: bool = True
    strict: bool = True

    def rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Rows of fields; csv.Error when the rules are broken."""
        csv.field_size_limit(bounds.FIELD_CHARS_MAX)
        return csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=self.strict,
        )


def read(path: Path, shown: str, progress: Progress) -> Table:
    """The table in a delimited file; DataRefused with the row when it is none."""
    source = open_text(path, shown)
    separator = _separator(source, Path(shown).suffix.lower())
    first: DataRefused | None = None
    for quoted, strict, note in (
        (True, True, ""),
        (False, False, "quotation marks in the file do not match; they were read as plain characters"),
        (True, False, "quotation marks in the file do not follow the rules; they were read leniently"),
    ):
        try:
            table = _read(source, Dialect(separator, quoted, strict), progress)
        except _Broken as error:
            first = first or error.refused
            continue
        table.warnings = [text for text in (source.warning, note) if text] + table.warnings
        return table
    assert first is not None
    raise first


class _Broken(Exception):
    """This dialect does not fit the file; `refused` says where."""

    def __init__(self, refused: DataRefused) -> None:
        super().__init__(str(refused))
        self.refused = refused


def _read(source: Source, dialect: Dialect, progress: Progress) -> Table:
    sample = _sample_rows(source, dialect)
    if not sample:
        raise DataRefused(f"{source.shown!r} is empty: expected a header row and examples below it")
    headed = has_header(sample)
    names, width = _names(sample, headed)
    if width < 2:
        raise DataRefused(
            f"{source.shown!r} has one column only: expected at least two, an input and a label, "
            "separated by a comma, semicolon, tab or |"
        )
    table = Table(names=names, columns=[], headed=headed, separator=dialect.separator, bytes_read=source.size_bytes)
    columns = Columns(names)
    blank = 0
    for block, skipped in _blocks(source, dialect, headed, width, progress):
        columns.extend(list(zip(*block, strict=True)))
        blank += skipped
    if not columns.rows:
        raise DataRefused(f"{source.shown!r} has a header and no rows below it: expected examples")
    if blank:
        table.dropped["blank row"] = blank
    table.columns = columns.arrays()
    table.first_row = 2 if headed else 1
    if not headed:
        table.warnings.append("the file has no header row: its columns are called 'column 1', 'column 2' and so on")
    return table


def _blocks(
    source: Source, dialect: Dialect, headed: bool, width: int, progress: Progress
) -> Iterator[tuple[list[list[str]], int]]:
    """Blocks of rows of exactly `width` fields, with the count of blank rows left out."""
    rows = dialect.rows(source.lines(progress))
    number, blank = 0, 0
    block: list[list[str]] = []
    try:
        for row in rows:
            number += 1
            if headed and number == 1:
                continue
            if len(row) != width:
                if not any(cell.strip() for cell in row):
                    blank += 1
                    continue
                row = _fitted(row, width, number, source.shown)
            block.append(row)
            if len(block) >= bounds.BLOCK_ROWS:
                yield block, blank
                block, blank = [], 0
    except csv.Error as error:
        raise _Broken(_csv_refused(error, number + 1, source.shown)) from None
    yield block, blank


def _fitted(row: list[str], width: int, number: int, shown: str) -> list[str]:
    """`row` without surplus empty fields at its end; _Broken when it is too short or really longer."""
    if len(row) > width and not any(cell.strip() for cell in row[width:]):
        return row[:width]
    raise _Broken(
        DataRefused(
            f"row {number} of {shown!r} has {len(row)} field{'s' if len(row) != 1 else ''} where {width} are expected: "
            "check its separators and quotation marks",
            row=number,
        )
    )


def _csv_refused(error: csv.Error, number: int, shown: str) -> DataRefused:
    text = str(error)
    if "field larger" in text:
        what = f"holds a field of more than {bounds.FIELD_CHARS_MAX:,} characters; is a quotation mark never closed?"
    elif "unexpected end" in text:
        what = "opens a quotation mark that is never closed"
    else:
        what = f"can not be read ({text}); check its quotation marks"
    return DataRefused(f"row {number} of {shown!r} {what}", row=number)


def _sample_rows(source: Source, dialect: Dialect) -> list[list[str]]:
    """Rows of the file's beginning; a torn last one is left out. Broken rules end the sample, the reading reports
    them."""
    lines, whole = source.sample()
    rows: list[list[str]] = []
    try:
        for row in itertools.islice(dialect.rows(iter(lines)), bounds.SAMPLE_ROWS):
            rows.append(row)
    except csv.Error:
        whole = True
    rows = rows if whole or len(rows) < 2 or len(rows) == bounds.SAMPLE_ROWS else rows[:-1]
    return [row for row in rows if any(cell.strip() for cell in row)]


def _separator(source: Source, suffix: str) -> str:
    """The separator under which most rows agree with the first one."""
    preferred = _BY_SUFFIX.get(suffix, "")
    best, best_score = "", (0.0, 0)
    for separator in _SEPARATORS:
        score = max(
            _agreement(_sample_rows(source, Dialect(separator, quoted, strict=False)), separator == preferred)
            for quoted in (True, False)
        )
        if score > best_score:
            best, best_score = separator, score
    return best or preferred or ","


def _agreement(rows: list[list[str]], preferred: bool) -> tuple[float, int]:
    """How well a separator fits: (share of the rows that are as wide as most, 1 if the suffix asks for it)."""
    if not rows:
        return 0.0, 0
    widths = Counter(len(row) for row in rows)
    width, count = widths.most_common(1)[0]
    if width < 2 or len(rows[0]) not in (width, width - 1) or len(rows[0]) < 2:
        return 0.0, 0
    return count / len(rows), int(preferred)


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first of some rows is a header: the rule stands at the top of this file."""
    first = [cell.strip() for cell in rows[0]]
    below = [[row[index].strip() for row in rows[1:] if index < len(row)] for index in range(len(first))]
    if _counts_up(first):
        return True
    recurring = [cell != "" and cell in set(cells) for cell, cells in zip(first, below, strict=True)]
    known = any(
        cell.casefold() in LABEL_NAMES or cell.casefold() in TEXT_NAMES
        for cell, again in zip(first, recurring, strict=True)
        if not again
    )
    if known:
        return True
    return not (
        any(recurring)
        or any(numerals.is_number(cell) for cell in first)
        or any(cell == "" for cell in first[1:])
        or any(len(cell) > _HEADER_CHARS_MAX for cell in first)
        or len(set(first)) < len(first)
    )


def _counts_up(first: list[str]) -> bool:
    """Cells 0, 1, 2 … or 1, 2, 3 …: the made-up header of a saved data frame (an empty first cell is its index)."""
    cells = first[1:] if first and first[0] == "" else first
    return len(cells) > 2 and any(cells[:-1] == [str(start + k) for k in range(len(cells) - 1)] for start in (0, 1))


def _names(rows: list[list[str]], headed: bool) -> tuple[list[str], int]:
    """Column names and the number of columns. A header that is one short leaves out the row names' column (as R writes
    it)."""
    widths = Counter(len(row) for row in rows[1:] or rows)
    width = len(rows[0])
    if not headed:
        width = widths.most_common(1)[0][0]
        return [f"column {index + 1}" for index in range(width)], width
    names = [cell.strip() for cell in rows[0]]
    if widths.most_common(1)[0][0] == width + 1 and _row_numbers([row[0] for row in rows[1:]]):
        names.insert(0, "")
    while len(names) > 2 and names[-1] == "" and widths.most_common(1)[0][0] < len(names):
        names.pop()
    return unique_names(names), len(names)


def _row_numbers(cells: list[str]) -> bool:
    """Different whole numbers: the names that R gives to rows, without a header of their own."""
    return len(cells) > 1 and all(cell.isdigit() for cell in cells) and len(set(cells)) == len(cells)
