"""The compute-fair account: what each line is charged with, and by which rule.

    unit        core seconds: seconds of training times the cores that it had (`train_core_s` of a result)
    own         what the line may spend for this topic
    inherited   what was spent on the weights it goes on from: the champions before it, back to the one that began from
                zero, and the model of the parent topic that a branch starts from
    charged     own, and of what was inherited as much as the rule says

    marginal    nothing of it: what does this topic's compute bring?
    amortised   the parts that others use, too, divided by how many use them (the seed of k branches: a k-th)
    lineage     all of it: is the champion better than what the same compute from zero would have brought?

Who wins depends on the rule: by marginal cost a line that goes on beats one from zero nearly always, by lineage they
lie close together. So the rule is part of the plan and of the tasks, and nobody may change it afterwards. Amortised is
the default; once a champion has withstood STABLE verdicts in a row, its whole lineage is charged: then only a line that
had as much compute can say whether another way leads further.

Not covered: compute that no record tells (pushed base models, champions of older programs) counts as nothing, and the
account says how many such steps there are; the cost of a study's trials is in the reinventor's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from mesh.messages.base import Facts
from mesh.messages.judgement import Champion
from mesh.messages.tasks import Line

MARGINAL, AMORTISED, LINEAGE = "marginal", "amortised", "lineage"
RULES = (MARGINAL, AMORTISED, LINEAGE)

UNIT = "core seconds"

SETTING = "account"
"""The setting of every training that says by which rule it is charged; the usual one is its default."""

KPI = "train_core_s"
"""The KPI of a training that says what it spent."""

STABLE = 5
"""Verdicts in a row that left the champion where it was, after which its whole lineage is charged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inherited:
    """Compute in the weights that a line goes on from."""

    core_s: float = 0.0
    shared_core_s: float = 0.0
    """The part of it that others go on from, too."""
    shared_by: int = 1
    """How many do."""
    steps: int = 0
    """Trainings in it."""
    unknown: int = 0
    """Of these, such that did not say what they spent."""

    def charged(self, rule: str) -> float:
        """Core seconds of it that a line pays for."""
        if rule == MARGINAL:
            return 0.0
        if rule == AMORTISED:
            return self.core_s - self.shared_core_s + self.shared_core_s / max(1, self.shared_by)
        return self.core_s


NOTHING = Inherited()


@dataclasses.dataclass(frozen=True, slots=True)
class Charge:
    """One line's account, in core seconds."""

    own: float
    inherited: Inherited = NOTHING

    def total(self, rule: str) -> float:
        """What it is charged with."""
        return self.own + self.inherited.charged(rule)

    def facts(self, rule: str) -> Facts:
        """For the plan."""
        found: Facts = {
            "own": round(self.own, 3),
            "inherited": round(self.inherited.core_s, 3),
            "charged": round(self.total(rule), 3),
        }
        if self.inherited.unknown:
            found["untold"] = self.inherited.unknown
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """What the two lines of a topic are charged with."""

    rule: str
    why: str
    evolver: Charge
    reinventor: Charge

    @property
    def judged_at(self) -> float:
        """Core seconds at which the reinventor's curve is compared with the evolver, whatever the rule: as much as the
        evolver has had with its whole lineage."""
        return self.evolver.total(LINEAGE)

    @property
    def facts(self) -> Facts:
        """For the plan."""
        return {
            "rule": self.rule,
            "unit": UNIT,
            "why": self.why,
            Line.EVOLVER.value: self.evolver.facts(self.rule),
            Line.REINVENTOR.value: self.reinventor.facts(self.rule),
            "judged_at": round(self.judged_at, 3),
        }


def inherited_by(champions: Sequence[Champion], model: str) -> Inherited:
    """What was spent on a champion's model. champions: the records of its specialization, oldest first, as far as they
    are kept; the chain is followed back to a model from zero."""
    by_model = {one.model: one for one in champions}
    core_s, steps, unknown, seen = 0.0, 0, 0, set()
    while model and model in by_model and model not in seen:
        seen.add(model)
        record = by_model[model]
        spent = record.kpis.get(KPI)
        core_s, steps, unknown = core_s + (spent or 0.0), steps + 1, unknown + (spent is None)
        model = "" if record.line is Line.REINVENTOR else record.parent_model
    return Inherited(core_s=core_s, steps=steps, unknown=unknown)


def from_parent(inherited: Inherited, shared_by: int) -> Inherited:
    """What a branch inherits with its parent's model, which `shared_by` branches go on from."""
    return dataclasses.replace(inherited, shared_core_s=inherited.core_s, shared_by=max(1, shared_by))


def together(one: Inherited, other: Inherited) -> Inherited:
    """What was spent on a model in two places: in its own specialization, and before it came there."""
    return Inherited(
        core_s=one.core_s + other.core_s,
        shared_core_s=one.shared_core_s + other.shared_core_s,
        shared_by=max(one.shared_by, other.shared_by),
        steps=one.steps + other.steps,
        unknown=one.unknown + other.unknown,
    )


def rule_for(withstood: int) -> tuple[str, str]:
    """(rule, why). withstood: newest verdicts in a row that left the champion where it was."""
    if withstood >= STABLE:
        return LINEAGE, f"the champion has withstood {withstood} verdicts in a row: its whole lineage is charged"
    return (
        AMORTISED,
        f"amortised, as usual: the champion has withstood {withstood} verdicts in a row, {STABLE} are needed",
    )


def withstood(accepted: Iterable[bool]) -> int:
    """Newest verdicts in a row that replaced nothing. accepted: of each verdict, oldest first, whether it did."""
    count = 0
    for replaced in reversed(list(accepted)):
        if replaced:
            break
        count += 1
    return count
