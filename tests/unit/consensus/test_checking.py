"""Whose claims are checked, what a check leaves behind, and what a mesh of cheats comes to."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgspec
import pytest

from benchmarks.checking_simulation import simulate
from consensus import checking, checks
from consensus.recommendation import recommend
from consensus.rounds import Run
from mesh.messages.commands import Submit
from mesh.messages.judgement import Candidate, Choice, Evidence, Recommendation
from mesh.messages.tasks import Line, TaskSpec
from mesh.messages.trust import Streak, Trust
from tests.support.outcomes import first
from tests.support.weighing import Bench


def _evidence(reproduced: int = 100, **more: Any) -> Evidence:
    lower = 0.96 if reproduced == 100 else 0.2
    found = Evidence(claims=100, reproduced=reproduced, rate=reproduced / 100, lower=lower, independent=True)
    return found.evolve(**more)


def _candidate(task: str, evidence: Evidence | None, executor: str = "classify", version: int = 1) -> Candidate:
    return Candidate(
        line=Line.EVOLVER, task=task, model=f"model-{task}", claims=f"claims-{task}", evidence=evidence,
        unchecked=evidence is None, incarnation="w1.aa", executor=executor, executor_version=version,
    )  # fmt: skip


def _said(*candidates: Candidate) -> Recommendation:
    return Recommendation(
        id="t1-recommendation", topic="t1", specialization="s", choice=Choice.KEEP, why="x", effect=0.0,
        interval=(0.0, 0.0), candidates=candidates, validation="split-validation",
    )  # fmt: skip


def _after(*evidence: Evidence | None, trust: Trust | None = None) -> Trust:
    start = trust.ledger_seq if trust is not None else 0
    for number, one in enumerate(evidence, start=start + 1):
        trust = checking.after(trust, "w1", _said(_candidate(f"t{number}", one)), number)
    assert trust is not None
    return trust


def _row(trust: Trust) -> Streak:
    (row,) = trust.streaks
    return row


@pytest.mark.parametrize(("streak", "chance"), [(0, 1.0), (9, 1.0), (10, 0.1), (11, 0.1), (1_000, 0.1)])
def test_the_probability_of_a_check_falls_to_its_floor(streak: int, chance: float) -> None:
    assert checking.probability(streak) == pytest.approx(chance)
    assert checking.probability(streak, would_be=True) == 1.0


def test_the_probability_is_one_over_the_streak_above_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "FLOOR", 0.01)
    assert checking.probability(25) == pytest.approx(0.04)


def test_the_draw_is_the_same_for_all_who_draw_and_even_over_rounds() -> None:
    assert checking.drawn("check", "t1", "c", "h") == checking.drawn("check", "t1", "c", "h")
    numbers = [checking.drawn("check", f"t{i}", "c", "h") for i in range(2_000)]
    assert min(numbers) >= 0.0
    assert max(numbers) < 1.0
    assert sum(number < 0.1 for number in numbers) == pytest.approx(200, abs=45)


def test_nobody_can_draw_before_the_holdout_is_measured() -> None:
    trusted = Streak(executor="classify", streak=12)
    waits = checking.decide(trusted, "t1-recommendation", "claims", "")
    assert (waits.check, waits.awaits_holdout) == (False, True)
    answers = {checking.decide(trusted, "t1-recommendation", "claims", f"holdout-{i}").check for i in range(60)}
    assert answers == {True, False}


def test_a_new_worker_is_checked_at_once() -> None:
    decision = checking.decide(checking.NEW, "t1-recommendation", "claims", "")
    assert decision.check
    assert decision.why == "its worker has 0 of 10 clean checks in a row"


def test_clean_checks_in_a_row_make_a_streak_and_a_failure_ends_it() -> None:
    trust = _after(*[_evidence()] * 11)
    assert (_row(trust).streak, _row(trust).clean) == (11, 11)
    trust = _after(_evidence(30), trust=trust)
    assert (_row(trust).streak, _row(trust).failed) == (0, 1)
    assert "30 of 100 claims were reproduced" in _row(trust).why


def test_a_recommendation_counts_once_and_only_for_its_workers() -> None:
    said = _said(_candidate("t1", _evidence()))
    once = checking.after(None, "w1", said, 5)
    assert checking.after(once, "w1", said, 5) == once
    assert checking.after(once, "w1", said, 4) == once
    assert checking.after(None, "w2", said, 5).streaks == ()
    beside = checking.after(
        once, "w1", msgspec.structs.replace(said, id="t2-recommendation"), 5
    )  # told in the same entry
    assert _row(beside).streak == 2


def test_streaks_are_kept_by_kind_and_version() -> None:
    said = _said(
        _candidate("a", _evidence()), _candidate("b", _evidence(), version=2),
        _candidate("c", _evidence(), executor="lora"),
    )  # fmt: skip
    found = checking.known([checking.after(None, "w1", said, 1)])
    assert {key: row.streak for key, row in found.items()} == {
        ("w1", "classify", 1): 1, ("w1", "classify", 2): 1, ("w1", "lora", 1): 1
    }  # fmt: skip


def test_who_checks_himself_earns_no_streak() -> None:
    own = Evidence(claims=100, reproduced=100, rate=1.0, lower=0.96, independent=False)
    assert _row(_after(own)).streak == 0


def test_a_structural_fault_is_a_failure_whatever_was_reproduced() -> None:
    row = _row(_after(_evidence(fault="the model is that of task t0-evolver")))
    assert (row.streak, row.why) == (0, "the model is that of task t0-evolver")


def test_a_failure_calls_back_what_was_let_through_since_the_last_failure() -> None:
    trust = _after(None, _evidence(), None)
    assert [one.task for one in _row(trust).unchecked] == ["t1", "t3"]  # the clean check vouches for itself alone
    trust = _after(_evidence(10), trust=trust)
    assert [one.task for one, _ in checking.owed([trust])] == ["t1", "t3"]
    first = checking.owed([trust])[0][0]
    assert (first.split, first.claims, first.incarnation) == ("split-validation", "claims-t1", "w1.aa")
    trust = checking.called_back(trust, first, "classify", 1, _evidence())
    assert [one.task for one, _ in checking.owed([trust])] == ["t3"]
    assert checking.called_back(trust, first, "classify", 1, _evidence()) == trust
    assert _row(trust).streak == 1
    ((last, _),) = checking.owed([trust])
    assert checking.owed([checking.called_back(trust, last, "classify", 1, None)]) == []


def test_what_is_remembered_is_bounded() -> None:
    trust = _after(*[None] * 100)
    assert len(_row(trust).unchecked) == checking.UNCHECKED_MAX
    assert _row(trust).passed_by == 100


def test_one_model_that_learned_little_is_suspicious_but_a_worker_only_when_it_happens_again() -> None:
    assert checking.suspicion_of(_evidence()) == ""
    assert checking.suspicion_of(_evidence(gain=0.2, gain_error=0.01)) == ""
    assert checking.suspicion_of(_evidence(gain=-0.01, gain_error=0.02)) == ""
    told = checking.suspicion_of(_evidence(gain=-0.05, gain_error=0.02))
    assert told == "its loss is higher on the data that it was given than on data that it never saw (+0.0500 nats)"
    usual = _row(_after(*[_evidence(gain=0.3)] * 12, _evidence(gain=-0.01)))
    assert not checking.is_suspicious(usual)
    odd = _row(_after(*[_evidence(gain=0.0)] * 12))
    assert checking.is_suspicious(odd)
    decision = checking.decide(odd, "t1-recommendation", "claims", "holdout")
    assert decision.check
    assert "training data no better" in decision.why
    assert "training data no better" in checking.replay_due(odd, "t1", "h", share=0.0)


def test_a_segment_is_trained_again_on_suspicion_for_strangers_where_asked_and_for_a_sample() -> None:
    trusted = Streak(executor="classify", streak=50)
    assert checking.replay_due(trusted, "t1", "h", suspicion="odd", share=0.0) == "odd"
    assert checking.replay_due(trusted, "t1", "h", required=True, share=0.0) == ""
    assert "0 of 3 clean checks" in checking.replay_due(checking.NEW, "t1", "h", required=True, share=0.0)
    drawn = [bool(checking.replay_due(trusted, f"t{i}", "h")) for i in range(1_000)]
    assert sum(drawn) == pytest.approx(50, abs=25)


def test_trust_forgets_the_kind_that_was_not_touched_for_longest() -> None:
    trust: Trust | None = None
    for number in range(1, 41):
        said = _said(_candidate("t", _evidence(), executor=f"kind-{number}"))
        trust = checking.after(trust, "w1", said, number)
    assert trust is not None
    assert [row.executor for row in trust.streaks] == [f"kind-{n}" for n in range(9, 41)]


# -- a mesh of cheats -------------------------------------------------------------------------------------------------


def test_honest_workers_cost_few_checks_and_none_of_them_fails() -> None:
    found = simulate(dishonest=0.0, rounds=1_500, seed=1)
    assert found.cheats == found.called_back == 0
    assert found.champions == 1_500
    assert 0.5 < found.cost < 0.65  # each round's would-be champion, and few others


@pytest.mark.parametrize("dishonest", [0.05, 0.20])
def test_who_always_cheats_is_always_caught(dishonest: float) -> None:
    found = simulate(dishonest=dishonest, rounds=1_500, seed=2)
    assert found.cheats > 100
    assert found.caught == found.cheats
    assert found.cheats_champions == 0
    assert found.cost < 0.75


@pytest.mark.parametrize("seed", random.Random(3).sample(range(1_000), 3))
def test_a_sleeper_wins_no_champion_and_what_slipped_through_is_called_back(seed: int) -> None:
    found = simulate(dishonest=0.2, rounds=1_500, strategy="sleeper", seed=seed)
    assert found.cheats > 50
    assert found.cheats_champions == 0
    assert found.found > 0.9  # all but those after the last failure, and what is beyond the last 64
    assert found.caught_later > 0


# -- who would become champion ----------------------------------------------------------------------------------------


def _wanted(bench: Bench, **runs: dict[str, object]) -> tuple[Submit, ...]:
    """What is asked for before the bench's recommendation is said; runs: what else is known of a line."""
    round_ = bench.round()
    lines = tuple(dataclasses.replace(run, **runs.get(run.name, {})) for run in round_.lines)  # type: ignore[arg-type]
    round_ = dataclasses.replace(round_, lines=lines)
    return checks.wanted(round_, recommend(round_, bench.read), {}, bench.read, share=0.0)


def _reserve(what: str) -> Submit:
    task = TaskSpec(id=f"t1-{what}", topic="t1", executor="evaluate")
    return Submit(id=f"t1-{what}", topic="t1", tasks=(task,))


def test_the_one_who_would_be_taken_is_checked_and_nobody_else() -> None:
    bench = Bench()
    bench.line("evolver", first(90, 100))
    bench.line("reinventor", first(60, 100))
    unchecked = {name: {"unchecked": True, "check_in_reserve": _reserve(name)} for name in ("evolver", "reinventor")}
    assert [one.id for one in _wanted(bench, **unchecked)] == ["t1-evolver"]
    assert _wanted(bench) == ()


def test_answers_that_are_anothers_bit_by_bit_ask_for_a_replay() -> None:
    bench = Bench()
    bench.line("evolver", first(90, 100))
    bench.line("reinventor", first(90, 100), size_bytes=1e3)
    replay: dict[str, object] = {"replay_in_reserve": _reserve("replay")}
    assert [one.id for one in _wanted(bench, reinventor=replay)] == ["t1-replay"]
    other = Bench()
    other.line("evolver", first(90, 100), loss=[0.2 + 0.001 * i for i in range(100)])
    other.line("reinventor", first(90, 100), size_bytes=1e3)
    assert _wanted(other, reinventor=replay) == ()


def test_own_data_that_is_known_worse_asks_for_a_replay() -> None:
    bench = Bench()
    bench.line("evolver", first(90, 100))
    odd: dict[str, object] = {"replay_in_reserve": _reserve("replay"), "gain": -0.3, "gain_error": 0.1}
    assert [one.id for one in _wanted(bench, evolver=odd)] == ["t1-replay"]
    assert _wanted(bench, evolver={**odd, "gain": -0.1}) == ()


def test_a_copy_byte_for_byte_is_a_fault_of_whoever_came_second() -> None:
    runs = [Run(name=name, task=f"t1-{name}", model="m") for name in ("evolver", "reinventor", "merge")]
    evolver, reinventor, merge = checks.without_copies(runs, "", {"t1-evolver": 9, "t1-reinventor": 4, "t1-merge": 12})
    assert reinventor.fault == merge.fault == ""
    assert evolver.fault == "structure: its model is that of t1-reinventor, byte for byte"
    (stolen,) = checks.without_copies(runs[:1], "m", {})
    assert stolen.fault == "structure: its model is the champion's, byte for byte"
