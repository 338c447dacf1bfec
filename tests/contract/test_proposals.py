"""What the planner proposes is what the kinds accept: every value of the declared space, alone and drawn together."""

from __future__ import annotations

import msgspec
import pytest

from executors import kinds
from planner import dials, proposals
from planner.lines import Wanted, lines_of
from planner.past import Past
from planner.sizes import Shape

SPACES = [(kind, modality) for kind, spaces in dials.DECLARED.items() for modality in spaces]


@pytest.mark.parametrize(("kind", "modality"), SPACES)
def test_every_drawn_setting_is_accepted(kind: str, modality: str) -> None:
    settings = kinds.load(kind).Settings
    for number in range(200):
        drawn = proposals.reinventor(f"t-{number}", kind, modality).settings
        assert drawn
        msgspec.convert(drawn, settings)


@pytest.mark.parametrize(("kind", "modality"), SPACES)
def test_every_value_of_the_space_is_accepted(kind: str, modality: str) -> None:
    settings, space = kinds.load(kind).Settings, dials.DECLARED[kind][modality]
    for name, values in space.drawn.items():
        for value in values:
            msgspec.convert({name: value}, settings)
    for name, dial in space.dials.items():
        assert dial.low <= dial.default * min(dial.factors) <= dial.high, f"{name} could not be turned down"
        for value in (dial.low, dial.default, dial.high):
            msgspec.convert({name: value}, settings)


@pytest.mark.parametrize(("kind", "modality"), SPACES)
def test_what_the_evolver_turns_again_and_again_stays_acceptable(kind: str, modality: str) -> None:
    settings = kinds.load(kind).Settings
    champion = proposals.reinventor("t", kind, modality).settings
    for number in range(200):
        champion = proposals.evolver(f"t-{number}", kind, modality, champion).settings
        msgspec.convert(champion, settings)


def test_a_setting_that_the_kind_does_not_know_would_be_noticed() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"no_such_setting": 1}, kinds.load("classify").Settings)


@pytest.mark.parametrize(("kind", "modality"), SPACES)
@pytest.mark.parametrize("size", [0.8, 1.0, 1.2])
def test_a_study_of_the_searched_space_is_accepted_in_every_size(kind: str, modality: str, size: float) -> None:
    wanted = Wanted("t", "node", kind, modality, 600.0)
    shape = Shape(size, 600.0, "as hard as it is")
    study = lines_of(wanted, Past(offered=frozenset({"search-step"}), shape=shape)).study
    assert study is not None
    settings = kinds.load("search-step").Settings
    msgspec.convert(study.trial, settings)
    msgspec.convert(study.last(proposals.reinventor("t", kind, modality).settings), settings)
