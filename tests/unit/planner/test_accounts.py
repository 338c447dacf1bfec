"""The compute-fair account: who is charged with what, by which rule."""

from __future__ import annotations

from mesh.messages.judgement import Champion
from mesh.messages.tasks import Line
from planner import accounts
from planner.accounts import Account, Charge, Inherited


def champion(model: str, parent: str = "", spent: float | None = 10.0, line: Line = Line.EVOLVER) -> Champion:
    return Champion(
        specialization="s", version_number=1, model=model, topic="t", task="t-evolver", line=line, verdict="v",
        parent_model=parent, kpis={} if spent is None else {accounts.KPI: spent},
    )  # fmt: skip


def test_a_chain_of_champions_costs_what_its_trainings_did() -> None:
    chain = [champion("a", spent=100.0), champion("b", "a", 20.0), champion("c", "b", 30.0)]
    assert accounts.inherited_by(chain, "c") == Inherited(core_s=150.0, steps=3)
    assert accounts.inherited_by(chain, "a") == Inherited(core_s=100.0, steps=1)
    assert accounts.inherited_by(chain, "z") == accounts.NOTHING


def test_a_line_from_zero_ends_the_chain() -> None:
    chain = [champion("a", spent=100.0), champion("b", "a", 40.0, Line.REINVENTOR), champion("c", "b", 5.0)]
    assert accounts.inherited_by(chain, "c") == Inherited(core_s=45.0, steps=2)


def test_what_nobody_told_is_counted_and_a_circle_ends() -> None:
    chain = [champion("a", "b", None), champion("b", "a", 7.0)]
    assert accounts.inherited_by(chain, "b") == Inherited(core_s=7.0, steps=2, unknown=1)


def test_the_three_rules_charge_nothing_a_part_or_all() -> None:
    seed = accounts.from_parent(Inherited(core_s=400.0, steps=2), shared_by=4)
    own = Inherited(core_s=50.0, steps=1)
    both = accounts.together(own, seed)
    assert both.core_s == 450.0
    assert both.charged(accounts.MARGINAL) == 0.0
    assert both.charged(accounts.AMORTISED) == 50.0 + 400.0 / 4
    assert both.charged(accounts.LINEAGE) == 450.0


def test_the_reinventor_is_judged_at_the_whole_lineages_compute_whatever_is_charged() -> None:
    inherited = accounts.from_parent(Inherited(core_s=400.0), 4)
    account = Account(accounts.AMORTISED, "as usual", Charge(180.0, inherited), Charge(180.0))
    assert account.judged_at == 580.0
    facts = account.facts
    assert facts["evolver"] == {"own": 180.0, "inherited": 400.0, "charged": 280.0}
    assert facts["reinventor"] == {"own": 180.0, "inherited": 0.0, "charged": 180.0}
    assert (facts["rule"], facts["unit"], facts["judged_at"]) == ("amortised", "core seconds", 580.0)
    assert Charge(1.0, Inherited(unknown=2)).facts(accounts.LINEAGE)["untold"] == 2


def test_a_champion_that_has_withstood_many_is_charged_with_its_lineage() -> None:
    assert accounts.withstood([]) == 0
    assert accounts.withstood([True, False, False]) == 2
    assert accounts.withstood([False, True]) == 0
    assert accounts.rule_for(0)[0] == accounts.AMORTISED
    assert accounts.rule_for(accounts.STABLE - 1)[0] == accounts.AMORTISED
    rule, why = accounts.rule_for(accounts.STABLE)
    assert rule == accounts.LINEAGE
    assert "5 verdicts in a row" in why
