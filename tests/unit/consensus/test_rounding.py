"""A challenger in few bits: how it wins, what its champion's record says, and who is preferred for the topic's KPIs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from consensus.champions import next_champion
from consensus.gate import verdict
from consensus.recommendation import recommend
from consensus.rounding import gains, told
from mesh.messages.judgement import Choice, Recommendation
from tests.support import rounds
from tests.support.outcomes import first
from tests.support.weighing import Bench, Kpis

NAME = "evolver-int8"
OLD = "model-old"


def weighed(
    right: int, *, size: float = 3e5, loss: float = 0.3, asked: tuple[str, ...] = ("size_bytes",), full: str = OLD,
    kpis: Kpis = (), items: int = 600, before: int = 540,
) -> Recommendation:  # fmt: skip
    """The champion is right on `before` items and loses 0.3 nats on each; the challenger as said."""
    bench = Bench()
    bench.line(NAME, first(right, items), size_bytes=size, loss=[loss] * items)
    settings = {"width": 8, "quantisation": "dynamic-int8"}
    bench.lines[0] = dataclasses.replace(bench.lines[0], full=full, settings=settings, continued=full)
    round_ = bench.round(champion=rounds.champion(), old=first(before, items), loss=[0.3] * items, kpis=kpis)
    run = dataclasses.replace(round_.champion_run, kpis={"size_bytes": 1e6, "latency_p95_ms": 3.0})
    return recommend(dataclasses.replace(round_, champion_run=run, rounding=asked), bench.read)


def test_as_good_and_smaller_takes_the_place() -> None:
    found = weighed(540)
    assert (found.choice, found.taken) == (Choice.EVOLVER, NAME)
    assert "not worse than the champion, and size_bytes 0.30 of the champion's" in found.why
    assert found.holdout_uses == 3, "it has spent its share of alpha"


@pytest.mark.parametrize(
    ("right", "more"),
    [
        (540, {"size": 9e5}),
        (540, {"asked": ()}),
        (540, {"full": ""}),
        (530, {}),
        (540, {"loss": 0.32}),
        (540, {"asked": ("latency_p95_ms",)}),
    ],
)
def test_larger_unasked_trained_less_right_surer_of_the_wrong_or_no_faster_does_not(
    right: int, more: dict[str, Any]
) -> None:  # fmt: skip
    assert weighed(right, **more).choice is Choice.KEEP


def test_on_few_items_a_single_wrong_answer_is_too_many() -> None:
    assert weighed(53, items=60, before=54).choice is Choice.KEEP
    assert weighed(599, items=600, before=600, loss=0.301).choice is Choice.EVOLVER


def test_the_gate_judges_it_and_the_record_says_from_what_it_was_rounded() -> None:
    made = weighed(540)
    before = rounds.champion()
    said = verdict(made, before, 7, decided_at_ms=1)
    assert said.accepted, said.why
    record = next_champion(said, before, name="digits")
    assert record is not None
    assert (record.full, record.trainable, record.model) == (OLD, OLD, f"model-{NAME}")
    assert record.settings == {"width": 8}, "what the evolver goes on with"
    assert record.parent_model == OLD
    assert record.lineage[-1].model == OLD


def test_of_first_champions_those_that_meet_the_topics_conditions_come_first() -> None:
    bench = Bench()
    bench.line("evolver", first(180, 200), size_bytes=1e6)
    bench.line("reinventor", first(150, 200), size_bytes=1e6)
    bench.line(NAME, first(170, 200), size_bytes=3e5)
    small = bench.round(kpis=(("size_bytes", None, 5e5),))
    taken = recommend(small, bench.read)
    assert taken.taken == NAME
    assert "the only candidate that meets the topic's own conditions" in taken.why
    assert recommend(bench.round(), bench.read).taken == "evolver"
    nobody = bench.round(kpis=(("size_bytes", None, 1e5),))
    assert recommend(nobody, bench.read).taken == "evolver", "the gate says what it lacks"


def test_what_it_saves_is_told() -> None:
    assert gains({"size_bytes": 3.0}, {"size_bytes": 10.0}, ("size_bytes",)) == "size_bytes 0.30 of the champion's"
    assert gains({"size_bytes": 9.0}, {"size_bytes": 10.0}, ("size_bytes",)) == ""
    assert gains({}, {"size_bytes": 10.0}, ("size_bytes",)) == ""
    plan = rounds.plan(rounding={"model": "a" * 64, "scheme": "dynamic-int8"})
    task = plan.tasks[0].evolve(executor="quantize", settings={"scheme": "dynamic-int8"}, inputs={"model": "a" * 64})
    ended = rounds.ended(task, kpis={"size_share": 0.29, "time_share_1": 0.8, "time_share_128": 0.5})
    assert told(ended) == (
        "quantisation dynamic-int8 instead of none of aaaaaaaaaaaa, not trained: 0.29 of its size, 0.80 of its time in "
        "batches of 1, 0.50 of its time in batches of 128"
    )
    assert told(rounds.ended(plan.tasks[0])) == ""
