"""What one column holds: numbers, texts, categories, or nothing that could be learned from.

Decided from a few measurements: how many values are there and how many differ, whether they are numbers, how many words
they have. A text has about three words or more (or letters of a script without spaces) and seldom repeats; a category
is short and repeats; an identifier is one word that never repeats, or a number that counts the rows.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from executors.datasets import bounds, numerals, text
from executors.datasets.names import IDENTIFIER_NAMES, TEXT_NAMES
from executors.datasets.table import Table

_TEXT_WORDS = 2.5
"""Mean words from which values are texts: most categories have one or two."""

_TEXT_SHARE = 0.1
"""Of different values among the present ones: what repeats more is a category, however long."""

_CATEGORY_VALUES_MAX = 1_000
_CATEGORY_SHARE_MAX = 0.5


class Role(enum.StrEnum):
    """What a column holds."""

    NUMBERS = "numbers"
    TEXT = "text"
    CATEGORY = "category"
    """Few different short values."""
    IDENTIFIER = "identifier"
    """A name or number of the row itself."""
    MANY = "many values"
    """Short values, too many different ones for a category."""
    CONSTANT = "one value only"
    EMPTY = "no values"


@dataclasses.dataclass(slots=True)
class Column:
    """One column and what was measured of it."""

    name: str
    index: int
    role: Role
    present: int
    distinct: int
    words: float = 0.0
    """Mean words of the present values."""
    numbers: numerals.Numbers | None = None

    @property
    def whole(self) -> bool:
        """True when it holds whole numbers only."""
        if self.numbers is None:
            return False
        values = self.numbers.values[np.isfinite(self.numbers.values)]
        return bool((values == np.rint(values)).all())


def describe(table: Table, index: int) -> Column:
    """Measure one column and decide what it holds."""
    name, column = table.names[index], table.columns[index]
    typed = not pa.types.is_large_string(column.type)
    present, distinct = _count(column, typed)
    found = Column(name, index, Role.EMPTY, present, distinct)
    if present == 0:
        return found
    found.numbers = numerals.parse(column)
    some = column.slice(0, bounds.STATISTICS_ROWS).drop_null()
    if not typed:
        some = pc.utf8_trim_whitespace(some)
        found.words = float(pc.sum(pc.count_substring_regex(some, r"\S+")).as_py() or 0) / max(1, len(some))
    found.role = _role(found, some, table.rows)
    return found


def _count(column: pa.ChunkedArray, typed: bool) -> tuple[int, int]:
    """(values that are there, different ones). In long columns of mostly different texts the second is an estimate from
    the beginning: counting them all would take the column's size in memory again."""
    some = column.slice(0, bounds.STATISTICS_ROWS)
    blank = 0 if typed else int(pc.sum(pc.equal(column, "")).as_py() or 0)
    present = len(column) - column.null_count - blank
    if not typed and len(column) > len(some) and len(pc.unique(some)) > 0.5 * len(some):
        return present, min(present, int(len(pc.unique(some)) * len(column) / len(some)))
    unique = pc.unique(column).drop_null()
    if typed:
        return present, len(unique)
    unique = pc.unique(pc.utf8_trim_whitespace(unique))
    filled = pc.not_equal(unique, "")
    distinct = int(pc.sum(filled).as_py() or 0)
    return present if distinct else 0, distinct


def _role(column: Column, values: pa.ChunkedArray, rows: int) -> Role:
    if column.distinct <= 1:
        return Role.CONSTANT
    if column.numbers is not None:
        return Role.IDENTIFIER if _counts_rows(column, rows) else Role.NUMBERS
    share = column.distinct / column.present
    some = [value for value in values.slice(0, 1_000).to_pylist() if value]
    chars = sum(map(len, some)) / max(1, len(some))
    named = column.name.casefold() in TEXT_NAMES
    if share >= _TEXT_SHARE or column.distinct > 200:
        if column.words >= _TEXT_WORDS or (named and (column.words >= 1.3 or column.distinct > 200)):
            return Role.TEXT
        if chars >= 4 and column.words < _TEXT_WORDS and sum(map(text.unspaced, some)) > 0.5 * len(some):
            return Role.TEXT
        if chars >= 24 and column.words >= 1.5:
            return Role.TEXT
    if share == 1.0 and column.words < 1.2 and column.distinct > 2:
        return Role.IDENTIFIER
    return Role.CATEGORY if column.distinct <= _CATEGORY_VALUES_MAX and share <= _CATEGORY_SHARE_MAX else Role.MANY


def _counts_rows(column: Column, rows: int) -> bool:
    """A number of the row: whole, never repeated, and called so or counting up by one."""
    if not column.whole or column.distinct < column.present or column.present < 3:
        return False
    assert column.numbers is not None
    values = column.numbers.values[np.isfinite(column.numbers.values)]
    name = column.name.casefold()
    named = name in IDENTIFIER_NAMES or name.endswith(("_id", " id", "-id"))
    return named or (len(values) == rows and bool((np.diff(values) == 1).all()))
