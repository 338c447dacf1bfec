"""Learning rates are pure functions of the step; plans fit into the time."""

from __future__ import annotations

import pytest

from executors import schedules
from executors.schedules import FLOOR


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
