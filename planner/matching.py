"""Which ready task goes to which open offer.

    ready tasks  --rank + share-->  the first one  --fits?-->  the best offer for it  -->  a lease
         ^                                |
         |                          no offer fits: its whole shape waits for this turn
    back-off over, dependencies done, lease ended

Choice of the offer: not a worker that the task avoids or on which it failed (while another live worker could run it,
and for at most `prefer_wait_s`); then, if it ran out of memory before, most free memory; then one with a share of a GPU
for a task that wishes for one; then most inputs already in the worker's cache, then most free cores, then the name, so
that the same inputs give the same choice.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator

from mesh import limits
from mesh.messages.tasks import Avoid, TaskState
from planner.ledger import Ledger, Task
from planner.queue import SHARE_S, ReadyQueue, Shape
from planner.workers import Room, Worker, WorkerState, avoided, misfit


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """A task and the worker that should get it, with the reason."""

    task: Task
    worker: Worker
    why: str


class Matcher:
    """Ready tasks, their back-offs and the shares of their topics."""

    def __init__(self, ledger: Ledger, workers: dict[str, Worker], prefer_wait_s: float) -> None:
        self._ledger = ledger
        self._workers = workers
        self.prefer_wait_s = prefer_wait_s
        self._again_at: dict[str, float] = {}
        self._ready_since: dict[str, float] = {}
        self._running_cores: dict[str, float] = {}
        self._ready = ReadyQueue(self._is_ready)

    # -- what happens to tasks ----------------------------------------------------------------------------------------

    def placed(self, task: Task, now: float) -> None:
        """The task may be ready: now, or after its back-off."""
        if task.state is not TaskState.READY:
            return
        if task.again_after_s > 0:
            self._again_at[task.spec.id] = now + task.again_after_s
        else:
            self._ready.push(task.spec, task.order, self._ready_since.setdefault(task.spec.id, now))

    def removed(self, name: str) -> None:
        """The task is leased or has ended."""
        self._again_at.pop(name, None)
        self._ready_since.pop(name, None)
        self._ready.discard(name)

    def charge(self, task: Task, sign: int) -> None:
        """A lease of the task's topic began (+1) or ended (-1)."""
        cores = self._running_cores.get(task.spec.topic, 0.0) + sign * task.spec.needs.cores
        if cores > 1e-9:
            self._running_cores[task.spec.topic] = cores
        else:
            self._running_cores.pop(task.spec.topic, None)

    def wake(self, now: float) -> None:
        """Queue the tasks whose back-off is over."""
        for name in [name for name, at in self._again_at.items() if at <= now]:
            del self._again_at[name]
            task = self._ledger.tasks.get(name)
            if task is not None and task.state is TaskState.READY:
                self._ready.push(task.spec, task.order, self._ready_since.setdefault(name, now))

    def backs_off(self, name: str) -> bool:
        """True while the task's back-off is not over."""
        return name in self._again_at

    # -- matching -----------------------------------------------------------------------------------------------------

    def matches(self, now: float) -> Iterator[Match]:
        """Tasks with their workers, best first. The caller leases each before it asks for the next."""
        rooms = {worker.incarnation: self.room(worker) for worker in self._workers.values() if self._takes(worker)}
        rooms = {incarnation: room for incarnation, room in rooms.items() if room.leases > 0}
        hopeless: set[Shape] = set()
        while rooms:
            placed = self._place(rooms, hopeless, now)
            if placed is None:
                return
            task, worker = placed
            room = rooms[worker.incarnation]
            room.take(task.spec.needs)
            if room.leases < 1:
                del rooms[worker.incarnation]
            yield Match(task, worker, self._why(task, worker))

    def _takes(self, worker: Worker) -> bool:
        live = worker.state is WorkerState.LIVE and worker.name not in self._ledger.drained
        return live and worker.beat.offer.leases_max > 0

    def room(self, worker: Worker) -> Room:
        """The offer less what was leased on it."""
        room = Room.of(worker.beat.offer)
        room.leases = min(room.leases, limits.LEASES_PER_ANSWER_MAX)
        for needs in worker.spent:
            room.take(needs)
        return room

    def _place(self, rooms: dict[str, Room], hopeless: set[Shape], now: float) -> tuple[Task, Worker] | None:
        """The ready task that stands first among those that fit somewhere. A shape whose first task does not has no
        chance in this turn: it is added to `hopeless`, and costs one look, however many others there are."""
        heads = [
            (head.rank + SHARE_S * self._running_cores.get(topic, 0.0), head.order, head.task, shape)
            for shape in self._ready.shapes()
            if shape not in hopeless
            for topic, head in self._ready.heads(shape)
        ]
        heapq.heapify(heads)  # the order is unique, so names and shapes are never compared
        while heads:
            _, _, name, shape = heapq.heappop(heads)
            if shape in hopeless:
                continue
            task = self._ledger.tasks[name]
            worker = self._choose(task, rooms, now)
            if worker is not None:
                return task, worker
            hopeless.add(shape)
        return None

    def _choose(self, task: Task, rooms: dict[str, Room], now: float) -> Worker | None:
        spec = task.spec
        fitting = [
            self._workers[incarnation]
            for incarnation, room in rooms.items()
            if room.fits(spec.needs) and not misfit(spec, self._workers[incarnation].beat.offer)
        ]
        welcome = [worker for worker in fitting if not _unwelcome(task, worker)]
        if not welcome and fitting and not self.waits_for_other(task, now):
            welcome = [worker for worker in fitting if spec.avoid_mode is Avoid.PREFER or not avoided(spec, worker)]
        if not welcome:
            return None
        inputs = {digest[:16] for digest in spec.inputs.values()}

        def merit(worker: Worker) -> tuple[int, bool, int, float, str]:
            room = rooms[worker.incarnation]
            of_gpu = spec.needs.gpus > 0 and room.gpu_memory_bytes
            memory_bytes = (of_gpu or room.memory_bytes) if task.memory_failures else 0
            cached = len(inputs.intersection(worker.beat.offer.cached))
            return memory_bytes, room.grants(spec.needs), cached, room.cores, worker.name

        return max(welcome, key=merit)

    def waits_for_other(self, task: Task, now: float) -> bool:
        """True while a live worker that the task would prefer could run it later and the wait is not over."""
        if now - self._ready_since.get(task.spec.id, now) > self.prefer_wait_s:
            return False
        return any(
            worker.state is WorkerState.LIVE
            and worker.name not in self._ledger.drained
            and not _unwelcome(task, worker)
            and not misfit(task.spec, worker.beat.offer)
            for worker in self._workers.values()
        )

    def _is_ready(self, name: str) -> bool:
        task = self._ledger.tasks.get(name)
        return task is not None and task.state is TaskState.READY and name not in self._again_at

    @staticmethod
    def _why(task: Task, worker: Worker) -> str:
        cached = sum(digest[:16] in worker.beat.offer.cached for digest in task.spec.inputs.values())
        return f"fits {worker.name}, {cached} of {len(task.spec.inputs)} inputs cached there"


def _unwelcome(task: Task, worker: Worker) -> bool:
    return avoided(task.spec, worker) or worker.name in task.failed_on
