"""Learning rates as pure functions of the step, and how long a run may be.

    1 |     _________
      |    /         `-._             rises over `warmup` steps, falls in a straight line to FLOOR at `end`;
      |   /              `-._         when the end moves (the machine is slower than thought), the line is aimed anew
    0 |__/___________________`-.__    from where it stands, so the last steps always run at a small rate
         warmup              end

A run is planned in steps. How many fit into the time is measured during the warm-up, whose rate does not depend on the
plan; the plan then is part of the state, so a resumed run follows the same line.
"""

from __future__ import annotations

import msgspec

FLOOR = 0.02
"""Share of the peak rate at the end: steps below it cost time and move nothing."""

HEADROOM = 0.95
"""Share of the remaining time that is planned: the last validation and checkpoint need the rest."""

SLIP = 1.1
"""A plan that would overrun its time by less is left alone: a line that is aimed anew at every flutter never
repeats."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A straight line from (anchor_step, anchor) to (end, FLOOR), after the warm-up."""

    warmup: int
    end: int
    anchor_step: int = 0
    anchor: float = 1.0

    def factor(self, step: int) -> float:
        """Share of the peak learning rate for the step that follows `step` finished ones."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        span = self.end - self.anchor_step
        if span <= 0:
            return FLOOR
        return max(FLOOR, self.anchor * (self.end - step) / span)

    def aimed(self, step: int, end: int) -> Schedule:
        """The same rate at `step`, but the line ends at `end`."""
        return Schedule(warmup=self.warmup, end=max(end, step), anchor_step=step, anchor=self.factor(step))


def first(steps: int, warmup: int) -> Schedule:
    """The line for a run of `steps` steps; a warm-up takes at most a tenth of them."""
    warmup = min(warmup, max(1, steps // 10))
    return Schedule(warmup=warmup, end=steps, anchor_step=warmup)


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
