"""After an older store: artifacts first, then the rows that name them; what is lost is not told again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agents.again import Again
from agents.owed import Debts
from mesh import codec, streams
from mesh.artifacts import ArtifactStore
from mesh.log import get
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import CheckpointMade, FailureClass, FailureFound, Owed, ResultFound
from mesh.messages.leases import Receipt
from mesh.messages.tasks import Outcome
from mesh.outbox import Outbox


class Life:
    """What of a worker is needed here, on a broker that can go back in time."""

    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer()
        self.subjects = self.server.subjects
        self.broker = self.server.connect("w")
        self.outbox = Outbox(folder)
        self.store = ArtifactStore(self.broker, self.subjects, cache=folder / "cache", cache_bytes_max=1 << 30)
        self.debts = Debts("w", self.outbox, self.broker, self.subjects, get("test"))
        self.held: list[str] = []
        self.again = Again(self.outbox, self.debts, self.store, lambda: self.held, get("test"))
        self._folder, self._made = folder, 0

    async def artifact(self) -> str:
        self._made += 1
        made = self._folder / f"made-{self._made}"
        made.mkdir()
        (made / "model.bin").write_bytes(b"%d" % self._made * 1_000)
        return await self.store.put(made, media="model", keep=True)

    def receipted(self, *records: Owed) -> None:
        """Rows that the lost history had recorded."""
        for record in records:
            self.outbox.record(record.key, self.subjects.owed("w", record.key), codec.encode(record))
            self.outbox.settle(Receipt(key=record.key, recorded=True))

    async def come_back_older(self) -> None:
        """The broker's store is as it was before any of this."""
        for name in ("COMMANDS", "ARTIFACTS"):
            await self.broker.purge(self.subjects.stream(name))

    def forget(self, digest: str) -> None:
        """The local cache has let it go."""
        self.store._cache.discard(digest)

    async def told(self) -> list[str]:
        """Rows in the store, in order, as TASK/KIND/NUMBER."""
        stored = await self.broker.read(self.subjects.stream("COMMANDS"), self.subjects.commands())
        kinds: tuple[type[Owed], ...] = (ResultFound, CheckpointMade, FailureFound)
        rows = [codec.decode(row, *kinds).key for one in stored for row in codec.rows(one.data)]
        return [f"{key.task}/{key.kind}/{key.number}" for key in rows]


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Life]:
    life = Life(tmp_path)
    await streams.ensure_all(life.broker, streams.table(life.subjects, artifact_bytes_max=1 << 20))
    helpers = [asyncio.create_task(work) for work in (life.debts.write(), life.debts.send(), life.again.run())]
    try:
        yield life
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        life.outbox.close()


def result(task: str, *digests: str) -> ResultFound:
    outputs = {f"o{index}": digest for index, digest in enumerate(digests)}
    key = Key(task, Epoch(1, 1), "result", 1)
    return ResultFound(key=key, incarnation="w.1", outcome=Outcome(outputs=outputs))


def checkpoint(task: str, number: int, manifest: str, *, best: bool = False) -> CheckpointMade:
    key = Key(task, Epoch(1, 1), "checkpoint", number)
    return CheckpointMade(key=key, incarnation="w.1", manifest=manifest, step=number, best=best)


def failure(task: str) -> FailureFound:
    key = Key(task, Epoch(1, 1), "failure", 1)
    return FailureFound(key=key, incarnation="w.1", failure=FailureClass.RETRY, reason="broken")


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is so."""
    async with asyncio.timeout(30.0):
        while True:
            if await look():
                return
            await asyncio.sleep(0.02)


async def until_told(life: Life, wanted: list[str]) -> None:
    async def all_told() -> bool:
        return sorted(await life.told()) == sorted(wanted)

    await eventually(all_told)


async def until_stored(life: Life, digest: str) -> None:
    async def there() -> bool:
        return not await life.store.missing(digest)

    await eventually(there)


async def test_artifacts_are_put_again_before_their_rows_are_owed_again(life: Life) -> None:
    model, data = await life.artifact(), await life.artifact()
    life.receipted(result("plain"), result("made", model))
    life.held = [data]
    await life.come_back_older()
    order: list[str] = []
    reopen = life.debts.reopen

    async def watched(keys: tuple[Key, ...]) -> int:
        order.append(f"missing {await life.store.missing(model)}")
        return await reopen(keys)

    life.debts.reopen = watched  # type: ignore[method-assign]
    await life.again.noticed("restored")
    await until_told(life, ["plain/result/1", "made/result/1"])
    assert order == ["missing False"]
    assert not await life.store.missing(data)


async def test_a_result_whose_outputs_are_lost_is_not_told_again_and_its_checkpoints_are(life: Life) -> None:
    lost = await life.artifact()
    steps = [await life.artifact() for _ in range(4)]
    rows = [checkpoint("t", number + 1, digest, best=number == 0) for number, digest in enumerate(steps)]
    life.receipted(*rows[:3], failure("t"), rows[3], result("t", lost))
    await life.come_back_older()
    life.forget(lost)
    life.forget(steps[2])
    await life.again.noticed("restored")
    await until_told(life, ["t/checkpoint/1", "t/checkpoint/2", "t/failure/1", "t/checkpoint/4"])
    assert [row.key.kind for row in life.outbox.kept()] == ["checkpoint", "result"]


async def test_of_a_task_with_its_result_no_checkpoint_is_looked_for(life: Life) -> None:
    model, step = await life.artifact(), await life.artifact()
    life.receipted(checkpoint("t", 1, step), result("t", model))
    await life.come_back_older()
    await life.again.noticed("restored")
    await until_told(life, ["t/result/1"])
    assert await life.store.missing(step)


async def test_rows_without_receipt_have_their_artifacts_looked_for_too(life: Life) -> None:
    model = await life.artifact()
    await life.come_back_older()
    row = result("t", model)
    life.outbox.record(row.key, life.subjects.owed("w", row.key), codec.encode(row))
    await life.again.noticed("restored")
    await until_stored(life, model)


async def test_it_waits_for_a_broker_that_is_away(life: Life) -> None:
    model = await life.artifact()
    life.receipted(result("t", model))
    await life.come_back_older()
    life.server.cut("w")
    noticing = asyncio.create_task(life.again.noticed("restored"))
    await asyncio.sleep(0.1)
    life.server.heal("w")
    await noticing
    await until_told(life, ["t/result/1"])
    assert not await life.store.missing(model)


async def test_after_an_outage_the_artifacts_of_what_is_not_told_yet_are_put_again(life: Life) -> None:
    model = await life.artifact()
    await asyncio.sleep(0.1)  # the look at the start of the life is over
    row = result("t", model)
    life.outbox.record(row.key, life.subjects.owed("w", row.key), codec.encode(row))
    await life.come_back_older()
    life.server.crash()
    life.server.restart()
    await until_stored(life, model)


async def test_a_new_life_looks_for_the_artifacts_of_what_an_earlier_one_has_not_told(life: Life) -> None:
    model = await life.artifact()
    row = result("t", model)
    life.outbox.record(row.key, life.subjects.owed("w", row.key), codec.encode(row))
    await life.come_back_older()
    again = Again(life.outbox, life.debts, life.store, list, get("test"))
    helper = asyncio.create_task(again.run())
    await until_stored(life, model)
    helper.cancel()
    await asyncio.gather(helper, return_exceptions=True)
