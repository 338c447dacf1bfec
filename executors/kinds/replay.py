"""Replay: trains a segment of somebody's training again and says whether it comes to the same weights.

In:    the inputs of the task whose training is in question; `checkpoint-1` … `checkpoint-3`, recorded ones of it;
       `model` (optional), what it gave
Out:   `report`, a JSON file: each segment that was trained again, with its distance
How:   executors/replaying.py; settings and seed are those of the task as the mesh knows it, never the worker's word
Not:   knows no other way to cheat than other steps than the task's: data that a worker was given and chose not to use
       show as other steps, a dataset that was wrong for all does not
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from executors import kinds, port
from executors.port import Context, Job, Made, Runtime
from mesh.errors import TaskRefused
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

CHECKPOINTS = ("checkpoint-1", "checkpoint-2", "checkpoint-3")
"""Recorded states of it. The mesh keeps the last two of an ended training."""


class ReplaySettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose training, and how much of it."""

    kind: str
    """The kind that trained."""
    settings: dict[str, Any] = {}  # noqa: RUF012
    """The task's."""
    task: str
    """Its id, from which every generator started."""
    draw: str = ""
    """Decides which segment is trained again beside the one that went furthest."""
    steps: int = 0
    """Steps of the whole training, as its result says; 0: unknown."""
    steps_max: int = 600
    """Longest segment that is trained again, or beginning of one: rounding grows with it, and so does the price."""

    def __post_init__(self) -> None:
        if not self.kind or not self.task:
            raise ValueError("kind and task say whose training it is")
        if self.kind in ("replay", "search-step"):
            raise ValueError(f"the training of {self.kind!r} can not be replayed by itself")
        if not 1 <= self.steps_max <= 1_000_000 or self.steps < 0:
            raise ValueError(f"steps_max must be 1 to 1000000, got {self.steps_max}")


class Replay:
    """The kind `replay`."""

    name: ClassVar[str] = "replay"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = None
    Settings: ClassVar[type[port.Settings]] = ReplaySettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """What the training takes, and two states of it besides."""
        kind = kinds.declared(kinds.kind_infos()[settings.kind])
        needs = kind.needs(msgspec.convert(settings.settings, kind.Settings), facts)
        given = facts.get("input_bytes") or {}
        states = sum(int(given.get(name, 0)) for name in CHECKPOINTS)
        return msgspec.structs.replace(needs, memory_bytes=needs.memory_bytes + 2 * states)

    def run(self, job: Job, context: Context) -> Made:
        """Train again, compare, report."""
        from executors import replaying

        kind = kinds.load(job.settings.kind)
        states = {name: path for name, path in job.inputs.items() if name in CHECKPOINTS}
        inputs = {name: path for name, path in job.inputs.items() if name not in (*CHECKPOINTS, "model")}
        kinds.check_inputs(kind, inputs)
        if not states:
            raise TaskRefused("a replay needs at least one checkpoint of the training: `checkpoint-1`")
        found = replaying.replayed(job, context, kind, inputs, states)
        report = job.scratch / "report.json"
        report.write_text(json.dumps(found.document(), indent=1) + "\n", encoding="utf-8")
        return Made(
            outputs={"report": report},
            media={"report": "json"},
            kpis={"distance": found.distance, "segments": float(len(found.segments))},
            facts={**found.document(), "replayed": job.settings.task},
        )
