"""Durable consumers: what both brokers promise."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mesh.bus import Broker, Delivery, StreamSpec
from mesh.errors import BusUnavailable
from tests.contract.conftest import DEADLINE_S, World


async def _stream(world: World, count: int = 0) -> tuple[Broker, StreamSpec]:
    broker, spec = await world.connect(), world.spec()
    await broker.ensure(spec)
    for number in range(count):
        await broker.append(world.name("s.a"), b"%d" % number)
    return broker, spec


async def _next(deliveries: object) -> Delivery:
    return await asyncio.wait_for(anext(deliveries), DEADLINE_S)  # type: ignore[call-overload]


async def test_what_is_acked_is_not_delivered_again(world: World) -> None:
    broker, spec = await _stream(world, 3)
    async with broker.consume(spec.name, world.name("s.>"), durable="d") as deliveries:
        for number in range(2):
            delivery = await _next(deliveries)
            assert (delivery.message.data, delivery.message.seq, delivery.attempt) == (b"%d" % number, number + 1, 1)
            await delivery.ack()
    async with broker.consume(spec.name, world.name("s.>"), durable="d") as deliveries:
        delivery = await _next(deliveries)
        assert (delivery.message.seq, delivery.message.headers) == (3, {})
        await delivery.ack()
        await broker.append(world.name("s.b"), b"new", headers={"Trace": "t"})
        delivery = await _next(deliveries)
        assert (delivery.message.seq, delivery.message.headers) == (4, {"Trace": "t"})


async def test_what_is_not_acked_comes_again_after_its_time(world: World) -> None:
    broker, spec = await _stream(world, 1)
    loop = asyncio.get_running_loop()
    async with broker.consume(spec.name, world.name("s.>"), durable="d", ack_wait_s=0.4) as deliveries:
        first = await _next(deliveries)
        began = loop.time()
        second = await _next(deliveries)
        assert loop.time() - began >= 0.3  # the server's clock began a little before ours
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.message == second.message
        await second.ack()


async def test_again_delivers_after_the_delay(world: World) -> None:
    broker, spec = await _stream(world, 1)
    loop = asyncio.get_running_loop()
    async with broker.consume(spec.name, world.name("s.>"), durable="d") as deliveries:
        delivery = await _next(deliveries)
        await delivery.again(0)
        delivery = await _next(deliveries)
        assert delivery.attempt == 2
        began = loop.time()
        await delivery.again(0.3)
        delivery = await _next(deliveries)
        assert loop.time() - began >= 0.25
        assert delivery.attempt == 3
        await delivery.ack()


async def test_again_does_not_hold_up_the_others(world: World) -> None:
    broker, spec = await _stream(world, 3)
    async with broker.consume(spec.name, world.name("s.>"), durable="d", in_flight_max=1) as deliveries:
        first = await _next(deliveries)
        await first.again(0.2)
        seen = []
        for _ in range(3):
            delivery = await _next(deliveries)
            seen.append(delivery.message.seq)
            await delivery.ack()
    assert seen == [2, 3, 1]


async def test_what_is_dropped_is_gone(world: World) -> None:
    broker, spec = await _stream(world, 2)
    async with broker.consume(spec.name, world.name("s.>"), durable="d", ack_wait_s=0.3) as deliveries:
        await (await _next(deliveries)).drop("poison")
        second = await _next(deliveries)
        assert second.message.seq == 2
        assert (await _next(deliveries)).message.seq == 2  # after its time; the dropped one does not come back
        await second.ack()
    assert (await broker.state(spec.name)).messages == 2


async def test_an_ack_of_an_earlier_attempt_counts(world: World) -> None:
    """JetStream fences nothing: whoever needs a fence uses compare-and-set."""
    broker, spec = await _stream(world, 2)
    async with broker.consume(spec.name, world.name("s.>"), durable="d", in_flight_max=1, ack_wait_s=0.3) as deliveries:
        stale = await _next(deliveries)
        again = await _next(deliveries)
        assert again.message.seq == stale.message.seq
        await stale.ack()
        assert (await _next(deliveries)).message.seq == 2


async def test_a_consumer_is_shared(world: World) -> None:
    brokers = [await world.connect(name) for name in ("a", "b")]
    spec = world.spec()
    await brokers[0].ensure(spec)
    taken: dict[int, list[int]] = {0: [], 1: []}

    async def work(number: int) -> None:
        async with brokers[number].consume(
            spec.name, world.name("s.>"), durable="d", in_flight_max=2
        ) as deliveries:  # fmt: skip
            async for delivery in deliveries:
                taken[number].append(delivery.message.seq)
                await delivery.ack()
                if len(taken[0]) + len(taken[1]) == 60:
                    done.set()

    done = asyncio.Event()
    workers = [asyncio.create_task(work(number)) for number in range(2)]
    for _ in range(60):
        await brokers[0].append(world.name("s.a"), b"")
    await asyncio.wait_for(done.wait(), DEADLINE_S)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(taken[0] + taken[1]) == list(range(1, 61))
    assert all(taken.values())


async def test_no_more_are_in_hand_than_allowed(world: World) -> None:
    broker, spec = await _stream(world, 5)
    async with broker.consume(spec.name, world.name("s.>"), durable="d", in_flight_max=2) as deliveries:
        first, second = await _next(deliveries), await _next(deliveries)
        waiting = asyncio.ensure_future(anext(deliveries))
        other = await world.connect("b")
        async with other.consume(spec.name, world.name("s.>"), durable="d", in_flight_max=1) as others:
            assert (await _next(others)).message.seq == 3  # it was not hoarded by the first
        assert not waiting.done()
        await second.ack()
        assert (await asyncio.wait_for(waiting, DEADLINE_S)).message.seq == 4
        await first.ack()


async def test_what_was_fetched_and_not_taken_goes_back_at_once(world: World) -> None:
    broker, spec = await _stream(world, 10)
    other = await world.connect("b")
    async with AsyncExitStack() as stack:
        mine = await stack.enter_async_context(
            broker.consume(spec.name, world.name("s.>"), durable="d", ack_wait_s=3_600)
        )
        await (await _next(mine)).ack()
        await stack.aclose()
        theirs = await stack.enter_async_context(
            other.consume(spec.name, world.name("s.>"), durable="d", ack_wait_s=3_600)
        )
        assert sorted([(await _next(theirs)).message.seq for _ in range(9)]) == list(range(2, 11))


async def test_only_the_subject_is_consumed(world: World) -> None:
    broker, spec = await _stream(world)
    async with broker.consume(spec.name, world.name("s.b"), durable="d") as deliveries:
        for name in "aab":
            await broker.append(world.name(f"s.{name}"), b"")
        assert (await _next(deliveries)).message.seq == 3


async def test_consuming_ends_with_the_connection(world: World) -> None:
    broker, spec = await _stream(world, 1)
    async with broker.consume(spec.name, world.name("s.>"), durable="d") as deliveries:
        delivery = await _next(deliveries)
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await broker.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await asyncio.wait_for(waiting, DEADLINE_S)
        with pytest.raises(BusUnavailable):
            await delivery.ack()
