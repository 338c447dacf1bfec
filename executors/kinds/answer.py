"""Answer: what a model says to a few texts; the work behind `bin/agent ask`.

In:    `model` (one that names labels, a language model, or a tree of either); `base`, where it is an adapter
Out:   nothing but facts: of each text the likeliest labels with their probabilities, or how it goes on; and the models
       that answered, with their shares, where there are several
How:   executors/models/asking.py; the same settings give the same answers
Not:   for whole data sets: `evaluate` asks those
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from executors.questions import AnswerSettings
from mesh.messages.tasks import Needs

MIB = 1024 * 1024


class Answer:
    """The kind `answer`."""

    name: ClassVar[str] = "answer"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("model",), ("base",))
    Settings: ClassVar[type[port.Settings]] = AnswerSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """One core; memory for torch and the model. facts: `input_bytes`, by input."""
        given = facts.get("input_bytes") or {}
        model = sum(int(given.get(name, 0)) for name in ("model", "base")) or 64 * MIB
        return Needs(cores=1.0, memory_bytes=512 * MIB + 2 * model, disk_bytes=64 * MIB + model)

    def run(self, job: Job, context: Context) -> Made:
        """Load, ask, tell."""
        from executors import device as devices
        from executors.models import asking
        from executors.models.loading import load_model

        def tick() -> None:
            if why := context.stop_requested():
                raise Stopped(f"stopped while answering as asked: {why}")
            context.progress(0, 0.5, {}, "answering")

        place = devices.choose(job.allotment)
        base = job.inputs.get("base")
        model = load_model(Path(job.inputs["model"]), Path(base) if base else None, job.scratch)
        with devices.memory_translated("answering"):
            model.to(place.torch)
            told = asking.answers(model, job.settings, place.torch, tick)
        facts = {**told, "device": place.name, "reason": place.reason}
        return Made(facts=facts, kpis={"answers": float(len(job.settings.texts))})
