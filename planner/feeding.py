"""Feeding: which specializations get the mesh's idle time, and when it is better to give them none.

    queue short? ── budget of the day left? ── candidates ── gain expected per second, hopefully ── the best, a burst
                                                   └── not: under way, without data, retired, improved no more

Every specialization is an arm of a bandit whose rewards fade: what a round brought counts FADE times as much as that of
the round after it. The gain is expected from those rounds and from PRIOR_ROUNDS imagined ones; to it comes a margin for
what is not known (upper confidence bound; Auer et al. 2002, with discounted counts after Garivier and Moulines 2011),
and the sum is divided by what a round costs. So a new specialization is tried, one that improves is fed, one that has
stopped makes room.

It rests after STILL_ROUNDS rounds in a row that promoted nothing, until its data are others or somebody publishes it by
hand and wins: besides the time, each challenger spends a share of alpha on its holdout, and the later ones have hardly
any left.

Pure: the rounds so far, the queue and the day's spending in; what to feed, and why, out. Not covered: what a round's
training tries (planner/proposals.py), and several feeders' common budget beyond the topics that both can read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

FADE = 0.7
"""Weight of a round against the one after it: gains shrink as a model gets better, so old ones promise too much."""

PRIOR_GAIN, PRIOR_ROUNDS = 0.01, 1.0
"""A point of accuracy, or a hundredth of the loss, as if one round had brought it."""

MARGIN = 0.02
"""Scale of the margin for what is not known: two points, about what a first promotion brings."""

STILL_ROUNDS = 3
"""Rounds without promotion after which a specialization rests: with a chance of one in five each, four of five
specializations that could still improve have done so by then, and alpha is down to a tenth."""

DAY_S = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """A round of a specialization that has ended."""

    gain: float
    """Share by which its champion became better: accuracy, or loss over that of the champion before; 0.0 when it did
    not change."""
    promoted: bool
    cost_s: float
    """Training seconds of all its lines."""
    data: str
    """Where its data was."""


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """A specialization that may be fed."""

    node: str
    data: str
    """Where its newest data is; '' when it has none."""
    past: tuple[Past, ...] = ()
    """Its rounds, oldest first."""
    under_way: bool = False
    """One of its topics is not over yet."""
    closed: str = ""
    """Why it takes no topics; '' when it does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """How much to feed."""

    min_queue: int
    burst: int
    budget_s_per_day: float
    round_s: float
    """Training seconds of a round of ours: all lines together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Food:
    """One specialization to publish a topic for."""

    node: str
    score: float
    """Hoped gain per hour of training."""
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Meal:
    """What to do now."""

    food: tuple[Food, ...]
    why: str
    """About the whole: why so many, or why none."""


def meal(arms: Iterable[Arm], wishes: Wishes, queued: int, spent_s: float) -> Meal:
    """What to feed now. queued: tasks that wait for a worker, and topics that have no tasks yet; spent_s: training
    seconds of the topics that were fed within the last day."""
    if queued >= wishes.min_queue:
        return Meal((), f"{queued} tasks are queued, and {wishes.min_queue} are wanted")
    affordable = math.floor((wishes.budget_s_per_day - spent_s) / wishes.round_s)
    if affordable < 1:
        return Meal(
            (),
            f"{spent_s:.0f} of {wishes.budget_s_per_day:.0f} training seconds of this day are given out, and a round "
            f"takes {wishes.round_s:.0f}",
        )
    known = list(arms)
    hungry = [arm for arm in known if not why_not(arm)]
    if not hungry:
        return Meal((), _nobody(known))
    tried = sum(_weight(arm) for arm in hungry)
    ranked = sorted((_food(arm, tried, wishes.round_s) for arm in hungry), key=lambda food: (-food.score, food.node))
    chosen = ranked[: min(wishes.burst, affordable)]
    return Meal(
        tuple(chosen),
        f"{queued} tasks are queued, {wishes.min_queue} are wanted; {len(hungry)} specializations may be fed",
    )


def why_not(arm: Arm) -> str:
    """Why this specialization is not fed; '' when it may be."""
    if arm.closed:
        return arm.closed
    if not arm.data:
        return "it has no data"
    if arm.under_way:
        return "a topic of it is under way"
    still = still_rounds(arm)
    if still >= STILL_ROUNDS:
        return f"its last {still} rounds on this data promoted nothing; it rests until its data change or a round wins"
    return ""


def still_rounds(arm: Arm) -> int:
    """Rounds in a row, the newest first, that promoted nothing on the data of now."""
    count = 0
    for past in reversed(arm.past):
        if past.promoted or past.data != arm.data:
            break
        count += 1
    return count


def expected_gain(past: Sequence[Past]) -> float:
    """The faded mean of the gains, with the imagined rounds."""
    weights = _weights(past)
    gains = math.fsum(weight * one.gain for weight, one in zip(weights, past, strict=True))
    return (PRIOR_ROUNDS * PRIOR_GAIN + gains) / (PRIOR_ROUNDS + math.fsum(weights))


def _food(arm: Arm, tried: float, round_s: float) -> Food:
    gain = expected_gain(arm.past)
    margin = MARGIN * math.sqrt(math.log1p(tried) / _weight(arm))
    cost_s = _cost_s(arm.past, round_s)
    rounds = f"{len(arm.past)} rounds so far" if arm.past else "no round so far"
    why = f"a gain of {gain:.4f} is expected, up to {gain + margin:.4f}, for {cost_s:.0f} s of training ({rounds})"
    return Food(arm.node, (gain + margin) / cost_s * 3_600.0, why)


def _cost_s(past: Sequence[Past], round_s: float) -> float:
    """What a round of it costs: what we give, or what it used if that is less, as where it stops early."""
    known = [one.cost_s for one in past[-STILL_ROUNDS:] if one.cost_s > 0.0]
    return min(round_s, math.fsum(known) / len(known)) if known else round_s


def _weights(past: Sequence[Past]) -> list[float]:
    return [FADE**age for age in range(len(past) - 1, -1, -1)]


def _weight(arm: Arm) -> float:
    return PRIOR_ROUNDS + math.fsum(_weights(arm.past))


def _nobody(arms: Sequence[Arm]) -> str:
    if not arms:
        return "no specialization has been published yet"
    shown = "; ".join(f"{arm.node}: {why_not(arm)}" for arm in arms[:5])
    return f"none of {len(arms)} specializations may be fed ({shown}{'; …' if len(arms) > 5 else ''})"
