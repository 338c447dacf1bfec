"""How much memory a task takes in a real child, beside what its kind said it would: for tests that hold kinds to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from executors import kinds
from executors.frames import Finished, Frame, Snapshotted, Start
from executors.isolation import Bounds, Child
from executors.port import Runtime

UNBOUNDED = Bounds(wall_s=120.0, stall_s=60.0, memory_bytes=1 << 40)


@dataclasses.dataclass(frozen=True, slots=True)
class Footprint:
    """What was said and what was seen, in bytes."""

    estimate: int
    peak: int
    """Most resident memory of the child at once, the interpreter and its libraries included."""
    snapshots: int
    """Checkpoints that were taken meanwhile."""

    @property
    def share(self) -> float:
        """Of the estimate."""
        return self.peak / self.estimate


def footprint(
    kind: str, settings: Mapping[str, Any], inputs: Mapping[str, Path | str], facts: Mapping[str, Any], folder: Path,
    *, budget_s: float = 60.0,
) -> Footprint:  # fmt: skip
    """Run one task of a kind to its end, as a worker would, and look at its memory. facts: the profile's."""
    return asyncio.run(_footprint(kind, settings, inputs, facts, folder, budget_s))


async def _footprint(
    kind: str, settings: Mapping[str, Any], inputs: Mapping[str, Path | str], facts: Mapping[str, Any], folder: Path,
    budget_s: float,
) -> Footprint:  # fmt: skip
    info = kinds.kind_infos()[kind]
    declared = kinds.declared(info)
    estimate = declared.needs(msgspec.convert(dict(settings), declared.Settings), facts).memory_bytes
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    child = await Child.start(info.runtime, folder=folder, threads=1, say=lambda line: None)
    seen: list[Snapshotted] = []

    def hear(frame: Frame) -> None:
        if isinstance(frame, Snapshotted):
            seen.append(frame)
            child.release(frame.run, frame.number)

    try:
        start = Start(
            run=1, task="measured", kind=kind, kind_version=info.version, settings=dict(settings),
            inputs={name: str(path) for name, path in inputs.items()}, scratch=str(scratch), cores=1.0,
            memory_bytes=estimate, budget_s=budget_s, packs=info.runtime is Runtime.TORCH,
        )  # fmt: skip
        ended = await child.run(start, UNBOUNDED, hear)
        assert isinstance(ended, Finished)
        return Footprint(estimate, high_water(child.pid), len(seen))
    finally:
        await child.close()


def high_water(pid: int) -> int:
    """The most resident bytes that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
