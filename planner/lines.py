"""Both lines of a topic, side by side: what each tries, from which model, with how much, charged how, and why.

    past verdicts ──> shares ──> budget of each line              (planner/shares.py, total fixed)
                 └──> odds ────> the evolver's dials              (planner/proposals.py)
    its space ─────> study, else drawn settings                   (planner/studies.py)
    its last try ──> worth going on with? its curve says          (planner/curves.py)
    champions ─────> the compute-fair account                     (planner/accounts.py)
    parent topic ──> size of a branch's network                   (planner/sizes.py)

The plan (planner/plans.py) and the answer to `think` are made of the same `Lines`: what people are told would be tried
is what would be tried. Pure: the past comes in as a record.
"""

from __future__ import annotations

import dataclasses

from mesh.messages.base import Facts
from mesh.messages.tasks import Line
from planner import accounts, curves, lessons, proposals, shares, sizes, studies
from planner.accounts import Account, Charge
from planner.past import Candidacy, Past
from planner.proposals import Proposal
from planner.shares import Shares
from planner.studies import Study

CORES = 1.0
"""Cores of a training, for what a budget is charged before it is known: kinds ask for one."""

RATE, CONTINUED_SHARE = "learning_rate", 0.3
"""A network that is trained on bears a lower rate than a new one."""

CURVE_TOLD_MAX = 32
"""Points of a curve that a plan carries on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lines:
    """What the two lines of one topic do."""

    evolver: Proposal
    reinventor: Proposal
    """Settings of the kind that is trained; with a study, those that are trained when no trial comes to anything."""
    study: Study | None
    last: Candidacy | None
    """The reinventor's own candidate that it goes on with; None: from zero."""
    shares: Shares
    account: Account
    size: float
    facts: Facts
    """For the plan."""

    def budget_s(self, line: Line) -> float:
        """Training seconds of the line's own task."""
        if line is Line.REINVENTOR and self.study is not None:
            return self.study.rest_s
        return self.shares.budget_s(line)


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What lines are planned for."""

    topic: str
    node: str
    executor: str
    modality: str
    budget_s: float
    at_ms: int = 0
    """When the topic was published."""
    before: Facts | None = None
    """Settings of the model that the evolver goes on from; None: there is none."""
    from_base: bool = False
    """That model is a base model, not the specialization's champion."""
    validation: str = ""
    """Digest of the topic's validation split; '' where it is not known yet."""
    adapted: str = ""
    """Digest of the model that the lines put adapters on; '' where they train whole models."""
    fixed: Facts = dataclasses.field(default_factory=dict)
    """Settings of every line, whatever it tries."""


def lines_of(wanted: Wanted, past: Past) -> Lines:
    """The two lines; the same for the same topic and past."""
    shared = shares.shared(past.lessons, wanted.budget_s)
    evolver = proposals.evolver(wanted.topic, wanted.executor, wanted.modality, wanted.before, past.lessons)
    size = past.shape.size if past.shape is not None else sizes.USUAL
    account = _account(wanted, past, shared, accounts.NOTHING)
    on, why_on = _goes_on(wanted, past, account)
    study: Study | None = None
    if on is not None:
        account = _account(wanted, past, shared, on.cost)
        reinventor = _continuing(on, wanted, why_on)
    else:
        reinventor = _drawn(wanted, size)
        study, why_study = _study(wanted, past, shared, size)
        reinventor = _told(reinventor, study, why_study, why_on)
    evolver, reinventor = (_charged(one, account.rule, wanted.fixed) for one in (evolver, reinventor))
    facts = _facts(past, shared, account, study, on, why_on, size)
    return Lines(evolver, reinventor, study, on, shared, account, size, facts)


def _charged(proposal: Proposal, rule: str, fixed: Facts) -> Proposal:
    """What is fixed and the rule of the account in the task's own settings; the usual one is a kind's default."""
    settings = {name: value for name, value in proposal.settings.items() if name != accounts.SETTING} | fixed
    return Proposal(settings if rule == accounts.AMORTISED else {**settings, accounts.SETTING: rule}, proposal.changed)


def _account(wanted: Wanted, past: Past, shared: Shares, reinventor: accounts.Inherited) -> Account:
    inherited = accounts.NOTHING
    if wanted.before is not None:
        inherited = past.base if wanted.from_base else accounts.together(past.champion, past.base)
    rule, why = accounts.rule_for(past.withstood)
    own = {line: shared.budget_s(line) * CORES for line in (Line.EVOLVER, Line.REINVENTOR)}
    return Account(rule, why, Charge(own[Line.EVOLVER], inherited), Charge(own[Line.REINVENTOR], reinventor))


# -- the reinventor ---------------------------------------------------------------------------------------------------


def _goes_on(wanted: Wanted, past: Past, account: Account) -> tuple[Candidacy | None, str]:
    """(the last candidate, if it may still win, why); why is '' where there is none to go on with."""
    last = past.candidacy
    if last is None:
        return None, ""
    if last.base != wanted.adapted:
        return None, "its last candidate is an adapter to another model than this topic's"
    if (
        not last.validation
        or wanted.validation not in ("", last.validation)
        or past.rival_validation != last.validation
    ):
        return None, "its last candidate was measured on other data than this champion or this topic"
    worth, why = curves.worth_continuing(last.curve, past.rival_loss, account.judged_at)
    return (last, why) if worth else (None, why)


def _continuing(last: Candidacy, wanted: Wanted, why: str) -> Proposal:
    settings = dict(last.settings)
    dial = proposals.space_for(wanted.executor, wanted.modality).dials.get(RATE)
    if dial is not None and isinstance(settings.get(RATE), int | float):
        settings[RATE] = dial.turned(float(settings[RATE]), CONTINUED_SHARE)
    return Proposal(settings, f"goes on with its own candidate {last.model[:12]} of {last.topic}: {why}")


def _drawn(wanted: Wanted, size: float) -> Proposal:
    found = proposals.reinventor(wanted.topic, wanted.executor, wanted.modality)
    if size == sizes.USUAL:
        return found
    return Proposal(sizes.scaled(wanted.executor, found.settings, size), f"{found.changed}; size {size:g}")


def _study(wanted: Wanted, past: Past, shared: Shares, size: float) -> tuple[Study | None, str]:
    space = proposals.space_for(wanted.executor, wanted.modality)
    fixed = dict(wanted.fixed)
    if size != sizes.USUAL:
        space, widths = _scaled(space, wanted.executor, size)
        fixed |= widths
    return studies.study_of(
        wanted.topic, wanted.at_ms, wanted.node, wanted.executor, space, fixed,
        shared.budget_s(Line.REINVENTOR), past.offered,
    )  # fmt: skip


def _scaled(space: proposals.Space, executor: str, size: float) -> tuple[proposals.Space, Facts]:
    """The space with its widths scaled; and the widths that it leaves to the kind, fixed."""
    searched = {name: dict(dimension) for name, dimension in space.searched.items()}
    fixed = sizes.scaled(executor, {}, size)
    for name in sizes.WIDTHS.get(executor, ()):
        if name in searched and searched[name].get("type") == "categorical":
            choices = [sizes.scaled(executor, {name: choice}, size)[name] for choice in searched[name]["choices"]]
            searched[name]["choices"] = [one for number, one in enumerate(choices) if one not in choices[:number]]
    return dataclasses.replace(space, searched=searched), {k: v for k, v in fixed.items() if k not in searched}


def _told(drawn: Proposal, study: Study | None, why_study: str, why_anew: str) -> Proposal:
    anew = f"; {why_anew}" if why_anew else ""
    if study is None:
        return Proposal(drawn.settings, f"{drawn.changed}; drawn, not searched: {why_study}{anew}")
    return Proposal(drawn.settings, f"from zero, searched: {why_study}{anew}")


# -- what the plan says -----------------------------------------------------------------------------------------------


def _facts(
    past: Past, shared: Shares, account: Account, study: Study | None, on: Candidacy | None, why_on: str, size: float
) -> Facts:
    facts: Facts = {"account": account.facts, "shares": shared.facts}
    if study is not None:
        facts["study"] = study.facts
    if on is not None:
        points = curves.thinned(on.curve, CURVE_TOLD_MAX)
        facts["continued"] = {"model": on.model, "topic": on.topic, "curve": [[t, loss] for t, loss in points]}
    if why_on:
        facts["extrapolated"] = why_on
    if past.shape is not None:
        facts["size"] = {"size": size, "why": past.shape.why}
    if past.lessons:
        facts["lineage"] = lessons.lineage_rows(past.lessons)
    return facts
