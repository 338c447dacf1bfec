"""Items without labels: compared by loss alone, judged by loss alone."""

from __future__ import annotations

import math

import pytest

from consensus.gate import verdict
from consensus.measure import NOTHING_KNOWN, labelled
from consensus.recommendation import recommend
from mesh.messages.judgement import Champion, Choice, Recommendation
from tests.support import rounds
from tests.support.outcomes import first, items
from tests.support.weighing import Bench

COUNT = 120
FILES = [i // 4 for i in range(COUNT)]
"""Four documents of each source file."""


def losses(level: float, *, wave: float = 0.01) -> list[float]:
    return [level + wave * math.sin(0.7 * i) + 0.2 * (FILES[i] % 3) for i in range(COUNT)]


def corpus(*lines: tuple[str, float], size_bytes: float = 1e6) -> Bench:
    bench = Bench()
    for name, level in lines:
        bench.line(
            name, first(COUNT, COUNT), label=[0] * COUNT, loss=losses(level), clusters=FILES, size_bytes=size_bytes
        )
        for what in ("claims", "check"):
            bench.read[f"{what}-{name}"] = items(first(60, 60), label=[0] * 60)
    return bench


def of(bench: Bench, champion: Champion | None = None, old: float = 1.5) -> Recommendation:
    round_ = bench.round(champion=champion, old=first(COUNT, COUNT))
    if champion is not None:
        bench.read["holdout-champion"] = items(
            first(COUNT, COUNT), label=[0] * COUNT, loss=losses(old, wave=0.012), clusters=FILES
        )
    return recommend(round_, bench.read)


def test_what_has_labels_and_what_has_none() -> None:
    assert labelled(items(first(2, 3)))
    assert labelled(items([True, False], label=[0, 0])), "one of them was answered wrong"
    assert not labelled(items(first(3, 3), label=[0, 0, 0]))
    assert not labelled(items(first(3, 3), label=[0, 0, 0]), items(first(3, 3), label=[0, 0, 0]))
    assert labelled(items(first(3, 3), label=[0, 0, 0]), items([True, True, False], label=[0, 0, 0]))


def test_without_a_champion_the_line_with_less_loss_is_taken() -> None:
    found = of(corpus(("evolver", 1.6), ("reinventor", 1.4)))
    assert (found.choice, found.metric) == (Choice.REINVENTOR, "loss")
    assert found.effect == pytest.approx(0.2, abs=1e-6)
    assert "loses 1.80" in found.why
    assert "accuracy" not in found.why
    (candidate, _) = found.candidates
    assert not {"accuracy", "majority_accuracy", "validation_accuracy"} & candidate.kpis.keys()
    assert candidate.kpis["chance_loss"] == NOTHING_KNOWN
    assert (found.tree["metric"], found.tree["value"]) == ("loss", pytest.approx(found.candidates[1].kpis["loss"]))


def test_two_equal_lines_of_documents_are_a_tie_for_the_smaller() -> None:
    bench = corpus(("evolver", 1.5))
    bench.line("reinventor", first(COUNT, COUNT), label=[0] * COUNT, loss=losses(1.5005, wave=0.02), clusters=FILES,
               size_bytes=1e5)  # fmt: skip
    for what in ("claims", "check"):
        bench.read[f"{what}-reinventor"] = items(first(60, 60), label=[0] * 60)
    found = of(bench)
    assert found.choice is Choice.REINVENTOR
    assert "a tie, so the smaller model is taken" in found.why


def test_a_challenger_wins_by_loss_over_source_files() -> None:
    found = of(corpus(("evolver", 1.4)), rounds.champion())
    assert found.choice is Choice.EVOLVER
    assert "is better than the champion in loss, on items without labels" in found.why
    assert [(one.a, one.metric) for one in found.comparisons] == [("evolver", "loss")]
    assert f"t over {COUNT // 4} clusters" in found.comparisons[0].method, "documents of one file are one cluster"
    assert "betting e-value" in found.comparisons[0].method
    assert found.holdout_uses == 3
    kept = of(corpus(("evolver", 1.4999)), rounds.champion())
    assert kept.choice is Choice.KEEP
    assert "would show with about" in kept.what_would_change_it


def test_the_gate_asks_about_loss_and_not_about_accuracy() -> None:
    champion = rounds.champion()
    made = of(corpus(("evolver", 1.4)), champion)
    said = verdict(made, champion, made.champion_revision, decided_at_ms=0)
    assert said.accepted
    names = [check.name for check in said.checks]
    assert "loss" in names
    assert "accuracy" not in names
    chance = next(check for check in said.checks if check.name == "better than chance")
    assert chance.bound == pytest.approx(math.log(256))
    clueless = of(corpus(("evolver", 5.6)))
    said = verdict(clueless, None, 0, decided_at_ms=0)
    assert not said.accepted
    assert "of who knows nothing 5.5452" in said.why
