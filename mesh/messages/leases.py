"""Beats and offers from workers; leases, orders and receipts from the leader.

A beat is one small message per worker every two seconds, on core NATS, sent by a thread of its own. It carries the
standing offer (the claim). The leader's answer goes to the worker's own answer subject. A lost beat or answer is
repaired by the next one: the same offer number gets the same answer, and receipts are repeated until the row is gone.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from mesh import limits
from mesh.messages.base import Epoch, Key, Part, Record, check_incarnation, check_name
from mesh.messages.tasks import TaskSpec


class Offer(Part, frozen=True, kw_only=True):
    """A claim: what a worker would take now. The number rises whenever the content changes."""

    number: int
    leases_max: int
    """Most leases wanted now; 0 withdraws the offer (draining, suspended)."""
    cores: float
    memory_bytes: int
    disk_bytes: int
    gpus: int = 0
    """GPUs that nobody uses."""
    gpu_memory_bytes: int = 0
    """Of each of those, at least."""
    share_gpus: bool = False
    """Several tasks that say how much of one GPU they take may be leased on an unused one at once."""
    gpu_room_bytes: tuple[int, ...] = ()
    """Memory that is left on GPUs which tasks share; one entry for each such GPU."""
    labels: tuple[str, ...] = ()
    kinds: dict[str, int] = {}
    """Executor kinds and their versions."""
    cached: tuple[str, ...] = ()
    """Digests (first 16 hex) of artifacts in the local cache, newest first, a bounded list."""


class Held(Part, frozen=True, kw_only=True):
    """One lease that a worker holds, as it sees it."""

    task: str
    epoch: Epoch
    silent_s: float = 0.0
    """Since the child's last frame."""
    step: int = 0
    waits: bool = False
    """No child has begun it yet: should the worker die, it is not suspected first."""


class Beat(Record, frozen=True, kw_only=True):
    """I live, I hold these, I would take that, I still owe these."""

    kind: ClassVar[str] = "beat"

    worker: str
    incarnation: str
    number: int
    """Rises with every beat of an incarnation; older ones that arrive late are ignored."""
    reply: str
    """Subject on which this worker hears answers, below its own inbox `<prefix>.in.<worker>.`; else there are none."""
    loop_age_s: float
    """Since the main loop's last turn: a wedged worker does not keep its leases."""
    offer: Offer
    held: tuple[Held, ...] = ()
    owed: tuple[Key, ...] = ()
    """Outbox rows sent and not yet receipted, oldest first, a bounded list."""
    declined: tuple[tuple[str, Epoch], ...] = ()
    """Leases that came for an offer that had been withdrawn."""
    ledger_seq: int = 0
    """Highest ledger sequence this process has seen: a leader that is behind learns that the store is older."""
    generation: int = 0
    """Generation of the ledger at that entry; 0 when the worker does not tell."""
    ledger_digest: str = ""
    """How that entry's digest begins (16 hex digits): another entry with the same number is another history."""
    note: str = ""
    """Why the worker takes nothing although it could: it stops, its outbox is full. One sentence, for people."""

    def __post_init__(self) -> None:
        check_name(self.worker, "a worker's name")
        check_incarnation(self.incarnation, self.worker)
        if len(self.note) > limits.TEXT_CHARS_MAX:
            raise ValueError(f"a beat's note has at most {limits.TEXT_CHARS_MAX} characters")
        if len(self.held) > limits.HELD_PER_BEAT_MAX or len(self.owed) > limits.OWED_PER_REQUEST_MAX:
            raise ValueError("a beat names too many leases or outbox rows")


class OlderCheckpoint(Part, frozen=True, kw_only=True):
    """A recorded checkpoint from which to start when a newer one is not whole."""

    manifest: str
    number: int
    trained_s: float = 0.0


class Lease(Part, frozen=True, kw_only=True):
    """A task given to one incarnation for one epoch."""

    task: TaskSpec
    epoch: Epoch
    attempt: int
    resume: str = ""
    """Manifest digest of the newest recorded checkpoint; empty: start from the beginning."""
    checkpoint_number: int = 0
    """Number of that checkpoint; the next one is higher."""
    trained_s: float = 0.0
    """Training time already contained in `resume`."""
    older: tuple[OlderCheckpoint, ...] = ()
    """Where to start when a part of `resume` is missing or damaged: in this order, then from the beginning. The next
    checkpoint's number stays above `checkpoint_number`."""
    memory_attempts: int = 0
    """How often the task ran out of memory: the executor starts with a batch halved that often."""


class OrderKind(enum.StrEnum):
    """What the leader tells a worker about a lease that it holds or presents."""

    KEEP = "keep"
    """The lease is good."""
    STOP = "stop"
    """The epoch is over: stop the child; nothing of it can be recorded any more."""
    CHECKPOINT = "checkpoint"
    """Checkpoint and give back."""


class Order(Part, frozen=True, kw_only=True):
    """One order about one lease."""

    task: str
    epoch: Epoch
    order: OrderKind
    reason: str = ""


class Receipt(Part, frozen=True, kw_only=True):
    """The ledger's final word on one outbox row."""

    key: Key
    recorded: bool
    reason: str = ""
    """Why it was refused; empty when recorded."""


class Answer(Record, frozen=True, kw_only=True):
    """The leader's answer to a beat, true at `ledger_seq`. Older answers than one already heard are ignored."""

    kind: ClassVar[str] = "answer"
    bytes_max: ClassVar[int] = limits.REPEATING_BYTES_MAX

    incarnation: str
    offer: int
    ledger_seq: int
    term: int
    leases: tuple[Lease, ...] = ()
    """All leases granted for this offer number, repeated until a beat names them."""
    orders: tuple[Order, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    generation: int = 0
    """Generation of the ledger: it rises when the broker came back older. Then owe again what was receipted."""
    ledger_digest: str = ""
    """How the digest of entry `ledger_seq` begins (16 hex digits): name it in the beats."""
    restored_from: int = 0
    """Last entry of the store that came back older; 0 in the first generation."""
    renew: bool = False
    """Leases given on this offer ended before they were taken, so less of it is left than is free: offer it again under
    a new number."""

    def __post_init__(self) -> None:
        if len(self.leases) > limits.LEASES_PER_ANSWER_MAX:
            raise ValueError(f"an answer carries at most {limits.LEASES_PER_ANSWER_MAX} leases")


class Gone(Record, frozen=True, kw_only=True):
    """A worker's supervisor reports that an incarnation has ended."""

    kind: ClassVar[str] = "gone"

    worker: str
    incarnation: str
    exit_code: int | None = None

    def __post_init__(self) -> None:
        check_name(self.worker, "a worker's name")
        check_incarnation(self.incarnation, self.worker)


class LeaderBeat(Record, frozen=True, kw_only=True):
    """Who leads, every second: standbys take over when it stops."""

    kind: ClassVar[str] = "leader-beat"

    name: str
    term: int
    ledger_seq: int
    leaving: bool = False
    """It stops in order: nobody needs to wait until its silence is long enough."""
