"""The reinventor as a short study: a few trials at a part of its budget, then the best settings get the rest.

    trial 0 ─┐  kind search-step, a tenth of the budget each, ended early when worse than most were at that step
    trial 1 ─┼─> reinventor: kind search-step too; it takes the best of these trials, and trains from zero with the rest
    trial 2 ─┘

The study is a log in the mesh that belongs to the specialization, not to the topic: its sampler knows what the trials
of earlier topics came to. The reinventor chooses among its own topic's trials only: they saw the same data for the same
time. It stays one task with claims, so nobody downstream sees a difference; its result says which settings it was.

A study's name tells all that its trials share (node, kind, space, what is fixed, and a span of time: the log is kept 30
days, and one whose beginning is gone can not be read), so that settings of another program never meet in one log.

Not searched, and the settings drawn from the declared space instead: a budget below STUDY_LEAST_S (a trial would be
over before it had learned), no worker that offers `search-step`, a kind without a declared space.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from mesh.messages.base import Facts, derived_id
from planner import accounts
from planner.dials import Space

KIND = "search-step"

STUDY_LEAST_S = 60.0
"""Budget of the reinventor below which nothing is searched: a trial is a tenth of it, and starting takes seconds."""

TRIALS = 3
TRIAL_SHARE = 0.1
"""Of the reinventor's budget, for each trial: 30 % are searched with, 70 % trained with."""

RANDOM_TRIALS = 6
"""Drawn at random before the sampler trusts what it knows: two topics' trials."""

ERA_MS = 10 * 86_400_000
"""A study is gone on with for ten days: the log keeps 30, so nothing that a trial has to read is ever missing."""

METRIC = "validation_loss"


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """What a reinventor searches."""

    name: str
    settings: Facts
    """Of `search-step`: what all trials share."""
    trials: tuple[str, ...]
    """Ids of the trials' tasks."""
    trial_s: float
    rest_s: float
    then: Facts
    """Settings of the kind for the last training alone."""

    @property
    def trial(self) -> Facts:
        """Settings of a trial. A study that can not be used costs the search, not the line."""
        return {**self.settings, "required": False}

    def last(self, drawn: Facts) -> Facts:
        """Settings of the task that trains the best. drawn: what is trained when no trial came to anything; the rule
        of its account stands in it, and no trial shares it."""
        then = self.then | ({accounts.SETTING: drawn[accounts.SETTING]} if accounts.SETTING in drawn else {})
        return {**self.settings, "best_of": list(self.trials), "otherwise": drawn, "then": then}

    @property
    def facts(self) -> Facts:
        """For the plan."""
        return {
            "name": self.name,
            "trials": list(self.trials),
            "trial_s": self.trial_s,
            "rest_s": self.rest_s,
        }


def study_of(
    topic: str,
    at_ms: int,
    node: str,
    executor: str,
    space: Space,
    fixed: Facts,
    budget_s: float,
    offered: frozenset[str],
) -> tuple[Study | None, str]:
    """(the study, what is searched); or (None, why nothing is). at_ms: when the topic was published; fixed: settings
    that all trials share beside the space's own; budget_s: the reinventor's; offered: kinds that workers offer."""
    if not space.searched:
        return None, f"no space of {executor} is declared to search"
    if budget_s < STUDY_LEAST_S:
        return None, f"a budget of {budget_s:g} s is too short to search ({STUDY_LEAST_S:g} s are needed)"
    if KIND not in offered:
        return None, f"no worker offers the kind {KIND} (bin/agent install kinds)"
    shared: Facts = {
        "kind": executor,
        "space": {name: dict(dimension) for name, dimension in sorted(space.searched.items())},
        "fixed": {**fixed, **space.trials},
        "metric": METRIC,
        "direction": "minimize",
        "sampler": "tpe",
        "random_trials": RANDOM_TRIALS,
        "pruner": "quartile",
        "pruner_trials": RANDOM_TRIALS,
    }
    name = _name(node, shared, at_ms)
    trial_s = round(TRIAL_SHARE * budget_s, 3)
    trials = tuple(derived_id(topic, f"trial-{number}") for number in range(TRIALS))
    rest_s = round(budget_s - TRIALS * trial_s, 3)
    study = Study(name, {"study": name, **shared}, trials, trial_s, rest_s, dict(space.last))
    return study, (
        f"{TRIALS} trials of {trial_s:g} s in the study {name}, then the best of them for {study.rest_s:g} s"
    )


def _name(node: str, shared: Facts, at_ms: int) -> str:
    """One per node, definition and span of time."""
    identity = json.dumps(shared, sort_keys=True).encode()
    return derived_id(node, f"{hashlib.sha256(identity).hexdigest()[:8]}-{max(0, at_ms) // ERA_MS}")
