"""A training's reports become metrics: the newest values by kind, totals that only rise, nothing that is no number."""

from __future__ import annotations

import math

import pytest

from agents.worker_training import Reported
from mesh import metrics


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> metrics.Metrics:
    """Metrics of this test alone."""
    mine = metrics.Metrics()
    for name in ("set", "count", "value"):
        monkeypatch.setattr(metrics, name, getattr(mine, name))
    return mine


def said(**changes: float) -> dict[str, float]:
    return {"learning_rate": 0.1, "loss": 2.0, "examples": 80.0, "batch_s": 0.25, **changes}


def test_the_newest_report_is_shown_and_totals_rise() -> None:
    reported = Reported("classify")
    reported.note(100, said())
    reported.note(110, said(loss=1.5, examples=160.0))
    assert metrics.value("mesh_training_loss", kind="classify") == 1.5
    assert metrics.value("mesh_training_batch_seconds", kind="classify") == 0.25
    assert metrics.value("mesh_training_steps_total", kind="classify") == 10.0, (
        "the first report may be of a resumed run"
    )
    assert metrics.value("mesh_training_examples_total", kind="classify") == 160.0


def test_another_process_of_the_task_begins_anew() -> None:
    reported = Reported("lora")
    for step, examples in ((10, 80.0), (20, 160.0), (15, 16.0), (25, 96.0)):
        reported.note(step, said(examples=examples))
    assert metrics.value("mesh_training_steps_total", kind="lora") == 20.0
    assert metrics.value("mesh_training_examples_total", kind="lora") == 240.0


def test_what_is_no_number_is_left_out(untouched: metrics.Metrics) -> None:
    reported = Reported("lora")
    reported.note(1, said(loss=1.0))
    reported.note(2, said(loss=math.nan, batch_s=math.inf, examples=math.nan))
    assert metrics.value("mesh_training_loss", kind="lora") == 1.0
    assert metrics.value("mesh_training_examples_total", kind="lora") == 80.0
    assert b"NaN" not in untouched.render()


def test_other_work_says_nothing_of_steps(untouched: metrics.Metrics) -> None:
    Reported("profile").note(5, {"rows": 10.0})
    assert untouched.render() == b""
