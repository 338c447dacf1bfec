"""Learning rates are pure functions of the step; plans fit into the time."""

from __future__ import annotations

import math

import pytest

from executors import schedules
from executors.schedules import FLOOR, SHAPES


def test_rises_then_falls_to_the_floor() -> None:
    line = schedules.first(100, warmup=10)
    factors = [line.factor(step) for step in range(101)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == FLOOR
    assert all(0 < factor <= 1 for factor in factors)


def test_a_warm_up_takes_a_tenth_of_a_short_run() -> None:
    assert schedules.first(30, warmup=50).warmup == 3
    assert schedules.first(1, warmup=50).factor(0) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_rises_and_never_rises_again(shape: str) -> None:
    way = schedules.first(1_000, warmup=100, shape=shape)
    factors = [way.factor(step) for step in range(1_001)]
    assert factors[:101] == sorted(factors[:101])
    assert factors[100] == 1.0
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[-1] == pytest.approx(1.0 if shape == "constant" else FLOOR)
    assert way.factor(5_000) == pytest.approx(factors[-1])


def test_shapes_have_their_own_middle() -> None:
    def at(shape: str, step: int) -> float:
        return schedules.first(1_000, warmup=100, shape=shape).factor(step)

    assert [at("constant", step) for step in (550, 900)] == [1.0, 1.0]
    assert [at("linear", step) for step in (550, 900)] == pytest.approx([0.5, 1 / 9])
    assert at("cosine", 550) == pytest.approx((1 + FLOOR) / 2)
    assert at("cosine", 325) == pytest.approx(FLOOR + (1 - FLOOR) * (0.5 + math.sqrt(0.125)))
    assert [at("wsd", step) for step in (819, 820, 910)] == pytest.approx([1.0, 1.0, 0.5])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [150, 500, 850, 950])
def test_a_shorter_time_is_planned_for_in_every_shape(shape: str, step: int) -> None:
    way = schedules.first(1_000, warmup=100, shape=shape)
    short = schedules.replanned(way, step, left_s=30.0, seconds_per_step=1.0)
    assert short.end == step + int(30 * schedules.HEADROOM)
    factors = [short.factor(at) for at in range(step, short.end + 1)]
    assert factors[0] == pytest.approx(way.factor(step))
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(1.0 if shape == "constant" else FLOOR)
    again = schedules.replanned(short, short.end - 5, left_s=3.0, seconds_per_step=1.0)
    assert again.factor(short.end - 5) == pytest.approx(short.factor(short.end - 5))


def test_a_shape_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine"):
        schedules.first(100, warmup=10, shape="cosin")


def test_a_new_aim_keeps_the_rate_where_it_stands() -> None:
    line = schedules.first(1_000, warmup=10)
    aimed = line.aimed(200, 300)
    assert aimed.factor(200) == pytest.approx(line.factor(200))
    assert aimed.factor(300) == FLOOR
    assert line.aimed(200, 100).end == 200


def test_replanning_only_when_time_is_clearly_short() -> None:
    line = schedules.first(1_000, warmup=10)
    assert schedules.replanned(line, 100, left_s=1_000.0, seconds_per_step=1.0) is line
    short = schedules.replanned(line, 100, left_s=450.0, seconds_per_step=1.0)
    assert short.end == 100 + int(450 * schedules.HEADROOM)
    assert schedules.replanned(line, 5, left_s=1.0, seconds_per_step=1.0) is line
    assert schedules.replanned(line, 100, left_s=-1.0, seconds_per_step=1.0).end == 100
