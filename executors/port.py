"""The executor port: what a kind is, what it is given, and what it gives back.

    worker (agent, no torch)                     child (fresh interpreter, own process group, no network)
      fetches input artifacts        --task-->     kind.run(job, context) -> Made
      uploads checkpoints, outputs   <-frames--    context.progress / context.snapshot / result

A kind is one file in `executors/kinds/` (or an installed package's entry point in the group `ramify.kinds`). It
declares `name`, `version`, `runtime`, typed `Settings` and `needs`; its module imports torch and the like only inside
functions, so that the declaration can be read cheaply. A kind never opens a network connection, and writes only below
`job.scratch`. docs/executors.md shows how to add one.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from mesh.errors import TaskRefused
from mesh.messages.tasks import Needs


class Runtime(enum.StrEnum):
    """What a child has imported before its task arrives."""

    LIGHT = "light"
    """The standard library only; the child may serve many tasks one after another."""
    SCIENCE = "science"
    """numpy, scikit-learn, pyarrow as the kind asks; no torch; one task per child."""
    TORCH = "torch"
    """torch and numpy; one task per child."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a kind's settings: typed, with defaults, bounds (ValueError in __post_init__); unknown names refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """The names of what a kind reads."""

    needed: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    """It goes without these."""
    numbered: tuple[str, ...] = ()
    """Beginnings of names that end in a number from 0 on (`member-` for member-0, member-1 …); it goes without any."""

    def check(self, kind: str, given: Collection[str]) -> None:
        """TaskRefused when one is lacking, or one is given that it does not read."""
        lacking = [name for name in self.needed if name not in given]
        foreign = [name for name in given if name not in (*self.needed, *self.taken) and not self._is_numbered(name)]
        if not lacking and not foreign:
            return
        optional = (*self.taken, *(f"{name}0, {name}1 …" for name in self.numbered))
        reads = ", ".join((*self.needed, *(f"{name} (may be left out)" for name in optional))) or "none"
        wrong = f"lacks the input {lacking[0]!r}" if lacking else f"reads no input {foreign[0][:80]!r}"
        raise TaskRefused(f"the task {wrong}: {kind} has the inputs {reads}")

    def _is_numbered(self, name: str) -> bool:
        return any(re.fullmatch(re.escape(begin) + "(0|[1-9][0-9]{0,3})", name) for begin in self.numbered)


@dataclasses.dataclass(frozen=True, slots=True)
class Allotment:
    """What the lease gave this task."""

    cores: float
    memory_bytes: int
    gpus: int = 0
    aside: str = ""
    """Why GPUs that were leased are not among them, if so."""
    processes: int = 1
    """Processes that share it, one of them this one."""
    rank: int = 0
    """Which of them: the first one reports, saves and answers."""
    meeting: str = ""
    """Folder where they find each other."""

    @property
    def threads(self) -> int:
        """Compute threads of this process: its share of the leased cores, at least one."""
        return max(1, int(self.cores) // self.processes)


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One task as a kind sees it."""

    task: str
    kind: str
    settings: Any
    """An instance of the kind's Settings."""
    inputs: Mapping[str, str]
    """Input name to a local file or folder (read-only), or to a scheme such as `builtin:digits`."""
    scratch: Path
    """An empty folder of this attempt; outputs and checkpoints are written below it."""
    allotment: Allotment
    budget_s: float
    """Training seconds for the task over all attempts."""
    trained_s: float
    """Of these, already used by the attempts that `resume` contains."""
    resume: Path | None
    """Folder of the checkpoint to continue from."""
    checkpoint_number: int
    """Number of that checkpoint; the next is higher."""
    memory_attempts: int
    """Out-of-memory failures so far: halve the batch that often, keep the effective batch."""
    seed: int
    """Derived from the task's id: the same on every attempt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot in shared memory: the files of a checkpoint one after the other (executors/snapshot.py)."""

    number: int
    step: int
    best: bool
    trained_s: float
    buffer: str
    """Path by which other processes open it."""
    files: tuple[tuple[str, int, int], ...]
    """(name, offset, size in bytes) of each file."""
    facts: Mapping[str, Any]
    """For the manifest: the fingerprint."""
    skipped: int
    """Checkpoints that were due since the last one while the buffer was taken."""


class Context(Protocol):
    """What a running kind may ask of its child process. Thread-safe; none of it blocks on the network."""

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """Report where the work stands (done: 0 to 1). Also the sign of life: call at least every few seconds."""

    @property
    def packs(self) -> bool:
        """True when snapshots are taken over in shared memory (`snapshot`); else checkpoints go as folders. It may turn
        out that the worker can not open the memory: then it is False from the release of that snapshot on."""

    def snapshot(self, taken: Taken) -> None:
        """Hand over a snapshot in shared memory. It stays as it is until `released` names its number."""

    def released(self, number: int, wait_s: float = 0.0) -> bool:
        """True when nobody reads snapshot `number` any more; waits for that at most `wait_s`."""

    def lacked_room(self, number: int) -> bool:
        """True when snapshot `number` was released without being kept, because this machine's disk is full."""

    def saves_requested(self) -> int:
        """How often a checkpoint was asked for from outside, without a stop, in this run. Who calls it says thereby
        that he takes one when the number rises."""

    def checkpoint(self, folder: Path, *, number: int, step: int, best: bool, trained_s: float) -> None:
        """Hand over a finished checkpoint folder (complete and synced). The worker uploads it and removes it.

        Never waits: when the worker is still busy with an earlier one, the newest waits and older waiting ones are
        skipped and counted.
        """

    def stop_requested(self) -> str:
        """'' or why the work should stop now ('checkpoint' asks for a last checkpoint first). Poll it every step."""

    def log(self, text: str) -> None:
        """A line for the worker's log."""


@runtime_checkable
class Listening(Protocol):
    """A context that wants to hear how good the network is, whenever it was measured."""

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """After `step` steps. Stopped ends the training."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """What a kind gives back. `outputs` maps output names to files or folders below the scratch folder; `media` says
    what each is (split, model, outcomes, …) and `facts_of` may add facts to its manifest."""

    outputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    media: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts_of: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    kpis: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stopped_by: str = "finished"
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exact: bool = True


class Stopped(Exception):
    """Raised by a kind that stopped because it was asked to, after its last checkpoint."""


class Kind(Protocol):
    """One executor kind."""

    name: ClassVar[str]
    version: ClassVar[int]
    runtime: ClassVar[Runtime]
    inputs: ClassVar[Inputs | None]
    """None: it takes any."""
    Settings: ClassVar[type[Settings]]

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """What a task with these settings takes. `facts`: the profile's (rows, features, labels, bytes)."""
        ...

    def run(self, job: Job, context: Context) -> Made:
        """Do the work. Errors of the class Reject (DataRefused, NonFinite …) park the task, all others are retried."""
        ...
