"""Noop: a real task that learns nothing: waits, reports, makes bytes, and fails on request. For tests and benchmarks.

It costs no cores, so a worker takes it beside anything else. It keeps checkpoints when asked to (`checkpoint_s`), and
so goes on where an earlier attempt was stopped. `fail` lets it end badly in every way that the mesh knows;
`fail_attempts` limits that to the first attempts, counted in its checkpoints (and, for memory, by the port).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from executors import port, room
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.errors import ArtifactCorrupt, OutOfMemory, Retry, TaskRefused
from mesh.messages.tasks import Needs

STEP_S = 0.05
"""Longest wait between two looks at the stop flag."""

PROGRESS_S = 0.5
"""Between two reports."""

_BLOCK_BYTES = 1024 * 1024
_STATE = "noop.json"


class NoopSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the task should do."""

    seconds: float = 0.0
    """How long it lasts, over all attempts that a checkpoint carries (0 to 3,600)."""
    payload_bytes: int = 0
    """Size of the output `payload`; 0 for none. The bytes depend on the task's seed only."""
    checkpoint_s: float = 0.0
    """Seconds between two checkpoints; 0 for none but the one when it is asked to stop."""
    hold_gil_s: float = 0.0
    """How long it first computes in C without ever letting go of the interpreter (0 to 3,600): no thread of the child
    runs meanwhile, so it is silent; `stall_s` of the task has to allow that."""
    fail: str = ""
    """'' or how it ends: 'retry', 'reject', 'memory', 'crash' (the process dies), 'hang' (silent until it is
    killed)."""
    fail_attempts: int = 1_000
    """Only so many attempts fail, the next one succeeds."""
    fail_after_s: float = 0.0
    """How long a failing attempt works first."""

    def __post_init__(self) -> None:
        for name, value, top in (
            ("seconds", self.seconds, 3_600), ("payload_bytes", self.payload_bytes, 4 * 1024**3),
            ("checkpoint_s", self.checkpoint_s, 3_600), ("fail_attempts", self.fail_attempts, 1_000),
            ("fail_after_s", self.fail_after_s, 3_600), ("hold_gil_s", self.hold_gil_s, 3_600),
        ):  # fmt: skip
            if not 0 <= value <= top:
                raise ValueError(f"noop's {name} is 0 to {top}, got {value}")
        if self.fail not in ("", "retry", "reject", "memory", "crash", "hang"):
            raise ValueError(f"noop's fail is '', retry, reject, memory, crash or hang, got {self.fail!r}")


class Noop:
    """The kind `noop`."""

    name: ClassVar[str] = "noop"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.LIGHT
    inputs: ClassVar[port.Inputs | None] = None
    Settings: ClassVar[type[port.Settings]] = NoopSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """No cores, next to no memory."""
        return Needs(cores=0.0, memory_bytes=2 * 1024 * 1024, disk_bytes=1024 * 1024 + 2 * settings.payload_bytes)

    def run(self, job: Job, context: Context) -> Made:
        """Wait, then answer (or fail as the settings say)."""
        return _Run(job, context).run()


class _Run:
    """One attempt."""

    def __init__(self, job: Job, context: Context) -> None:
        self._job, self._context = job, context
        self._settings: NoopSettings = job.settings
        self._number = job.checkpoint_number
        self._elapsed_s, self._attempts = _resumed(job.resume)
        self._attempts += 1
        self._saved_s = self._elapsed_s
        self._reported_s = -PROGRESS_S
        self._saves = 0
        """Requests for a checkpoint that were heard."""

    def run(self) -> Made:
        failing = self._fails()
        if failing and self._settings.fail_attempts < 1_000 and self._settings.fail != "memory":
            self._checkpoint()  # carries the count of attempts to the next one
        _hold_gil(self._settings.hold_gil_s)
        self._wait(self._elapsed_s + self._settings.fail_after_s if failing else self._settings.seconds)
        if failing:
            self._fail()
        outputs = self._payload()
        return Made(
            outputs=outputs,
            media=dict.fromkeys(outputs, "bytes"),
            kpis={"seconds": round(self._elapsed_s, 3), "attempts": float(self._attempts)},
        )

    def _fails(self) -> bool:
        before = self._job.memory_attempts if self._settings.fail == "memory" else self._attempts - 1
        return self._settings.fail != "" and before < self._settings.fail_attempts

    def _wait(self, until_s: float) -> None:
        """Let time pass until `until_s` seconds are spent in all attempts, reporting and listening meanwhile."""
        started = time.monotonic() - self._elapsed_s
        while True:
            self._elapsed_s = max(self._elapsed_s, time.monotonic() - started)
            self._report(until_s)
            if reason := self._context.stop_requested():
                self._checkpoint()
                raise Stopped(reason)
            if self._elapsed_s >= until_s:
                return
            saves, self._saves = self._saves, self._context.saves_requested()
            if self._saves > saves or 0 < self._settings.checkpoint_s <= self._elapsed_s - self._saved_s:
                self._checkpoint()
            time.sleep(min(STEP_S, until_s - self._elapsed_s))

    def _report(self, until_s: float) -> None:
        if self._elapsed_s - self._reported_s >= PROGRESS_S or self._elapsed_s >= until_s:
            self._reported_s = self._elapsed_s
            done = min(1.0, self._elapsed_s / until_s) if until_s > 0 else 1.0
            self._context.progress(int(self._elapsed_s / STEP_S), done, {}, "waiting")

    def _checkpoint(self) -> None:
        self._number += 1
        self._saved_s = self._elapsed_s
        folder = self._job.scratch / f"checkpoint-{self._number}"
        folder.mkdir()
        state = {"elapsed_s": self._elapsed_s, "attempts": self._attempts}
        with (folder / _STATE).open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        step = int(self._elapsed_s / STEP_S)
        self._context.checkpoint(folder, number=self._number, step=step, best=False, trained_s=self._elapsed_s)

    def _fail(self) -> NoReturn:
        how = self._settings.fail
        if how == "retry":
            raise Retry("noop was asked to fail this time")
        if how == "reject":
            raise TaskRefused("noop was asked to fail for good")
        if how == "memory":
            raise OutOfMemory("noop was asked to run out of memory")
        if how == "crash":
            os._exit(66)
        silent_until = time.monotonic() + 3_600.0
        while time.monotonic() < silent_until:
            time.sleep(1.0)
        raise Retry("noop was asked to hang, and nobody killed it within an hour")

    def _payload(self) -> dict[str, Path]:
        if self._settings.payload_bytes == 0:
            return {}
        step = int(self._elapsed_s / STEP_S)
        return {"payload": room.written(self._context, self._job.scratch / "payload", self._write, step=step)}

    def _write(self, path: Path) -> Path:
        import random

        source, left = random.Random(self._job.seed), self._settings.payload_bytes
        with path.open("wb") as file:
            while left > 0:
                file.write(source.randbytes(min(left, _BLOCK_BYTES)))
                left -= _BLOCK_BYTES
        return path


def _hold_gil(seconds: float) -> None:
    """Compute for so long in a few calls, none of which lets another thread run before it returns."""
    ends_at, count, took_s = time.monotonic() + seconds, 1_000_000, 0.0
    while (left_s := ends_at - time.monotonic()) > 0:
        count = max(1_000_000, int(count * left_s / took_s)) if took_s else count
        began = time.monotonic()
        sum(itertools.repeat(1, count))
        took_s = max(1e-6, time.monotonic() - began)


def _resumed(folder: Path | None) -> tuple[float, int]:
    """(seconds spent, attempts made) of the checkpoint to go on from. ArtifactCorrupt when it is none of noop's."""
    if folder is None:
        return 0.0, 0
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return float(state["elapsed_s"]), int(state["attempts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactCorrupt(f"the checkpoint is none of noop's: {str(error)[:160]}", resume=True) from None
