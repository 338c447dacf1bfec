"""Numbers in text: which columns hold them, and their values.

Three ways of writing are known: a decimal point (`-1.5e3`), thousands commas (`1,234,567.8`) and a decimal comma
(`1.234,5`). A column is numeric when 98 of 100 of its present values are written in one way; what is left over becomes
missing. A lone comma is a decimal comma (`1,234` is a little over one), unless values of the same column carry a point
after a comma or two commas.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SHARE_MIN = 0.98
"""Of the present values: lower takes codes for numbers, higher drops a column for a stray remark."""

MISSING = ("", "na", "n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "missing", "#n/a")
"""What people write where a number is missing (compared in lower case)."""

_MINUS = "\u2212"
"""The typographic minus sign."""

_POINT = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_THOUSANDS = r"^[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?$"
_COMMA = r"^[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]+)?([eE][+-]?[0-9]+)?$"
_CERTAIN_THOUSANDS = r",[0-9]{3}[,.]"

_NUMBER = re.compile(f"{_POINT}|{_THOUSANDS}|{_COMMA}".replace("$", r"\Z"))


def is_number(cell: str) -> bool:
    """Whether one cell is a number in any of the three ways."""
    return _NUMBER.match(cell.replace(_MINUS, "-")) is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """A column read as numbers."""

    values: np.ndarray[Any, np.dtype[np.float64]]
    """One per row, NaN where missing or unreadable."""
    unreadable: int
    """Present values that are no number."""
    first_unreadable: int
    """Index of the first of these; -1 if there is none."""


def parse(column: pa.ChunkedArray) -> Numbers | None:
    """The column as numbers, or None when it holds something else (or nothing at all)."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = np.asarray(column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(), dtype=np.float64)
        return Numbers(values, 0, -1) if bool(np.isfinite(values).any()) else None
    if not pa.types.is_large_string(column.type) or not _promising(column):
        return None
    trimmed = pc.utf8_trim_whitespace(column)
    missing = pc.fill_null(pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING, pa.large_string())), True)
    missing = pc.or_(missing, pc.is_null(trimmed))
    present = len(column) - int(pc.sum(missing).as_py() or 0)
    if present == 0:
        return None
    trimmed = pc.replace_substring(trimmed, _MINUS, "-")
    for pattern, clean in _ways(trimmed):
        matching = pc.and_(pc.fill_null(pc.match_substring_regex(trimmed, pattern), False), pc.invert(missing))
        found = int(pc.sum(matching).as_py() or 0)
        if found >= SHARE_MIN * present:
            odd = pc.and_(pc.invert(matching), pc.invert(missing))
            index = int(pc.index(odd, True).as_py())
            return Numbers(_values(clean(trimmed), matching), present - found, index)
    return None


def _promising(column: pa.ChunkedArray) -> bool:
    """A look at a hundred values: more than half of the present ones are numbers, or the column can not be numeric."""
    some = [value.strip() for value in column.slice(0, 100).to_pylist() if value is not None]
    some = [value for value in some if value.casefold() not in MISSING]
    return not some or sum(map(is_number, some)) > 0.5 * len(some)


def _ways(trimmed: pa.ChunkedArray) -> list[tuple[str, Any]]:
    """The ways of writing to try, in order: pattern, and how to get from it to a decimal point."""
    thousands = pc.any(pc.match_substring_regex(trimmed, _CERTAIN_THOUSANDS)).as_py()
    no_commas = lambda texts: pc.replace_substring(texts, ",", "")  # noqa: E731
    swapped = lambda texts: pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")  # noqa: E731
    plain = (_POINT, lambda texts: texts)
    grouped = (f"{_THOUSANDS}|{_POINT}", no_commas)
    return [plain, grouped, (_COMMA, swapped)] if thousands else [plain, (_COMMA, swapped), grouped]


def _values(texts: pa.ChunkedArray, matching: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    chosen = pc.if_else(matching, texts, pa.scalar(None, pa.large_string()))
    numbers = np.asarray(pc.cast(chosen, pa.float64()).fill_null(float("nan")).to_numpy(), dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
