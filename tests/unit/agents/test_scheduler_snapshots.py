"""Snapshots: a start reads the state and what came after it, on the same machine and on a fresh one."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.scheduler import body
from agents.scheduler_history import History
from agents.scheduler_results import Projector
from mesh import codec
from mesh.ended import EndedIndexOnDisk
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.commands import Drain
from mesh.messages.leases import Held
from mesh.messages.ledger import Entry, LeaderChosen, TaskSucceeded
from mesh.messages.tasks import TaskState
from mesh.seen import SeenFile
from planner.ledger import Ledger
from tests.support import agents
from tests.unit.agents.test_scheduler import SUBJECTS, Hand, finish, put, ready, results, submit

EVERY = 10
"""Events between two snapshots here."""


async def work(server: MemoryServer, home: Path, names: list[str], hand: Hand) -> None:
    """Run these tasks to their end under one scheduler."""
    cli = server.connect("cli")
    flags: dict[str, Any] = {"scheduler.snapshot_events": EVERY}
    async with agents.running(agents.make(server, "scheduler", home, **flags), body):
        await ready(cli)
        await put(cli, submit(*names), f"s-{names[0]}")
        offer = 10 * hand.number
        for name in names:
            offer += 2
            hand.held = ()
            answer = await hand.beat(offer=offer)
            while not answer.leases:
                await asyncio.sleep(0.01)
                answer = await hand.beat(offer=offer)
            key = await finish(hand, name, answer)
            hand.held = (Held(task=name, epoch=key.epoch),)
            while not (await hand.beat(offer=offer + 1, leases_max=0, owed=(key,))).receipts:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for number in range(100):  # until the ledger names a snapshot, which a thread stores meanwhile
            if (await newest(cli)).snapshot is not None:
                break
            await put(cli, Drain(id=f"d{number}", worker="w9", undo=bool(number % 2)), f"{names[0]}-d{number}")
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("no snapshot is named")


async def newest(broker: MemoryBroker) -> Entry:
    """The last entry of the ledger."""
    stored = await broker.last(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger())
    assert stored is not None
    return codec.decode(stored.data, Entry)


async def history(server: MemoryServer, home: Path) -> tuple[History, EndedIndexOnDisk]:
    """What a scheduler on this home would start from."""
    agent = agents.make(server, "scheduler", home, name="reader")
    folder = home / "scheduler" / "mesh" / "scheduler"
    index = EndedIndexOnDisk(folder / "ended.db")
    found = History(agent, index, SeenFile(folder / "seen-by-test"), Projector(agent))
    await found.load()
    return found, index


async def folded(broker: MemoryBroker) -> Ledger:
    """The state from the first entry on."""
    ledger = Ledger()
    for stored in await broker.read(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger()):
        for event in codec.decode(stored.data, Entry).events:
            ledger.apply(event)
    return ledger


@pytest.mark.parametrize("where", ["same", "fresh", "damaged"])
def test_a_start_reads_the_state_and_what_came_after_it(tmp_path: Path, where: str) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        names = [f"a{number}" for number in range(12)]
        hand = Hand(server.connect("w1"))
        await hand.listen()
        await work(server, tmp_path / "1", names, hand)
        home = tmp_path / ("1" if where != "fresh" else "2")
        if where == "damaged":
            (home / "scheduler" / "mesh" / "scheduler" / "ended.db").write_bytes(b"no database" * 1_000)
        found, index = await history(server, home)
        whole = await folded(server.connect("looker"))
        entries = len(await server.connect("x").read(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger()))
        assert found.entries < entries / 2, (found.entries, entries)
        assert found.ledger.tasks == whole.tasks == {}
        assert found.ledger.drained == whole.drained
        assert found.ledger.counts == whole.counts
        assert found.ledger.counts[TaskState.SUCCEEDED] == 12
        assert found.ledger.term == whole.term
        for name in names:
            line = index.get(name)
            assert line == whole.ended.get(name)
        index.close()

    asyncio.run(case())


def test_the_next_life_goes_on_and_tells_everything_once(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        hand = Hand(server.connect("w1"))
        await hand.listen()
        for life in range(4):
            if life == 2:
                shutil.rmtree(tmp_path / "home" / "scheduler")
            await work(server, tmp_path / "home", [f"a{life}-{number}" for number in range(7)], hand)
        cli = server.connect("looker")
        stored = await cli.read(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger())
        events = [event for one in stored for event in codec.decode(one.data, Entry).events]
        assert sum(isinstance(event, TaskSucceeded) for event in events) == 28
        assert [event.term for event in events if isinstance(event, LeaderChosen)] == [1, 2, 3, 4]
        told = [record.kind for record in await results(cli)]
        assert told.count("task-ended") == 28
        assert told.count("planned") == 4

    asyncio.run(case())
