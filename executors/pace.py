"""How long steps take: since the last plan, lately, and over the whole process. The clocks are the caller's; the first
two steps of a process are slow and do not count.

What a step costs all in all (`step_s`, `step_cpu_s`) is what passed from the end of those two to the end of the last
one, divided by the steps between: with everything that the process did meanwhile, checkpoints, validation and reports
included.
"""

from __future__ import annotations

SMOOTH = 0.1
"""Weight of the newest step in what is reported as the time of a step: some ten steps, no more than a bar shows."""


class Pace:
    """The steps of one process."""

    def __init__(self) -> None:
        self._skip = 2
        self._steps, self._seconds = 0, 0.0
        self._all_seconds, self._all_targets, self._all_waited = 0.0, 0, 0.0
        self.targets = 0
        """Predictions learnt from, the first steps too."""
        self._counted = 0
        self._from = self._upto = (0.0, 0.0)
        self.batch_s = 0.0
        """Seconds of a step lately, with the wait for its batch."""

    def stepped(self, seconds: float, waited: float, targets: int) -> bool:
        """A step took so long after waiting so long for its batch; whether it counts."""
        self.targets += targets
        if self._skip:
            self._skip -= 1
            return False
        self._counted += 1
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds + waited
        self._all_seconds, self._all_waited = self._all_seconds + seconds + waited, self._all_waited + waited
        self._all_targets += targets
        lately = self.batch_s or seconds + waited
        self.batch_s = SMOOTH * (seconds + waited) + (1 - SMOOTH) * lately
        return True

    @property
    def warm(self) -> bool:
        """True when the steps that do not count are over, and none that counts was taken."""
        return self._skip == 0 and self._counted == 0

    def begin(self, now: float, cpu_s: float) -> None:
        """What steps cost counts from here. cpu_s: processor seconds of this process so far."""
        self._from = self._upto = now, cpu_s

    def end(self, now: float, cpu_s: float) -> None:
        """It counts to here."""
        self._upto = now, cpu_s

    @property
    def step_s(self) -> float:
        """Seconds that a step costs; 0 before three were taken."""
        return (self._upto[0] - self._from[0]) / self._counted if self._counted else 0.0

    @property
    def step_cpu_s(self) -> float:
        """Processor seconds of the process that a step costs."""
        return (self._upto[1] - self._from[1]) / self._counted if self._counted else 0.0

    def renew(self) -> None:
        """Start the window of the plan anew."""
        self._steps, self._seconds = 0, 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """None until enough steps were seen."""
        return self._seconds / self._steps if self._steps >= 3 else None

    @property
    def targets_per_s(self) -> float:
        """Predictions learnt from per second, over the whole process, steps only."""
        return self._all_targets / self._all_seconds if self._all_seconds > 0 else 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the steps' time in which the loop waited for a batch: near 0 when loading is hidden."""
        return self._all_waited / self._all_seconds if self._all_seconds > 0 else 0.0
