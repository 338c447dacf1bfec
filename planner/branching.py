"""May a topic be divided into branches? Every answer is a sentence.

    verdict of the flat model ──> may it be branched?  asked for, champion, form of the data, depth, examples, readiness
                                   │ yes, maybe: whether splitting helps is found out on the data (the kind `branch`)
                                   └ no: the topic stays whole, and says why

**Readiness.** Specialists that start from a flat model which is still learning fast lose to simply training it longer:
from a seed of 500 steps they lost to every use of the same compute, from one of 3,000 steps they beat them all
(byte-level language models of 123k parameters). So a topic is branched when its flat model's curve has flattened: the
last half of its training brought at most `flat_share` of what the whole of it brought on validation. A training that
stopped early, and a champion that two lines could not better, have flattened by that fact.

**Where recursion stops.** At DEPTH_MAX levels, and where a branch has too few examples to be divided again. A person
who names a number of branches gets it, whatever readiness says: the gate still judges what comes of it.

Not here: what the branches are (executors/kinds/branch.py), what is made of them (planner/trees.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.messages.judgement import Choice, Verdict
from mesh.messages.results import TaskEnded
from mesh.messages.topics import Topic
from planner.profile import ADAPTER, CORPUS

DEPTH_MAX = 2
"""Levels of branches below a topic. Each divides the data, and is paid for with two lines per branch."""

EXAMPLES_PER_BRANCH = 1_500
"""Examples that a branch should have, over all splits: its holdout, a tenth of them, has to tell models apart."""

EXAMPLES_ASKED = 100
"""The same where a person asks for a number of branches: below that the splits of a branch may be empty."""

FLAT_SHARE = 0.2
"""Share of a training's whole gain on validation that its last half may have brought; with much less no budget would
ever be enough."""

FLAT_SHARE_CORPUS = 0.09
"""The same for language models, whose first steps gain most of it: byte-level ones of 123k parameters had 0.10 at 500
steps, from where specialists only tied with training on, and 0.04 at 3,000, from where they were ahead of every use of
the same compute (bench specialists). A rate that falls to the end adds some 0.03."""

BUDGET_S_LEAST = 5.0
"""Training time of a branch's line that is never undercut: below it a line is start-up only."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flat:
    """What is known of the model that answers for the whole topic, after a verdict."""

    model: str
    """Its digest; '' when there is none."""
    modality: str
    """Of the topic's data, as its profile says."""
    examples: int
    trained: TaskEnded | None
    """The training that made it; None when it was champion before this topic."""
    rounded: bool = False
    """Its weights are rounded to few bits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """May the topic be branched, and why (not)."""

    may: bool
    why: str
    branches: int = 0
    """How many were asked for; 0: the data decide."""


def may_branch(topic: Topic, depth: int, verdict: Verdict, flat: Flat, canceled: bool) -> Answer:
    """The answer after the topic's first verdict. depth: topics above this one; canceled: a task was withdrawn."""
    if topic.branches == 1:
        return Answer(False, "It stays whole: its publisher asked for no branches.")
    if topic.task == ADAPTER:
        return Answer(False, "It stays whole: its models are adapters, and branches train models of their own.")
    if flat.rounded:
        return Answer(False, "It stays whole: its champion was rounded to few bits, and specialists would not be.")
    if canceled:
        return Answer(False, "It stays whole: a person withdrew a part of its work.")
    if not flat.model:
        return Answer(False, "It stays whole: no flat model was accepted that specialists could start from.")
    if flat.modality == "tabular":
        return Answer(False, "It stays whole: texts are divided into branches, and its data is a table of numbers.")
    if depth >= DEPTH_MAX:
        return Answer(False, f"It stays whole: it is itself a branch of a branch, {depth} levels deep.")
    asked = topic.branches or 0
    least = EXAMPLES_ASKED * asked if asked else 2 * EXAMPLES_PER_BRANCH
    if flat.examples < least:
        return Answer(
            False,
            f"It stays whole: {flat.examples:,} examples are too few for {asked or 'two'} branches, "
            f"which need {least:,} together.",
        )
    if asked:
        return Answer(True, f"It is divided into {asked} branches, as its publisher asked.", asked)
    ready, why = readiness(verdict, flat.trained, flat_share(flat.modality))
    return Answer(ready, f"{'It may be branched' if ready else 'It stays whole for now'}: {why}.")


def flat_share(modality: str) -> float:
    """At most so much of a ready model's gain came in the last half of its training."""
    return FLAT_SHARE_CORPUS if modality == CORPUS else FLAT_SHARE


def readiness(verdict: Verdict, trained: TaskEnded | None, bound: float = FLAT_SHARE) -> tuple[bool, str]:
    """Has the flat model learned what it will? (yes or no, why). bound: see `flat_share`."""
    if verdict.choice is Choice.KEEP or trained is None or trained.outcome is None:
        return True, "no line could better the flat model in this round"
    if trained.outcome.stopped_by == "early stop":
        return True, "the flat model's training stopped by itself, as validation grew no better"
    share = last_half_share(curve_of(trained.outcome.facts))
    if share is None:
        return False, "nothing is known of the flat model's curve on validation"
    words = f"the last half of the flat model's training brought {share:.1%} of its gain on validation"
    if share <= bound:
        return True, f"{words}, at most {bound:.0%}"
    return False, f"{words}, more than {bound:.0%}; a larger budget first"


def curve_of(facts: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(step, validation loss) of a training, as its facts say (`history`); what is no such row is left out."""
    rows = facts.get("history")
    found = []
    for row in rows if isinstance(rows, list | tuple) else ():
        if isinstance(row, list | tuple) and len(row) >= 2 and all(_is_number(value) for value in row[:2]):
            found.append((float(row[0]), float(row[1])))
    return found


def last_half_share(curve: Sequence[tuple[float, float]]) -> float | None:
    """Share of the gain (in the best loss so far) that came after half of the steps; None without a curve. 0 when
    nothing was gained at all."""
    if len(curve) < 3:
        return None
    half = curve[-1][0] / 2.0
    first = curve[0][1]
    middle = min((loss for step, loss in curve if step <= half), default=first)
    best = min(loss for _, loss in curve)
    gained = first - best
    return (middle - best) / gained if gained > 0.0 else 0.0


def shared_budget(budget_s: float, sizes: Sequence[int]) -> tuple[float, ...]:
    """Training seconds per line of each branch: together about those of the whole, each by its size."""
    total = sum(sizes)
    return tuple(max(min(budget_s, BUDGET_S_LEAST), budget_s * size / total) for size in sizes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
