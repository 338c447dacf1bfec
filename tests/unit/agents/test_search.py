"""What `bin/agent search` makes of its options, when it is over, and which trial it calls the best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from agents.commands import search
from agents.commands.search import SearchStory
from agents.commands.story import Ending
from mesh.errors import DataRefused, SettingsInvalid
from mesh.messages.base import Epoch, Facts
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from tests.support.splits import write_four

RATE = {"learning_rate": {"type": "log-float", "low": 1e-4, "high": 0.1}}


def given(tmp_path: Path, space: Any = RATE, **options: Any) -> argparse.Namespace:
    texts = [f"{'good' if number % 2 else 'bad'} {number}" for number in range(40)]
    splits = tmp_path / "splits"
    if not splits.exists():
        write_four(splits, texts, [number % 2 for number in range(40)], ["yes", "no"])
    file = tmp_path / "space.json"
    file.write_text(space if isinstance(space, str) else json.dumps(space))
    values: dict[str, Any] = {
        "executor": "classify", "input": [(name, str(splits / name)) for name in ("train", "validation")], "set": [],
        "budget": 60.0, "cores": None, "memory": None, "gpus": None, "gpu_memory": None, "priority": 5,
        "space": str(file), "trials": 3, "parallel": None, "study": None, "metric": "validation_loss",
        "direction": "minimize", "sampler": "tpe", "pruner": "median",
    }  # fmt: skip
    values["space"] = options.pop("file", values["space"])
    return argparse.Namespace(**{**values, **options})


def test_a_trial_is_a_task_of_the_kind_that_searches(tmp_path):
    wanted = search.trials_wanted(given(tmp_path, set=[("epochs_max", "2"), ("hidden", "[8]")], study="mine"))
    assert wanted.info.name == "search-step"
    assert wanted.settings == {
        "study": "mine", "kind": "classify", "space": RATE, "fixed": {"epochs_max": 2, "hidden": [8]},
        "metric": "validation_loss", "direction": "minimize", "sampler": "tpe", "pruner": "median",
    }  # fmt: skip
    names = [one.id for one in search.trials_of(TaskSpec(id="a", topic="a", executor="search-step"), 3)]
    assert names == ["a-0", "a-1", "a-2"]
    other = search.trials_wanted(given(tmp_path))
    assert str(other.settings["study"]).startswith("classify-")


@pytest.mark.parametrize(
    ("space", "options", "error", "why"),
    [
        (RATE, {"executor": "noop", "input": []}, SettingsInvalid, "no training kind"),
        (RATE, {"input": []}, SettingsInvalid, "lacks the input 'train'"),
        (RATE, {"set": [("learning_rate", "0.1")]}, SettingsInvalid, "both space and fixed"),
        (RATE, {"study": "no name"}, SettingsInvalid, "a study must be"),
        (RATE, {"file": "/nowhere/space.json"}, DataRefused, "can not be read"),
        ({"unheard": RATE["learning_rate"]}, {}, SettingsInvalid, "unheard"),
        ({"learning_rate": {"type": "float", "low": 1.0, "high": 50.0}}, {}, SettingsInvalid, "learning_rate must be"),
        ([], {}, SettingsInvalid, "maps settings"),
        ("{", {}, SettingsInvalid, "is none"),
    ],
)
def test_what_can_not_be_is_said_before_anything_starts(tmp_path, space, options, error, why):
    with pytest.raises(error, match=why):
        search.trials_wanted(given(tmp_path, space, **options))


def ended(number: int, state: str, value: float | None, *, parked: bool = False) -> TaskEnded:
    facts: Facts = {"search": {"trial": number, "state": state, "value": value, "settings": {}}}
    return TaskEnded(
        ledger_seq=number + 1, at_ms=1, topic="s", specialization="",
        task=TaskSpec(id=f"s-{number}", topic="s", executor="search-step"),
        epoch=Epoch(1, 1), state=TaskState.PARKED if parked else TaskState.SUCCEEDED,
        outcome=None if parked else Outcome(facts=facts), reason="broken" if parked else "",
    )  # fmt: skip


def test_a_search_is_over_with_its_last_trial_and_the_best_one_was_trained_to_its_end():
    story = SearchStory("s", 3)
    story.add(ended(2, "complete", 0.4))
    story.add(ended(0, "pruned", 0.1))
    assert story.ending() is None
    story.add(ended(1, "complete", 0.3))
    assert story.ending() is Ending.DONE
    assert [one["trial"] for one in search.records_of(story)] == [0, 1, 2]
    for direction, best in (("minimize", "s-1"), ("maximize", "s-2")):
        found = search.best_of(story, direction)
        assert found is not None
        assert found["task"] == best


def test_a_search_without_any_trial_that_succeeded_has_failed():
    story = SearchStory("s", 2)
    story.add(ended(0, "", None, parked=True))
    story.add(ended(1, "", None, parked=True))
    assert story.ending() is Ending.FAILED
    assert search.best_of(story, "minimize") is None
