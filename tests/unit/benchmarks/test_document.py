"""Rows are measured or skipped, never in between; documents survive the way to a file and back."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.document import Aim, Conditions, Document, Row, measured, read, to_json
from mesh.errors import DataRefused, SettingsInvalid

CONDITIONS = Conditions(
    cpu="Abacus 9", cores=2.0, memory_bytes=8_000_000_000, os="Linux", python="3.11.7", versions={"torch": "2.13.0"},
    load_1m_before=0.25, busy_before=0.1, quick=False, seconds=12.0, date="2026-01-02T03:04:05+00:00", commit="abc",
)  # fmt: skip


def document(**changed: object) -> Document:
    fields: dict[str, object] = {
        "name": "counting",
        "why": "How fast we count.",
        "conditions": CONDITIONS,
        "rows": (
            measured("ours", "wall time", [3.0, 1.0, 2.0], "s"),
            Row(who="peer", metric="wall time", unit="s", skipped=True, why="it is not installed"),
        ),
        "aims": (Aim(aim="fast", wanted="at most 1 s", got=2.0, unit="s", met=False),),
    }
    return Document(**{**fields, **changed})  # type: ignore[arg-type]


def test_a_row_is_the_median_with_its_extremes():
    row = measured("ours", "wall time", [3.0, 1.0, 2.5, 2.0], "s")
    assert (row.low, row.value, row.high, row.runs) == (1.0, 2.25, 3.0, 4)


@pytest.mark.parametrize(
    "fields",
    [
        {"skipped": True},
        {"skipped": True, "why": "absent", "value": 1.0},
        {"value": 1.0, "low": 1.0, "high": 1.0},
        {"value": float("nan"), "low": 1.0, "high": 1.0, "runs": 1},
        {"value": 1.0, "runs": 1},
    ],
)
def test_a_row_without_figures_or_reason_is_refused(fields):
    with pytest.raises(ValueError):
        Row(who="x", metric="y", unit="s", **fields)


def test_the_document_has_the_documented_fields():
    found = json.loads(to_json(document()))
    assert set(found) == {"name", "why", "conditions", "rows", "aims"}
    assert {"who", "metric", "value", "unit", "low", "high", "runs", "skipped", "why"} == set(found["rows"][0])
    assert {"aim", "wanted", "got", "unit", "met"} == set(found["aims"][0])


def test_a_kept_document_is_read_back(tmp_path):
    path = report.keep(document(), tmp_path / "results")
    assert read(path) == document()
    assert report.kept(tmp_path / "results") == [document()]


def test_a_quick_run_is_not_kept(tmp_path):
    quick = Conditions(**{**{name: getattr(CONDITIONS, name) for name in CONDITIONS.__struct_fields__}, "quick": True})
    with pytest.raises(SettingsInvalid):
        report.keep(document(conditions=quick), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_refused_with_its_name(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"name": "x"}')
    with pytest.raises(DataRefused, match=r"other\.json"):
        report.kept(tmp_path)


def test_the_page_shows_rows_aims_and_conditions():
    page = report.page([document()])
    assert "| ours | wall time | 2 | 1 | 3 | s | 3 |" in page
    assert "| peer | wall time | skipped |" in page
    assert "- peer, wall time: it is not installed" in page
    assert "| fast | at most 1 s | 2 s | **no** |" in page
    assert "Abacus 9, 2 cores, 8.0 GB memory" in page


def test_a_share_has_no_unit():
    rows = (measured("ours", "accuracy", [0.5], "1"),)
    aims = (Aim(aim="right", wanted="at least 0.4", got=0.5, unit="1", met=True),)
    page = report.page([document(rows=rows, aims=aims)])
    assert "| ours | accuracy | 0.5 | 0.5 | 0.5 |  | 1 |" in page
    assert "| right | at least 0.4 | 0.5 | yes |" in page


def test_texts_do_not_break_the_page():
    page = report.page([document(rows=(measured("a|b", "<x>\n y", [1.0], "s"),))])
    assert "| a\\|b | &lt;x> y | 1 |" in page


def test_an_empty_page_says_so():
    assert "No full run was kept yet" in report.page([])
