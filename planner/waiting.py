"""Why a ready task waits: one sentence for people, from what the matcher would see at this moment.

    the leader only listens yet            a new one that may not know all of the ledger
    back-off                               after a failure
    no worker is there, or none in service
    a worker has room                      it gets the task next, or the task waits a little for one that it prefers
    a worker would fit, and is busy        free and whole in brackets: figures of the moment
    none can ever take it                  kind, version, labels, or needs beyond all that the worker has in whole

What a worker has in whole is its offer and what its leases use; while the ledger does not know all leases that a
worker names, it counts as busy, so that `no worker can take it` is never said too early. A question looks at every
worker and names WORKERS_NAMED_MAX of them. Tasks of one shape share one look, and after LOOKS_MAX looks further tasks
of one answer get no sentence: the leader has beats to answer.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable

from mesh import limits
from mesh.messages.tasks import Avoid, Needs
from planner.ledger import Ledger, Task
from planner.matching import Matcher
from planner.queue import Shape, shape_of
from planner.workers import Room, Worker, WorkerState, avoided, misfit

WORKERS_NAMED_MAX = 3
"""Workers in one sentence; the others are counted."""

LOOKS_MAX = 20_000
"""Workers looked at for one answer. The first task's look is always finished."""


class Fate(enum.Enum):
    """What a worker is to a task at this moment."""

    ROOM = "room"
    UNWELCOME = "unwelcome"
    """It has room, and the task prefers another one."""
    BUSY = "busy"
    OUT = "out"
    """Silent, wedged, drained, or it takes no tasks now."""
    NEVER = "never"


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    fate: Fate
    worker: Worker
    why: str = ""


class Waits:
    """The reasons of many tasks at one moment."""

    def __init__(self, ledger: Ledger, workers: dict[str, Worker], matcher: Matcher, now: float) -> None:
        self._ledger = ledger
        self._workers = workers
        self._matcher = matcher
        self._now = now
        self._known: dict[tuple[Shape, tuple[str, ...]], list[_Look]] = {}
        self._looks = 0

    def why(self, task: Task) -> str:
        """Why this ready task has no lease; '' when too many workers were looked at already."""
        if self._matcher.backs_off(task.spec.id):
            return f"back-off for {task.again_after_s:g} s after attempt {task.attempts} failed"
        looks = self._look(task)
        if looks is None:
            return ""
        fates = {look.fate for look in looks}
        if not looks:
            return "no worker is there"
        if Fate.ROOM in fates:
            return _some(looks, Fate.ROOM) + ": it is leased next"
        if Fate.UNWELCOME in fates:
            return self._why_not_yet(task, looks)
        if Fate.BUSY in fates:
            rest = sum(look.fate is not Fate.BUSY for look in looks)
            more = f"; {_count(rest, 'other worker')} can not take it" if rest else ""
            return _some(looks, Fate.BUSY) + more
        if Fate.OUT in fates:
            never = f"; {_some(looks, Fate.NEVER)}" if Fate.NEVER in fates else ""
            return f"no worker takes it now: {_some(looks, Fate.OUT)}{never}"
        return f"no worker can take it: {_some(looks, Fate.NEVER)}"

    def _why_not_yet(self, task: Task, looks: list[_Look]) -> str:
        if not self._matcher.waits_for_other(task, self._now):
            return _some(looks, Fate.UNWELCOME) + ": it is leased next"
        failed = all(look.worker.name in task.failed_on for look in looks if look.fate is Fate.UNWELCOME)
        wanted = "that did not fail it" if failed else "that it does not avoid"
        return f"waits up to {self._matcher.prefer_wait_s:g} s for a worker {wanted}"

    def _look(self, task: Task) -> list[_Look] | None:
        key = (shape_of(task.spec), task.failed_on)
        if key not in self._known:
            if self._looks and self._looks + len(self._workers) > LOOKS_MAX:
                return None
            self._looks += len(self._workers)
            self._known[key] = [self._at(task, worker) for worker in self._workers.values()]
        return self._known[key]

    def _at(self, task: Task, worker: Worker) -> _Look:
        """What this worker is to the task."""
        spec, offer, name = task.spec, worker.beat.offer, worker.name
        if why := misfit(spec, offer):
            return _Look(Fate.NEVER, worker, f"{name} {why}")
        if spec.avoid_mode is not Avoid.PREFER and avoided(spec, worker):
            return _Look(Fate.NEVER, worker, f"{name} is ruled out: another one must do it")
        whole, sure = self._whole(worker)
        if sure and (why := _beyond(spec.needs, whole, whole.gpus > offer.gpus)):
            return _Look(Fate.NEVER, worker, f"{name} offers {why}")
        if worker.state is not WorkerState.LIVE:
            return _Look(Fate.OUT, worker, f"{name} is {worker.state}")
        if name in self._ledger.drained:
            return _Look(Fate.OUT, worker, f"{name} is drained")
        if offer.leases_max < 1:
            said = f": {worker.beat.note}" if worker.beat.note else ""
            return _Look(Fate.OUT, worker, f"{name} takes no more tasks now{said}")
        room = self._matcher.room(worker)
        if not room.fits(spec.needs):
            return _Look(Fate.BUSY, worker, f"{name} is busy ({_figures(spec.needs, room, whole)})")
        unwelcome = avoided(spec, worker) or name in task.failed_on
        return _Look(Fate.UNWELCOME if unwelcome else Fate.ROOM, worker, f"{name} has room")

    def _whole(self, worker: Worker) -> tuple[Room, bool]:
        """(what the worker has when it runs nothing, whether that is all of it)."""
        whole, sure = Room.of(worker.beat.offer), True
        whole.gpus += len(whole.gpu_rooms)
        for lease in worker.beat.held:
            task = self._ledger.tasks.get(lease.task)
            if task is None:
                sure = False
            else:
                whole.give(task.spec.needs)
        return whole, sure


def _figures(needs: Needs, room: Room, whole: Room) -> str:
    """The first thing that a busy worker lacks."""
    if room.leases < 1:
        return "it was just given as many tasks as it asked for"
    if needs.cores > room.cores + 1e-9:
        return f"{max(0.0, room.cores):g} of {whole.cores:g} cores free, {needs.cores:g} needed"
    if needs.memory_bytes > room.memory_bytes:
        return _sizes(room.memory_bytes, whole.memory_bytes, needs.memory_bytes, "memory")
    if needs.disk_bytes > room.disk_bytes:
        return _sizes(room.disk_bytes, whole.disk_bytes, needs.disk_bytes, "disk")
    if needs.gpus > room.gpus:
        left = f", {_down(max(room.gpu_rooms))} of memory left on a shared one" if room.gpu_rooms else ""
        wanted = f"{_up(needs.gpu_share_bytes)} of one" if needs.gpu_share_bytes and left else str(needs.gpus)
        return f"{max(0, room.gpus)} of {whole.gpus} GPUs free{left}, {wanted} needed"
    return f"its free GPUs have {_down(room.gpu_memory_bytes)} of memory, {_up(needs.gpu_memory_bytes)} needed"


def _sizes(free_bytes: int, whole_bytes: int, needed_bytes: int, what: str) -> str:
    return f"{_down(max(0, free_bytes))} of {_down(whole_bytes)} of {what} free, {_up(needed_bytes)} needed"


def _beyond(needs: Needs, whole: Room, gpus_in_use: bool) -> str:
    """'' when the needs fit a worker that runs nothing, else what it has and what is needed. An offer tells the memory
    of free GPUs only."""
    if needs.cores > whole.cores + 1e-9:
        return f"{whole.cores:g} cores, {needs.cores:g} needed"
    if needs.memory_bytes > whole.memory_bytes:
        return f"{_down(whole.memory_bytes)} of memory, {_up(needs.memory_bytes)} needed"
    if needs.disk_bytes > whole.disk_bytes:
        return f"{_down(whole.disk_bytes)} of disk, {_up(needs.disk_bytes)} needed"
    if needs.gpus > whole.gpus:
        return f"{_count(whole.gpus, 'GPU')}, {needs.gpus} needed"
    if needs.gpu_memory_bytes > whole.gpu_memory_bytes and not gpus_in_use:
        return f"{_down(whole.gpu_memory_bytes)} of GPU memory, {_up(needs.gpu_memory_bytes)} needed"
    return ""


def _some(looks: Iterable[_Look], fate: Fate) -> str:
    """A few of them by name, the others as a number."""
    found = sorted((look for look in looks if look.fate is fate), key=lambda look: look.worker.name)
    named = "; ".join(
        look.why[: limits.TEXT_CHARS_MAX // (2 * WORKERS_NAMED_MAX)] for look in found[:WORKERS_NAMED_MAX]
    )
    rest = len(found) - WORKERS_NAMED_MAX
    return f"{named}; and {_count(rest, 'more')}" if rest > 0 else named


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 or what == "more" else f"{number} {what}s"


def _down(size_bytes: int) -> str:
    """What is there, rounded down, so that it never reads like what is needed."""
    return f"{size_bytes // 2**20:,} MiB"


def _up(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / 2**20):,} MiB"
