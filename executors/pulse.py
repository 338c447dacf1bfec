"""Signs of life from a thread while a library computes and reports nothing (it releases the interpreter).

A call that never ends is bounded by the task's wall time, not by its silence.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from executors.port import Context, Stopped

PULSE_S = 1.0
"""Seconds between two signs of life."""


class Fitted(Protocol):
    """What is told of a fitted model."""

    @property
    def accuracy(self) -> float:
        """On validation."""

    @property
    def loss(self) -> float:
        """On validation, in nats."""


class Pulse:
    """Repeats the last report until it is left. `with Pulse(context, "fitting") as pulse: …`"""

    def __init__(self, context: Context, phase: str, *, step: int = 0, done: float = 0.0) -> None:
        """step, done: what is reported until the first `report`."""
        self._context, self._phase, self._over = context, phase, threading.Event()
        self._last: tuple[int, float, Mapping[str, float]] = (step, done, {})
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=5.0)

    def report(self, step: int, done: float, metrics: Mapping[str, float]) -> None:
        """Something was finished; what is said until the next report."""
        self._last = (step, done, metrics)
        self._context.progress(*self._last, self._phase)

    def fitted(self, number: int, of: int, best: Fitted) -> None:
        """One more model was fitted; what `linear.search` calls."""
        metrics = {"validation_accuracy": best.accuracy, "validation_loss": best.loss}
        self.report(number, number / of, metrics)
        self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Stopped when the task is to end; what was computed so far is given up."""
        if why := self._context.stop_requested():
            raise Stopped(f"stopped while {self._phase} as asked: {why}")

    def _beat(self) -> None:
        while not self._over.wait(PULSE_S):
            self._context.progress(*self._last, self._phase)
