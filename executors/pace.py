"""How long steps take: since the last plan, lately, and over the whole process. The clock is the caller's; the first
two steps of a process are slow and do not count."""

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
        self.batch_s = 0.0
        """Seconds of a step lately, with the wait for its batch."""

    def stepped(self, seconds: float, waited: float, targets: int) -> bool:
        """A step took so long after waiting so long for its batch; whether it counts."""
        self.targets += targets
        if self._skip:
            self._skip -= 1
            return False
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds + waited
        self._all_seconds, self._all_waited = self._all_seconds + seconds + waited, self._all_waited + waited
        self._all_targets += targets
        lately = self.batch_s or seconds + waited
        self.batch_s = SMOOTH * (seconds + waited) + (1 - SMOOTH) * lately
        return True

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
