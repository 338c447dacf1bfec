"""Running a kind inside the test's own process: a job, and a context that remembers what it was told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from executors.port import Allotment, Job, Kind, Made, Taken


class Unpacked:
    """The part of a context that hands over snapshots, where nobody packs them."""

    packs = False

    def snapshot(self, taken: Taken) -> None:
        """Nobody is there to take it."""
        raise AssertionError("a snapshot was handed over although nobody packs")

    def released(self, number: int, wait_s: float = 0.0) -> bool:
        """Nothing is ever taken."""
        return True

    def lacked_room(self, number: int) -> bool:
        """There is room."""
        return False

    def saves_requested(self) -> int:
        """Nobody asks."""
        return 0


class Recorder(Unpacked):
    """A context. `stop` says when to ask the kind to stop; checkpoints are kept below `kept`."""

    def __init__(self, kept: Path, stop: Callable[[int], str] = lambda polls: "") -> None:
        self.kept, self._stop = kept, stop
        self.reports: list[tuple[int, float, dict[str, float], str]] = []
        self.checkpoints: list[tuple[Path, int, int, bool, float]] = []
        self.lines: list[str] = []
        self.polls = 0
        kept.mkdir(parents=True, exist_ok=True)

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """Remember the report."""
        self.reports.append((step, done, dict(metrics), phase))

    def checkpoint(self, folder: Path, *, number: int, step: int, best: bool, trained_s: float) -> None:
        """Take the folder over, as the worker does."""
        target = self.kept / folder.name
        shutil.move(folder, target)
        self.checkpoints.append((target, number, step, best, trained_s))

    def stop_requested(self) -> str:
        """What `stop` says about this many polls."""
        self.polls += 1
        return self._stop(self.polls)

    def log(self, text: str) -> None:
        """Remember the line."""
        self.lines.append(text)


class PackingRecorder(Recorder):
    """A context behind which a packer works: it reads each snapshot out of the buffer, as another process does, into a
    folder below `kept`, and releases it. slow: only when the test calls `pack`."""

    packs = True

    def __init__(self, kept: Path, stop: Callable[[int], str] = lambda polls: "", *, slow: bool = False) -> None:
        super().__init__(kept, stop)
        self.slow = slow
        self.taken: list[Taken] = []
        self.released_up_to = 0
        self.saves = 0

    def snapshot(self, taken: Taken) -> None:
        """Take it over."""
        self.taken.append(taken)
        if not self.slow:
            self.pack()

    def pack(self) -> None:
        """Read the newest snapshot and release it."""
        taken = self.taken[-1]
        folder = self.kept / f"{taken.number:06d}"
        folder.mkdir()
        with Path(taken.buffer).open("rb") as buffer:
            for name, offset, size in taken.files:
                buffer.seek(offset)
                (folder / name).write_bytes(buffer.read(size))
        self.checkpoints.append((folder, taken.number, taken.step, taken.best, taken.trained_s))
        self.released_up_to = taken.number

    def released(self, number: int, wait_s: float = 0.0) -> bool:
        """Whether it was packed; never waits."""
        return self.released_up_to >= number

    def saves_requested(self) -> int:
        """What the test says."""
        return self.saves


def job_for(kind: Kind, inputs: Mapping[str, Path], scratch: Path, settings: Mapping[str, Any], **changes: Any) -> Job:
    """A job of `kind` on one core; settings as they come over the wire."""
    scratch.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "task": f"test-{kind.name}",
        "kind": kind.name,
        "settings": msgspec.convert(dict(settings), kind.Settings),
        "inputs": {name: str(path) for name, path in inputs.items()},
        "scratch": scratch,
        "allotment": Allotment(cores=1.0, memory_bytes=4 << 30),
        "budget_s": 600.0,
        "trained_s": 0.0,
        "resume": None,
        "checkpoint_number": 0,
        "memory_attempts": 0,
        "seed": 7,
    }
    return Job(**{**values, **changes})


def made_by(
    kind: Kind, inputs: Mapping[str, Path], folder: Path, settings: Mapping[str, Any] | None = None, **changes: Any
) -> Made:
    """Run `kind` below `folder`."""
    job = job_for(kind, inputs, folder / "scratch", settings or {}, **changes)
    return kind.run(job, Recorder(folder / "kept"))
