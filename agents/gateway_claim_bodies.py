"""What a worker over HTTP sends and hears: the bodies of register, heartbeat, claim, complete, checkpoint, progress.

They are the mesh's own records in JSON: an epoch is its text `GENERATION-COUNT`, a digest 64 hex digits. What does not
fit is refused with the field's name; fields that nobody knows are refused too, so that a slip of the pen is noticed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mesh import limits
from mesh.messages.base import Epoch, check_digest, check_name
from mesh.messages.commands import FailureClass
from mesh.messages.leases import OlderCheckpoint, OrderKind
from mesh.messages.tasks import Outcome, TaskSpec

WAIT_S_MAX = 30.0
"""Longest claim: proxies end what is silent for a minute."""

RECEIPT_S_MAX = 25.0
"""Longest wait for the ledger's word on a row."""

OUTPUTS_MAX = 64
"""Artifacts of one result."""

HELD_MAX = 256
"""Leases of one seat."""

Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Text = Annotated[str, msgspec.Meta(max_length=limits.TEXT_CHARS_MAX)]
TaskName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,95}$")]
EpochText = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,15}-[0-9]{1,15}$")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that is sent to the gateway."""


class OfLease(Body, frozen=True, kw_only=True):
    """Something about one lease."""

    task: TaskName
    epoch: EpochText

    def __post_init__(self) -> None:
        check_name(self.task, "a task's id")
        Epoch.parse(self.epoch)

    @property
    def lease(self) -> tuple[str, Epoch]:
        """The lease's name in the mesh."""
        return self.task, Epoch.parse(self.epoch)


class Register(Body, frozen=True, kw_only=True):
    """What the worker can run, and what it has for that."""

    kinds: Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1, le=1_000)]], msgspec.Meta(min_length=1, max_length=64)]
    """Executor kinds and their versions."""
    incarnation: Annotated[str, msgspec.Meta(max_length=2 * limits.NAME_CHARS_MAX)] = ""
    """The life to go on with, as an earlier answer named it: its leases stay. Empty: a new life."""
    leases_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Leases at a time."""
    cores: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 1.0
    memory_bytes: Amount = 1 << 30
    disk_bytes: Amount = 1 << 30
    gpu_memory_bytes: Annotated[tuple[Amount, ...], msgspec.Meta(max_length=64)] = ()
    """Memory of each GPU."""
    labels: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            check_name(kind, "an executor kind")
        for label in self.labels:
            check_name(label, "a label")


class HeldLease(OfLease, frozen=True, kw_only=True):
    """A lease that the worker holds."""

    step: Amount = 0
    silent_s: Seconds = 0.0
    """Since its work last moved."""


class Heartbeat(Body, frozen=True, kw_only=True):
    """I live, and I hold these."""

    held: Annotated[tuple[HeldLease, ...], msgspec.Meta(max_length=HELD_MAX)]
    leaving: bool = False
    """The worker stops: what it holds is given back, and its seat ends."""


class Claim(Body, frozen=True, kw_only=True):
    """I would take work now. Leases that were handed out and are not in `held` are handed out again."""

    held: Annotated[tuple[HeldLease, ...], msgspec.Meta(max_length=HELD_MAX)] = ()
    leases_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=WAIT_S_MAX)] = 20.0
    """How long to wait for work."""


class Failure(Body, frozen=True, kw_only=True):
    """Why the task could not be finished."""

    failure: FailureClass
    reason: Text
    missing: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=limits.MISSING_PER_ROW_MAX)] = ()
    """Inputs that could not be had: they are made anew, and nothing is held against the task."""

    def __post_init__(self) -> None:
        for digest in self.missing:
            check_digest(digest, "a missing input")


class Complete(OfLease, frozen=True, kw_only=True):
    """The end of a lease: one of `outcome`, `failure` and `give_back`."""

    outcome: Outcome | None = None
    failure: Failure | None = None
    give_back: Text | None = None
    """Why the lease is given back unfinished; no failure is counted."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=RECEIPT_S_MAX)] = 10.0
    """How long to wait for the ledger's word."""

    def __post_init__(self) -> None:
        OfLease.__post_init__(self)
        given = sum(one is not None for one in (self.outcome, self.failure, self.give_back))
        if given != 1:
            raise ValueError(f"exactly one of outcome, failure and give_back is expected, got {given}")
        outputs = self.outcome.outputs if self.outcome is not None else {}
        if len(outputs) > OUTPUTS_MAX:
            raise ValueError(f"a result has at most {OUTPUTS_MAX} outputs, got {len(outputs)}")
        for digest in outputs.values():
            check_digest(digest, "an output")


class MakeCheckpoint(OfLease, frozen=True, kw_only=True):
    """A checkpoint that was uploaded: an artifact of the media `checkpoint` whose facts name task, epoch and number."""

    number: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    """Higher than the lease's `checkpoint_number`, and than those before."""
    manifest: Digest
    step: Amount
    best: bool = False
    trained_s: Seconds = 0.0
    """Training time in it, over all attempts."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=RECEIPT_S_MAX)] = 10.0

    def __post_init__(self) -> None:
        OfLease.__post_init__(self)
        check_digest(self.manifest, "a checkpoint")


class ReportProgress(OfLease, frozen=True, kw_only=True):
    """How far a task is. Shown to whoever watches; lost without harm."""

    step: Amount = 0
    done: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of the work."""
    metrics: Annotated[dict[str, float], msgspec.Meta(max_length=32)] = {}
    phase: Annotated[str, msgspec.Meta(max_length=64)] = ""


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A task given to this worker for one epoch."""

    task: TaskSpec
    epoch: str
    attempt: int
    resume: str = ""
    """Digest of the checkpoint to start from; empty: from the beginning."""
    checkpoint_number: int = 0
    trained_s: float = 0.0
    """Training time in `resume`: it counts against the task's budget."""
    older: tuple[OlderCheckpoint, ...] = ()
    """Where to start when `resume` is damaged."""
    memory_attempts: int = 0
    """How often to halve the batch."""
    gpus: tuple[int, ...] = ()
    """Places in `gpu_memory_bytes` of the registration."""
    gpu_memory_bytes: int = 0
    """What it may take of its GPU, which others share; 0: all of it."""


class OrderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a lease."""

    task: str
    epoch: str
    order: OrderKind
    reason: str = ""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The seat."""

    name: str
    incarnation: str
    """This life: name it to come back to it."""
    heartbeat_s: float
    """Send a heartbeat so often, whenever nothing else is sent."""
    silent_s: float
    """Without any request for so long, the worker counts as lost."""
    leases: tuple[LeaseAnswer, ...] = ()
    """What this life holds."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with what is held. `stop`: the epoch is over, end the work; `checkpoint`: save, then give back."""

    orders: tuple[OrderAnswer, ...]
    waiting: int = 0
    """Leases that a claim would give at once."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """New leases; none when nothing came in time, or when a newer claim of this worker came."""

    leases: tuple[LeaseAnswer, ...]
    orders: tuple[OrderAnswer, ...] = ()


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row: `recorded` for good, or written down here and sent until the ledger speaks (202)."""

    task: str
    epoch: str
    kind: str
    number: int
    recorded: bool
