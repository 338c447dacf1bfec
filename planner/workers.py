"""What the scheduler's mind remembers of each worker: its last beat, its offer, what it was granted.

Memory only, never in the ledger: after a take-over it is built anew from the next beats. All times are seconds of one
monotonic clock, given in; wall clocks are never compared.
"""

from __future__ import annotations

import dataclasses
import enum

from mesh.messages.base import Epoch
from mesh.messages.leases import Beat, Offer
from mesh.messages.tasks import Needs, TaskSpec


class WorkerState(enum.StrEnum):
    """How much the leader trusts that a worker is there."""

    LIVE = "live"
    SUSPECT = "suspect"
    """Missed several beats: no new leases."""
    WEDGED = "wedged"
    """Beats come, but its main loop does not turn: no new leases, and those it has run out."""
    LOST = "lost"
    """Its leases have been taken back."""


@dataclasses.dataclass(slots=True)
class Worker:
    """One incarnation, as far as its beats tell."""

    beat: Beat
    beat_at: float
    state: WorkerState = WorkerState.LIVE
    closed_at: float | None = None
    """When its connection closed, if no beat has come since."""
    answer_due: bool = True
    granted: dict[tuple[str, Epoch], int] = dataclasses.field(default_factory=dict)
    """Leases given and not yet named in a beat, with the number of the offer that they answer."""
    unnamed_beats: dict[tuple[str, Epoch], int] = dataclasses.field(default_factory=dict)
    spent: list[Needs] = dataclasses.field(default_factory=list)
    """What was leased on the current offer. Never refunded: only the worker's next offer says what is free again, and
    it is asked for one when a lease on this one ended untaken."""

    @property
    def name(self) -> str:
        """The stable name."""
        return self.beat.worker

    @property
    def incarnation(self) -> str:
        """This life."""
        return self.beat.incarnation

    def grant(self, task: str, epoch: Epoch, needs: Needs) -> None:
        """A lease was given on the current offer; it is due in the next answer."""
        self.granted[(task, epoch)] = self.beat.offer.number
        self.spent.append(needs)
        self.answer_due = True

    def hear(self, beat: Beat, now: float) -> None:
        """Its newest beat; a new offer replaces what was spent on the last."""
        if beat.offer.number != self.beat.offer.number:
            self.spent.clear()
        self.beat, self.beat_at, self.answer_due, self.closed_at = beat, now, True, None

    def waiting(self) -> set[tuple[str, Epoch]]:
        """Leases of which the last beat says that no child has begun them yet."""
        return {(lease.task, lease.epoch) for lease in self.beat.held if lease.waits}

    def named(self) -> set[tuple[str, Epoch]]:
        """Leases that the last beat names, as held or as owed."""
        held = {(lease.task, lease.epoch) for lease in self.beat.held}
        return held | {(key.task, key.epoch) for key in self.beat.owed}


@dataclasses.dataclass(slots=True)
class Room:
    """What is left of an offer while leases are matched against it."""

    leases: int
    cores: float
    memory_bytes: int
    disk_bytes: int
    gpus: int
    gpu_memory_bytes: int
    gpu_rooms: list[int] = dataclasses.field(default_factory=list)
    """Memory left on each GPU that tasks share."""
    share_gpus: bool = False

    @classmethod
    def of(cls, offer: Offer) -> Room:
        """All that the offer holds."""
        return cls(
            offer.leases_max, offer.cores, offer.memory_bytes, offer.disk_bytes, offer.gpus, offer.gpu_memory_bytes,
            list(offer.gpu_room_bytes), offer.share_gpus,
        )  # fmt: skip

    def take(self, needs: Needs) -> None:
        """Subtract what one lease uses."""
        self.leases -= 1
        self.cores -= needs.cores
        self.memory_bytes -= needs.memory_bytes
        self.disk_bytes -= needs.disk_bytes
        if self.grants(needs):
            needs = needs.fulfilled
        if needs.gpus:
            self._take_gpus(needs)

    def _take_gpus(self, needs: Needs) -> None:
        """As the worker does: of the shared GPUs the one with the least room that is enough, else unused ones. An
        unused one has at least the memory that the offer tells, so what is left beside its first task is known, too,
        where the worker lets others in."""
        share = needs.gpu_share_bytes
        rooms = [room for room in self.gpu_rooms if share and room >= share]
        if rooms:
            self.gpu_rooms.remove(min(rooms))
            self.gpu_rooms.append(min(rooms) - share)
        else:
            self.gpus -= needs.gpus
            if share and self.share_gpus:
                self.gpu_rooms.append(max(0, self.gpu_memory_bytes - share))

    def give(self, needs: Needs) -> None:
        """Add what one lease uses."""
        self.leases += 1
        self.cores += needs.cores
        self.memory_bytes += needs.memory_bytes
        self.disk_bytes += needs.disk_bytes
        if needs.gpus and not (needs.gpu_share_bytes and self.gpu_rooms):
            self.gpus += needs.gpus

    def fits(self, needs: Needs) -> bool:
        """Is there room for one more lease with these needs? (planner/waiting.py says in words what is missing.)"""
        return (
            self.leases >= 1
            and needs.cores <= self.cores + 1e-9
            and needs.memory_bytes <= self.memory_bytes
            and needs.disk_bytes <= self.disk_bytes
            and (not needs.gpus or self._fits_gpus(needs))
        )

    def grants(self, needs: Needs) -> bool:
        """Does a task with these needs wish for a share of a GPU, and is there one?"""
        return needs.gpus == 0 < needs.gpu_wish_bytes and self._fits_gpus(needs.fulfilled)

    def _fits_gpus(self, needs: Needs) -> bool:
        share = needs.gpu_share_bytes
        if share and any(room >= share for room in self.gpu_rooms):
            return True
        return needs.gpus <= self.gpus and needs.gpu_memory_bytes <= self.gpu_memory_bytes


def misfit(spec: TaskSpec, offer: Offer) -> str:
    """'' when the worker could run the task at all (kind, version, labels), else why not."""
    version = offer.kinds.get(spec.executor)
    if version is None:
        return f"does not run {spec.executor}"
    if version != spec.executor_version:
        return f"runs {spec.executor} version {version}, the task wants {spec.executor_version}"
    absent = [label for label in spec.needs.labels if label not in offer.labels]
    return f"lacks the labels {', '.join(absent)}" if absent else ""


def avoided(spec: TaskSpec, worker: Worker) -> bool:
    """True when the task asks not to be given to this worker."""
    return worker.name in spec.avoid or worker.incarnation in spec.avoid
