"""What a worker owes: rows share messages, keep their order, and go only on a receipt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents import owed
from agents.owed import Debts
from mesh import codec, limits, streams
from mesh.bus import Message, Stored
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import GiveBack
from mesh.messages.leases import Receipt
from mesh.messages.services import OwedAnswer
from mesh.outbox import Outbox
from mesh.subjects import Subjects

SUBJECTS = Subjects("mesh")


def row(task: str, number: int = 1) -> GiveBack:
    return GiveBack(key=Key(task, Epoch(1, 1), GiveBack.kind, number), incarnation="w1.0001", reason="done")


class Life:
    """One life of a worker's debts on a folder."""

    def __init__(self, server: MemoryServer, folder: Path) -> None:
        self.broker: MemoryBroker = server.connect("w1")
        self.outbox = Outbox(folder)
        self.debts = Debts("w1", self.outbox, self.broker, SUBJECTS, logging.getLogger("test"))

    async def owe(self, *rows: GiveBack) -> None:
        await asyncio.gather(*(self.debts.owe(one) for one in rows))

    async def stored(self) -> list[Stored]:
        return await self.broker.read(SUBJECTS.stream("COMMANDS"), SUBJECTS.commands())

    async def told(self) -> list[str]:
        """Tasks of the rows that COMMANDS holds, in order."""
        return [codec.decode(data, GiveBack).key.task for one in await self.stored() for data in codec.rows(one.data)]


@contextlib.asynccontextmanager
async def life(server: MemoryServer, folder: Path) -> AsyncIterator[Life]:
    found = Life(server, folder)
    await streams.ensure_all(found.broker, streams.table(SUBJECTS, artifact_bytes_max=1_000))
    tasks = [asyncio.create_task(found.debts.write()), asyncio.create_task(found.debts.send())]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        found.outbox.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the outbox works in a thread
            await asyncio.sleep(0.005)


async def sent(one: Life, count: int) -> None:
    async with asyncio.timeout(10):
        while len(await one.told()) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)


async def test_one_row_stands_under_its_own_subject(tmp_path: Path) -> None:
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(row("a"))
        await sent(one, 1)
        assert [stored.subject for stored in await one.stored()] == [SUBJECTS.owed("w1", row("a").key)]


async def test_rows_that_wait_together_travel_together_and_in_order(tmp_path: Path) -> None:
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(*(row(f"t{number}") for number in range(50)))
        await sent(one, 50)
        assert await one.told() == [f"t{number}" for number in range(50)]
        assert len(await one.stored()) < 5
        assert [key.task for key in one.debts.owed] == await one.told()


async def test_a_receipt_lets_go_of_just_its_row(tmp_path: Path) -> None:
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(row("a"), row("b"))
        await sent(one, 2)
        await one.debts.settle((Receipt(key=row("a").key, recorded=True),))
        assert [key.task for key in one.debts.owed] == ["b"]
        assert [left.key.task for left in one.outbox.pending()] == ["b"]


async def test_what_is_released_is_not_owed_at_once_and_soon_not_pending(tmp_path: Path) -> None:
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(row("a"), row("b"))
        await sent(one, 2)
        one.debts.release((Receipt(key=row("a").key, recorded=True),))
        assert [key.task for key in one.debts.owed] == ["b"]
        await until(lambda: [left.key.task for left in one.outbox.pending()] == ["b"])


async def test_what_an_older_history_released_is_owed_again(tmp_path: Path) -> None:
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(row("a"))
        await sent(one, 1)
        one.debts.release((Receipt(key=row("a").key, recorded=True),))
        await one.debts.owe_again()
        await one.owe(row("b"))
        assert [left.key.task for left in one.outbox.pending()] == ["a", "b"]


async def test_the_next_life_sends_what_this_one_could_not(tmp_path: Path) -> None:
    server = MemoryServer()
    async with life(server, tmp_path) as one:
        server.crash()
        await one.owe(row("a"), row("b"))
        assert len(one.outbox.pending()) == 2
    server.restart()
    async with life(server, tmp_path) as one:
        await until(lambda: one.broker.connected)
        await sent(one, 2)
        assert await one.told() == ["a", "b"]


async def test_what_does_not_fit_into_memory_waits_on_disk_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "UNSENT_MAX", 3)
    monkeypatch.setattr(owed, "LOOK_S", 0.02)
    server = MemoryServer()
    async with life(server, tmp_path) as one:
        server.crash()
        for number in range(8):
            await one.owe(row(f"t{number}"))
        assert len(one.debts.owed) <= 3
        server.restart()
        await until(lambda: one.broker.connected)
        await sent(one, 8)
        assert await one.told() == [f"t{number}" for number in range(8)]


async def test_a_row_that_the_ledger_does_not_know_goes_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that stands there already would not be read a second time."""
    monkeypatch.setattr(owed, "ASK_S_FIRST", 0.01)
    monkeypatch.setattr(owed, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(owed, "LOOK_S", 0.02)
    server = MemoryServer()
    leader = server.connect("leader")

    async def answer(message: Message) -> None:
        recorded = (Receipt(key=row("a").key, recorded=True),)
        await leader.publish(message.reply, codec.encode(OwedAnswer(receipts=recorded, ledger_seq=1)))

    async with life(server, tmp_path) as one:
        await one.owe(row("a"), row("b"))
        await sent(one, 2)
        await leader.subscribe(SUBJECTS.asked("scheduler"), answer)
        await sent(one, 3)
        assert await one.told() == ["a", "b", "b"]
        assert (await one.stored())[-1].subject == SUBJECTS.owed("w1", row("b").key)


async def test_a_beat_names_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWED_PER_REQUEST_MAX", 2)
    async with life(MemoryServer(), tmp_path) as one:
        await one.owe(row("a"), row("b"), row("c"))
        assert [key.task for key in one.debts.owed] == ["a", "b"]


async def test_whoever_waits_for_a_receipt_hears_it_once(tmp_path: Path) -> None:
    heard: list[Receipt] = []
    receipt = Receipt(key=row("a").key, recorded=False, reason="the epoch is over")
    async with life(MemoryServer(SUBJECTS), tmp_path) as one:
        one.debts.heard = heard.append
        await one.owe(row("a"))
        await sent(one, 1)
        one.debts.release((receipt, Receipt(key=row("b").key, recorded=True)))
        one.debts.release((receipt,))
        await until(lambda: one.outbox.refusal(receipt.key))
    assert heard == [receipt]
