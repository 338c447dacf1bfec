"""Learning rates as pure functions of the step, and how long a run may be.

    1 |     _________
      |    /         `-._             rises over `warmup` steps, then goes to FLOOR at `end` in the schedule's shape
      |   /              `-._         (here a line); when the end moves (the machine is slower than thought), the
    0 |__/___________________`-.__    shape is aimed anew from where it stands: the last steps run at a small rate
         warmup              end

    constant   stays at the peak
    linear     a straight line
    cosine     half a cosine (Loshchilov and Hutter, 2016)
    wsd        warm-up, stable, decay: stays at the peak, and falls in a straight line over the last DECAY of the run
               (Hu et al., 2024)

A run is planned in steps. How many fit into the time is measured during the warm-up, whose rate does not depend on the
plan; the plan then is part of the state, so a resumed run follows the same line.
"""

from __future__ import annotations

import math

import msgspec

SHAPES = ("constant", "linear", "cosine", "wsd")

FLOOR = 0.02
"""Share of the peak rate at the end: steps below it cost time and move nothing."""

DECAY = 0.2
"""Share of a `wsd` run in which the rate falls: shorter ones end at a worse loss, longer ones spend steps on small
rates."""

HEADROOM = 0.95
"""Share of the remaining time that is planned: the last validation and checkpoint need the rest."""

SLIP = 1.1
"""A plan that would overrun its time by less is left alone: a line that is aimed anew at every flutter never
repeats."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """The way from (anchor_step, anchor) to (end, FLOOR), after the warm-up."""

    warmup: int
    end: int
    anchor_step: int = 0
    anchor: float = 1.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"a schedule is one of {', '.join(SHAPES)}, got {self.shape!r}")

    def factor(self, step: int) -> float:
        """Share of the peak learning rate for the step that follows `step` finished ones."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return self.anchor
        begin = self.anchor_step
        if self.shape == "wsd":
            begin = max(begin, self.end - max(1, round((self.end - self.warmup) * DECAY)))
            if step <= begin < self.end:
                return self.anchor
        span = self.end - begin
        if span <= 0:
            return FLOOR
        if self.shape == "cosine":
            done = min(1.0, (step - begin) / span)
            return FLOOR + (self.anchor - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * done))
        return max(FLOOR, self.anchor * (self.end - step) / span)

    def aimed(self, step: int, end: int) -> Schedule:
        """The same rate at `step`, but the way ends at `end`."""
        return msgspec.structs.replace(self, end=max(end, step), anchor_step=step, anchor=self.factor(step))


def first(steps: int, warmup: int, shape: str = "linear") -> Schedule:
    """The schedule for a run of `steps` steps; a warm-up takes at most a tenth of them."""
    warmup = min(warmup, max(1, steps // 10))
    return Schedule(warmup=warmup, end=steps, anchor_step=warmup, shape=shape)


def affordable(step: int, left_s: float, seconds_per_step: float) -> int:
    """The step at which the time is used up."""
    if seconds_per_step <= 0:
        return 2**62
    return step + int(max(0.0, left_s) * HEADROOM / seconds_per_step)


def replanned(schedule: Schedule, step: int, left_s: float, seconds_per_step: float) -> Schedule:
    """`schedule`, or one that ends in time when this one would clearly not."""
    reach = affordable(step, left_s, seconds_per_step)
    if step < schedule.warmup or (schedule.end - step) <= (reach - step) * SLIP:
        return schedule
    return schedule.aimed(step, reach)
