"""What waits for the next turn of a scheduler: its share of commands, and a reader that waits while there are many."""

from __future__ import annotations

import asyncio

from agents.scheduler_inputs import TURN_BYTES, WAITING_BYTES_MAX, Closed, HeardCommand, Inputs, heard
from mesh import codec
from mesh.bus import Stored
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import Drain, GiveBack
from mesh.messages.packs import Pack
from mesh.subjects import Subjects

SUBJECTS = Subjects()


def command(seq: int, size_bytes: int = TURN_BYTES // 2) -> HeardCommand:
    return HeardCommand(seq, "w1", (None,), size_bytes)


def seqs(items: list[object]) -> list[int]:
    return [item.seq for item in items if isinstance(item, HeardCommand)]


async def test_a_turn_takes_commands_for_one_entry_and_the_next_one_follows_at_once() -> None:
    inputs = Inputs()
    for seq in range(1, 6):
        await inputs.put(command(seq))
    inputs.offer(Closed("w1.a"))
    assert seqs([*inputs.drain()]) == [1, 2]
    async with asyncio.timeout(1):
        await inputs.wait(60.0)
    assert seqs([*inputs.drain()]) == [3, 4]
    assert [type(item) for item in inputs.drain()] == [HeardCommand, Closed]
    assert inputs.drain() == []


async def test_a_command_that_is_larger_than_a_turn_is_a_turn() -> None:
    inputs = Inputs()
    await inputs.put(command(1, 3 * TURN_BYTES))
    await inputs.put(command(2))
    assert seqs([*inputs.drain()]) == [1]
    assert seqs([*inputs.drain()]) == [2]


async def test_the_reader_of_commands_waits_while_many_bytes_do() -> None:
    inputs = Inputs()
    await inputs.put(command(1, WAITING_BYTES_MAX))
    reader = asyncio.create_task(inputs.put(command(2)))
    await asyncio.sleep(0)
    assert not reader.done()
    assert seqs([*inputs.drain()]) == [1]
    async with asyncio.timeout(1):
        await reader
    assert seqs([*inputs.drain()]) == [2]


KEY = Key("task", Epoch(1, 1), GiveBack.kind, 1)
ROW = GiveBack(key=KEY, incarnation="w1.a", reason="done")
DRAIN = Drain(id="d", worker="w2", reason="mine")


def said(subject: str, data: bytes) -> tuple[HeardCommand, list[str]]:
    complaints = list[str]()
    return heard(Stored(subject, data, 1), SUBJECTS, lambda error: complaints.append(str(error))), complaints


def test_rights_are_given_for_the_kind_that_a_subject_names() -> None:
    fine, complaints = said(SUBJECTS.owed("w1", KEY), codec.encode(ROW))
    assert (fine.writer, fine.records, complaints) == ("w1", (ROW,), [])
    smuggled, complaints = said(SUBJECTS.owed("w1", KEY), codec.encode(DRAIN))
    assert smuggled.records == (None,)
    assert "drain" in complaints[0]
    assert said(SUBJECTS.command("cli", Drain.kind, "d"), codec.encode(DRAIN))[0].records == (DRAIN,)


def test_a_pack_holds_rows_of_an_outbox_and_nothing_else() -> None:
    data = codec.encode(Pack(rows=(codec.encode(ROW), codec.encode(DRAIN))))
    found, complaints = said(SUBJECTS.owed_together("w1", codec.digest(data)), data)
    assert (found.records, len(complaints)) == ((ROW, None), 1)
    assert said(SUBJECTS.command("w1", "nonsense", "x"), codec.encode(DRAIN))[0].records == (None,)
    assert said("other.cmd.w1.drain.x", codec.encode(DRAIN))[0].records == (None,)
