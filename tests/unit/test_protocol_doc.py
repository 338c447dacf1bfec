"""docs/protocol.md says what the types say: its tables are generated, and a difference fails here.

`REWRITE_GOLDEN=1` writes the tables; the text around them is written by people.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mesh import codec, streams
from mesh.subjects import Subjects
from tests.support.record_tables import TABLES

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
REWRITE = bool(os.environ.get("REWRITE_GOLDEN"))


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: generated -->\n\n)(.*?)(\n\n<!-- end of {name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_are_up_to_date(name: str) -> None:
    text, table = PAGE.read_text(), TABLES[name]()
    if REWRITE:
        text = _between(name).sub(lambda found: found[1] + table + found[3], text)
        PAGE.write_text(text)
    found = _between(name).search(text)
    assert found, f"docs/protocol.md has no place for the table of {name}"
    assert found[2] == table, f"the table of {name} is old: REWRITE_GOLDEN=1 writes it anew; review the difference"


def test_every_record_and_subject_is_described() -> None:
    text = PAGE.read_text()
    assert [kind for kind in codec.RECORDS if f"#### `{kind}`" not in text] == []
    subjects = Subjects("mesh")
    spoken = [
        subjects.beat("worker"), subjects.gone("worker"), subjects.answer("worker"), subjects.lead(),
        subjects.ask("scheduler", "asker"), subjects.ledger(), subjects.progress("worker", "topic", "task"),
    ]  # fmt: skip
    assert [subject for subject in spoken if _pattern(subject) not in text] == []
    assert [spec.name for spec in streams.table(subjects, artifact_bytes_max=1) if f"`{spec.name}`" not in text] == []


def _pattern(subject: str) -> str:
    """As the page writes it: names that vary stand in angle brackets."""
    for name in ("worker", "topic", "task", "asker"):
        subject = re.sub(rf"\.{name}(?=\.|$)", f".<{name}>", subject)
    return subject
