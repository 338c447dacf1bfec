"""Error rates of a promotion, by simulation: how often the wrong model wins, how seldom the right one, who is caught.

    equal    fifty challengers in a row that are in truth exactly as good as the champion: how many series promote one
    power    one challenger that is better by a stated amount: how often it is promoted
    early    the betting test: how often it is fooled, and after how many items it has seen a gain
    cheats   workers that claim what is not so: who becomes champion, what is caught, what the checks cost

The models are made up, the judging is real: each item has a difficulty of its own, a model is right with that chance
and the more certain the easier the item; items of one source share part of it. What judges is consensus/comparison.py
with the rule of consensus/recommendation.py, and consensus/checking.py.

The rows beside ours are rules that others use, judged on the same draws: whoever has more items right ("the higher
value"), and a paired test at 5 % for each challenger by itself ("each at 5 %").
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from array import array
from collections.abc import Callable, Sequence

from benchmarks.checking_simulation import simulate
from benchmarks.document import SHARE
from benchmarks.frame import Frame
from consensus.comparison import (
    ACCURACY,
    LOSS,
    accuracy_differences,
    better,
    betting,
    compare,
    interval,
    loss_differences,
    spent_alpha,
)
from consensus.evidence import Items

NAME = "gate"
WHY = "How often a promotion is wrong, how often a better model is seen, and what dishonest workers get away with."

CHALLENGERS = 50
ALPHA = 0.05

ITEMS, PER_SOURCE = 300, 3
"""Holdout of the series: a hundred sources of three items."""

AKIN = 0.8
"""Share of the items on which two models of one family are right or wrong together, beyond what their chances say."""

SERIES, QUICK_SERIES = 400, 12
POWER_RUNS, QUICK_POWER_RUNS = 300, 20
BETS, QUICK_BETS = 2_000, 100
CHECK_ROUNDS, QUICK_CHECK_ROUNDS = 3_000, 300

GAINS = (0.01, 0.02, 0.04)
SIZES = (500, 1_000, 2_000)
LATER = 10
"""Which challenger the later one is: what alpha spending costs who comes late."""

OURS, HIGHER, EACH = "Ramify", "the higher value", "each at 5 %"


def run(frame: Frame) -> None:
    """All four."""
    seed = 1 if frame.seed is None else frame.seed
    equal(frame, seed)
    power(frame, seed)
    early(frame, seed)
    cheats(frame, seed)


# -- models -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Holdout:
    """Items with their sources, and how likely a model of the champion's ability is right on each."""

    chances: Sequence[float]
    sources: Sequence[int]

    @classmethod
    def drawn(cls, generator: random.Random, count: int, per_source: int) -> Holdout:
        """Sources share half of their items' difficulty."""
        chances, sources = [], []
        for number in range(count):
            if number % per_source == 0:
                shared = generator.gauss(0.0, 1.0)
            chances.append(_chance(2.2 + 1.5 * (0.7 * shared + 0.7 * generator.gauss(0.0, 1.0))))
            sources.append(number // per_source)
        return cls(chances, sources)

    def luck(self, generator: random.Random) -> list[float]:
        """What decides, item by item, whether a model is right: below its chance it is."""
        return [generator.random() for _ in self.chances]

    def answered(self, generator: random.Random, luck: Sequence[float], gain: float = 0.0) -> Items:
        """What a model answers that is a relative of whoever had this `luck`: of AKIN of the items it shares the luck.
        It is right with each item's chance, raised by `gain` on average over the items."""
        share = min(1.0, gain / max(1e-9, 1.0 - statistics.fmean(self.chances)))
        right, loss = [], []
        for chance, theirs in zip(self.chances, luck, strict=True):
            raised = chance + share * (1.0 - chance)
            known = (theirs if generator.random() < AKIN else generator.random()) < raised
            right.append(known)
            sure = min(0.999, max(0.001, raised + generator.gauss(0.0, 0.05)))
            loss.append(-math.log(sure if known else 1.0 - sure))
        return items_of(right, loss, self.sources)


def items_of(right: Sequence[bool], loss: Sequence[float], sources: Sequence[int]) -> Items:
    """Outcomes of a model: label 1 everywhere, predicted 1 where it is right."""
    count = len(right)
    return Items(
        model="",
        split="",
        ids=array("Q", range(count)),
        clusters=array("I", sources),
        label=array("i", [1] * count),
        predicted=array("i", map(int, right)),
        loss=array("f", loss),
    )


def _chance(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


# -- rules ------------------------------------------------------------------------------------------------------------


def ours(challenger: Items, champion: Items, number: int) -> bool:
    """Better in accuracy, or in loss with an accuracy that is not lower, at the number's share of alpha."""
    alpha = spent_alpha(number, ALPHA)
    accuracy = compare(("a", challenger), ("b", champion), ACCURACY, alpha=alpha)
    if better(accuracy):
        return True
    return accuracy.effect >= 0.0 and better(compare(("a", challenger), ("b", champion), LOSS, alpha=alpha))


def higher(challenger: Items, champion: Items, _number: int) -> bool:
    """More items right."""
    return challenger.right > champion.right


def each(challenger: Items, champion: Items, _number: int) -> bool:
    """A paired interval that excludes zero, in accuracy or loss, whoever came before."""
    of_accuracy, of_loss = accuracy_differences(challenger, champion), loss_differences(challenger, champion)
    return interval(of_accuracy, ALPHA)[0] > 0.0 or interval(of_loss, ALPHA)[0] > 0.0


RULES: dict[str, Callable[[Items, Items, int], bool]] = {OURS: ours, HIGHER: higher, EACH: each}


# -- the four ---------------------------------------------------------------------------------------------------------


def equal(frame: Frame, seed: int) -> None:
    """Series of equal challengers on one holdout, with one champion: a series ends with the first promotion."""
    series = QUICK_SERIES if frame.quick else SERIES
    fooled = dict.fromkeys(RULES, 0)
    for number in range(series):
        generator = random.Random(f"{seed} equal {number}")
        holdout = Holdout.drawn(generator, ITEMS, PER_SOURCE)
        luck = holdout.luck(generator)
        champion = holdout.answered(generator, luck)
        challengers = [holdout.answered(generator, luck) for _ in range(CHALLENGERS)]
        for who, rule in RULES.items():
            fooled[who] += any(rule(one, champion, nth) for nth, one in enumerate(challengers, start=1))
    metric = f"series of {CHALLENGERS} equal challengers that promote one"
    for who, count in fooled.items():
        frame.row(who, metric, [count / series], SHARE, f"{count} of {series}; up to {_upper(count, series):.3f}")
    frame.at_most(f"promotes one of {CHALLENGERS} equal challengers", ALPHA, SHARE, [fooled[OURS] / series])


def power(frame: Frame, seed: int) -> None:
    """How often a better model is promoted, as the first challenger of its holdout and as the tenth."""
    runs = QUICK_POWER_RUNS if frame.quick else POWER_RUNS
    for size in SIZES[:1] if frame.quick else SIZES:
        for gain in GAINS:
            seen = {1: 0, LATER: 0}
            for number in range(runs):
                generator = random.Random(f"{seed} power {size} {gain} {number}")
                holdout = Holdout.drawn(generator, size, 1)
                luck = holdout.luck(generator)
                champion, challenger = holdout.answered(generator, luck), holdout.answered(generator, luck, gain)
                for nth in seen:
                    seen[nth] += ours(challenger, champion, nth)
            for nth, count in seen.items():
                who = f"{OURS}, challenger {nth}"
                frame.row(who, f"seen: {gain:+.2f} accuracy, {size} items", [count / runs], SHARE)


def early(frame: Frame, seed: int) -> None:
    """The betting test on items as they come, and a paired t test that is looked at every ten items."""
    bets = QUICK_BETS if frame.quick else BETS
    generator = random.Random(f"{seed} early")
    fooled = peeked = 0
    for _ in range(bets):
        gains = [generator.choice((-1.0, 0.0, 0.0, 0.0, 1.0)) for _ in range(240)]
        fooled += betting(gains, alpha=ALPHA).stopped_after is not None
        peeked += _peeked(gains)
    frame.row(OURS, "betting: fooled without any gain, in 240 items", [fooled / bets], SHARE)
    frame.row("t test, looked at every 10 items", "fooled without any gain, in 240 items", [peeked / bets], SHARE)
    frame.at_most("betting is fooled without any gain", ALPHA, SHARE, [fooled / bets])
    for gain, gains_of in ((0.2, (-1.0, 0.0, 0.0, 1.0, 1.0)), (0.4, (0.0, 0.0, 0.0, 1.0, 1.0))):
        stops = [betting([generator.choice(gains_of) for _ in range(240)], alpha=ALPHA) for _ in range(bets // 4)]
        ended = [bet.stopped_after for bet in stops if bet.stopped_after is not None]
        frame.row(OURS, f"betting: sees {gain:+.1f} within 240 items", [len(ended) / len(stops)], SHARE)
        if ended:
            frame.row(OURS, f"betting: items until it sees {gain:+.1f}", [statistics.median(ended)], SHARE)


def cheats(frame: Frame, seed: int) -> None:
    """Dishonest workers among honest ones, those who always cheat and those who wait until they are trusted."""
    rounds = QUICK_CHECK_ROUNDS if frame.quick else CHECK_ROUNDS
    champions = 0
    for strategy in ("always", "sleeper"):
        for dishonest in (0.0, 0.05, 0.20):
            found = simulate(dishonest=dishonest, rounds=rounds, strategy=strategy, seed=seed)
            when = "from the start" if strategy == "always" else "once trusted"
            who = f"{OURS}, {dishonest:.0%} of workers cheat, {when}"
            frame.row(who, "checks for each result", [found.cost], SHARE)
            if not found.cheats:
                continue
            champions += found.cheats_champions
            frame.row(who, "cheats found", [found.found], SHARE, f"of {found.cheats}")
            frame.row(who, "cheats that became champion", [found.cheats_champions], SHARE)
    frame.at_most("cheats that became champion", 0, SHARE, [champions])


def _peeked(gains: Sequence[float]) -> bool:
    for count in range(20, len(gains) + 1, 10):
        seen = gains[:count]
        error = statistics.stdev(seen) / math.sqrt(count)
        if error > 0.0 and statistics.fmean(seen) > 1.645 * error:
            return True
    return False


def _upper(count: int, runs: int) -> float:
    """Upper end of the 95 % Wilson interval of a share."""
    z2, rate = 1.96**2, count / runs
    centre = rate + z2 / (2 * runs)
    return (centre + math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * runs)) / runs)) / (1 + z2 / runs)
