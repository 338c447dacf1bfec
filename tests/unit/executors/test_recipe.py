"""Settings of every training: bounds before anything is loaded; a recipe says what they and the kind decided."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executors import training
from executors.kinds.classify import Classify, ClassifySettings
from executors.recipe import BOUNDS, COMPILE, PRECISIONS, Recipe, TrainingSettings
from executors.schedules import SHAPES
from tests.support.executing import job_for


class Small(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind's settings, with a default of its own."""

    batch: int = 8
    depth: int = 2


def small(given: dict[str, Any]) -> Small:
    return msgspec.convert(given, Small)


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
def test_every_bound_is_kept(name: str, least: float, most: float) -> None:
    kind = type(msgspec.structs.asdict(Small())[name])
    beside = {"batch": 65_536} if name == "micro_batch" else {}
    for good in (least, most):
        assert getattr(small({**beside, name: kind(good)}), name) == good
    for bad in (kind(least * 0.9 - 1e-9) if kind is float else int(least) - 1, kind(most * 1.1) + 1):
        with pytest.raises(ValueError, match=f"{name} must be"):
            small({name: bad})


@pytest.mark.parametrize(("name", "choices"), [("schedule", SHAPES), ("precision", PRECISIONS), ("compile", COMPILE)])
def test_a_choice_is_one_of_few(name: str, choices: tuple[str, ...]) -> None:
    for choice in choices:
        assert getattr(small({name: choice}), name) == choice
    with pytest.raises(ValueError, match=f"{name} is one of {choices[0]}"):
        small({name: "perhaps"})


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="momentum"):
        msgspec.convert({"momentum": 0.9}, Small)
    with pytest.raises(msgspec.ValidationError, match="batch"):
        msgspec.convert({"batch": "many"}, Small)


def test_parts_are_no_larger_than_the_step() -> None:
    assert Small(micro_batch=8).micro_batch == 8
    with pytest.raises(ValueError, match=r"at most batch \(8\), got 9"):
        Small(micro_batch=9)
    assert ClassifySettings(micro_batch=9).batch is None, "a kind that chooses its batch later"


def recipe(tmp_path: Path, given: dict[str, Any], memory_attempts: int = 0, **chosen: Any) -> Recipe:
    job = job_for(Classify(), {}, tmp_path, {})
    job = dataclasses.replace(job, settings=small(given), memory_attempts=memory_attempts)
    return training.recipe_of(job, **chosen)


def test_a_recipe_has_the_settings_and_what_the_kind_chose(tmp_path: Path) -> None:
    asked = {"clip": 2.0, "schedule": "wsd", "steps_max": 70, "checkpoint_overhead": 0.5, "accumulate_float64": True}
    found = recipe(tmp_path, asked, learning_rate=0.5, budget_s=7.0)
    assert (found.batch, found.micro_batch, found.clip, found.schedule) == (8, 8, 2.0, "wsd")
    assert (found.steps_max, found.overhead, found.accumulate_float64) == (70, 0.5, True)
    assert (found.learning_rate, found.budget_s) == (0.5, 7.0)


@pytest.mark.parametrize(
    ("micro_batch", "attempts", "batch", "wanted"),
    [(0, 0, 8, 8), (0, 1, 8, 4), (3, 0, 8, 3), (3, 1, 8, 2), (8, 9, 8, 1), (8, 0, 4, 4), (0, 1, 100, 50)],
)
def test_memory_that_ran_out_halves_the_parts_and_not_the_step(
    tmp_path: Path, micro_batch: int, attempts: int, batch: int, wanted: int
) -> None:
    found = recipe(tmp_path, {"micro_batch": micro_batch}, attempts, batch=batch)
    assert (found.batch, found.micro_batch) == (batch, wanted)
