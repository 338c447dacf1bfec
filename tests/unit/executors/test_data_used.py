"""Whoever trains says which rows its steps took, and a check finds who took others: every kind that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from executors import taken
from executors.kinds.evaluate import Evaluate
from executors.port import Made
from tests.support.executing import made_by
from tests.support.small_trainings import NAMES, TASK, Small, Trained, small


def checked(about: Small, told: Trained, folder: Path, **lie: Any) -> Made:
    inputs = {"model": told.made.outputs["model"], "split": told.made.outputs.get("held_out"), **about.checked}
    trained = {"task": TASK, "kind": about.kind, "settings": about.settings, "data": told.made.facts["data"], **lie}
    given = {name: path for name, path in inputs.items() if path is not None}
    return made_by(Evaluate(), given, folder, {"latency_items": 0, "trained": trained})


@pytest.mark.parametrize("name", NAMES)
def test_who_took_other_data_than_his_own_is_found_by_what_he_says(tmp_path: Path, name: str) -> None:
    about = small(name, tmp_path / "data")
    honest, elsewhere = about.trained(tmp_path / "honest"), about.trained(tmp_path / "other", about.other)
    found = checked(about, honest, tmp_path / "one")
    assert "structure" not in found.facts, found.facts
    assert found.outputs["outcomes"].is_dir()
    found = checked(about, elsewhere, tmp_path / "two", data=elsewhere.made.facts["data"])
    assert found.outputs == {}
    assert found.facts["structure"].startswith("its training took ")
    found = checked(about, honest, tmp_path / "three", data={})
    assert found.facts["structure"] == "its result does not say which examples its steps took"
    steps = honest.made.facts["steps"]
    found = checked(about, honest, tmp_path / "four", data={**honest.made.facts["data"], "steps": steps + 1})
    assert "took other examples than those that it was given" in found.facts["structure"]


def test_documents_of_validation_are_no_training_documents_of_a_language_model(tmp_path: Path) -> None:
    about = small("language-model", tmp_path)
    both = tmp_path / "both.jsonl"
    both.write_text("\n".join(path.read_text() for path in about.honest.values()))
    inputs = {**about.honest, "train": both}
    said = about.trained(tmp_path / "line", inputs).made.facts
    found = taken.read("language-model", about.settings, inputs)
    assert found is not None
    assert len(found.ids) == said["data"]["rows"] == said["train"]["documents"]
    assert said["left_out"]["in validation"] > 0


def test_what_a_training_divides_by_itself_is_not_read() -> None:
    assert taken.read("classify", {}, {"validation": Path("v")}) is None
