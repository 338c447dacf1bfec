"""What past changes brought: from the verdicts of a specialization to lessons, and from them to odds.

    verdict ── candidate's settings against those of the champion it challenged ──> which dials were turned, which way
            ── its comparison with that champion: effect, interval ──────────────> the chance that it was a gain

A lesson's chance is what the interval says under a normal error: 0.5 where nothing was seen, near 1 where the gain is
sure, and 1 where the gate took it for a champion's place. Lessons are evidence about a dial and a direction, or about a
line.

Promises: a pure function of the records; the order of records is the order of lessons. Not covered: which of two dials
turned at once it was (both get the lesson); comparisons on another holdout are taken at face value.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.messages.base import Facts
from mesh.messages.judgement import Candidate, Comparison, Verdict
from mesh.messages.tasks import Line
from planner import accounts

LESSONS_MAX = 40
"""Newest lessons that count: a specialization changes, and so does its data."""

PRIOR = 1.0
"""Improvements and failures that every direction is taken to have had: odds never become certain."""

NO_DIALS = frozenset({accounts.SETTING})
"""Settings that change nothing in a training."""

QUANTISATION, PLAIN = "quantisation", "none"
"""The setting of models whose weights are rounded to few bits, and its value in any other."""

METRICS = ("loss", "accuracy")
"""Which comparison speaks, the more telling one first: it moves where few answers flip."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lesson:
    """What one candidate of a line brought against the champion it challenged, or against the other line."""

    topic: str
    line: Line
    turned: Mapping[str, int]
    """Setting to where it went: 1 up, -1 down, 0 to another choice. Empty when there was nothing to compare with."""
    effect: float
    low: float
    high: float
    """Interval of `effect`; positive is better."""
    metric: str
    chance: float
    """That it was an improvement, 0 to 1."""
    accepted: bool
    changed: str = ""
    """In the words of its plan."""
    rounded: bool = False
    """Nothing was trained: the weights of a model were rounded. It says nothing about how much a line should train."""


@dataclasses.dataclass(frozen=True, slots=True)
class Odds:
    """How often something helped, in the past of one specialization."""

    tries: float = 0.0
    gains: float = 0.0
    """The sum of the chances."""

    @property
    def mean(self) -> float:
        """Expected share of improvements; one half where nothing is known."""
        return (self.gains + PRIOR) / (self.tries + 2.0 * PRIOR)

    def heard(self, chance: float) -> Odds:
        """One more try."""
        return Odds(self.tries + 1.0, self.gains + chance)


def lessons_of(verdicts: Iterable[Verdict], settings_of: Mapping[str, Facts]) -> tuple[Lesson, ...]:
    """The newest lessons, oldest first. settings_of: model digest to the settings it was trained with, of all champions
    whose records are kept."""
    found: list[Lesson] = []
    for verdict in verdicts:
        for candidate in verdict.recommendation.candidates:
            lesson = _lesson(verdict, candidate, settings_of)
            if lesson is not None:
                found.append(lesson)
    return tuple(found[-LESSONS_MAX:])


def _lesson(verdict: Verdict, candidate: Candidate, settings_of: Mapping[str, Facts]) -> Lesson | None:
    if candidate.line not in (Line.EVOLVER, Line.REINVENTOR):
        return None
    compared = _comparison(verdict, candidate)
    if compared is None:
        return None
    comparison, sign = compared
    taken = verdict.recommendation.taken or verdict.choice.value
    accepted = verdict.accepted and taken == _named(candidate)
    better = accepted and bool(verdict.recommendation.champion_before)  # a first champion has beaten nobody
    before = settings_of.get(verdict.recommendation.champion_before)
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    return Lesson(
        topic=verdict.topic,
        line=candidate.line,
        turned=turned(before, candidate.settings) if before is not None and candidate.line is Line.EVOLVER else {},
        effect=sign * comparison.effect,
        low=low,
        high=high,
        metric=comparison.metric,
        chance=1.0 if better else chance_of(sign * comparison.effect, low, high, comparison.alpha),
        accepted=accepted,
        changed=candidate.changed,
        rounded=bool(candidate.full),
    )


def _comparison(verdict: Verdict, candidate: Candidate) -> tuple[Comparison, float] | None:
    """The candidate's comparison with the champion, else with the other line; and the sign that makes it its own."""
    name, line = _named(candidate), candidate.line
    mine = [one for one in verdict.recommendation.comparisons if name in (one.a, one.b)]
    for other in ("champion", *(one.value for one in (Line.EVOLVER, Line.REINVENTOR) if one is not line)):
        for metric in METRICS:
            for one in mine:
                if other in (one.a, one.b) and one.metric == metric:
                    return one, 1.0 if one.a == name else -1.0
    return None


def _named(candidate: Candidate) -> str:
    return candidate.name or candidate.line.value


def turned(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, int]:
    """Settings that differ, and where they went. A setting that one side leaves to the kind is passed over: what the
    kind chose is not known here."""
    found = {}
    before, after = {QUANTISATION: PLAIN, **before}, {QUANTISATION: PLAIN, **after}
    for name in sorted((set(before) & set(after)) - NO_DIALS):
        old, new = before[name], after[name]
        if old == new:
            continue
        found[name] = (1 if new > old else -1) if _number(old) and _number(new) else 0
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def chance_of(effect: float, low: float, high: float, alpha: float) -> float:
    """The chance that the true effect is above zero, from an interval at 1 - alpha under a normal error. No difference
    on any item is no gain: a line that could not beat what it came from gives that back."""
    if not all(math.isfinite(value) for value in (effect, low, high)):
        return 0.5
    half = (high - low) / 2.0
    if half <= 0.0:
        return float(effect > 0.0)
    width = statistics.NormalDist().inv_cdf(1.0 - min(0.999, max(1e-9, alpha)) / 2.0)
    return statistics.NormalDist().cdf(effect / (half / width))


def odds_of_dials(lessons: Iterable[Lesson]) -> dict[tuple[str, int], Odds]:
    """(setting, direction) to how often turning it so helped."""
    found: dict[tuple[str, int], Odds] = {}
    for lesson in lessons:
        for key in lesson.turned.items():
            found[key] = found.get(key, Odds()).heard(lesson.chance)
    return found


def lineage_rows(lessons: Sequence[Lesson], rows_max: int = 10) -> list[Facts]:
    """What was changed and what it brought, newest last, for people and machines."""
    return [
        {
            "topic": lesson.topic,
            "line": lesson.line.value,
            "turned": dict(lesson.turned),
            "changed": lesson.changed[:200],
            "metric": lesson.metric,
            "effect": _rounded(lesson.effect),
            "interval": [_rounded(lesson.low), _rounded(lesson.high)],
            "accepted": lesson.accepted,
        }
        for lesson in lessons[-rows_max:]
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0
