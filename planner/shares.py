"""How the budget of a topic is shared between the two lines: past results shift it, and no line starves.

    total       2 x the topic's budget per line: fixed, whatever the past says
    share       in proportion to how often a line brought an improvement, newer verdicts counting more
    floor       20 % of the total for each line: a line that is never tried can not win again

Pure: lessons in, two budgets and a sentence out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mesh.messages.base import Facts
from mesh.messages.tasks import Line
from planner.lessons import PRIOR, Lesson

FLOOR = 0.2
"""Least share of a line. With more, the past hardly counts; with less, a line has too little time to show anything."""

FADING = 0.85
"""Weight of a lesson per newer lesson of the same line: after ten verdicts a fifth of it is left."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """The budgets of the two lines, and why."""

    evolver: float
    """Share of the total, 0.2 to 0.8."""
    total_s: float
    why: str

    def budget_s(self, line: Line) -> float:
        """Training seconds of a line."""
        share = self.evolver if line is Line.EVOLVER else 1.0 - self.evolver
        return round(share * self.total_s, 3)

    @property
    def facts(self) -> Facts:
        """For the plan."""
        return {
            Line.EVOLVER.value: round(self.evolver, 4),
            Line.REINVENTOR.value: round(1.0 - self.evolver, 4),
            "total_s": self.total_s,
            "why": self.why,
        }


def shared(lessons: Iterable[Lesson], budget_s: float) -> Shares:
    """budget_s: of a topic, per line; the two lines together have twice that."""
    known = [lesson for lesson in lessons if not lesson.rounded]
    tallies = {line: _tally(known, line) for line in (Line.EVOLVER, Line.REINVENTOR)}
    total_s = 2.0 * budget_s
    if all(count == 0 for _, count in tallies.values()):
        return Shares(0.5, total_s, "half each: no verdict of this specialization is known")
    evolver, reinventor = (tallies[line][0] for line in (Line.EVOLVER, Line.REINVENTOR))
    share = round(FLOOR + (1.0 - 2.0 * FLOOR) * evolver / (evolver + reinventor), 4)
    wins = {line: sum(lesson.accepted for lesson in known if lesson.line is line) for line in tallies}
    told = "; ".join(
        f"{line.value} {wins[line]} of {tallies[line][1]} accepted, expected gain {tallies[line][0]:.2f}"
        for line in tallies
    )
    return Shares(
        share, total_s, f"evolver {share:.0%}, reinventor {1.0 - share:.0%}: {told}; no line below {FLOOR:.0%}"
    )


def _tally(lessons: list[Lesson], line: Line) -> tuple[float, int]:
    """(expected share of improvements, how many lessons), newer ones counting more."""
    own = [lesson.chance for lesson in lessons if lesson.line is line]
    weight, tries, gains = 1.0, 0.0, 0.0
    for chance in reversed(own):
        tries, gains = tries + weight, gains + weight * chance
        weight *= FADING
    return (gains + PRIOR) / (tries + 2.0 * PRIOR), len(own)
