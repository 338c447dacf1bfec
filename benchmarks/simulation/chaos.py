"""The faults of one seed: what is killed, stopped, cut off or put back, and when. Ends with everything healed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from benchmarks.simulation.clocks import WallClock
from benchmarks.simulation.lives import Machine, SchedulerMachine, WorkerMachine
from benchmarks.simulation.network import CALM, Network, Weather
from benchmarks.simulation.trace import Trace
from mesh.errors import NotFound
from mesh.memory import MemoryServer
from mesh.memory_store import MemoryStream
from mesh.messages import object_names

CHAOS_S = 40.0
"""How long faults go on. Longer lives find few more faults than more seeds do in the same time."""

BACKUP_S = 5.0
"""How often the broker's store is copied, when it may come back older."""

STEPS_MAX = 120
"""A process that is to be killed dies within so many steps of its tasks: at any await of what it is doing."""

Action = Callable[[], None]
Backup = dict[str, MemoryStream]


class Chaos:
    """Draws faults from the seed and carries them out."""

    def __init__(
        self, server: MemoryServer, network: Network, wall: WallClock, trace: Trace, chance: random.Random, *,
        workers: list[WorkerMachine], schedulers: list[SchedulerMachine], older: bool, on_older: Action,
        loses: Callable[[list[str], random.Random], str], leader: Callable[[], str],
    ) -> None:  # fmt: skip
        """older: the broker may come back with an older copy of its store; on_older: called just before; loses:
        chooses what vanishes of these subjects of artifacts; leader: name of the scheduler that leads."""
        self.over = False
        self._server, self._network, self._wall, self._trace, self._chance = server, network, wall, trace, chance
        self._workers, self._schedulers = workers, schedulers
        self._backups = [server.copy()] if older else []
        self._older, self._on_older, self._loses, self._leader = older, on_older, loses, leader
        self._mending: set[asyncio.Task[None]] = set()
        self._rate_s = chance.choice((1.5, 3.0, 5.0, 10.0))

    async def run(self) -> None:
        """Faults, then health."""
        loop, chance = asyncio.get_running_loop(), self._chance
        begun = backed_up = loop.time()
        self._network.weather = Weather.of(chance)
        while (pause_s := chance.expovariate(1 / self._rate_s)) + loop.time() < begun + CHAOS_S:
            await asyncio.sleep(pause_s)
            if self._older and loop.time() > backed_up + BACKUP_S and self._server.up:
                self._backups.append(self._server.copy())
                backed_up = loop.time()
            self._strike()
        await asyncio.sleep(max(0.0, begun + CHAOS_S - loop.time()))
        self._heal()

    def _strike(self) -> None:
        worker, scheduler = self._chance.choice(self._workers), self._chance.choice(self._schedulers)
        strikes: list[tuple[float, Action]] = [
            (4, lambda: self._kill(worker)),
            (2, lambda: self._kill(scheduler)),
            (3, lambda: self._freeze(worker, (1.0, 8.0, 25.0))),
            (2, lambda: self._freeze(scheduler, (1.0, 4.0, 15.0))),
            (1, lambda: self._wedge(worker)),
            (3, lambda: self._cut(worker.name, f"{worker.name}-beats")),
            (1, lambda: self._cut(worker.name)),
            (1, lambda: self._cut(f"{worker.name}-beats")),
            (2, lambda: self._cut(scheduler.name)),
            (2, self._silence_leader),
            (1, lambda: self._cut("cli")),
            (2, self._crash_broker),
            (1, lambda: self._empty_cache(worker)),
            (1, self._lose_artifact),
            (1, self._jump),
            (2, self._change_weather),
            (1, lambda: self._terminate(worker)),
            (1, self._rival),
        ]
        weights = [weight for weight, _ in strikes]
        self._chance.choices(strikes, weights)[0][1]()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, machine: Machine) -> None:
        if machine.alive and machine.main is not None:
            machine.main.dies_at = machine.main.steps + self._chance.randint(1, STEPS_MAX)
            self._trace.fault("kill -9", machine.name)

    def _freeze(self, machine: Machine, seconds: tuple[float, ...]) -> None:
        process = machine.process
        if not machine.alive or process is None or process.stopped:
            return
        process.stop()
        lasts_s = self._chance.choice(seconds) * self._chance.uniform(0.5, 1.5)
        self._trace.fault("stopped process", f"{machine.name} for {lasts_s:.1f} s")
        self._later(lasts_s, process.go_on)
        if isinstance(machine, SchedulerMachine) and self._chance.random() < 0.5:
            self._rival()

    def _wedge(self, worker: WorkerMachine) -> None:
        main = worker.main
        if worker.alive and main is not None and not main.stopped:
            main.stop()
            lasts_s = self._chance.choice((2.0, 36.0))
            self._trace.fault("stalled loop", f"{worker.name} for {lasts_s:.1f} s")
            self._later(lasts_s, main.go_on)

    def _terminate(self, worker: WorkerMachine) -> None:
        if worker.alive:
            self._trace.fault("SIGTERM", worker.name)
            worker.ask_to_stop()

    def _rival(self) -> None:
        """Somebody starts the other scheduler."""
        for scheduler in self._schedulers:
            if not scheduler.wanted:
                self._trace.fault("second scheduler", scheduler.name)
                scheduler.wanted = True

    def _empty_cache(self, worker: WorkerMachine) -> None:
        """Somebody removes the cached artifacts of a machine."""
        if worker.disk.cache:
            self._trace.fault("emptied cache", worker.name)
            worker.disk.emptied.update(worker.disk.cache)
            worker.disk.cache.clear()

    def _lose_artifact(self) -> None:
        """One that a result names, or any, is gone from the store, as after an operator's mistake."""
        subjects = self._server.subjects
        with contextlib.suppress(NotFound):  # the streams are not made yet
            stream = self._server.stream(subjects.stream("ARTIFACTS"))
            found = sorted(stream.subjects(subjects.stored_kind(object_names.MANIFEST)))
            if lost := self._loses(found, self._chance):
                stream.purge(lost, 0)
                self._trace.fault("lost artifact", lost)

    # -- the network and the broker -----------------------------------------------------------------------------------

    def _cut(self, *names: str) -> None:
        silently = self._chance.random() < 0.5
        for name in names:
            self._server.cut(name, silently=silently)
        lasts_s = self._chance.choice((2.0, 8.0, 20.0)) * self._chance.uniform(0.5, 1.5)
        kind = "silent partition" if silently else "partition"
        self._trace.fault(kind, f"{' and '.join(names)} for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: self._rejoin(*names))
        if names[0].startswith("s") and self._chance.random() < 0.5:
            self._rival()

    def _silence_leader(self) -> None:
        """The leader neither hears nor is heard, and believes to be connected; the others go on, with another one."""
        leader = next((machine for machine in self._schedulers if machine.name == self._leader()), None)
        if leader is None or not leader.alive:
            return
        self._rival()
        self._server.cut(leader.name, silently=True)
        lasts_s = self._chance.choice((4.0, 12.0, 24.0)) * self._chance.uniform(0.5, 1.5)
        self._trace.fault("silenced leader", f"{leader.name} for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: self._rejoin(leader.name))

    def _rejoin(self, *names: str) -> None:
        for name in names:
            self._server.heal(name)

    def _crash_broker(self) -> None:
        if not self._server.up:
            return
        self._server.crash()
        lasts_s = self._chance.choice((0.5, 4.0, 15.0)) * self._chance.uniform(0.5, 1.5)
        older = self._older and self._chance.random() < 0.5
        backup = self._chance.choice(self._backups) if older else None
        kind = "older broker" if older else "broker crash"
        self._trace.fault(kind, f"away for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: self._bring_back(backup))

    def _bring_back(self, backup: Backup | None) -> None:
        if self._server.up:
            return
        if backup is not None:
            self._trace.note("the broker is back with an older store")
            self._on_older()
        self._server.restart(backup)

    def _jump(self) -> None:
        """On one machine: what the others show does not follow."""
        machine = self._chance.choice((*self._workers, *self._schedulers))
        seconds = self._chance.choice((-86_400.0, -30.0, 30.0, 86_400.0))
        self._wall.jump(seconds, machine.name)
        self._trace.fault("clock jump", f"{machine.name} by {seconds:g} s")

    def _change_weather(self) -> None:
        self._network.weather = Weather.of(self._chance)
        self._trace.note("the weather changes")

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _later(self, seconds: float, mend: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            mend()

        task = asyncio.get_running_loop().create_task(wait())
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    def _heal(self) -> None:
        """No more faults: everybody may come back and go on."""
        for task in sorted(self._mending, key=hash):
            task.cancel()
        self._network.weather = CALM
        if not self._server.up:
            self._server.restart()
        for name in sorted({broker.name for broker in self._server.brokers}):
            self._server.heal(name)
        for machine in (*self._workers, *self._schedulers):
            machine.pause_s_max = 3.0
            for process in (machine.process, machine.main):
                if process is not None:
                    process.go_on()
                    process.dies_at = 0
        self.over = True
        self._trace.note("all faults cease")
