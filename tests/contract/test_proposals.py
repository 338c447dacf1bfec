"""What the planner proposes is what the kinds accept: every value of the declared space, alone and drawn together."""

from __future__ import annotations

import msgspec
import pytest

from executors import kinds
from planner import proposals

SPACES = [(kind, modality) for kind, spaces in proposals.SPACES.items() for modality in spaces]


@pytest.mark.parametrize(("kind", "modality"), SPACES)
def test_every_drawn_setting_is_accepted(kind: str, modality: str) -> None:
    settings = kinds.load(kind).Settings
    for number in range(200):
        drawn = proposals.reinventor(f"t-{number}", kind, modality).settings
        assert drawn
        msgspec.convert(drawn, settings)


@pytest.mark.parametrize(("kind", "modality"), SPACES)
def test_every_value_of_the_space_is_accepted(kind: str, modality: str) -> None:
    settings, space = kinds.load(kind).Settings, proposals.SPACES[kind][modality]
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
