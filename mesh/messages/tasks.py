"""What a worker is asked to do: a task, its needs, its inputs and its lines."""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import msgspec

from mesh import limits
from mesh.messages.base import Facts, Part, Record, check_name


class Line(enum.StrEnum):
    """The two competing ways to train a specialization, the yardstick beside them, and what is put together of models
    that are there."""

    EVOLVER = "evolver"
    """Improves the current champion (or lays the first one)."""
    REINVENTOR = "reinventor"
    """Starts from zero with other settings."""
    BASELINE = "baseline"
    """A tuned linear model: measured on the same holdout, never a candidate."""
    MERGE = "merge"
    """Puts models together that are there: a tree of specialists that answers as one, or their weights."""


class TaskState(enum.StrEnum):
    """Where a task stands. The arrows are drawn in docs/lifecycle.md and held by planner/ledger.py."""

    WAITING = "waiting"
    """Needs the success of other tasks first."""
    READY = "ready"
    """May be leased; after a failure not before its back-off is over."""
    LEASED = "leased"
    """One incarnation holds it under one epoch."""
    SUCCEEDED = "succeeded"
    """Ended: its result is recorded."""
    PARKED = "parked"
    """Ended: set aside with a reason (the dead letters); may be resubmitted."""
    CANCELED = "canceled"
    """Ended: a person or the planner withdrew it."""

    @property
    def ended(self) -> bool:
        """True when nothing more will happen to the task by itself."""
        return self in (TaskState.SUCCEEDED, TaskState.PARKED, TaskState.CANCELED)


class OnDisconnect(enum.StrEnum):
    """What happens to a lease whose worker is cut off."""

    REPLACE = "replace"
    """Another worker starts from the newest recorded checkpoint as soon as the worker counts as lost."""
    WAIT = "wait"
    """The lease is kept up to `wait_s` in the hope that the worker comes back."""


class Avoid(enum.StrEnum):
    """How strictly the workers in `avoid` are passed over."""

    PREFER = "prefer"
    """Take another worker if one is alive that fits; else any."""
    REQUIRE = "require"
    """Never one of them."""


class Needs(Part, frozen=True, kw_only=True):
    """What a task takes from a worker while it runs."""

    cores: float = 1.0
    memory_bytes: int = 512 * 1024 * 1024
    gpus: int = 0
    gpu_memory_bytes: int = 0
    disk_bytes: int = 256 * 1024 * 1024
    labels: tuple[str, ...] = ()
    gpu_wish_bytes: int = 0
    """Memory of a GPU that it would make use of: it gets a share where a worker has so much left, and runs without it
    elsewhere. Left out of account where `gpus` says that it needs some."""

    def __post_init__(self) -> None:
        sizes = (self.memory_bytes, self.gpus, self.gpu_memory_bytes, self.disk_bytes, self.gpu_wish_bytes)
        if self.cores < 0 or min(sizes) < 0:
            raise ValueError("a task's needs can not be negative")

    def evolve(self, **changes: Any) -> Needs:
        """The same with other values in these fields."""
        return msgspec.structs.replace(self, **changes)

    @property
    def fulfilled(self) -> Needs:
        """The same needs where the wish for a GPU is granted; unchanged without one."""
        if self.gpus or not self.gpu_wish_bytes:
            return self
        return self.evolve(gpus=1, gpu_memory_bytes=self.gpu_wish_bytes, gpu_wish_bytes=0)

    @property
    def gpu_share_bytes(self) -> int:
        """What it takes of a GPU that it shares, its program's own memory there included; 0 when it wants GPUs for
        itself: several of them, or one of which it does not say how much it takes."""
        return self.gpu_memory_bytes + limits.GPU_CONTEXT_BYTES if self.gpus == 1 and self.gpu_memory_bytes else 0


class TaskSpec(Record, frozen=True, kw_only=True):
    """One unit of scheduled work for one executor kind.

    Invariants: `id` is unique in the mesh for ever (derived from the topic's id); `after` names tasks of the same
    topic; `inputs` maps the kind's input names to artifact digests (64 hex) or to a scheme every worker can resolve
    (`builtin:digits`).
    """

    kind: ClassVar[str] = "task"

    id: str
    topic: str
    specialization: str = ""
    executor: str
    executor_version: int = 1
    line: Line | None = None
    purpose: str = ""
    """What the task is for, for people: 'train', 'check evolver', 'holdout evolver' …"""
    settings: Facts = {}
    inputs: dict[str, str] = {}
    needs: Needs = Needs()
    priority: int = 5
    """0 (when nothing else is to do) to 9 (first)."""
    budget_s: float = 180.0
    """Training time that the task may use before it stops by itself and answers with its best."""
    wall_s_max: float = 3_600.0
    """Life of the child beyond which it is killed; a task that needs it three times is parked."""
    stall_s: float = 120.0
    """Silence of the child (no frame) after which it is killed and the task tried again."""
    attempts_max: int = 4
    after: tuple[str, ...] = ()
    regardless: bool = False
    """Those in `after` only have to be over, however they ended; else one that is set aside or withdrawn takes this one
    along."""
    avoid: tuple[str, ...] = ()
    """Incarnations (`name.random`) or names of workers that should not get it: an independent check."""
    avoid_mode: Avoid = Avoid.PREFER
    on_disconnect: OnDisconnect = OnDisconnect.REPLACE
    wait_s: float = 600.0
    trace: str = ""
    """Span that asked for it, as W3C `traceparent` writes it; '' without one."""

    def __post_init__(self) -> None:
        check_name(self.id, "a task's id")
        check_name(self.topic, "a task's topic")
        check_name(self.executor, "a task's executor kind")
        if not 0 <= self.priority <= 9:
            raise ValueError(f"a task's priority is 0 to 9, got {self.priority}")
        if len(self.after) > limits.TASKS_PER_PLAN_MAX or len(self.avoid) > limits.TASKS_PER_PLAN_MAX:
            raise ValueError("a task names too many other tasks or workers")
        if self.budget_s <= 0 or self.wall_s_max <= 0 or self.stall_s <= 0 or self.attempts_max < 1:
            raise ValueError("a task's budget, deadlines and attempts must be positive")


class Outcome(Part, frozen=True, kw_only=True):
    """What a finished task produced."""

    outputs: dict[str, str] = {}
    """Output name to artifact digest."""
    kpis: dict[str, float] = {}
    stopped_by: str = "finished"
    """Why the work ended: 'finished', 'budget', 'early stop', 'epochs' …"""
    seconds: float = 0.0
    """Wall time of the executor, over all attempts that this result builds on."""
    facts: Facts = {}
    exact: bool = True
    """False when the task was resumed under another fingerprint; `facts['fingerprint']` says what differed."""
