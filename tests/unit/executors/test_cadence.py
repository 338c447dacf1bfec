"""When a checkpoint is taken: triggers, a taken buffer, and a budget; the clock is ours."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from executors.cadence import BEST_GAP_S, LATEST_S, SAMPLES_LEAST, Cadence, Steps


class Clock:
    """A run whose steps take a second each."""

    def __init__(self, **changes: float) -> None:
        given = {"every_steps": 0, "every_s": 1e9, "overhead": 1.0, "now": 0.0, "step": 0, **changes}
        self.cadence = Cadence(**given)  # type: ignore[arg-type]
        self.step, self.now = int(given["step"]), 0.0
        self.cost_s = 0.0

    def steps(
        self, count: int, *, free: bool = True, best: tuple[int, ...] = (), asked: tuple[int, ...] = ()
    ) -> list[str]:
        """Take steps; 'step why' of each checkpoint that was taken on the way."""
        found = []
        for _ in range(count):
            self.step, self.now = self.step + 1, self.now + 1.0
            why = self.cadence.why_now(
                self.now, self.step, improved=self.step in best, asked=self.step in asked, free=free
            )
            if why:
                found.append(f"{self.step} {why}")
                self.cadence.took(self.now, self.step, self.cost_s)
        return found


def test_every_so_many_steps() -> None:
    assert Clock(every_steps=3).steps(10) == ["3 steps", "6 steps", "9 steps"]


def test_every_so_many_seconds() -> None:
    assert Clock(every_s=4.0).steps(9) == ["4 time", "8 time"]


def test_a_resumed_run_does_not_save_again_what_it_was_given() -> None:
    run = Clock(every_steps=3, step=6)
    assert run.cadence.why_now(0.0, 6, improved=True, asked=False, free=True) == ""
    assert run.steps(4) == ["9 steps"]


def test_the_best_is_kept_but_not_at_every_improvement() -> None:
    gap = int(BEST_GAP_S)
    assert Clock().steps(3 * gap, best=tuple(range(3 * gap))) == [f"{gap} best", f"{2 * gap} best"]


def test_on_request_at_once() -> None:
    run = Clock(overhead=0.01)
    run.cost_s = 1.0
    assert run.steps(4, asked=(2, 3)) == ["2 asked", "3 asked"]


def test_what_was_due_is_skipped_once_and_taken_when_the_buffer_is_free() -> None:
    run = Clock(every_steps=4)
    assert run.steps(6, free=False) == []
    assert run.cadence.skipped == 1
    assert run.steps(1) == ["7 steps"]
    assert run.steps(4, free=False) == []
    assert run.cadence.skipped == 2
    assert run.steps(4, free=False) == []
    assert run.cadence.skipped == 3
    assert run.steps(1) == ["16 steps"]
    assert (run.cadence.skipped, run.cadence.postponed, run.cadence.taken) == (3, 0, 2)


def test_a_request_waits_for_the_buffer_and_for_nothing_else() -> None:
    run = Clock(overhead=0.01)
    run.cost_s = 10.0
    assert run.steps(2, asked=(1,)) == ["1 asked"]
    assert run.steps(2, asked=(3,), free=False) == []
    assert run.cadence.skipped == 1
    assert run.steps(1) == ["5 asked"]


def test_the_interval_stretches_to_the_budget() -> None:
    """A copy of 0.3 s every second would be 30 %: within 1 % it is taken every 30 seconds, and the first one, for which
    nothing was saved up, is paid back."""
    run = Clock(every_steps=1, overhead=0.01)
    run.cost_s = 0.3
    assert run.steps(125) == ["1 steps", "60 steps", "90 steps", "120 steps"]
    assert (run.cadence.skipped, run.cadence.postponed) == (0, 121)
    assert run.cadence.spent_s / run.now <= 0.01


def test_a_price_that_is_known_late_is_paid_back() -> None:
    run = Clock(every_steps=1, overhead=0.01)
    run.cost_s = 0.01
    assert len(run.steps(10)) == 9
    run.cost_s = 1.0
    assert run.steps(1) == ["11 steps"]
    assert run.steps(148) == []
    assert run.steps(1) == ["160 steps"]
    assert run.steps(124) == []
    assert run.steps(1_000)
    assert run.cadence.spent_s <= 0.01 * run.now


def test_what_is_due_is_not_postponed_for_ever() -> None:
    run = Clock(every_steps=1, overhead=0.01)
    run.cost_s = 1_000.0
    latest = int(LATEST_S)
    assert run.steps(2 * latest + 1) == ["1 steps", f"{latest + 1} steps", f"{2 * latest + 1} steps"]


def test_without_a_bound_every_trigger_counts() -> None:
    run = Clock(every_steps=1, overhead=1.0)
    run.cost_s = 5.0
    assert len(run.steps(10)) == 10


def test_the_first_one_makes_the_memory_and_does_not_count_as_the_price() -> None:
    run = Clock(every_steps=1, overhead=0.01)
    run.cadence.took(0.0, 0, 50.0, once=True)
    assert (run.cadence.cost_s, run.cadence.spent_s, run.cadence.once_s) == (0.0, 0.0, 50.0)
    assert run.cadence.affordable(0.0)


def test_what_found_no_room_is_tried_again_when_it_is_due_again() -> None:
    run = Clock(every_steps=5)
    assert run.cadence.why_now(1.0, 5, improved=False, asked=False, free=True) == "steps"
    run.cadence.took(1.0, 5, 0.1, made=False)
    assert run.cadence.taken == 0
    run.step, run.now = 5, 5.0
    assert run.steps(6) == ["10 steps"]


def test_slower_steps_count_when_they_are_slower_beyond_chance() -> None:
    draw = random.Random(1)
    run = Clock(overhead=0.01).cadence
    run.took(0.0, 1, 0.01)
    for _ in range(SAMPLES_LEAST - 1):
        run.stepped(0.1, packing=False)
        run.stepped(0.2, packing=True)
    assert run.cost_s == pytest.approx(0.01)
    for _ in range(30):
        run.stepped(draw.gauss(0.1, 0.01), packing=False)
        run.stepped(draw.gauss(0.2, 0.01), packing=True)
    packed = SAMPLES_LEAST - 1 + 30
    assert run.cost_s == pytest.approx(0.01 + 0.1 * packed, rel=0.05)
    assert run.slowed_s == pytest.approx(0.1 * packed, rel=0.05)
    assert run.spent_s == pytest.approx(run.slowed_s + 0.01)


def test_noise_is_no_price() -> None:
    draw, called = random.Random(2), 0
    for _ in range(200):
        run = Clock().cadence
        run.took(0.0, 1, 0.0)
        for _ in range(60):
            run.stepped(draw.gauss(0.1, 0.05), packing=False)
            run.stepped(draw.gauss(0.1, 0.05), packing=True)
        called += run.cost_s > 0.0
    assert called <= 200 * 0.06


def test_the_mean_and_its_error_are_those_of_the_book() -> None:
    draw, steps = random.Random(3), Steps()
    values = [draw.lognormvariate(0.0, 1.0) for _ in range(500)]
    for value in values:
        steps.add(value)
    assert steps.mean == pytest.approx(statistics.fmean(values))
    assert steps.error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
    assert Steps().error == math.inf
