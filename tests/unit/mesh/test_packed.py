"""Packs: records that travel together are read one by one, and cut the same way each time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mesh import codec, limits
from mesh.bus import Stored
from mesh.errors import Malformed
from mesh.messages.base import Epoch, Key
from mesh.messages.commands import GiveBack
from mesh.messages.packs import Pack, portions
from mesh.packed import Each, split


def row(number: int) -> bytes:
    key = Key(f"t{number}", Epoch(1, 1), GiveBack.kind, 1)
    return codec.encode(GiveBack(key=key, incarnation="w1.0001", reason="done"))


def message(*rows: bytes) -> Stored:
    data = rows[0] if len(rows) == 1 else codec.encode(Pack(rows=rows))
    return Stored("mesh.cmd.w1.pack.a", data, 7)


def test_a_single_record_is_no_pack() -> None:
    assert codec.rows(row(1)) == (row(1),)
    assert split(message(row(1))) == [message(row(1))]


def test_a_pack_is_read_in_order_under_its_subject_and_sequence() -> None:
    found = split(message(row(1), row(2), row(3)))
    assert [one.data for one in found] == [row(1), row(2), row(3)]
    assert {(one.subject, one.seq) for one in found} == {("mesh.cmd.w1.pack.a", 7)}


def test_a_pack_of_one_is_still_taken_apart() -> None:
    packed = Stored("s", codec.encode(Pack(rows=(row(1),))), 1)
    assert [one.data for one in split(packed)] == [row(1)]


async def test_each_hands_out_one_record_after_the_other() -> None:
    async def messages() -> AsyncIterator[Stored]:
        yield message(row(1), row(2))
        yield message(row(3))

    assert [one.data async for one in Each(messages())] == [row(1), row(2), row(3)]


@pytest.mark.parametrize("rows", [(), tuple(b"x" for _ in range(limits.ROWS_PER_PACK_MAX + 1))])
def test_a_pack_has_some_rows_and_not_too_many(rows: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="a pack carries 1 to"):
        Pack(rows=rows)


def test_a_damaged_pack_is_malformed_and_goes_on_as_it_is() -> None:
    damaged = codec.pack({"kind": "pack", "v": 1, "rows": "none"})
    with pytest.raises(Malformed):
        codec.rows(damaged)
    assert split(Stored("s", damaged, 1)) == [Stored("s", damaged, 1)]


def test_no_bytes_at_all_are_one_row_that_nobody_can_read() -> None:
    assert codec.rows(b"") == (b"",)


def test_portions_keep_order_and_bounds() -> None:
    sizes = [limits.PACK_BYTES_MAX // 2, limits.PACK_BYTES_MAX // 2, 1, limits.PACK_BYTES_MAX * 2, 1]
    cut = list(portions(enumerate(sizes), lambda item: item[1]))
    assert [index for part in cut for index, _ in part] == list(range(5))
    assert [len(part) for part in cut] == [2, 1, 1, 1]
    many = list(portions(range(limits.ROWS_PER_PACK_MAX + 1), lambda _: 1))
    assert [len(part) for part in many] == [limits.ROWS_PER_PACK_MAX, 1]
