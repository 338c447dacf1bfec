"""Lists of the condemned as an uploader reads them: what has to be stored again, and when nothing can be believed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import codec, limits, streams
from mesh.condemned import CondemnedLists
from mesh.errors import Malformed
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages import object_names
from mesh.messages.collecting import ROWS_BYTES_MAX, Condemned, Why, condemn
from mesh.messages.object_names import ObjectName
from mesh.subjects import Subjects

SUBJECTS = Subjects()
STREAM = SUBJECTS.stream(streams.CONDEMNED)


def digest(number: int) -> str:
    return codec.digest(b"%d" % number)


WHOLES = [object_names.whole(digest(number)) for number in range(8)]
NAMES = [*WHOLES, object_names.delta(digest(1), digest(2)), object_names.manifest(digest(3))]


class Stage:
    """A collector's hand and one reader."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.leader: MemoryBroker = self.server.connect("leader")
        self.lists = CondemnedLists(self.server.connect("worker"), SUBJECTS)
        self.gaps = 0
        self.lists.on_gap = self._gap

    def _gap(self) -> None:
        self.gaps += 1

    async def start(self) -> Stage:
        await streams.ensure_all(self.leader, streams.table(SUBJECTS, artifact_bytes_max=1 << 30))
        return self

    async def publish(self, *names: ObjectName) -> int:
        return await self.leader.append(SUBJECTS.condemned(), codec.encode(condemn(names, Why.GARBAGE, "s.1", 1)))


@given(st.sets(st.sampled_from(NAMES)))
def test_a_list_holds_what_was_put_on_it_and_nothing_else(names: set[ObjectName]) -> None:
    made = condemn(names, Why.GARBAGE, "s.1", 1)
    assert set(made.names()) == names
    assert {name for name in NAMES if made.holds(name)} == names
    assert codec.decode(codec.encode(made), Condemned) == made


def test_a_full_list_is_one_message() -> None:
    source = random.Random(1)
    names = {object_names.whole(source.randbytes(32).hex()) for _ in range(ROWS_BYTES_MAX // 32)}
    assert len(codec.encode(condemn(names, Why.GARBAGE, "s" * limits.NAME_CHARS_MAX, 1))) <= limits.RECORD_BYTES_MAX


def test_a_list_with_half_a_row_is_malformed() -> None:
    with pytest.raises(ValueError, match="rows of 32 bytes"):
        Condemned(why=Why.GARBAGE, by="s.1", term=1, wholes=b"x" * 33)
    whole = codec.encode(condemn(WHOLES[:1], Why.GARBAGE, "s.1", 1))
    with pytest.raises(Malformed):
        codec.decode(whole[:-1], Condemned)


async def test_without_lists_nothing_is_doomed() -> None:
    stage = await Stage().start()
    assert await stage.lists.doomed(NAMES) == set()
    bare = CondemnedLists(MemoryServer().connect("worker"), SUBJECTS)
    assert await bare.doomed(NAMES) == set()  # a mesh without such a stream
    assert stage.gaps == 0


async def test_what_is_condemned_is_doomed_until_it_was_stored_again() -> None:
    stage = await Stage().start()
    await stage.publish(*WHOLES[:2])
    assert await stage.lists.doomed(NAMES) == set(WHOLES[:2])
    position = stage.lists.position
    stage.lists.renewed(WHOLES[0], position)
    assert await stage.lists.doomed(NAMES) == {WHOLES[1]}
    await stage.publish(WHOLES[0])
    assert await stage.lists.doomed(NAMES) == set(WHOLES[:2])


async def test_a_put_that_began_before_a_list_was_read_does_not_answer_it() -> None:
    stage = await Stage().start()
    await stage.lists.refresh()
    position = stage.lists.position
    await stage.publish(WHOLES[0])
    await stage.lists.refresh()  # another upload reads it meanwhile
    stage.lists.renewed(WHOLES[0], position)
    assert await stage.lists.doomed(NAMES) == {WHOLES[0]}


async def test_many_lists_are_read_in_parts() -> None:
    stage = await Stage().start()
    for name in WHOLES * 6:
        await stage.publish(name)
    assert await stage.lists.doomed(NAMES) == set(WHOLES)
    assert stage.lists.position == 48
    assert stage.gaps == 0


async def test_lists_that_end_behind_the_reader_are_no_gap() -> None:
    stage = await Stage().start()
    for name in WHOLES[:4]:
        await stage.publish(name)
    await stage.lists.refresh()
    await stage.leader.purge(STREAM, below_seq=4)
    await stage.lists.refresh()
    await stage.publish(WHOLES[4])
    await stage.leader.purge(STREAM, below_seq=5)  # the one read last is gone, none in between
    await stage.lists.refresh()
    assert stage.gaps == 0


async def test_lists_that_are_over_are_forgotten() -> None:
    stage = await Stage().start()
    await stage.publish(WHOLES[0])
    await stage.publish(WHOLES[1])
    assert await stage.lists.doomed(NAMES) == set(WHOLES[:2])
    await stage.leader.purge(STREAM, below_seq=2)
    await stage.publish(WHOLES[2])
    assert await stage.lists.doomed(NAMES) == set(WHOLES[1:3])
    assert stage.gaps == 0


async def test_a_list_of_a_newer_program_stops_the_upload() -> None:
    stage = await Stage().start()
    await stage.leader.append(SUBJECTS.condemned(), b"\x82\xa4kind\xa9condemned\xa1v\x63")
    for _ in range(2):
        with pytest.raises(Malformed, match="update this program"):
            await stage.lists.doomed(NAMES)


async def test_lists_that_were_removed_unread_are_a_gap() -> None:
    stage = await Stage().start()
    await stage.publish(WHOLES[0])
    await stage.lists.refresh()
    for name in WHOLES[1:5]:
        await stage.publish(name)
    await stage.leader.purge(STREAM, below_seq=5)
    assert await stage.lists.doomed(NAMES) == {WHOLES[4]}
    assert stage.gaps == 1


@pytest.mark.parametrize("more", [0, 1, 3])
async def test_another_history_is_a_gap(more: int) -> None:
    stage = await Stage().start()
    await stage.publish(WHOLES[0])
    older = stage.server.copy()
    await stage.publish(WHOLES[1])
    await stage.lists.refresh()
    stage.server.restart(older)
    for name in WHOLES[2 : 2 + more]:
        await stage.publish(name)
    assert await stage.lists.doomed(NAMES) == {WHOLES[0], *WHOLES[2 : 2 + more]}
    assert stage.gaps == 1
