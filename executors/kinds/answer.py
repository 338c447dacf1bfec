"""Answer: what a model says to a few texts; the work behind `bin/agent ask`.

In:    `model` (one that names labels, a language model, or a tree of either); `base`, where it is an adapter
Out:   nothing but facts: of each text the likeliest labels with their probabilities, or how it goes on; and the models
       that answered, with their shares, where there are several
How:   executors/models/asking.py; the same settings give the same answers
Not:   for whole data sets: `evaluate` asks those
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from executors import port
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

TEXTS_MAX = 64
"""Texts of one task."""

TEXTS_BYTES_MAX = 48 * 1024
"""All of them as UTF-8: they travel in the task's own record, beside which there has to be room for everything else."""

TOP_MAX = 50
TOKENS_MAX = 1_024
"""Tokens that follow one text; with a tree each one is computed by several models."""

TEMPERATURE_MAX = 10.0


class AnswerSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked."""

    texts: tuple[str, ...] = ("",)
    """For models that read tables each one is a row: its numbers in the order of the columns, with commas or blanks, or
    a JSON map from columns to numbers."""
    top: int = 5
    """Labels told of each text, the likeliest first."""
    tokens: int = 64
    """Of language models: at most so many tokens follow each text."""
    temperature: float = 0.8
    """Of language models: 0 takes the likeliest token each time, more is more daring."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= TEXTS_MAX:
            raise ValueError(f"texts are 1 to {TEXTS_MAX}, got {len(self.texts)}")
        size = sum(len(text.encode("utf-8", "replace")) for text in self.texts)
        if size > TEXTS_BYTES_MAX:
            raise ValueError(f"texts have at most {TEXTS_BYTES_MAX} bytes together, got {size}")
        if not 1 <= self.top <= TOP_MAX or not 1 <= self.tokens <= TOKENS_MAX:
            raise ValueError(f"top is 1 to {TOP_MAX}, tokens 1 to {TOKENS_MAX}, got {self.top} and {self.tokens}")
        if not 0 <= self.temperature <= TEMPERATURE_MAX or math.isnan(self.temperature):
            raise ValueError(f"temperature is 0 to {TEMPERATURE_MAX:g}, got {self.temperature}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 on, got {self.seed}")


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
