"""Streams: what both brokers promise about writing, reading and declaring them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from mesh import limits, streams
from mesh.bus import Broker, Stored, StreamSpec
from mesh.errors import BrokerRefused, BusUnavailable, Conflict, DiskFull, Malformed, NotFound
from tests.contract.conftest import World, until


async def _with_stream(world: World, **more: Any) -> tuple[Broker, StreamSpec]:
    broker, spec = await world.connect(), world.spec(**more)
    await broker.ensure(spec)
    return broker, spec


# -- writing ----------------------------------------------------------------------------------------------------------


async def test_sequences_rise_by_one_over_all_subjects(world: World) -> None:
    broker, _ = await _with_stream(world)
    assert [await broker.append(world.name(f"s.{name}"), b"") for name in "abab"] == [1, 2, 3, 4]


async def test_many_writes_at_once_are_all_stored_once(world: World) -> None:
    broker, spec = await _with_stream(world)
    seqs = await asyncio.gather(*(broker.append(world.name("s.a"), b"%d" % number) for number in range(200)))
    assert sorted(seqs) == list(range(1, 201))
    stored = await broker.read(spec.name, world.name("s.>"))
    assert {message.seq: message.data for message in stored} == {seq: b"%d" % number for number, seq in enumerate(seqs)}


async def test_a_write_on_the_expected_last_sequence_wins_once(world: World) -> None:
    broker, _ = await _with_stream(world)
    a = world.name("s.a")
    assert await broker.append(a, b"1", stream_seq=0) == 1
    assert await broker.append(a, b"2", stream_seq=1) == 2
    for wrong in (0, 1, 3):
        with pytest.raises(Conflict, match="somebody else wrote first"):
            await broker.append(a, b"x", stream_seq=wrong)
    assert await broker.append(a, b"3", stream_seq=2) == 3


async def test_of_writers_in_a_race_exactly_one_wins(world: World) -> None:
    brokers = [await world.connect(name) for name in ("a", "b")]
    await brokers[0].ensure(world.spec())
    tries = (brokers[n % 2].append(world.name("s.key"), b"%d" % n, subject_seq=0) for n in range(20))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(result == 1 for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19


async def test_put_if_absent_and_compare_and_set_are_per_subject(world: World) -> None:
    broker, spec = await _with_stream(world)
    a, b = world.name("s.a"), world.name("s.b")
    assert await broker.append(a, b"1", subject_seq=0) == 1
    assert await broker.append(b, b"1", subject_seq=0) == 2
    with pytest.raises(Conflict):
        await broker.append(a, b"2", subject_seq=0)
    with pytest.raises(Conflict):
        await broker.append(a, b"2", subject_seq=2)
    assert await broker.append(a, b"2", subject_seq=1) == 3
    assert await broker.append(b, b"2", subject_seq=2, stream_seq=3) == 4
    await broker.purge(spec.name, subject=a)
    assert await broker.append(a, b"anew", subject_seq=0) == 5


async def test_a_write_that_no_stream_takes_is_not_found(world: World) -> None:
    broker = await world.connect()
    with pytest.raises(NotFound, match="no stream stores"):
        await broker.append(world.name("nowhere"), b"")


async def test_a_full_stream_refuses_or_forgets_as_declared(world: World) -> None:
    broker = await world.connect()
    strict = world.spec("STRICT", "strict.>", max_bytes=4_000, discard_new=True)
    loose = world.spec("LOOSE", "loose.>", max_bytes=4_000)
    await streams.ensure_all(broker, (strict, loose))
    for number in range(3):
        await broker.append(world.name(f"strict.{number}"), bytes(1_000))
    with pytest.raises(DiskFull, match="remove something"):
        await broker.append(world.name("strict.x"), bytes(1_000))
    assert (await broker.state(strict.name)).messages == 3
    await broker.purge(strict.name, below_seq=3)
    await broker.append(world.name("strict.x"), bytes(1_000))
    for number in range(10):
        await broker.append(world.name(f"loose.{number}"), bytes(1_000))
    state = await broker.state(loose.name)
    assert (state.first_seq, state.last_seq, state.messages) == (8, 10, 3)
    assert 3_000 < state.size_bytes <= 4_000


async def test_a_stream_may_limit_its_messages(world: World) -> None:
    broker, _ = await _with_stream(world, max_message_bytes=100)
    await broker.append(world.name("s.a"), bytes(100))
    with pytest.raises(Malformed, match="send less"):
        await broker.append(world.name("s.a"), bytes(101))
    with pytest.raises(Malformed, match="send less"):
        await broker.append(world.name("s.a"), bytes(1024 * 1024))


async def test_history_and_age_are_kept_as_declared(world: World) -> None:
    broker, spec = await _with_stream(world, max_per_subject=2)
    aging = world.spec("AGING", "aging.>", max_age_s=0.3)
    await broker.ensure(aging)
    for number in range(5):
        await broker.append(world.name("s.a"), b"%d" % number)
    await broker.append(world.name("s.b"), b"b")
    assert [m.data for m in await broker.read(spec.name, world.name("s.a"))] == [b"3", b"4"]
    await broker.append(world.name("aging.a"), b"")
    assert (await broker.state(aging.name)).messages == 1
    async with asyncio.timeout(15):
        while (await broker.state(aging.name)).messages:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
    assert await broker.last(aging.name, world.name("aging.a")) is None
    assert await broker.append(world.name("aging.a"), b"", subject_seq=0) == 2


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_what_was_written_is_read(world: World) -> None:
    broker, spec = await _with_stream(world)
    a = world.name("s.a")
    await broker.append(a, b"1")
    await broker.append(a, b"2", headers={"Trace": "t", "Plain": "ü"}, subject_seq=1, stream_seq=1)
    await broker.append(world.name("s.b"), b"")
    second = Stored(a, b"2", 2, {"Trace": "t", "Plain": "ü"})
    assert await broker.last(spec.name, a) == second
    assert await broker.last(spec.name, world.name("s.b")) == Stored(world.name("s.b"), b"", 3)
    assert await broker.read(spec.name, a) == [Stored(a, b"1", 1), second]


async def test_last_of_what_is_not_there_is_none(world: World) -> None:
    broker, spec = await _with_stream(world)
    assert await broker.last(spec.name, world.name("s.a")) is None
    assert await broker.last(spec.name, world.name("elsewhere")) is None


@pytest.mark.parametrize("eraser", ["DEL", "PURGE"])
async def test_an_erased_key_reads_as_none(world: World, eraser: str) -> None:
    broker, spec = await _with_stream(world, max_per_subject=64)
    key = world.name("s.key")
    await broker.append(key, b"value")
    seq = await broker.append(key, b"", headers={"KV-Operation": eraser})
    assert await broker.last(spec.name, key) is None
    assert [message.seq for message in await broker.read(spec.name, key)] == [1, 2]
    await broker.append(key, b"again", subject_seq=seq)
    found = await broker.last(spec.name, key)
    assert found is not None
    assert found.data == b"again"


async def test_reading_goes_on_from_a_sequence_and_stops_at_a_count(world: World) -> None:
    broker, spec = await _with_stream(world)
    for number in range(1, 31):
        await broker.append(world.name(f"s.{'ab'[number % 2]}"), b"%d" % number)
    a, every = world.name("s.a"), world.name("s.*")

    async def seqs(subject: str, **more: int) -> list[int]:
        return [message.seq for message in await broker.read(spec.name, subject, **more)]

    assert await seqs(every) == list(range(1, 31))
    assert await seqs(a) == list(range(2, 31, 2))
    assert await seqs(every, from_seq=28) == [28, 29, 30]
    assert await seqs(a, from_seq=27, messages_max=1) == [28]
    assert await seqs(every, messages_max=3) == [1, 2, 3]
    assert await seqs(every, from_seq=31) == []
    assert await seqs(every, messages_max=0) == []
    assert await seqs(world.name("s.c")) == []


async def test_long_and_heavy_reads_are_complete(world: World) -> None:
    broker, spec = await _with_stream(world)
    await asyncio.gather(*(broker.append(world.name("s.small"), b"%d" % n) for n in range(600)))
    await asyncio.gather(*(broker.append(world.name("s.big"), bytes(900_000)) for _ in range(12)))
    assert [m.seq for m in await broker.read(spec.name, world.name("s.>"))] == list(range(1, 613))
    assert [len(m.data) for m in await broker.read(spec.name, world.name("s.big"))] == [900_000] * 12


async def test_an_empty_stream_counts_on_from_where_it_was(world: World) -> None:
    broker, spec = await _with_stream(world)
    state = await broker.state(spec.name)
    assert (state.first_seq, state.last_seq, state.messages, state.size_bytes) == (1, 0, 0, 0)
    for _ in range(3):
        await broker.append(world.name("s.a"), b"")
    assert (await broker.state(spec.name)).created == state.created
    assert await broker.purge(spec.name) == 3
    state = await broker.state(spec.name)
    assert (state.first_seq, state.last_seq, state.messages) == (4, 3, 0)


async def test_purge_removes_by_subject_and_below(world: World) -> None:
    broker, spec = await _with_stream(world)
    for number in range(10):
        await broker.append(world.name(f"s.{'ab'[number % 2]}"), b"")
    every = world.name("s.>")
    assert await broker.purge(spec.name, subject=world.name("s.b"), below_seq=5) == 2
    assert [m.seq for m in await broker.read(spec.name, every)] == [1, 3, 5, 6, 7, 8, 9, 10]
    assert await broker.purge(spec.name, below_seq=6) == 3
    assert (await broker.state(spec.name)).first_seq == 6
    assert await broker.purge(spec.name, subject=world.name("s.a")) == 2
    assert [m.seq for m in await broker.read(spec.name, every)] == [6, 8, 10]
    assert await broker.purge(spec.name, subject=world.name("s.c")) == 0


async def test_a_missing_stream_is_not_found(world: World) -> None:
    broker = await world.connect()
    for call in (
        broker.last("nowhere", world.name("x")),
        broker.read("nowhere", world.name("x")),
        broker.state("nowhere"),
        broker.purge("nowhere"),
    ):
        with pytest.raises(NotFound):
            await call
    for reader in (broker.tail("nowhere", "x"), broker.consume("nowhere", "x", durable="d")):
        with pytest.raises(NotFound):
            await reader.__aenter__()


# -- declaring --------------------------------------------------------------------------------------------------------


async def test_a_stream_is_made_once_and_follows_its_declaration(world: World) -> None:
    broker, spec = await world.connect(), world.spec()
    assert await broker.differences(spec) == [f"{spec.name}: missing"]
    assert await broker.ensure(spec) == [f"{spec.name}: missing"]
    assert await broker.ensure(spec) == []
    await broker.append(world.name("s.a"), b"kept")
    changed = dataclasses.replace(
        spec, max_age_s=3_600.0, max_bytes=10_000, max_per_subject=5, discard_new=True, why="other", schema=2,
        subjects=(world.name("s.>"), world.name("more")),
    )  # fmt: skip
    found = await broker.differences(changed)
    assert {line.split()[1] for line in found} == {
        "subjects", "why", "max_age_s", "max_bytes", "max_per_subject", "discard_new", "schema",
    }  # fmt: skip
    assert await broker.ensure(changed) == found
    assert await broker.differences(changed) == []
    await broker.append(world.name("more"), b"")
    assert (await broker.state(spec.name)).messages == 2
    with pytest.raises(BrokerRefused, match="newer program"):
        await broker.ensure(spec)


async def test_the_whole_table_can_be_made(world: World) -> None:
    broker, other = await world.connect("a"), await world.connect("b")
    table = streams.table(world.subjects, artifact_bytes_max=10**8)
    await asyncio.gather(streams.ensure_all(broker, table), streams.ensure_all(other, table))
    assert [await broker.differences(spec) for spec in table] == [[]] * len(table)
    key = world.subjects.key("graph", "root")
    assert await broker.append(key, b"1", subject_seq=0) == 1
    assert await other.append(key, b"2", subject_seq=1) == 2
    found = await broker.last(world.subjects.bucket("graph"), key)
    assert found is not None
    assert found.data == b"2"


async def test_two_streams_can_not_store_the_same(world: World) -> None:
    broker, _ = await _with_stream(world)
    with pytest.raises(Conflict, match="another prefix"):
        await broker.ensure(world.spec("OTHER", "s.a"))


# -- tail -------------------------------------------------------------------------------------------------------------


async def test_a_tail_gives_what_was_and_what_comes(world: World) -> None:
    writer, reader = await world.connect("a"), await world.connect("b")
    spec = world.spec()
    await writer.ensure(spec)
    for number in range(1, 6):
        await writer.append(world.name("s.a"), b"%d" % number)
    async with reader.tail(spec.name, world.name("s.>"), from_seq=3) as messages:
        assert [(await anext(messages)).seq for _ in range(3)] == [3, 4, 5]
        waiting = asyncio.ensure_future(anext(messages))
        await writer.append(world.name("s.b"), b"new", headers={"Trace": "t"})
        assert await asyncio.wait_for(waiting, 15) == Stored(world.name("s.b"), b"new", 6, {"Trace": "t"})


async def test_a_tail_is_complete_and_in_order_while_others_write(world: World) -> None:
    writer, reader = await world.connect("a"), await world.connect("b")
    spec, count = world.spec(), 1_500
    await writer.ensure(spec)

    async def write() -> None:
        for begin in range(0, count, 100):
            await asyncio.gather(*(writer.append(world.name("s.a"), b"x" * 100) for _ in range(begin, begin + 100)))

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        async with reader.tail(spec.name, world.name("s.a")) as messages:
            seqs = [(await asyncio.wait_for(anext(messages), 15)).seq for _ in range(count)]
    assert seqs == list(range(1, count + 1))


async def test_a_tail_may_start_beyond_the_end(world: World) -> None:
    broker, spec = await _with_stream(world)
    await broker.append(world.name("s.a"), b"")
    async with broker.tail(spec.name, world.name("s.a"), from_seq=3) as messages:
        for _ in range(3):
            await broker.append(world.name("s.a"), b"")
        assert [(await asyncio.wait_for(anext(messages), 15)).seq for _ in range(2)] == [3, 4]


async def test_a_tail_sees_only_its_subject(world: World) -> None:
    broker, spec = await _with_stream(world)
    async with broker.tail(spec.name, world.name("s.b")) as messages:
        for name in "aabab":
            await broker.append(world.name(f"s.{name}"), b"")
        assert [(await asyncio.wait_for(anext(messages), 15)).seq for _ in range(2)] == [3, 5]


async def test_a_tail_ends_with_its_connection(world: World) -> None:
    broker, spec = await _with_stream(world)
    async with broker.tail(spec.name, world.name("s.a")) as messages:
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        await broker.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await asyncio.wait_for(waiting, 15)


async def test_a_cancelled_reader_leaves_nothing_behind(world: World) -> None:
    broker, spec = await _with_stream(world)
    began = asyncio.Event()

    async def read_for_ever() -> None:
        async with broker.tail(spec.name, world.name("s.a")) as messages:
            began.set()
            async for _ in messages:
                pass

    task = asyncio.create_task(read_for_ever())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 15)
    await until(lambda: task.done())
    assert limits.TAIL_CONSUMER_IDLE_S > 15  # so that what is checked on the real server is our doing


async def test_subjects_are_those_that_hold_something_now(world: World) -> None:
    one = await world.connect()
    spec = world.spec(subject="s.>")
    await one.ensure(spec)

    async def told(pattern: str, stream: str = spec.name) -> list[str]:
        return [subject async for page in one.subjects(stream, world.name(pattern)) for subject in page]

    assert await told("s.>") == []
    for name in ("s.a.1", "s.a.2", "s.b.1", "s.a.1"):
        await one.append(world.name(name), b"x")
    assert await told("s.a.*") == [world.name("s.a.1"), world.name("s.a.2")]
    assert await told("s.b.1") == [world.name("s.b.1")]
    await one.purge(spec.name, subject=world.name("s.a.1"))
    assert await told("s.>") == [world.name("s.a.2"), world.name("s.b.1")]
    with pytest.raises(NotFound):
        await told("s.>", "NOWHERE")
