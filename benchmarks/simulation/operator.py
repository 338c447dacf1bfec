"""The operator of a simulated mesh: a person who drains workers, takes them back, and starts parked tasks again.

He does so at any moment, in the midst of faults too, and looks before he speaks no better than a person does: what he
sees of the dead letters may be a second old. When the faults are over he has a last word about each worker, so that
one of them at least serves.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from benchmarks.simulation.work import CommandLine
from mesh.messages.commands import Drain, Resubmit
from mesh.messages.tasks import TaskSpec

DRAINS, RESUBMITS = 0.5, 0.6
"""In how many meshes the operator does so at all."""

LAST_WORD_S = 42.0
"""When the faults are over for a moment: then it is said which workers serve."""

AT_ONCE, AT_ONCE_S = 0.12, 18.0
"""In how many meshes a worker is then drained at once, and how long it stays so."""

STAYS_DRAINED = 0.15
"""In how many meshes workers stay out of service for good."""


class Operator:
    """What one person says to one mesh."""

    def __init__(
        self, commands: CommandLine, chance: random.Random, workers: Sequence[str], parked: Callable[[], list[TaskSpec]]
    ) -> None:
        """parked: the dead letters, as the ledger was a moment ago."""
        self._commands, self._chance, self._workers, self._parked = commands, chance, workers, parked
        self._said = 0

    async def run(self) -> None:
        """Everything that is said."""
        chance = self._chance
        with self._commands.at_work():
            drains = chance.random() < DRAINS
            resubmits = chance.random() < RESUBMITS
            await asyncio.gather(
                *(self._drains() for _ in range(drains * chance.randint(1, 2))),
                *(self._resubmits() for _ in range(resubmits)),
            )
            await asyncio.sleep(max(0.0, LAST_WORD_S - asyncio.get_running_loop().time()))
            if resubmits and chance.random() < 0.5:
                await self._resubmit()
            await self._last_word()

    async def _drains(self) -> None:
        """One worker after the other, each for a while, some without an end."""
        chance = self._chance
        for _ in range(chance.randint(1, 3)):
            await asyncio.sleep(chance.uniform(1.0, 20.0))
            worker = chance.choice(self._workers)
            await self._drain(worker, now=chance.random() < 0.5)
            await asyncio.sleep(chance.choice((0.2, 5.0, 15.0)) * chance.uniform(0.5, 1.5))
            if chance.random() < 0.8:
                await self._serve(worker)

    async def _last_word(self) -> None:
        chance = self._chance
        out = chance.sample(self._workers, chance.randint(1, len(self._workers) - 1))
        stay = out if chance.random() < STAYS_DRAINED else []
        for worker in self._workers:
            if worker not in stay:
                await self._serve(worker)
        for worker in stay:
            await self._drain(worker, now=chance.random() < 0.5)
        if not stay and chance.random() < AT_ONCE:
            worker = chance.choice(self._workers)
            await self._drain(worker, now=True)
            await asyncio.sleep(AT_ONCE_S)
            await self._serve(worker)

    async def _drain(self, worker: str, *, now: bool) -> None:
        await self._commands.put(Drain(id=self._id("d"), worker=worker, now=now))

    async def _serve(self, worker: str) -> None:
        await self._commands.put(Drain(id=self._id("d"), worker=worker, undo=True))

    async def _resubmits(self) -> None:
        for _ in range(self._chance.randint(1, 3)):
            await asyncio.sleep(self._chance.uniform(3.0, 25.0))
            await self._resubmit()

    async def _resubmit(self) -> None:
        """All, a topic or a task; now and then one that is not parked at all."""
        chance, parked = self._chance, self._parked()
        if not parked:
            named = {"topic": "t1"} if chance.random() < 0.3 else None
        else:
            one = chance.choice(parked)
            named = chance.choice(({}, {"topic": one.topic}, {"task": one.id}, {"task": one.id}))
        if named is not None:
            await self._commands.put(Resubmit(id=self._id("r"), **named))

    def _id(self, letter: str) -> str:
        self._said += 1
        return f"{letter}-{self._said}"
