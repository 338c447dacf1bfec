"""What a simulated mesh is given to do: topics with their tasks, some of them withdrawn, some of them trouble.

CommandLine   puts commands onto the stream, each until it is stored; all of them again when the store is older
Publisher     topics, and what it withdraws of them (operator.py: who drains workers and starts parked tasks again)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import msgspec

from benchmarks.simulation.parts import KIND, Fate
from benchmarks.simulation.trace import Trace
from mesh import codec
from mesh.bus import Broker
from mesh.errors import BusUnavailable, Conflict, NotFound
from mesh.messages.commands import Cancel, Drain, Resubmit, Submit
from mesh.messages.tasks import Needs, OnDisconnect, TaskSpec
from mesh.subjects import Subjects

WRITER = "cli"
PUBLISHED_S = 26.0
"""Everything is published in the first so many seconds."""

AGAIN_S = 1.0

LONG_S = 26.0
"""A long task: it is still running when a worker is told to hand on what it has."""

Asked = Submit | Cancel | Drain | Resubmit


class CommandLine:
    """Commands of people, each put until it is stored."""

    def __init__(self, broker: Broker, subjects: Subjects, trace: Trace) -> None:
        self.stored: dict[str, Asked] = {}
        """Commands that the stream has taken, by id, in their order."""
        self._at_work = 0
        self._one_by_one = asyncio.Lock()
        self._broker, self._subjects, self._trace = broker, subjects, trace

    @property
    def done(self) -> bool:
        """True when nobody has anything more to say."""
        return not self._at_work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Somebody has more to say."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def put(self, command: Asked) -> None:
        """Returns when it is stored. What is said of workers is said one after the other: the last word counts."""
        if isinstance(command, Drain):
            async with self._one_by_one:
                await self._put(command)
        else:
            await self._put(command)

    async def again(self) -> None:
        """The store came back older: publish what was stored once more, as the command line's outbox does."""
        with self.at_work():
            async with self._one_by_one:
                for command in list(self.stored.values()):
                    await self._put(command)

    async def _put(self, command: Asked) -> None:
        subject = self._subjects.command(WRITER, command.kind, command.id)
        while True:
            try:
                await self._broker.append(subject, codec.encode(command), subject_seq=0)
                break
            except Conflict:
                break  # an earlier try was stored, though nobody said so
            except (BusUnavailable, NotFound):
                await asyncio.sleep(AGAIN_S)
        self._trace.note(f"published {command.id}")
        self.stored[command.id] = command


class Publisher:
    """Publishes topics and withdraws some."""

    def __init__(self, commands: CommandLine, chance: random.Random) -> None:
        self._commands, self._chance = commands, chance

    async def run(self) -> None:
        """All topics, then it is done."""
        with self._commands.at_work():
            topics = [f"t{number}" for number in range(1, self._chance.randint(2, 5))]
            await asyncio.gather(*(self._topic(topic) for topic in topics))

    async def _topic(self, topic: str) -> None:
        chance = self._chance
        await asyncio.sleep(chance.uniform(0.0, PUBLISHED_S))
        tasks = self._tasks(topic)
        await self._commands.put(Submit(id=f"s-{topic}", topic=topic, tasks=tasks))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0.0, 15.0))
            named = {"topic": topic} if chance.random() < 0.5 else {"task": chance.choice(tasks).id}
            await self._commands.put(Cancel(id=f"c-{topic}", reason="withdrawn", **named))

    def _tasks(self, topic: str) -> tuple[TaskSpec, ...]:
        chance, made = self._chance, list[TaskSpec]()
        for number in range(1, chance.randint(1, 4) + 1):
            after = (chance.choice(made).id,) if made and chance.random() < 0.5 else ()
            made.append(self._task(topic, f"{topic}-{number}", after))
        return tuple(made)

    def _task(self, topic: str, name: str, after: tuple[str, ...]) -> TaskSpec:
        chance = self._chance
        waits = chance.random() < 0.25
        return TaskSpec(
            id=name,
            topic=topic,
            executor=KIND,
            settings=msgspec.to_builtins(self._fate()),
            needs=Needs(cores=chance.choice((0.0, 0.5, 1.0)), memory_bytes=1 << 20, disk_bytes=1 << 20),
            priority=chance.randint(0, 9),
            stall_s=5.0,
            attempts_max=chance.choice((1, 3, 4)),
            after=after,
            avoid=(f"w{chance.randint(1, 3)}",) if chance.random() < 0.2 else (),
            on_disconnect=OnDisconnect.WAIT if waits else OnDisconnect.REPLACE,
            wait_s=chance.uniform(5.0, 40.0),
        )

    def _fate(self) -> Fate:
        chance = self._chance
        fate = Fate(seconds=chance.choice((0.5, 2.0, 6.0, 12.0)), outputs=chance.random() < 0.5)
        roll = chance.random()
        if roll < 0.05:
            return msgspec.structs.replace(fate, seconds=LONG_S, checkpoint_s=5.0)
        if roll < 0.55:
            return fate
        if roll < 0.67:
            return msgspec.structs.replace(fate, fails=chance.randint(1, 4))
        if roll < 0.77:
            return msgspec.structs.replace(fate, kills=chance.randint(1, 3))
        if roll < 0.84:
            return msgspec.structs.replace(fate, hangs=1)
        if roll < 0.94:
            return msgspec.structs.replace(fate, halvings=chance.randint(1, 5))
        return msgspec.structs.replace(fate, rejects=True)
