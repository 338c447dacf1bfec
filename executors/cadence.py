"""When a training takes a checkpoint: what asks for one, what one costs, and how often that is affordable.

    every N steps ┐
    every T s     │             no buffer free, or too soon for the budget
    a better one  ├─> due ──────────────> stays due (counted once for each time that something asked)
    on request    ┘   '── free and affordable ──> taken: the newest state, at the next step that may

What a checkpoint costs is measured: the seconds for which the loop stood still, and the seconds by which its steps were
slower while another process packed the last one, if they were slower beyond chance. The next one is affordable when all
of them, with it, are at most that share of the time since the run began; what was spent too early, before its price was
known, is paid back. A request and the last one of a run do not wait for that, and nothing waits longer than LATEST_S:
time lost with the machine counts, too. Making the memory, once, and waiting for the last one to be taken over are told
apart. What takes longer than the next one needs makes way: nothing is ever waited for.

Pure: the clock is the caller's. Not covered: that packing slows other tasks of the machine.
"""

from __future__ import annotations

import math

BEST_GAP_S = 5.0
"""Least time between two checkpoints made only because the network got better: early on every validation is better."""

OVERHEAD = 0.01
"""Share of a run's time for checkpoints, unless the task says otherwise."""

LATEST_S = 900.0
"""A checkpoint that is due is taken after so long whatever it costs: nobody wants to lose hours to save a percent."""

SAMPLES_LEAST = 20
"""Steps of each sort before their means are compared."""

SURE = 2.0
"""Standard errors by which steps must be slower to be called so: one time in forty by chance."""

SMOOTH = 0.5
"""Weight of the newest measurement in what a snapshot is expected to take."""

ASKED, BEST, STEPS, TIME = "asked", "best", "steps", "time"


class Cadence:
    """The checkpoints of one attempt."""

    def __init__(self, *, every_steps: int, every_s: float, overhead: float, now: float, step: int) -> None:
        """every_steps: 0 for by time only; overhead: a share above 0, 1 for no bound; step: the one that is saved."""
        self.skipped = 0
        """Times that one was due while no buffer was free."""
        self.postponed = 0
        """Times that one was due before it was affordable."""
        self.taken = 0
        self.stopped_s = 0.0
        """Seconds for which the loop stood still for snapshots."""
        self.once_s = 0.0
        """Seconds for what comes once: making the memory, waiting at the end."""
        self.slowed_s = 0.0
        """Seconds by which its steps were slower meanwhile, as far as that is certain."""
        self._every_steps, self._every_s, self._overhead = every_steps, every_s, overhead
        self._due = ""
        self._began = self._taken_at = self._fired_at = now
        self._step = step
        self._copy_s = 0.0
        self._quiet, self._packing = Steps(), Steps()
        self._packing_steps = 0

    @property
    def cost_s(self) -> float:
        """What one checkpoint costs the loop."""
        per_checkpoint = self._packing_steps / self.taken if self.taken else 0.0
        return self._copy_s + self._slower_s * per_checkpoint

    @property
    def spent_s(self) -> float:
        """What all of them have cost the loop so far."""
        return self.stopped_s + self.slowed_s

    def affordable(self, now: float) -> bool:
        """True when one more stays within the share."""
        if self._overhead >= 1.0 or not self.taken or now - self._taken_at >= LATEST_S:
            return True
        return (now - self._began) * self._overhead >= self.spent_s + self.cost_s

    def stepped(self, seconds: float, *, packing: bool) -> None:
        """A step took so long; packing: another process was at the last snapshot meanwhile."""
        (self._packing if packing else self._quiet).add(seconds)
        self._packing_steps += packing
        self.slowed_s = self._slower_s * self._packing_steps

    def why_now(self, now: float, step: int, *, improved: bool, asked: bool, free: bool) -> str:
        """Why a checkpoint is to be taken after `step`, or ''. improved: this very step's network is the best."""
        fired = self._fired(now, step, improved, asked)
        if fired:
            self._fired_at = now
            self._due = ASKED if ASKED in (fired, self._due) else self._due or fired
        if not self._due:
            return ""
        if free and (self._due == ASKED or self.affordable(now)):
            return self._due
        if fired:
            self.skipped += not free
            self.postponed += free
        return ""

    def took(self, now: float, step: int, seconds: float, *, once: bool = False, made: bool = True) -> None:
        """A checkpoint was taken, the loop stood still for `seconds`. once: for something that does not come again;
        made: False when there was no room for it."""
        self.taken += made
        self._taken_at = self._fired_at = now
        self._step, self._due = step, ""
        if once:
            self.once_s += seconds
        else:
            self.stopped_s += seconds
            self._copy_s = SMOOTH * seconds + (1 - SMOOTH) * (self._copy_s or seconds)

    def _fired(self, now: float, step: int, improved: bool, asked: bool) -> str:
        """What asks for a checkpoint at this step, if something does."""
        if asked:
            return ASKED
        if step == self._step or step == 0:
            return ""
        if self._every_steps and step % self._every_steps == 0:
            return STEPS
        if now - self._fired_at >= self._every_s:
            return TIME
        return BEST if improved and now - self._taken_at >= BEST_GAP_S else ""

    @property
    def _slower_s(self) -> float:
        """By how much a step is slower while another process packs; 0 where that may be chance."""
        quiet, packing = self._quiet, self._packing
        if min(quiet.count, packing.count) < SAMPLES_LEAST:
            return 0.0
        slower = packing.mean - quiet.mean
        return slower if slower > SURE * math.hypot(quiet.error, packing.error) else 0.0


class Steps:
    """Mean and its standard error, one value at a time (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self._squares += before * (value - self.mean)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else math.inf
