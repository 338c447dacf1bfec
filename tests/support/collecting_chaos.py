"""Uploads, names, collectors and accidents at random moments of virtual time, and a judge who looks at every removal.

Whoever was told the digest of an artifact may name it within the time that nameless ones are kept; from then on, and as
long as it is named, every object of it has to be stored. What nobody needs has to be gone in the end. A seed decides
everything: latencies of every call, answers that are lost, writes and removals that arrive late, leaders that come and
go (two at a time, too), a store that comes back older.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

from mesh import codec, coding, limits, streams
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker
from mesh.condemned import CondemnedLists
from mesh.errors import BusUnavailable, RamifyError
from mesh.memory import Fate, Faults
from mesh.memory_store import MemoryStream
from mesh.messages import object_names
from mesh.messages.object_names import ObjectName
from mesh.object_traffic import Asking, Resend, Traffic
from mesh.objects import JetStreamBackend
from planner.collecting import objects_of
from tests.support.collecting import SUBJECTS, CollectingStage, StagedHistory, listed, manifest_of

EVERY_S, WAIT_S, KEEP_S = 10.0, 5.0, 60.0
TIMES = {
    "scheduler.collect_every_s": EVERY_S,
    "scheduler.collect_wait_s": WAIT_S,
    "scheduler.unnamed_keep_s": KEEP_S,
}
BODIES = [bytes([number]) * 50 for number in range(16)]
"""What artifacts are made of: few, so that they share their objects all the time."""

NAMING_S_MAX = KEEP_S / 2
"""Longest way of a name: half of the time for which what has none is kept."""


class Weather(Faults):
    """What goes wrong, decided by the seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.calm = False

    def latency_s(self, caller: str, what: str) -> float:
        luck = self._chance.random()
        if self.calm or luck < 0.7:
            return 0.0
        return 9.0 if luck > 0.998 else self._chance.choice((0.001, 0.1, 0.5, 2.0))

    def append(self, writer: str, subject: str) -> Fate:
        kinds = (Fate.LOST, Fate.REPLY_LOST, Fate.LATE)
        return Fate.STORED if self.calm or self._chance.random() < 0.95 else self._chance.choice(kinds)

    def late_s(self) -> float:
        return self._chance.choice((1.0, 10.0, 60.0))


class LateRemovals(JetStreamBackend):
    """Some removals are carried out a good while after whoever asked for them has given up, or is dead."""

    def __init__(self, broker: Broker, chaos: Chaos) -> None:
        super().__init__(broker, SUBJECTS)
        self._chaos = chaos

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        if self._chaos.calm or self._chaos.chance.random() < 0.9:
            return await super().remove(name, mark=mark)
        history = self._chaos.history_number

        def late() -> None:
            if self._chaos.history_number == history:  # else the connection on which it travelled is gone
                self._chaos.stream().purge(SUBJECTS.stored(name), int(mark) + 1)

        asyncio.get_running_loop().call_later(self._chaos.chance.choice((1.0, 20.0, 90.0)), late)
        await asyncio.sleep(limits.CALL_TIMEOUT_S)
        raise BusUnavailable("no answer to this removal: it may or may not have happened")


@dataclasses.dataclass
class Known:
    """An artifact whose digest somebody was told."""

    digest: str
    needs: frozenset[ObjectName]
    uses: int = 0
    """Who names it, or is about to."""


class Chaos:
    """One run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.weather = Weather(self.chance)
        self.stage = CollectingStage(folder, faults=self.weather)
        self.history_number = 0
        self.known: dict[str, Known] = {}
        self.lost: list[str] = []
        self.left_over: set[str] = set()
        """Stored in the end although nobody needs it, by subject."""
        self.removed = self.told = 0
        self._traffics: list[Traffic] = []
        self._uploads: set[asyncio.Task[None]] = set()
        self._collectors: list[contextlib.AsyncExitStack] = []
        self._numbers = 0

    @property
    def calm(self) -> bool:
        return self.weather.calm

    def stream(self) -> MemoryStream:
        return self.stage.server.stream(SUBJECTS.stream(streams.ARTIFACTS))

    # -- the judge ----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Look at everything after each removal in the present store."""
        stream = self.stream()

        def watched(subject: str, below_seq: int) -> int:
            gone = MemoryStream.purge(stream, subject, below_seq)
            self.removed += gone
            if gone:
                self.judge(f"after the removal of {subject} below {below_seq}")
            return gone

        stream.purge = watched  # type: ignore[method-assign]

    def judge(self, when: str) -> None:
        there = set(self.stream().subjects(SUBJECTS.artifacts()))
        for one in self.known.values():
            if one.uses:
                self.lost += [
                    f"{one.digest[:8]} lacks {name.kind}.{name.digest[:8]} {when}"
                    for name in one.needs
                    if SUBJECTS.stored(name) not in there
                ]

    # -- who uploads and names ----------------------------------------------------------------------------------------

    async def uploads(self, name: str) -> None:
        """A machine that stores artifacts of the same few bodies again and again, and names some."""
        broker = self.stage.server.connect(name)
        traffic = Traffic(
            JetStreamBackend(broker, SUBJECTS), condemned=CondemnedLists(broker, SUBJECTS), clock=self._now
        )
        self._traffics.append(traffic)
        while not self.calm:
            upload = asyncio.create_task(self._upload(traffic))
            self._uploads.add(upload)
            await asyncio.wait((upload,))
            self._uploads.discard(upload)
            if not upload.cancelled():
                upload.result()
            await asyncio.sleep(self.chance.uniform(0.0, 40.0))
        await broker.close()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _upload(self, traffic: Traffic) -> None:
        bodies = tuple(self.chance.sample(BODIES, self.chance.randint(1, 3)))
        lists = listed(bodies, self.chance.choice((0, 0, 1, 2)))
        manifest = manifest_of(bodies, lists=tuple(map(codec.digest, lists)))
        data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        by_name = {object_names.whole(codec.digest(body)): body for body in (*bodies, *lists)}
        digest, needs = codec.digest(data), frozenset(by_name)
        assert needs >= set(objects_of(manifest))
        asking, torn = Asking(), self.chance.random() < 0.15

        async def send(name: ObjectName, over: bool) -> None:
            await traffic.send(name, coding.RAW_HEADER + by_name[name], asking, over=over)

        with contextlib.suppress(RamifyError):  # given up: nobody was told anything
            for name in by_name:
                if not await traffic.is_there(name, asking):
                    await send(name, False)
                await asyncio.sleep(self.chance.choice((0.0, 0.0, 1.0, 10.0)))
            if torn:
                return

            async def pages() -> AsyncIterator[tuple[Collection[ObjectName], Resend]]:
                for some in (lists, bodies):
                    yield {object_names.whole(codec.digest(body)) for body in some}, send

            await traffic.seal_pages(pages, digest, data)
            self._tell(digest, needs | {object_names.manifest(digest)})

    def _tell(self, digest: str, needs: frozenset[ObjectName]) -> None:
        """An upload has ended well: from now on its artifact may be named."""
        self.told += 1
        one = self.known.setdefault(digest, Known(digest, needs))
        one.uses += 1
        self.judge("when it was told")
        loop, number = asyncio.get_running_loop(), self.history_number
        task = f"task-{self.told}"
        if self.chance.random() < 0.3:  # nobody ever names it
            loop.call_later(NAMING_S_MAX, self._let_go, one, "", number)
            return
        named_after_s = self.chance.uniform(0.0, NAMING_S_MAX)
        loop.call_later(named_after_s, self._name, task, digest)
        loop.call_later(named_after_s + self.chance.uniform(1.0, 60.0), self._let_go, one, task, number)

    def _name(self, task: str, digest: str) -> None:
        self.stage.open_task(task, inputs={"data": digest}, topic="t1")

    def _let_go(self, one: Known, task: str, history: int) -> None:
        if history == self.history_number:
            one.uses -= 1
        if task in self.stage.ledger.tasks:
            del self.stage.ledger.tasks[task]

    # -- leaders ------------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """One more leader collects."""
        self._numbers += 1
        home = self.stage.folder / f"notes-{self._numbers % 3 if len(self._collectors) == 0 else self._numbers}"
        home.mkdir(exist_ok=True)
        stack = contextlib.AsyncExitStack()
        history = StagedHistory(home, self.stage.ledger)
        times: dict[str, Any] = dict(TIMES)
        await stack.enter_async_context(
            self.stage.collecting(f"s{self._numbers}", history, backend=self._removals, **times)
        )
        self._collectors.append(stack)

    def _removals(self, broker: Broker, cache: Path) -> ArtifactStore:
        return ArtifactStore(broker, SUBJECTS, cache=cache, cache_bytes_max=1 << 20, backend=LateRemovals(broker, self))

    async def depose(self) -> None:
        """The leader that has led for longest is gone; what it asked for may still happen."""
        await self._collectors.pop(0).aclose()

    async def leaders(self) -> None:
        """They come and go, and sometimes two believe to lead."""
        while not self.calm:
            await asyncio.sleep(self.chance.uniform(50.0, 400.0))
            if len(self._collectors) < 2:
                await self.lead()
            if len(self._collectors) > 1 and self.chance.random() < 0.7:
                await self.depose()

    # -- accidents ----------------------------------------------------------------------------------------------------

    async def restore(self, copied: dict[str, MemoryStream], told: frozenset[str]) -> None:
        """The store comes back as it was when it was copied. Who notices begins anew, as agents and leaders do."""
        for upload in self._uploads:
            upload.cancel()
        self.stage.server.crash()
        while self._collectors:
            await self.depose()
        self.history_number += 1
        self.stage.ledger.generation += 1
        for one in self.known.values():
            one.uses = 0
        for digest in told:  # what was whole in the copy, and is named now, has to stay
            if any(digest in task.spec.inputs.values() for task in self.stage.ledger.tasks.values()):
                self._keep(digest)
        self.stage.server.restart(copied)
        self.watch()
        for traffic in self._traffics:
            traffic.forget()
        await self.lead()

    def _keep(self, digest: str) -> None:
        """Named for good, by a task of its own."""
        self.known[digest].uses += 1
        self._numbers += 1
        self._name(f"kept-{self._numbers}", digest)

    async def accidents(self) -> None:
        """Copies are made, and one comes back now and then."""
        while not self.calm:
            copied = self.stage.server.copy()
            there = set(self.stream().subjects(SUBJECTS.artifacts()))
            told = frozenset(
                digest
                for digest, one in self.known.items()
                if one.uses and all(SUBJECTS.stored(name) in there for name in one.needs)
            )
            await asyncio.sleep(self.chance.uniform(1.0, 200.0))
            if self.chance.random() < 0.4 and not self.weather.calm:
                await self.restore(copied, told)

    # -- the whole ----------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """So much of virtual time, then calm until all that nobody needs should be gone."""
        self.weather.calm = True
        await self.stage.start()
        self.weather.calm = False
        self.watch()
        await self.lead()
        parts: list[Callable[[], Any]] = [self.leaders, self.accidents, *(
            lambda number=number: self.uploads(f"w{number}") for number in range(4)
        )]  # fmt: skip
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part())
            await asyncio.sleep(seconds)
            self.weather.calm = True
        self.judge("at the end")
        await asyncio.sleep(3 * KEEP_S + 10 * (EVERY_S + WAIT_S + 60.0))
        self.judge("in the end")
        self.left_over = self._garbage()
        while self._collectors:
            await self.depose()

    def _garbage(self) -> set[str]:
        """What is stored although nobody names it, by subject."""
        named = {digest for task in self.stage.ledger.tasks.values() for digest in task.spec.inputs.values()}
        needed = {SUBJECTS.stored(name) for digest, one in self.known.items() if digest in named for name in one.needs}
        return set(self.stream().subjects(SUBJECTS.artifacts())) - needed
