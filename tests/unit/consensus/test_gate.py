"""The verdict, KPI by KPI, and that each policy can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from consensus.gate import amount, amounts, verdict, verdict_id
from consensus.policies import POLICIES, with_bounds, with_settings
from consensus.recommendation import recommend
from mesh.messages.judgement import Champion, Check, Choice, Recommendation, Verdict
from mesh.setting_tree import GateSettings
from tests.support import rounds
from tests.support.outcomes import first, items
from tests.support.weighing import Bench, Kpis


def said(bench: Bench, champion: Champion | None = None, *, revision: int | None = None, **more: object) -> Verdict:
    recommendation = recommend(bench.round(champion=champion, **more), bench.read)  # type: ignore[arg-type]
    now = recommendation.champion_revision if revision is None else revision
    return verdict(recommendation, champion, now, decided_at_ms=5)


def by_name(found: Verdict) -> dict[str, Check]:
    return {check.name: check for check in found.checks}


def good(**more: object) -> Bench:
    bench = Bench()
    bench.line("evolver", first(180, 200), **more)  # type: ignore[arg-type]
    return bench


def test_a_good_first_candidate_is_accepted_with_every_number() -> None:
    found = said(good())
    assert found.accepted
    assert (found.id, found.choice, found.champion, found.champion_version) == (
        "t1-verdict",
        Choice.EVOLVER,
        "model-evolver",
        1,
    )
    asked = [policy.name for policy in POLICIES if policy.name not in ("latency ratio", "price")]
    assert [check.name for check in found.checks] == [*asked, "champion unchanged"]
    assert all(check.why for check in found.checks)
    assert by_name(found)["evidence"].value == pytest.approx(0.9398, abs=1e-4)
    assert by_name(found)["better than chance"].bound == pytest.approx(67 / 200)
    assert by_name(found)["latency p95"].value == 3.0
    assert found.why.startswith("All 8 checks passed. There is no champion yet")
    assert found.decided_at_ms == 5


@pytest.mark.parametrize(
    ("more", "failed"),
    [({"latency_p95_ms": 1_001.0}, "latency p95"), ({"size_bytes": 9e9}, "size")],
)
def test_a_runaway_model_is_rejected(more: dict[str, object], failed: str) -> None:
    found = said(good(**more))
    assert not found.accepted
    assert [check.name for check in found.checks if not check.passed] == [failed]
    assert found.champion == ""
    assert found.why.startswith(f"1 of 8 checks failed: {failed}: ")


def test_what_nobody_measured_fails() -> None:
    bench = good()
    kpis = {name: value for name, value in bench.lines[0].kpis.items() if name != "size_bytes"}
    bench.lines[0] = dataclasses.replace(bench.lines[0], kpis=kpis)
    assert by_name(said(bench))["size"].why.startswith("nobody measured size_bytes")
    assert not said(bench).accepted


def test_a_model_that_always_says_the_same_is_no_better_than_chance() -> None:
    label = [0] * 150 + [1] * 50
    bench = Bench()
    bench.line("evolver", first(150, 200), label=label, loss=[0.6] * 200)
    found = said(bench)
    assert not found.accepted
    assert not by_name(found)["better than chance"].passed
    informed = Bench()
    informed.line("evolver", first(150, 200), label=label, loss=[0.4] * 200)
    assert said(informed).accepted, "the same answers, but it knows how sure to be"
    worse = Bench()
    worse.line("evolver", first(147, 200), label=label, loss=[0.4] * 200)
    assert not said(worse).accepted


def test_a_topics_own_kpis_are_judged_with_the_rest() -> None:
    kpis: Kpis = (("accuracy", 0.95, None), ("loss", None, 2.0), ("evidence_rate", 1.0, None), ("bleu", 0.1, None))
    found = by_name(said(good(), kpis=kpis))
    assert (found["topic: accuracy"].passed, found["topic: accuracy"].bound) == (False, 0.95)
    assert found["topic: accuracy"].why == "0.9, at least 0.95 wanted by the topic"
    assert found["topic: loss"].passed
    assert found["topic: evidence_rate"].passed
    assert found["topic: bleu"].value is None
    assert found["topic: bleu"].why.startswith("nobody measured bleu; measured: accuracy, ")


def forced(recommendation: Recommendation, **changes: object) -> Recommendation:
    return msgspec.structs.replace(recommendation, **changes)


def test_the_gate_does_not_trust_the_recommendation_about_evidence() -> None:
    bench = good(reproduced=50, checked_by="w1.aa")
    recommendation = recommend(bench.round(required=True), bench.read)
    assert recommendation.choice is Choice.KEEP
    pressed = verdict(forced(recommendation, choice=Choice.EVOLVER), None, 0, decided_at_ms=0)
    assert [check.name for check in pressed.checks if not check.passed] == ["evidence", "independence"]


def test_a_small_validation_set_has_to_prove_what_it_can() -> None:
    bench = good()
    for name, right in (("claims-evolver", 12), ("check-evolver", 12)):
        bench.read[name] = items(first(right, 12))
    check = by_name(said(bench))["evidence"]
    assert check.passed
    assert check.why.endswith("(so few claims can prove 0.758 at best)")


def test_regression_against_the_champion_has_margins() -> None:
    bench = Bench()
    bench.line("evolver", first(180, 200), loss=[0.2] * 180 + [9.0] * 20)
    champion = rounds.champion()
    found = said(bench, champion, old=first(150, 200))
    assert found.choice is Choice.EVOLVER
    assert not found.accepted
    assert not by_name(found)["loss"].passed
    assert by_name(found)["accuracy"].passed
    assert (found.champion, found.champion_version) == ("model-old", 1), "the champion stays"
    recommendation = recommend(bench.round(champion=champion, old=first(150, 200)), bench.read)
    alone = verdict(forced(recommendation, comparisons=()), champion, 7, decided_at_ms=0)
    assert by_name(alone)["accuracy"].why.startswith("it was not compared with the champion")


@pytest.mark.parametrize(("right", "passes"), [(200, True), (199, True), (198, False)])
def test_the_margin_is_what_a_challenger_may_fall_behind(right: int, passes: bool) -> None:
    bench = Bench()
    bench.line("evolver", first(right, 200), loss=[0.2] * 200)
    champion = rounds.champion()
    kept = recommend(bench.round(champion=champion, old=first(200, 200), loss=[0.2] * 200), bench.read)
    pressed = verdict(forced(kept, choice=Choice.EVOLVER), champion, 7, decided_at_ms=0)
    assert by_name(pressed)["accuracy"].passed is passes
    assert by_name(pressed)["loss"].passed


def test_a_better_challenger_becomes_the_next_version() -> None:
    found = said(good(), rounds.champion(), old=first(150, 200))
    assert found.accepted
    assert (found.champion, found.champion_version) == ("model-evolver", 2)


@pytest.mark.parametrize("now", [8, 0])
def test_a_champion_that_moved_since_the_comparison_rejects(now: int) -> None:
    found = said(good(), rounds.champion(), revision=now, old=first(150, 200))
    assert not found.accepted
    assert not by_name(found)["champion unchanged"].passed
    recommendation = recommend(good().round(), good().read)
    other = verdict(recommendation, rounds.champion(), 0, decided_at_ms=0)
    assert not by_name(other)["champion unchanged"].passed, "another model under the same revision"


def test_to_keep_a_champion_is_accepted_and_to_keep_nothing_is_not() -> None:
    bench = Bench()
    bench.line("evolver", first(150, 200))
    kept = said(bench, rounds.champion(), old=first(150, 200))
    assert (kept.accepted, kept.choice, kept.champion, kept.champion_version) == (True, Choice.KEEP, "model-old", 1)
    nothing = said(good(reproduced=10))
    assert (nothing.accepted, nothing.choice, nothing.champion, nothing.champion_version) == (False, Choice.KEEP, "", 0)
    assert [check.name for check in nothing.checks if not check.passed] == ["candidate", "evolver: evidence"]


@pytest.mark.parametrize(("p95_ms", "passes"), [(19.0, True), (99.0, True), (101.0, False)])
def test_a_challenger_may_be_so_many_times_slower_and_no_more(p95_ms: float, passes: bool) -> None:
    bench = good(latency_p95_ms=p95_ms)
    champion = rounds.champion().evolve(kpis={"latency_p95_ms": 10.0})
    round_ = bench.round(champion=champion, old=first(150, 200))
    round_ = dataclasses.replace(round_, champion_run=dataclasses.replace(round_.champion_run, kpis=champion.kpis))
    found = verdict(recommend(round_, bench.read), champion, 7, decided_at_ms=0)
    assert by_name(found)["latency ratio"].passed is passes
    assert found.accepted is passes
    assert by_name(found)["latency ratio"].value == pytest.approx(p95_ms / 10.0)


def test_bounds_are_settings_and_stand_in_the_verdict() -> None:
    policies = with_settings({**dataclasses.asdict(GateSettings()), "latency_p95_ms": 2.0, "price_max": 3.0})
    recommendation = recommend(good().round(), good().read)
    found = verdict(recommendation, None, 0, decided_at_ms=0, policies=policies)
    assert [check.name for check in found.checks if not check.passed] == ["latency p95"]
    assert by_name(found)["price"].why == "nobody said its price"
    assert (found.bounds["latency p95"], found.bounds["size"]) == (2.0, 8e9)
    again = verdict(recommendation, None, 0, decided_at_ms=0, policies=with_bounds(found.bounds))
    assert again == found
    assert with_bounds({}) == POLICIES


def test_a_price_is_judged_where_one_is_known() -> None:
    bench = good()
    bench.lines[0] = dataclasses.replace(bench.lines[0], kpis={**bench.lines[0].kpis, "price": 4.0})
    recommendation = recommend(bench.round(), bench.read)
    found = verdict(recommendation, None, 0, decided_at_ms=0, policies=with_settings({"price_max": 3.0}))
    assert not by_name(found)["price"].passed


def test_the_settings_are_the_policies_defaults() -> None:
    assert with_settings(dataclasses.asdict(GateSettings())) == POLICIES
    with pytest.raises(KeyError, match="nonsense"):
        with_settings({"nonsense": 1.0})


def test_of_several_merges_the_one_that_is_named_is_taken() -> None:
    bench = Bench()
    bench.line("merge", first(170, 200))
    bench.line("merge-soup", first(185, 200))
    bench.lines[0] = dataclasses.replace(bench.lines[0], flat="model-old")
    champion = rounds.champion()
    found = said(bench, champion, old=first(150, 200))
    assert (found.choice, found.recommendation.taken) == (Choice.MERGE, "merge-soup")
    assert found.champion == "model-merge-soup"
    assert found.accepted
    assert found.recommendation.tree["against"] == "baseline", "the tree's interval is against the flat model"
    assert found.recommendation.tree["baseline"] == 0.75


def test_verdict_ids_follow_from_recommendation_ids() -> None:
    recommendation = recommend(good().round(), good().read)
    assert verdict_id(recommendation) == "t1-verdict"
    assert verdict_id(forced(recommendation, id="something")) == "something-verdict"
    assert len(verdict_id(forced(recommendation, id="x" * 96))) == 96


def test_a_recommendation_without_its_candidate_is_a_defect_that_names_itself() -> None:
    recommendation = forced(recommend(good().round(), good().read), candidates=())
    with pytest.raises(ValueError, match="takes the evolver and lists no such candidate"):
        verdict(recommendation, None, 0, decided_at_ms=0)


def test_the_policies_stand_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "consensus.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    listed = [row[:4] for row in rows if len(row) == 5][2:]
    assert listed == [[policy.name, policy.metric, f"{policy.bound:,.15g}", policy.unit] for policy in POLICIES]


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (209_083, "bytes", "209.1 kB"),
        (8e9, "bytes", "8 GB"),
        (7_460_000_000, "bytes", "7.5 GB"),
        (3e15, "bytes", "3,000 TB"),
        (999, "bytes", "999 bytes"),
        (0, "bytes", "0 bytes"),
        (4.68562, "ms", "4.7 ms"),
        (1_000, "ms", "1,000 ms"),
        (0.0314159, "ms", "0.0314 ms"),
        (0.98882681, "", "0.988827"),
    ],
)
def test_amounts_read_like_a_person_writes_them(value: float, unit: str, told: str) -> None:
    assert amount(value, unit) == told


def test_a_value_just_beyond_its_bound_does_not_look_like_it() -> None:
    assert amounts(1_000.01, 1_000, "ms") == ("1,000.01 ms", "1,000 ms")
    assert amounts(8e9 + 1, 8e9, "bytes") == ("8,000,000,001 bytes", "8,000,000,000 bytes")
    assert amounts(0.90000001, 0.9, "") == ("0.90000001", "0.9")
    assert amounts(8e9, 8e9, "bytes") == ("8 GB", "8 GB")


def test_checks_tell_sizes_and_times_with_their_units() -> None:
    bench = good(latency_p95_ms=4.68562, size_bytes=209_083.0)
    found = by_name(
        said(bench, kpis=(("size_bytes", None, 1e5), ("latency_p95_ms", 1.0, 5.0), ("accuracy", 0.5, None)))
    )
    assert found["latency p95"].why == "4.7 ms, at most 1,000 ms wanted"
    assert found["size"].why == "209.1 kB, at most 8 GB wanted"
    assert found["topic: size_bytes"].why == "209.1 kB, at most 100 kB wanted by the topic"
    assert found["topic: latency_p95_ms"].why == "4.7 ms, at least 1 ms and at most 5 ms wanted by the topic"
    assert found["topic: accuracy"].why == "0.9, at least 0.5 wanted by the topic"
