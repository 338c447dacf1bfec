"""Debts at the end of a worker: what was handed over is written, and nobody waits for a writer that is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from agents.owed import Debts
from mesh import codec, streams
from mesh.log import get
from mesh.memory import MemoryServer
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import GiveBack
from mesh.outbox import Outbox


def give_back(number: int) -> GiveBack:
    return GiveBack(key=Key("t", Epoch(1, number), "give-back", 1), incarnation="w.1", reason="the worker stops")


def debts_on(outbox: Outbox) -> Debts:
    server = MemoryServer()
    return Debts("w", outbox, server.connect("w"), server.subjects, get("test"))


async def test_what_was_handed_over_when_the_writer_ends_is_on_disk(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    debts = debts_on(outbox)
    writing = asyncio.create_task(debts.write())
    await asyncio.sleep(0)
    owing = asyncio.create_task(debts.owe(give_back(1)))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({owing, writing}, timeout=5.0)
    assert owing.done()
    assert [row.key.epoch.count for row in outbox.pending()] == [1]
    outbox.close()


async def test_nobody_waits_for_a_writer_that_is_gone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    debts = debts_on(outbox)
    writing = asyncio.create_task(debts.write())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    async with asyncio.timeout(5.0):
        with pytest.raises(asyncio.CancelledError):
            await debts.owe(give_back(1))
    outbox.close()


async def test_what_is_sent_is_what_stands_on_disk_although_the_next_life_owes_the_key_again(tmp_path: Path) -> None:
    outbox, server = Outbox(tmp_path), MemoryServer()
    broker, subjects = server.connect("w"), server.subjects
    debts = Debts("w", outbox, broker, subjects, get("test"))
    first, again = give_back(1), msgspec.structs.replace(give_back(1), reason="another life says it otherwise")
    outbox.record(first.key, subjects.owed("w", first.key), codec.encode(first))
    assert not await debts._send_unsent()  # nobody stores it: there are no streams yet
    writing = asyncio.create_task(debts.write())
    async with asyncio.timeout(5.0):
        await debts.owe(again)
    await streams.ensure_all(broker, streams.table(subjects, artifact_bytes_max=1 << 20))
    assert await debts._send_unsent()
    stored = await broker.read(subjects.stream("COMMANDS"), subjects.commands())
    assert [codec.decode(one.data, GiveBack) for one in stored] == [first]
    writing.cancel()
    await asyncio.wait({writing})
    outbox.close()
