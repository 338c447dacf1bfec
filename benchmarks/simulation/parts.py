"""Stand-ins for what a simulated worker would find on its machine: a disk and child processes.

    DiskOutbox   the outbox's promises (mesh/outbox.py) without SQLite: what is recorded outlives the process
    Child, Pool  a child takes virtual seconds, checkpoints, fails, falls silent or takes its worker along

The artifact store has its own stand-in, store.py. A test holds DiskOutbox to the real one, operation by operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from benchmarks.simulation.process import Process
from benchmarks.simulation.store import Cache
from benchmarks.simulation.trace import Trace
from executors.frames import Checkpointed, Finished, Frame, Halted, KindRow, Progressed, Ready, Start
from executors.isolation import Bounds
from executors.port import Runtime
from mesh.errors import ChildBroke, OutOfMemory, Reject
from mesh.messages.base import Key
from mesh.messages.leases import Receipt
from mesh.outbox import Row

KIND = "noop"


@dataclasses.dataclass(slots=True)
class Disk:
    """What an outbox and a cache keep: it outlives the processes that use them."""

    pending: OrderedDict[Key, Row] = dataclasses.field(default_factory=OrderedDict)
    kept: OrderedDict[Key, Row] = dataclasses.field(default_factory=OrderedDict)
    refused: dict[Key, tuple[Row, str]] = dataclasses.field(default_factory=dict)
    cache: Cache = dataclasses.field(default_factory=dict)
    """Artifacts."""
    emptied: set[str] = dataclasses.field(default_factory=set)
    """Artifacts that were in the cache when somebody emptied it."""
    taken: int = 0
    """Rows ever taken; a row's number stands where the real one has its date."""


class DiskOutbox:
    """`mesh.outbox.Outbox` on a Disk. Every call is done or not done, never half."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def record(self, key: Key, subject: str, data: bytes) -> bool:
        """Take a row; False: a row of this key is here already."""
        return self.record_all([(key, subject, data)]) == 1

    def record_all(self, rows: Sequence[tuple[Key, str, bytes]]) -> int:
        """Take rows in order; how many were new."""
        before = len(self._disk.pending)
        for key, subject, data in rows:
            if key not in self._disk.kept and key not in self._disk.pending:
                self._disk.taken += 1
                self._disk.pending[key] = Row(key, subject, data, float(self._disk.taken))
        return len(self._disk.pending) - before

    def pending(self, limit: int = 1_000) -> list[Row]:
        """Rows without a receipt, in order."""
        return list(self._disk.pending.values())[:limit]

    def settle(self, *receipts: Receipt) -> int:
        """Let rows go as the receipts say; how many were pending."""
        count = 0
        for receipt in receipts:
            row = self._disk.pending.pop(receipt.key, None)
            if row is None:
                continue
            count += 1
            if receipt.recorded:
                self._disk.kept[receipt.key] = row
            else:
                self._disk.refused[receipt.key] = (row, receipt.reason)
        return count

    def reopen(self, keys: tuple[Key, ...] | None = None, *, besides: Collection[str] = ()) -> int:
        """Owe receipted rows once more: those of `keys`, or all but those of these tasks; how many."""
        disk = self._disk
        again = [key for key in disk.kept if (key.task not in besides if keys is None else key in keys)]
        for key in again:
            disk.pending[key] = disk.kept.pop(key)
        for key in sorted(disk.pending, key=lambda key: disk.pending[key].recorded_at):  # the order of their taking
            disk.pending.move_to_end(key)
        return len(again)

    def kept(self, limit: int = 1_000) -> list[Row]:
        """Receipted rows that are still here, oldest first."""
        return [row for _, row in self.kept_beyond(0, limit)]

    def kept_beyond(self, place: int, limit: int) -> list[tuple[int, Row]]:
        """The same with the place of each, from behind a place on."""
        rows = sorted(self._disk.kept.values(), key=lambda row: row.recorded_at)
        return [(int(row.recorded_at), row) for row in rows if row.recorded_at > place][:limit]

    def prune(self) -> None:
        """Nothing is old here."""

    def measure(self) -> tuple[int, int, float]:
        """(rows, bytes, age of the oldest in seconds) of what is pending; nothing ages here."""
        return len(self._disk.pending), sum(len(row.data) for row in self._disk.pending.values()), 0.0

    def close(self) -> None:
        """The disk stays."""


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a task when it is run; travels in the task's settings."""

    seconds: float = 4.0
    """Training time it needs in all."""
    checkpoint_s: float = 2.0
    outputs: bool = False
    fails: int = 0
    """Runs that fail before one goes well."""
    kills: int = 0
    """Runs that take their worker along."""
    hangs: int = 0
    """Runs that fall silent."""
    halvings: int = 0
    """Runs out of memory unless its batch was halved so often."""
    rejects: bool = False


class Nature:
    """Remembers across lives how often each task was run."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.runs: dict[str, int] = {}

    def begin(self, task: str) -> int:
        """The number of this run, from 1."""
        self.runs[task] = self.runs.get(task, 0) + 1
        return self.runs[task]


class Child:
    """`executors.isolation.Child` without a process."""

    def __init__(self, nature: Nature, process: Process) -> None:
        self.runtime, self.runs, self.step, self.alive = Runtime.LIGHT, 0, 0, True
        self.ready = Ready(pid=1, runtime=Runtime.LIGHT, kinds={KIND: KindRow(1, Runtime.LIGHT)})
        self._nature, self._process = nature, process
        self._heard = 0.0
        self._halting = asyncio.Event()

    @property
    def silent_s(self) -> float:
        """Seconds since the last frame."""
        return asyncio.get_running_loop().time() - self._heard

    def halt(self, reason: str) -> None:
        """Ask the running task to checkpoint and stop."""
        self._halting.set()

    async def run(self, start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Finished | Halted:
        """Run one task; afterwards the child is dead unless it went well."""
        self.runs, self._heard = start.run, asyncio.get_running_loop().time()
        self._halting.clear()
        try:
            return await self._run(start, bounds, hear)
        except BaseException:
            self.alive = False
            raise

    async def _run(self, start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Finished | Halted:
        fate, number = msgspec.convert(start.settings, Fate), self._nature.begin(start.task)
        trained, made = start.trained_s, start.checkpoint_number
        self._nature.trace.note(f"{self._process.name} runs {start.task}, run {number}, from {trained:g} s")
        if fate.rejects:
            raise Reject(f"{start.task} can not be run as it is.")
        if start.memory_attempts < fate.halvings:
            await self._pass(0.3)
            raise OutOfMemory(f"{start.task} needs a smaller batch.")
        while trained < fate.seconds:
            pause = min(fate.checkpoint_s, fate.seconds - trained)
            await self._pass(pause)
            trained += pause
            self._tell(hear, start, trained, fate)
            await self._trouble(start, bounds, fate, number)
            if trained < fate.seconds or self._halting.is_set():
                made += 1
                self._checkpoint(hear, start, made, trained)
            if self._halting.is_set():
                return Halted(run=start.run)
        outputs = {"model": str(Path(start.scratch) / "model")} if fate.outputs else {}
        return Finished(
            run=start.run, outputs=outputs, media={}, facts_of={}, kpis={"run": float(number)}, stopped_by="finished",
            facts={"by": self._process.name}, exact=True,
        )  # fmt: skip

    async def _trouble(self, start: Start, bounds: Bounds, fate: Fate, number: int) -> None:
        """What goes wrong in the runs that go wrong: first deaths, then silences, then failures."""
        if number <= fate.kills:
            self._nature.trace.fault("task killed its worker", f"{start.task} kills {self._process.name}")
            self._process.kill()
            await asyncio.sleep(0.0)
        number -= fate.kills
        if 0 < number <= fate.hangs:
            await asyncio.sleep(bounds.stall_s)
            raise ChildBroke(f"{start.task} was silent for {bounds.stall_s:g} s.")
        number -= fate.hangs
        if 0 < number <= fate.fails:
            raise ChildBroke(f"{start.task} failed.")

    async def _pass(self, seconds: float) -> None:
        """Time passes, or somebody asks for an early end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._halting.wait()

    def _tell(self, hear: Callable[[Frame], None], start: Start, trained: float, fate: Fate) -> None:
        self.step, self._heard = int(trained * 10), asyncio.get_running_loop().time()
        hear(Progressed(run=start.run, step=self.step, done=min(1.0, trained / fate.seconds)))

    def _checkpoint(self, hear: Callable[[Frame], None], start: Start, number: int, trained: float) -> None:
        folder = str(Path(start.scratch) / f"checkpoint-{number}")
        hear(Checkpointed(run=start.run, folder=folder, number=number, step=self.step, best=False, trained_s=trained))


class Pool:
    """`executors.pool.Pool` without processes."""

    def __init__(self, nature: Nature, process: Process) -> None:
        self._nature, self._process = nature, process

    async def take(self, runtime: Runtime) -> Child:
        """A ready child, after a moment."""
        await asyncio.sleep(0.05)
        return Child(self._nature, self._process)

    def expect(self, runtime: Runtime) -> None:
        """Nothing to prepare."""

    def give(self, child: Child) -> None:
        """Nothing to keep."""

    def tidy(self) -> None:
        """Nothing to tidy."""

    async def close(self) -> None:
        """Nothing to end."""
