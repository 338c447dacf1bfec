"""What a training says of its steps, as this worker's metrics: the newest report of each executor kind, and totals.

Counters rise by what a task did since its report before; steps that it resumed from are not counted again. Values are
a child's words: what is no finite number, or falls, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mesh import metrics


class Reported:
    """The reports of one attempt of a task."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._steps: int | None = None
        self._examples: float | None = 0.0

    def note(self, step: int, said: Mapping[str, float]) -> None:
        """One more report. Only of a training: one that names its learning rate."""
        if "learning_rate" not in said:
            return
        found = {name: value for name, value in said.items() if math.isfinite(value)}
        self._show(found)
        metrics.count("mesh_training_steps_total", risen(self._steps, step), kind=self._kind)
        metrics.count("mesh_training_examples_total", risen(self._examples, found.get("examples")), kind=self._kind)
        self._steps, self._examples = step, found.get("examples", self._examples)

    def _show(self, found: Mapping[str, float]) -> None:
        kind = self._kind
        if "loss" in found:
            metrics.set("mesh_training_loss", found["loss"], kind=kind)
        if "grad_norm" in found:
            metrics.set("mesh_training_gradient_norm", found["grad_norm"], kind=kind)
        if "learning_rate" in found:
            metrics.set("mesh_training_learning_rate", found["learning_rate"], kind=kind)
        if "batch_s" in found:
            metrics.set("mesh_training_batch_seconds", found["batch_s"], kind=kind)
        if "waiting_share" in found:
            metrics.set("mesh_training_waiting_ratio", found["waiting_share"], kind=kind)
        if "examples_per_s" in found:
            metrics.set("mesh_training_examples_per_second", found["examples_per_s"], kind=kind)
        if "memory_peak_bytes" in found:
            metrics.set("mesh_training_memory_peak_bytes", found["memory_peak_bytes"], kind=kind)


def risen(before: float | None, now: float | None) -> float:
    """By how much a total rose since the report before; nothing when it fell, or when there was none."""
    return 0.0 if before is None or now is None else max(0.0, now - before)
