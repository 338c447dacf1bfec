"""The lines' budgets: half each at first, shifted by past results, never below the floor, the total fixed."""

from __future__ import annotations

import itertools
import random

import pytest

from mesh.messages.tasks import Line
from planner.lessons import Lesson
from planner.shares import FLOOR, shared


def lesson(line: Line, chance: float, accepted: bool = False) -> Lesson:
    return Lesson(
        topic="t", line=line, turned={}, effect=0.0, low=0.0, high=0.0, metric="loss", chance=chance, accepted=accepted
    )


def test_without_verdicts_it_is_half_each() -> None:
    shares = shared([], 180.0)
    assert shares.evolver == 0.5
    assert shares.budget_s(Line.EVOLVER) == shares.budget_s(Line.REINVENTOR) == 180.0
    assert "no verdict" in shares.why


def test_a_line_that_wins_again_and_again_gets_more_and_never_all() -> None:
    before = 0.5
    for wins in (1, 3, 10):
        past = [lesson(Line.EVOLVER, 1.0, True) for _ in range(wins)] + [lesson(Line.REINVENTOR, 0.0)] * wins
        found = shared(past, 100.0)
        assert before < found.evolver <= 1.0 - FLOOR
        assert found.budget_s(Line.EVOLVER) + found.budget_s(Line.REINVENTOR) == pytest.approx(200.0)
        assert f"evolver {wins} of {wins} accepted" in found.why
        before = found.evolver
    assert shared([lesson(Line.REINVENTOR, 1.0)] * 1_000 + [lesson(Line.EVOLVER, 0.0)] * 1_000, 1.0).evolver >= FLOOR


def test_newer_verdicts_count_more() -> None:
    late = [lesson(Line.EVOLVER, chance) for chance in (0.0, 0.0, 1.0, 1.0)]
    early = [lesson(Line.EVOLVER, chance) for chance in (1.0, 1.0, 0.0, 0.0)]
    assert shared(late, 1.0).evolver > shared(early, 1.0).evolver


def test_the_tally_is_that_of_a_slow_obvious_one() -> None:
    generator = random.Random(1)
    for _ in range(50):
        past = [
            lesson(generator.choice([Line.EVOLVER, Line.REINVENTOR]), generator.random())
            for _ in range(generator.randint(1, 12))
        ]
        gains = {}
        for line in (Line.EVOLVER, Line.REINVENTOR):
            own = [one.chance for one in past if one.line is line]
            weights = [0.85**age for age in itertools.islice(itertools.count(), len(own))][::-1]
            gains[line] = (1 + sum(w * c for w, c in zip(weights, own, strict=True))) / (2 + sum(weights))
        expected = 0.2 + 0.6 * gains[Line.EVOLVER] / sum(gains.values())
        assert shared(past, 1.0).evolver == pytest.approx(expected, abs=1e-4)
