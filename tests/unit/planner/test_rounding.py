"""When a challenger in few bits is asked for, of what, and what is learnt from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from executors import kinds
from mesh.messages.base import Facts
from mesh.messages.judgement import Candidate, Champion, Choice, Comparison, Recommendation, Verdict
from mesh.messages.tasks import Line
from mesh.messages.topics import Kpi
from planner import branching, lessons, plans, rounding, shares
from planner.past import Past, past_of
from tests.unit.planner.test_plans import PROFILE, SOURCE, TOPIC

SMALL = (Kpi(metric="size_bytes", maximum=1e6),)
OFFERED = frozenset({"quantize", "search-step"})
OLD, NEW = "c" * 64, "e" * 64


def champion(**fields: Any) -> Champion:
    values: dict[str, Any] = {
        "specialization": "x", "version_number": 1, "model": OLD, "topic": "t", "task": "t-evolver",
        "line": Line.EVOLVER, "verdict": "v", "settings": {"learning_rate": 0.001}, "kpis": {"size_bytes": 2e6},
    }  # fmt: skip
    return Champion(**{**values, **fields})


def asked(
    before: Champion | None, kpis: tuple[Kpi, ...] = SMALL, *, tried: frozenset[tuple[str, str]] = frozenset(),
    bounds: dict[str, float] | None = None, offered: frozenset[str] = OFFERED, executor: str = "classify",
) -> tuple[rounding.Rounding | None, str]:  # fmt: skip
    return rounding.rounding_of(executor, kpis, before, tried, bounds or {}, offered)


def test_the_champions_weights_are_rounded_where_the_topic_wants_a_small_or_fast_model() -> None:
    found, _ = asked(champion())
    assert found is not None
    assert (found.model, found.asked) == (OLD, ("size_bytes",))
    assert found.settings == {"learning_rate": 0.001}
    assert "size_bytes <= 1e+06" in found.why
    fast, _ = asked(champion(), (Kpi(metric="latency_p95_ms", maximum=5.0),))
    assert fast is not None
    assert fast.asked == ("latency_p95_ms",)


def test_or_where_the_gates_bounds_are_near() -> None:
    found, _ = asked(champion(kpis={"size_bytes": 5e9}), (), bounds={"size": 8e9, "latency p95": 1_000.0})
    assert found is not None
    assert "above half of what the gate allows" in found.why
    assert asked(champion(kpis={"size_bytes": 3e9}), (), bounds={"size": 8e9})[0] is None


def test_without_a_champion_or_after_a_rounded_one_it_is_the_evolvers_new_model() -> None:
    first, _ = asked(None)
    later, _ = asked(champion(full="f" * 64))
    assert first is not None
    assert later is not None
    assert (first.model, later.model) == ("", "")


@pytest.mark.parametrize(
    ("before", "more", "why"),
    [
        ({}, {"kpis": (Kpi(metric="accuracy", minimum=0.9),)}, "nobody asks"),
        ({}, {"kpis": (Kpi(metric="size_bytes", minimum=1.0),)}, "nobody asks"),
        ({}, {"offered": frozenset()}, "no worker offers the kind quantize"),
        ({}, {"tried": frozenset({(OLD, "")})}, "rounded before, and that was not taken"),
        ({"flat": "f" * 64}, {}, "the champion is a tree"),
        ({"base": "f" * 64}, {}, "a model of two parts"),
        ({}, {"executor": "lora"}, "models of the kind lora are not rounded"),
    ],
)
def test_why_nothing_is_rounded(before: Facts, more: dict[str, Any], why: str) -> None:
    found, said = asked(champion(**before), **more)
    assert found is None
    assert why in said


def planned(before: Champion | None, known: Past) -> Facts:
    made = plans.plan(
        TOPIC.evolve(kpis=SMALL), SOURCE, PROFILE, {}, before, 1 if before else 0, kinds.needs_of, known=known
    )
    assert isinstance(made, plans.Plan)
    assert {task.executor for task in made.submit.tasks} <= {"classify", "baseline", "search-step"}
    evolver = next(task for task in made.submit.tasks if task.line is Line.EVOLVER)
    return {**made.submit.facts, "evolver": evolver}


def test_the_plan_tells_consensus_what_to_round_and_what_it_takes() -> None:
    facts = planned(champion(), Past(offered=OFFERED))
    assert facts["rounding"]["model"] == OLD
    assert facts["rounding"]["scheme"] == "dynamic-int8"
    assert facts["changed"]["evolver-int8"].startswith("quantisation dynamic-int8 instead of none")
    assert facts["needs"]["quantize"]["memory_bytes"] > 560 * 1024 * 1024
    assert set(facts["lines"]) == {"evolver", "reinventor"}
    assert "rounding" not in planned(champion(), Past())


def test_after_a_rounded_champion_the_evolver_goes_on_from_what_was_rounded() -> None:
    facts = planned(champion(model=NEW, full=OLD), Past(offered=OFFERED))
    assert facts["evolver"].inputs["champion"] == OLD
    assert "quantisation" not in facts["evolver"].settings
    assert facts["rounding"]["model"] == ""


def test_a_topic_whose_champion_is_rounded_stays_whole() -> None:
    flat = branching.Flat(NEW, "text", 100_000, None, rounded=True)
    answer = branching.may_branch(TOPIC, 0, None, flat, canceled=False)  # type: ignore[arg-type]
    assert not answer.may
    assert "few bits" in answer.why


def verdict(*, accepted: bool) -> Verdict:
    one = Candidate(line=Line.EVOLVER, task="t-evolver", model="a" * 64, settings={"learning_rate": 0.0005})
    other = Candidate(
        name="evolver-int8", line=Line.EVOLVER, task="t-evolver-int8", model=NEW, full=OLD,
        settings={"learning_rate": 0.001, "quantisation": "dynamic-int8"},
    )  # fmt: skip
    compared = [
        Comparison(a=name, b="champion", metric="loss", effect=effect, low=effect - 0.01, high=effect + 0.01, p_value=1,
                   items=100)
        for name, effect in (("evolver", -0.2), ("evolver-int8", 0.0))
    ]  # fmt: skip
    made = Recommendation(
        id="t-recommendation", topic="t", specialization="x", choice=Choice.EVOLVER if accepted else Choice.KEEP,
        why="", effect=0.0, interval=(0.0, 0.0), candidates=(one, other), comparisons=tuple(compared),
        champion_before=OLD, taken="evolver-int8" if accepted else "",
    )  # fmt: skip
    return Verdict(
        id="t-verdict", topic="t", specialization="x", accepted=accepted, choice=made.choice, checks=(), why="",
        recommendation=made, bounds={"size": 8e9},
    )  # fmt: skip


def test_its_lesson_is_its_own_and_moves_no_budget() -> None:
    trained, rounded = lessons.lessons_of([verdict(accepted=True)], {OLD: {"learning_rate": 0.001}})
    assert (trained.turned, trained.accepted, trained.effect) == ({"learning_rate": -1}, False, -0.2)
    assert (rounded.turned, rounded.accepted, rounded.chance) == ({"quantisation": 0}, True, 1.0)
    assert rounded.rounded
    assert shares.shared([trained, rounded], 60.0) == shares.shared([trained], 60.0)
    assert lessons.lineage_rows([rounded])[0]["turned"] == {"quantisation": 0}


def test_the_past_knows_what_was_rounded_and_the_gates_bounds() -> None:
    known = past_of([verdict(accepted=False)], [champion()], {}, {})
    assert known.rounded == {(OLD, "")}
    assert known.bounds == {"size": 8e9}
    assert asked(champion(), tried=known.rounded)[0] is None


def test_what_the_gate_turned_down_for_a_condition_is_tried_again_under_another() -> None:
    said = verdict(accepted=True)
    made = msgspec.structs.replace(said.recommendation, kpis=(("size_bytes", None, 1e6),))
    tried = rounding.tried_of([said.evolve(accepted=False, recommendation=made)])
    assert asked(champion(), SMALL, tried=tried)[0] is None
    assert asked(champion(), (Kpi(metric="size_bytes", maximum=15e6),), tried=tried)[0] is not None
