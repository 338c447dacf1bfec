"""Both lines side by side: searched or drawn, anew or going on, and what the plan says about it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh.messages.tasks import Line
from planner import accounts, proposals, studies
from planner.accounts import Inherited
from planner.lessons import Lesson
from planner.lines import Wanted, lines_of
from planner.past import UNKNOWN, Candidacy, Past
from planner.sizes import Shape

OFFERED = frozenset({"classify", "search-step"})
WANTED = Wanted("t-1", "coins-0a1b2c", "classify", "text", 100.0, at_ms=1_700_000_000_000, validation="v" * 64)


def wanted(**more: Any) -> Wanted:
    return Wanted(**{**{name: getattr(WANTED, name) for name in Wanted.__slots__}, **more})


def test_without_a_past_it_is_the_kinds_defaults_against_drawn_settings() -> None:
    lines = lines_of(WANTED, UNKNOWN)
    assert lines.evolver.settings == {}
    assert lines.reinventor.settings == proposals.reinventor("t-1", "classify", "text").settings
    assert (lines.budget_s(Line.EVOLVER), lines.budget_s(Line.REINVENTOR)) == (100.0, 100.0)
    assert lines.study is None
    assert "drawn, not searched: no worker offers the kind search-step" in lines.reinventor.changed
    assert set(lines.facts) == {"account", "shares"}


def test_where_workers_can_search_the_reinventor_is_a_short_study() -> None:
    lines = lines_of(WANTED, Past(offered=OFFERED))
    study = lines.study
    assert study is not None
    assert study.trials == ("t-1-trial-0", "t-1-trial-1", "t-1-trial-2")
    assert (study.trial_s, study.rest_s) == (10.0, 70.0)
    assert 3 * study.trial_s + lines.budget_s(Line.REINVENTOR) == 100.0
    assert study.settings["fixed"] == {"linear_path": False}
    last = study.last(lines.reinventor.settings)
    assert (last["best_of"], last["then"]) == (list(study.trials), {"linear_path": True})
    assert last["otherwise"] == proposals.reinventor("t-1", "classify", "text").settings
    assert lines.facts["study"]["name"] == study.name
    assert lines.reinventor.changed.startswith("from zero, searched: 3 trials of 10 s in the study coins-0a1b2c-")


def test_a_short_budget_or_an_undeclared_kind_is_not_searched_and_says_so() -> None:
    short = lines_of(wanted(budget_s=59.0), Past(offered=OFFERED))
    assert short.study is None
    assert "a budget of 59 s is too short to search (60 s are needed)" in short.reinventor.changed
    foreign = lines_of(wanted(executor="fold"), Past(offered=OFFERED))
    assert foreign.study is None
    assert "no space of fold is declared" in foreign.reinventor.changed


def test_the_study_belongs_to_the_specialization_and_to_its_definition() -> None:
    past = Past(offered=OFFERED)

    def name(**more: Any) -> str:
        study = lines_of(wanted(**more), past).study
        assert study is not None
        return study.name

    assert name() == name(topic="t-2") == name(budget_s=1_000.0)
    others = {name(), name(node="other"), name(modality="tabular"), name(at_ms=WANTED.at_ms + studies.ERA_MS)}
    assert len(others) == 4
    assert len(name(node="n" * 96)) <= 96


def candidacy(loss_at_end: float = 0.5, spent: float = 100.0, **more: Any) -> Candidacy:
    b = (loss_at_end - 0.3) * math.sqrt(spent)
    curve = tuple((t, 0.3 + b * t**-0.5) for t in (spent * (n + 1) / 10 for n in range(10)))
    known = {"topic": "t-0", "task": "t-0-reinventor", "model": "r" * 64, "settings": {"learning_rate": 0.004}}
    cost = Inherited(core_s=spent, steps=1)
    return Candidacy(**{**known, "curve": curve, "cost": cost, "validation": "v" * 64, "size_bytes": 7, **more})


def lived(last: Candidacy, rival: float, lineage: float = 300.0, **more: Any) -> Past:
    return Past(
        champion=Inherited(core_s=lineage, steps=2), candidacy=last, rival_loss=rival, rival_validation="v" * 64,
        offered=OFFERED, **more,
    )  # fmt: skip


def test_a_reinventor_that_may_still_win_goes_on_with_its_own_model() -> None:
    lines = lines_of(wanted(before={"learning_rate": 0.001}), lived(candidacy(), rival=0.45))
    assert lines.last is not None
    assert lines.study is None
    assert lines.reinventor.settings == {"learning_rate": 0.0012}
    assert lines.reinventor.changed.startswith("goes on with its own candidate rrrrrrrrrrrr of t-0: worth going on")
    assert lines.facts["continued"]["model"] == "r" * 64
    assert lines.facts["account"]["reinventor"]["inherited"] == 100.0
    assert lines.facts["account"]["judged_at"] == 400.0


def test_one_that_will_not_win_has_had_its_compute_or_saw_other_data_starts_anew_and_says_why() -> None:
    before = {"learning_rate": 0.001}
    lost = lines_of(wanted(before=before), lived(candidacy(), rival=0.31))
    assert lost.last is None
    assert lost.study is not None
    assert "given up: its curve" in lost.reinventor.changed
    spent = lines_of(wanted(before=before), lived(candidacy(spent=500.0), rival=0.45))
    assert "it has had its compute" in spent.reinventor.changed
    for past in (lived(candidacy(validation="w" * 64), 0.45), lived(candidacy(validation=""), 0.45)):
        assert "measured on other data" in lines_of(wanted(before=before), past).reinventor.changed
    other = lines_of(wanted(before=before, validation="x" * 64), lived(candidacy(), 0.45))
    assert other.last is None


def test_past_results_shift_the_budgets_and_the_total_stays() -> None:
    lessons = tuple(
        Lesson("t", line, {}, 0.0, 0.0, 0.0, "loss", float(line is Line.EVOLVER), line is Line.EVOLVER)
        for line in (Line.EVOLVER, Line.REINVENTOR) for _ in range(3)
    )  # fmt: skip
    lines = lines_of(WANTED, Past(lessons=lessons))
    assert lines.budget_s(Line.EVOLVER) > 120.0
    assert lines.budget_s(Line.EVOLVER) + lines.budget_s(Line.REINVENTOR) == pytest.approx(200.0)
    assert len(lines.facts["lineage"]) == 6
    assert lines.facts["account"]["evolver"]["own"] == lines.budget_s(Line.EVOLVER)


def test_the_rule_of_the_account_stands_in_the_tasks_where_it_is_not_the_usual_one() -> None:
    stable = lines_of(wanted(before={"dropout": 0.3}), Past(withstood=9, offered=OFFERED))
    assert stable.facts["account"]["rule"] == "lineage"
    assert stable.evolver.settings["account"] == "lineage"
    assert stable.study is not None
    assert "account" not in stable.study.settings["fixed"]
    assert stable.study.last(stable.reinventor.settings)["then"] == {"linear_path": True, "account": "lineage"}
    usual = lines_of(wanted(before={"dropout": 0.3, "account": "lineage"}), UNKNOWN)
    assert usual.facts["account"]["rule"] == "amortised"
    assert "account" not in usual.evolver.settings


def test_a_branch_is_charged_its_part_of_the_seed_and_shaped_by_how_hard_it_is() -> None:
    base = accounts.from_parent(Inherited(core_s=400.0, steps=1), 4)
    past = Past(base=base, shape=Shape(1.2, 100.0, "hard"), offered=OFFERED)
    lines = lines_of(wanted(before={"hidden": [128]}, from_base=True), past)
    assert lines.facts["account"]["evolver"] == {"own": 100.0, "inherited": 400.0, "charged": 200.0}
    assert lines.evolver.settings["hidden"] == [128]
    assert lines.reinventor.settings["hidden"] in ([160], [224], [304])
    assert lines.study is not None
    assert lines.study.settings["space"]["hidden"]["choices"] == [[160], [224], [304]]
    assert lines.facts["size"] == {"size": 1.2, "why": "hard"}
    corpus = lines_of(wanted(executor="language-model", modality="corpus"), past)
    assert corpus.study is not None
    assert corpus.study.settings["fixed"] == {"width": 304, "heads": 4}


def test_lines_are_a_function_of_topic_and_past() -> None:
    past = lived(candidacy(), rival=0.45)
    one, again = lines_of(wanted(before={"dropout": 0.3}), past), lines_of(wanted(before={"dropout": 0.3}), past)
    assert one == again
