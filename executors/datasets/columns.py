"""Which column is the label, which are the input: looked up where the user said it, inferred where not.

Label: the column that is called so (names.LABEL_NAMES); else the first, if it holds few words and the last does not;
else the last, if it holds few words or whole numbers; else the only one with few words. Input: the columns of texts if
there are any (joined); else numbers and categories. A table that has both is taken as texts when the texts are
sentences, are called so, or little else is there, and as columns otherwise. What is left out is named in a warning, and
every choice can be overridden with --label and --text.
"""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from executors.datasets import bounds
from executors.datasets.names import LABEL_NAMES, TEXT_NAMES, nearest
from executors.datasets.roles import Column, Role, describe
from executors.datasets.table import Table
from mesh.errors import DataRefused

TASKS = ("classify",)

_LABEL_VALUES_MAX = 50
"""A column without a telling name is taken for the label only if it has no more values than this …"""
_LABEL_ROWS_MIN = 4
"""… and on average at least so many rows of each."""
_SENTENCE_WORDS = 6.0
"""Words per value from which a text column outweighs the table around it."""


@dataclasses.dataclass(slots=True)
class Choice:
    """What the table is used for."""

    label: Column
    texts: list[Column]
    numbers: list[Column]
    categories: list[Column]
    warnings: list[str]

    @property
    def modality(self) -> str:
        """'text' or 'tabular'."""
        return "text" if self.texts else "tabular"


def choose(table: Table, *, text_wanted: str = "", label_wanted: str = "", task: str = "") -> Choice:
    """Label and input columns of `table`; DataRefused with a sentence when there is no such column or no label."""
    if task and task not in TASKS:
        raise DataRefused(
            f"--task {task!r} is not supported: classify (texts or columns, with a label) and language-model (plain "
            "text) are"
        )
    columns = [describe(table, index) for index in range(len(table.names))]
    warnings: list[str] = []
    label = _label(table, columns, label_wanted, warnings)
    others = [column for column in columns if column is not label]
    if text_wanted:
        texts = _wanted_texts(table, columns, text_wanted)
        if label in texts:
            raise DataRefused(f"--text and --label both name {label.name!r}: the input and the label are two columns")
    elif table.texts:
        texts = [column for column in others if column.name in table.texts]
    else:
        texts = _texts(others)
    if texts:
        choice = Choice(label, texts, [], [], warnings)
    else:
        _set_leaks_aside(table, label, others, warnings)
        numbers = [column for column in others if column.role is Role.NUMBERS]
        choice = Choice(label, [], numbers, [column for column in others if column.role is Role.CATEGORY], warnings)
    _check(table, choice, others)
    return choice


# -- the label --------------------------------------------------------------------------------------------------------


def _label(table: Table, columns: list[Column], wanted: str, warnings: list[str]) -> Column:
    if wanted:
        return find(table, columns, wanted, "--label")
    if table.label is not None:
        return columns[table.names.index(table.label)]
    named = [column for name in LABEL_NAMES for column in columns if column.name.casefold().strip() == name]
    if named:
        return next((column for column in named if column.role is not Role.EMPTY), named[0])
    chosen = _label_by_position(table, columns)
    warnings.append(
        f"took column {chosen.name!r} as the label, because it has {chosen.distinct} different values; name another "
        "with --label"
    )
    return chosen


def _label_by_position(table: Table, columns: list[Column]) -> Column:
    fitting = [column for column in columns if _label_like(column)]
    words = [column for column in fitting if column.role is Role.CATEGORY]
    first, last = columns[0], columns[-1]
    if first in words and last not in words:
        return first
    if last in fitting:
        return last
    if len(words) == 1:
        return words[0]
    names = ", ".join(repr(column.name[:60]) for column in (fitting or columns)[:8])
    if not fitting and all(column.role in (Role.EMPTY, Role.CONSTANT) for column in columns):
        raise DataRefused(
            f"no column of the table has two different values (its columns: {names}): there is nothing to learn"
        )
    raise DataRefused(f"can not tell which column is the label (candidates: {names}): name it with --label")


def _label_like(column: Column) -> bool:
    if column.role not in (Role.CATEGORY, Role.NUMBERS) or column.distinct > _LABEL_VALUES_MAX:
        return False
    return column.present >= _LABEL_ROWS_MIN * column.distinct and (column.role is Role.CATEGORY or column.whole)


def check_label(column: Column, rows: int) -> None:
    """DataRefused when the column's values are no classes: one value, a quantity, or a value for nearly every row."""
    name = repr(column.name)
    if column.present == 0:
        raise DataRefused(f"the label column {name} is empty: name another with --label")
    if column.distinct == 1:
        raise DataRefused(f"the label column {name} has the same value in every row: at least two labels are needed")
    if column.numbers is not None and (
        column.distinct > bounds.NUMERIC_LABELS_MAX
        or (column.distinct > 20 and (not column.whole or column.present < 3 * column.distinct))
    ):
        raise DataRefused(
            f"the label column {name} holds {column.distinct:,} different numbers, which looks like a quantity to "
            "predict "
            "(regression), and only classification is supported: name a column of classes with --label, or write "
            "ranges instead"
        )
    if column.distinct > 0.5 * column.present:
        raise DataRefused(
            f"the label column {name} has {column.distinct:,} different values in {column.present:,} rows, nearly "
            "one for each "
            "row: labels must repeat; name the column of classes with --label"
        )
    if column.distinct > bounds.LABELS_MAX:
        raise DataRefused(
            f"the label column {name} has {column.distinct:,} different values, and up to {bounds.LABELS_MAX:,} are "
            "supported: "
            "group them, or name another column with --label"
        )


# -- the input --------------------------------------------------------------------------------------------------------


def find(table: Table, columns: list[Column], wanted: str, flag: str) -> Column:
    """The column of a name that a user gave; DataRefused with the nearest names."""
    name = wanted.strip()
    for same in (lambda other: other == name, lambda other: other.strip().casefold() == name.casefold()):
        for column in columns:
            if same(column.name):
                return column
    if name in table.set_aside:
        raise DataRefused(f"{flag} {name!r}: this column can not be used, {table.set_aside[name]}")
    if not table.headed and name.isdigit() and 1 <= int(name) <= len(columns):
        return columns[int(name) - 1]
    raise DataRefused(f"{flag} {name[:80]!r}: there is no such column; {nearest(name, table.names)}")


def _wanted_texts(table: Table, columns: list[Column], wanted: str) -> list[Column]:
    if wanted in table.names or "," not in wanted:
        return [find(table, columns, wanted, "--text")]
    found = [find(table, columns, part, "--text") for part in wanted.split(",") if part.strip()]
    return [column for position, column in enumerate(found) if column not in found[:position]]


def _texts(others: list[Column]) -> list[Column]:
    """The columns of texts, or none when the table is better taken as columns."""
    texts = [column for column in others if column.role is Role.TEXT]
    features = [column for column in others if column.role in (Role.NUMBERS, Role.CATEGORY)]
    if texts and (len(features) < 2 or max(column.words for column in texts) >= _SENTENCE_WORDS or _named(texts)):
        return texts
    if not texts and not features:
        return [column for column in others if column.role in (Role.MANY, Role.IDENTIFIER) and column.numbers is None]
    return []


def _named(texts: list[Column]) -> bool:
    return any(column.name.casefold() in TEXT_NAMES for column in texts)


def _set_leaks_aside(table: Table, label: Column, others: list[Column], warnings: list[str]) -> None:
    """A column that says the same as the label, value for value, would make the task empty."""
    for column in others:
        if column.role not in (Role.NUMBERS, Role.CATEGORY) or column.distinct != label.distinct:
            continue
        akin = any(word in column.name.casefold() for word in ("label", "class", "target", label.name.casefold()))
        if label.distinct < 3 and not akin:
            continue
        pairs = (
            pa.table({"a": table.columns[label.index], "b": table.columns[column.index]})
            .group_by(["a", "b"])
            .aggregate([])
        )
        if pairs.num_rows <= label.distinct:
            column.role = Role.IDENTIFIER
            warnings.append(f"column {column.name!r} says the same as the label, value for value, and was left out")


def _check(table: Table, choice: Choice, others: list[Column]) -> None:
    """DataRefused when there is no input; warnings about what was left out."""
    used = [*choice.texts, *choice.numbers, *choice.categories]
    if not used:
        names = ", ".join(f"{column.name[:40]!r} ({column.role.value})" for column in others[:6]) or "none"
        raise DataRefused(
            f"beside the label {choice.label.name!r} no column can be used as input (found: {names}): expected texts, "
            "numbers or categories; name a text column with --text"
        )
    empty = [column for column in choice.texts if column.role is Role.EMPTY]
    if len(empty) == len(choice.texts) > 0:
        raise DataRefused(f"the text column {empty[0].name!r} is empty: name another with --text")
    choice.warnings += _left_out(table, choice, [column for column in others if column not in used])
    for column in choice.numbers:
        if column.numbers is not None and column.numbers.unreadable:
            row = table.row_number(column.numbers.first_unreadable)
            choice.warnings.append(
                f"{column.numbers.unreadable} values of {column.name!r} are no numbers and count as missing, the "
                f"first in row {row}"
            )


def _left_out(table: Table, choice: Choice, left: list[Column]) -> list[str]:
    """One sentence for each reason why columns are no input."""
    reasons: dict[str, list[str]] = {}
    for column in left:
        reason = column.role.value
        if column.role in (Role.NUMBERS, Role.CATEGORY):
            reason = "the input are the texts"
        elif column.role is Role.TEXT:
            reason = "name it with --text to use it"
        reasons.setdefault(reason, []).append(column.name)
    for name, reason in table.set_aside.items():
        reasons.setdefault(reason, []).append(name)
    return [f"left out ({reason}): {_some(names)}" for reason, names in reasons.items()]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(repr(name[:40]) for name in names[:6]) + more
