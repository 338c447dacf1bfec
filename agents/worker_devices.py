"""The GPUs of a worker: may a task use those that its lease gave it, or is it better off on the CPU this time?

    a breaker is open (executors/breaker.py)       on the CPU at once, with the reason
    the device proves nothing in time              the child is killed; a fresh one runs the task on the CPU
    it fails before there was a checkpoint         likewise
    it fails later                                 the lease is given back: the task goes on from its checkpoint
    memory ran out ON_CPU_AFTER times              on the CPU, whose memory is larger

One breaker per GPU, for as long as the worker lives. An error of the task's own (bad data, numbers that are not
finite) says that the device computes.

    Fitted    how often a batch had to be halved here until it fitted, by kind and shape: the next task of that shape
              begins there. A small file; what it knows is dropped after a week, or when it is full.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from executors.breaker import Breaker, BreakerPolicy, Ticket
from mesh import codec, metrics
from mesh.messages.tasks import TaskSpec

ON_CPU_AFTER = 3
"""Out-of-memory failures on a GPU after which the CPU is tried; a scheduler parks the task after the fourth."""

FITTED_MAX = 256
"""Shapes that are remembered, the newest."""

FITTED_S = 7 * 86_400.0
"""How long: machines change, and a smaller batch than necessary costs speed."""

HALVINGS_MAX = 30


class Devices:
    """The breakers of a worker's GPUs."""

    def __init__(self, policy: BreakerPolicy | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy or BreakerPolicy()
        self._clock = clock
        self._breakers: dict[int, Breaker] = {}

    def use(self, gpus: Sequence[int], memory_failures: int = 0, aside: str = "") -> Use:
        """The use of these GPUs for one run of a task. memory_failures: how often the task ran out of memory; aside:
        why it is to leave the GPUs alone, if so."""
        if not gpus:
            return Use(self, (), "", ())
        if not aside and memory_failures >= ON_CPU_AFTER:
            aside = f"memory ran out {memory_failures} times on a GPU"
        if aside:
            metrics.count("mesh_gpu_fallbacks_total", reason="told")
            return Use(self, (), aside, ())
        tickets: list[tuple[Breaker, Ticket]] = []
        for number in gpus:
            breaker = self._breakers.setdefault(number, Breaker(f"GPU {number}", self.policy))
            answer = breaker.ask(self._clock())
            if not isinstance(answer, Ticket):
                for asked, ticket in tickets:
                    asked.withdrawn(ticket)
                metrics.count("mesh_gpu_fallbacks_total", reason="breaker")
                return Use(self, (), answer.reason, ())
            tickets.append((breaker, answer))
        return Use(self, tuple(gpus), "", tuple(tickets))

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()


class Use:
    """One run's use of some GPUs, or of none."""

    def __init__(
        self, devices: Devices, gpus: tuple[int, ...], aside: str, tickets: tuple[tuple[Breaker, Ticket], ...]
    ) -> None:
        self.gpus, self.aside = gpus, aside
        self._devices, self._tickets = devices, tickets

    def placed(self, why_not: str) -> None:
        """The child has looked: the devices compute, or why they do not."""
        if why_not:
            metrics.count("mesh_gpu_fallbacks_total", reason="proof")
            self.failed(why_not)
        for breaker, ticket in self._tickets:
            breaker.proved(ticket, self._devices.now())

    def failed(self, error: str) -> None:
        """The devices failed. All of them: which one it was is rarely said."""
        for breaker, ticket in self._tickets:
            breaker.ended(ticket, self._devices.now(), error)
        self._tickets = ()

    def ended(self) -> None:
        """The run is over, and the devices did their part."""
        for breaker, ticket in self._tickets:
            breaker.ended(ticket, self._devices.now())
        self._tickets = ()

    def withdrawn(self) -> None:
        """The run is over for reasons that say nothing about the devices."""
        for breaker, ticket in self._tickets:
            breaker.withdrawn(ticket)
        self._tickets = ()


class Fitted:
    """How often a batch had to be halved, by shape. Believes nothing that it reads, and no error of the disk stops a
    task."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """path: None forgets at the end of this life."""
        self._path, self._clock = path, clock
        self._known: dict[str, tuple[int, float]] = {}
        if path is not None:
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
                for shape, (halvings, at) in json.loads(path.read_text("utf-8")).items():
                    self._known[str(shape)[:64]] = (min(HALVINGS_MAX, max(0, int(halvings))), float(at))

    def halvings(self, shape: str) -> int:
        """How often to halve from the start; 0 when nothing is known."""
        halvings, at = self._known.get(shape, (0, 0.0))
        return halvings if 0 <= self._clock() - at < FITTED_S else 0

    def note(self, shape: str, halvings: int) -> None:
        """So many fitted, or fewer did not."""
        if halvings < 1 or (self.halvings(shape) >= halvings):
            return
        self._known.pop(shape, None)
        self._known[shape] = (min(HALVINGS_MAX, halvings), self._clock())
        while len(self._known) > FITTED_MAX:
            del self._known[next(iter(self._known))]
        if self._path is not None:
            part = self._path.with_suffix(".part")
            with contextlib.suppress(OSError):
                part.write_text(json.dumps(self._known), encoding="utf-8")
                os.replace(part, self._path)


def shape_of(spec: TaskSpec, gpus: bool) -> str:
    """What decides how much memory a task's batch takes: kind, settings, what it was leased, and on what it runs. The
    data's own size is part of the needs."""
    needs = spec.needs
    taken = [needs.memory_bytes, needs.gpu_memory_bytes, needs.gpus, gpus]
    told = [spec.executor, spec.executor_version, spec.settings, taken]
    return hashlib.sha256(codec.pack(told)).hexdigest()[:32]
