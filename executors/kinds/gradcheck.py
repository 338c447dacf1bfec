"""Gradcheck: compares a training kind's gradients with numerical ones, in float64, on the CPU.

In:    nothing; the kind that is checked brings a tiny instance of its own network, loss and data
Out:   `report`, a JSON file: per parameter tensor what was looked at, and the worst offenders
How:   executors/gradients.py
Not:   says nothing about speed, half precision or another device; wrong gradients are a result, not a failure
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.messages.tasks import Needs

MIB = 1024 * 1024


class GradcheckSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to check, and how closely."""

    kind: str = "classify"
    """The kind to check."""
    threshold: float = 1e-3
    """Largest relative error of a right gradient (1e-9 to 1)."""
    entries: int = 32
    """Numbers of each parameter tensor that are looked at (1 to 100,000)."""

    def __post_init__(self) -> None:
        if not 0 < len(self.kind) <= 80:
            raise ValueError(f"kind is the name of an executor kind, got {self.kind[:80]!r}")
        if not 1e-9 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be 1e-9 to 1, got {self.threshold}")
        if not 1 <= self.entries <= 100_000:
            raise ValueError(f"entries must be 1 to 100000, got {self.entries}")


class Gradcheck:
    """The kind `gradcheck`."""

    name: ClassVar[str] = "gradcheck"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(())
    Settings: ClassVar[type[port.Settings]] = GradcheckSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch and the libraries of the kind, for the instance is tiny."""
        return Needs(cores=1.0, memory_bytes=900 * MIB, disk_bytes=4 * MIB)

    def run(self, job: Job, context: Context) -> Made:
        """Check, report."""
        from executors import gradients

        looked_at = 0

        def tick() -> None:
            nonlocal looked_at
            looked_at += 1
            if why := context.stop_requested():
                raise Stopped(f"stopped as asked: {why}")
            context.progress(looked_at, 0.0, {}, "checking")

        found = gradients.check_kind(
            job.settings.kind, threshold=job.settings.threshold, entries=job.settings.entries, tick=tick
        )
        report = job.scratch / "report.json"
        report.write_text(json.dumps(found.document(), indent=1) + "\n", encoding="utf-8")
        return Made(
            outputs={"report": report},
            media={"report": "json"},
            kpis={"relative_error": found.relative, "tensors": float(len(found.tensors))},
            facts={"checked": found.kind, "ok": found.ok, "tensors": len(found.tensors)},
        )
