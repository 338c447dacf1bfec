"""Replaying: is a verdict what follows from its evidence?

    the topic's records before the recommendation ─┐
    the champion's record as it stood then         ├─> recommend ─> verdict ──> the same, or what differs
    the outcomes that the round names              ─┘

Aim: that nobody has to believe a verdict. Everything that it rests on is stored: which tasks ended with which digests,
and per-item outcomes as artifacts named by their content; comparing and judging are pure functions with a fixed seed.
So both are computed again, with the bounds that the verdict keeps, and compared field by field.

Promises: a difference is named with its path and both values. Numbers count as equal within RELATIVE, because the
logarithm of the gamma function differs in its last digits between mathematical libraries. Not covered: whether the
outcomes themselves are honest; that is what checks are for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from consensus.candidates import Read
from consensus.gate import verdict
from consensus.policies import with_bounds
from consensus.recommendation import recommend
from consensus.rounds import Round, round_of
from mesh.messages.base import Record
from mesh.messages.judgement import Champion, Verdict
from mesh.messages.results import RecommendationMade

RELATIVE = 1e-9

DIFFERENCES_MAX = 40
"""Differences that are told: a verdict of another round differs everywhere."""

SHOWN_CHARS_MAX = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One field that came out otherwise."""

    path: str
    stored: str
    again: str


def records_before(records: Sequence[Record], recommendation: str) -> list[Record]:
    """A topic's records, in order, up to the recommendation of this id."""
    found: list[Record] = []
    for record in records:
        if isinstance(record, RecommendationMade) and record.recommendation.id == recommendation:
            break
        found.append(record)
    return found


def round_then(said: Verdict, records: Sequence[Record], champion: Champion | None) -> tuple[Round | None, str]:
    """(the round that this verdict ended, or None; why there is none). champion: at the revision that the
    recommendation names."""
    made = said.recommendation
    step = round_of(made.id, records_before(records, made.id), champion, made.champion_revision)
    if step.weigh is None:
        return None, f"the records of {said.topic} do not lead to the recommendation {made.id}: {step.why}"
    return step.weigh, ""


def replayed(said: Verdict, round_: Round, read: Read, champion: Champion | None) -> tuple[Difference, ...]:
    """What comes out otherwise when recommendation and verdict are computed again. champion: as the gate saw it."""
    made = recommend(round_, read)
    again = verdict(
        made,
        champion,
        said.champion_revision,
        decided_at_ms=said.decided_at_ms,
        policies=with_bounds(said.bounds),
    )
    found = differences("", said, again)
    return tuple(difference for difference, _ in zip(found, range(DIFFERENCES_MAX), strict=False))


def differences(path: str, stored: Any, again: Any) -> Iterator[Difference]:
    """Every leaf of two records that is not the same."""
    stored, again = _fields(stored), _fields(again)
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        for key in sorted({*stored, *again}, key=str):
            yield from differences(f"{path}.{key}" if path else str(key), stored.get(key), again.get(key))
    elif isinstance(stored, list | tuple) and isinstance(again, list | tuple) and len(stored) == len(again):
        for number, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from differences(f"{path}[{number}]", one, other)
    elif not _same(stored, again):
        yield Difference(path, _shown(stored), _shown(again))


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    if numbers:
        return one == other or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=1e-12)
    return bool(one == other)


def _fields(value: Any) -> Any:
    """A record as a map; anything else as it is."""
    names = getattr(value, "__struct_fields__", None)
    return value if names is None else {name: getattr(value, name) for name in names if name != "bounds"}


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"
