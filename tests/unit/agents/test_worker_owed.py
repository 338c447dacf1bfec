"""Debts at the end of a worker: what was handed over is written, and nobody waits for a writer that is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.worker_owed import Debts
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
