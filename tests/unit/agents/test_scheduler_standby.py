"""Two schedulers on the broker in memory: one leads, one stands by; nothing is lost when the lead changes hands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.runtime import Agent
from agents.scheduler import body
from mesh import codec, virtual_time
from mesh.memory import MemoryBroker, MemoryDisconnects, MemoryServer
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Answer, Held
from mesh.messages.ledger import AnyEvent, Entry, LeaderChosen, Restored, TaskLeased, TaskSucceeded
from mesh.messages.services import Ask, OwedAnswer, OwedQuestion, Status
from tests.support import agents
from tests.support.agents import until
from tests.unit.agents.test_scheduler import SUBJECTS, Hand, finish, put, ready, results, submit


@contextlib.asynccontextmanager
async def pair(server: MemoryServer, folder: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    """A leader `s1` and a standby `s2`."""
    one, two = (agents.make(server, "scheduler", folder / name, name=name) for name in ("s1", "s2"))
    async with agents.running(one, body):
        await ready(server.connect("looker"))
        async with agents.running(two, body):
            await asyncio.sleep(1.5)
            yield one, two


async def status(broker: MemoryBroker) -> Status:
    subject = SUBJECTS.ask("scheduler", broker.name)
    asked = await broker.request(subject, codec.encode(Ask(what="status")), timeout_s=2.0)
    return codec.decode(asked.data, Status)


async def led_by(broker: MemoryBroker, name: str, within_s: float) -> float:
    """Until a scheduler of this name answers; virtual seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < within_s:
        with contextlib.suppress(Exception):
            if (await status(broker)).leader == name:
                return loop.time() - began
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} does not lead within {within_s} s")


async def events(broker: MemoryBroker) -> list[AnyEvent]:
    stored = await broker.read(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger())
    return [event for one in stored for event in codec.decode(one.data, Entry).events]


async def until_told(hand: Hand, what: str, **beat: Any) -> Answer:
    """Beat until an answer holds leases, or receipts."""
    for _ in range(100):
        answer = await hand.beat(**beat)
        if getattr(answer, what):
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError(f"no answer holds {what}")


def check_epochs(found: list[AnyEvent]) -> None:
    """No epoch of a task is given twice."""
    given = [(event.task, event.epoch) for event in found if isinstance(event, TaskLeased)]
    assert len(given) == len(set(given))


def test_a_standby_takes_over_from_a_leader_that_is_cut_off_and_no_command_claim_or_lease_is_lost(
    tmp_path: Path,
) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with pair(server, tmp_path):
            holder, waiter = Hand(server.connect("w1")), Hand(server.connect("w2"), "w2")
            for hand in (holder, waiter):
                await hand.listen()
            await put(cli, submit("a"), "s-a")
            lease = await holder.beat()
            while not lease.leases:
                lease = await holder.beat()
            held = (Held(task="a", epoch=lease.leases[0].epoch),)
            holder.held = held
            await holder.beat(offer=2, leases_max=0)
            await waiter.beat()  # a standing offer
            seen = {(row.role, row.name) for row in (await status(cli)).agents}
            assert {("scheduler", "s1"), ("scheduler", "s2")} <= seen
            server.cut("s1")
            await put(cli, submit("b"), "s-b")  # a command that only the next leader reads
            took_s = await led_by(cli, "s2", 10.0)
            assert 1.5 < took_s < 5.0
            # The waiting claim is answered without a new beat.
            await until(lambda: any(answer.leases for answer in waiter.answers), "a lease for the waiting claim", 2.0)
            assert waiter.answers[-1].leases[0].task.id == "b"
            # The lease is good, and its result is recorded.
            key = await finish(holder, "a", lease)
            answer = await until_told(holder, "receipts", offer=2, leases_max=0, owed=(key,))
            assert answer.receipts[0].recorded
            server.heal("s1")
            await asyncio.sleep(3.0)
            assert (await status(cli)).leader == "s2"
            # The old leader has become the standby, in the same process: it takes over in its turn.
            server.cut("s2")
            await led_by(cli, "s1", 10.0)
            server.heal("s2")
        found = await events(cli)
        assert [event.term for event in found if isinstance(event, LeaderChosen)] == [1, 2, 3]
        check_epochs(found)
        told = [codec.encode(record) for record in await results(cli)]
        assert len(told) == len(set(told))

    virtual_time.run(case())


def test_a_leader_that_stops_in_order_is_followed_at_once(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with pair(server, tmp_path) as (one, _):
            one.stop()
            assert await led_by(cli, "s2", 5.0) < 1.0

    virtual_time.run(case())


def test_two_that_start_together_agree_on_one(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        one, two = (agents.make(server, "scheduler", tmp_path / name, name=name) for name in ("s1", "s2"))
        async with agents.running(one, body), agents.running(two, body):
            await asyncio.sleep(20.0)
            leader = (await status(cli)).leader
            assert leader in ("s1", "s2")
            assert {agent.name: agent.metrics.value("mesh_leading") for agent in (one, two)}[leader] == 1
            assert one.metrics.value("mesh_leading") + two.metrics.value("mesh_leading") == 1
        terms = [event.term for event in await events(cli) if isinstance(event, LeaderChosen)]
        assert terms == sorted(set(terms))
        assert len(terms) <= 2

    virtual_time.run(case())


def test_a_leader_that_was_overtaken_unawares_refuses_nothing(tmp_path: Path) -> None:
    """Silently cut off, a leader believes to be connected: what it hears afterwards it must not judge."""

    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with pair(server, tmp_path):
            hand = Hand(server.connect("w1"))
            await hand.listen()
            server.cut("s1", silently=True)
            await led_by(cli, "s2", 12.0)
            await put(cli, submit("a"), "s-a")
            lease = await hand.beat()
            while not lease.leases:
                lease = await hand.beat()
            hand.held = (Held(task="a", epoch=lease.leases[0].epoch),)
            server.heal("s1")
            key = await finish(hand, "a", lease)
            answers: list[OwedAnswer] = []
            for _ in range(40):
                question = codec.encode(OwedQuestion(keys=(key,)))
                with contextlib.suppress(Exception):
                    asked = await cli.request(SUBJECTS.ask("scheduler", cli.name), question, timeout_s=0.5)
                    answers.append(codec.decode(asked.data, OwedAnswer))
                await asyncio.sleep(0.1)
            said = [receipt.recorded for answer in answers for receipt in answer.receipts]
            assert said
            assert all(said)
        check_epochs(await events(cli))

    virtual_time.run(case())


def test_the_same_offer_gets_the_same_answer_from_the_next_leader(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with pair(server, tmp_path):
            hand = Hand(server.connect("w1"))
            await hand.listen()
            await put(cli, submit("a", "b"), "s-a")
            lease = await hand.beat()
            while not lease.leases:
                lease = await hand.beat()
            server.cut("s1")
            await led_by(cli, "s2", 10.0)
            again = await hand.beat()
            assert [one.task.id for one in again.leases] == [one.task.id for one in lease.leases]
            assert [one.epoch for one in again.leases] == [one.epoch for one in lease.leases]
            server.heal("s1")

    virtual_time.run(case())


# -- a broker that comes back older -----------------------------------------------------------------------------------


def test_a_broker_that_comes_back_older_begins_a_new_generation_and_results_are_recorded_again(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            hand = Hand(server.connect("w1"))
            await hand.listen()
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(1.0)
            older = server.copy()
            lease = await hand.beat()
            while not lease.leases:
                lease = await hand.beat()
            key = await finish(hand, "a", lease)
            answer = await until_told(hand, "receipts", offer=2, leases_max=0, owed=(key,))
            assert answer.receipts[0].recorded
            assert answer.generation == 1
            server.crash()
            await asyncio.sleep(1.0)
            server.restart(older)
            await asyncio.sleep(2.0)
            answer = await hand.beat(offer=3, leases_max=0)
            assert answer.generation == 2
            assert answer.restored_from > 0
            # The worker sends the receipted row again, under an epoch that this history does not know.
            assert await finish(hand, "a", lease) == key
            answer = await until_told(hand, "receipts", offer=3, leases_max=0, owed=(key,))
            assert answer.receipts[0].recorded
        found = await events(cli)
        assert [event.generation for event in found if isinstance(event, Restored)] == [2]
        done = [event for event in found if isinstance(event, TaskSucceeded)]
        assert [(event.epoch, event.earned_under) for event in done] == [(Epoch(2, 1), Epoch(1, 1))]

    virtual_time.run(case())


def test_a_fresh_scheduler_learns_from_beats_that_the_store_is_older_before_it_gives_a_lease(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        hand, other = Hand(server.connect("w1")), Hand(server.connect("w2"), "w2")
        async with agents.running(agents.make(server, "scheduler", tmp_path / "1"), body):
            await ready(cli)
            await hand.listen()
            await other.listen()
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(1.0)
            older = server.copy()
            seen: Answer = await hand.beat()
            while not seen.leases:
                seen = await hand.beat()
        server.crash()
        server.restart(older)
        async with agents.running(agents.make(server, "scheduler", tmp_path / "2"), body):
            await ready(cli)
            await other.beat()  # a worker that has seen nothing is there first
            hand.seen = seen
            await hand.beat(offer=2, leases_max=0)
            answer = await until_told(other, "leases")
            assert answer.leases[0].epoch == Epoch(2, 1)
            assert answer.generation == 2

    virtual_time.run(case())


def test_a_standby_that_has_seen_what_the_store_does_not_hold_takes_over_and_restores_it(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli, hand, other = server.connect("cli"), Hand(server.connect("w1")), Hand(server.connect("w2"), "w2")
        async with agents.running(agents.make(server, "scheduler", tmp_path / "1", name="s1"), body):
            await ready(cli)
            await hand.listen()
            await other.listen()
            older = server.copy()
            await put(cli, submit("a"), "s-a")
            assert (await until_told(hand, "leases")).leases[0].epoch == Epoch(1, 1)
        server.crash()
        server.restart(older)
        async with agents.running(agents.make(server, "scheduler", tmp_path / "2", name="s2"), body):
            await led_by(cli, "s2", 5.0)
            async with agents.running(agents.make(server, "scheduler", tmp_path / "1", name="s1"), body):
                await led_by(cli, "s1", 2.0)
                await put(cli, submit("a"), "s-a")
                assert (await until_told(other, "leases")).leases[0].epoch == Epoch(2, 1)
        found = await events(cli)
        chosen = [event.name.partition(".")[0] for event in found if isinstance(event, LeaderChosen)]
        assert chosen == ["s1", "s2", "s1"]
        assert [event.generation for event in found if isinstance(event, Restored)] == [2]

    virtual_time.run(case())


def test_two_that_have_seen_what_the_store_does_not_hold_restore_it_once(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with pair(server, tmp_path):
            older = server.copy()
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(2.0)  # the standby has read it, too
            server.crash()
            await asyncio.sleep(1.0)
            server.restart(older)
            await asyncio.sleep(5.0)
            assert (await status(cli)).leader in ("s1", "s2")
        assert [event.generation for event in await events(cli) if isinstance(event, Restored)] == [2]

    virtual_time.run(case())


@pytest.mark.parametrize(("away_s", "least_s", "most_s"), [(1.0, 0.0, 1.0), (6.0, 2.5, 4.0)])
def test_a_leader_that_was_away_so_long_that_another_may_have_led_listens_before_it_leases(
    away_s: float, least_s: float, most_s: float, tmp_path: Path
) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli, hand, loop = server.connect("cli"), Hand(server.connect("w1")), asyncio.get_running_loop()
        async with agents.running(agents.make(server, "scheduler", tmp_path, name="s1"), body):
            await ready(cli)
            await hand.listen()
            server.cut("s1")
            await asyncio.sleep(away_s)
            await put(cli, submit("a"), "s-a")
            server.heal("s1")
            began = loop.time()
            await until_told(hand, "leases")
            assert least_s <= loop.time() - began <= most_s

    virtual_time.run(case())


def test_a_result_whose_task_was_lost_too_waits_until_the_task_is_planned_again(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        hand = Hand(server.connect("w1"))
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            older = server.copy()
            await hand.listen()
            await put(cli, submit("a"), "s-a")
            lease = await hand.beat()
            while not lease.leases:
                lease = await hand.beat()
            server.crash()
            await asyncio.sleep(0.5)
            server.restart(older)
            await asyncio.sleep(2.0)
            key = await finish(hand, "a", lease)
            question = codec.encode(OwedQuestion(keys=(key,)))

            async def ask() -> OwedAnswer:
                asked = await hand.broker.request(SUBJECTS.ask("scheduler", hand.broker.name), question, timeout_s=2.0)
                return codec.decode(asked.data, OwedAnswer)

            for _ in range(5):
                assert not (await ask()).receipts
                await asyncio.sleep(1.0)
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(1.0)
            for _ in range(3):  # asked again, the row is read again from where it stands
                answer = await ask()
                await asyncio.sleep(1.0)
            assert [receipt.recorded for receipt in answer.receipts] == [True]

    virtual_time.run(case())


def test_keys_are_what_the_subject_says() -> None:
    key = Key("a", Epoch(1, 2), "result", 3)
    assert SUBJECTS.owed("w1", key).startswith("mesh.cmd.w1.")


# -- closed connections -----------------------------------------------------------------------------------------------


def test_a_lease_of_a_worker_whose_connection_has_closed_moves_within_seconds(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        agent = agents.make(server, "scheduler", tmp_path)
        async with agents.running(agent, lambda one: body(one, MemoryDisconnects(server))):
            await ready(cli)
            holder, waiter = Hand(server.connect("w1", client="w1.1")), Hand(server.connect("w2"), "w2")
            await holder.listen()
            await waiter.listen()
            await put(cli, submit("a"), "s-a")
            lease = await until_told(holder, "leases")
            holder.held = (Held(task="a", epoch=lease.leases[0].epoch),)
            await holder.beat(offer=2, leases_max=0)
            began = asyncio.get_running_loop().time()
            server.cut("w1")
            moved = await until_told(waiter, "leases")
            assert moved.leases[0].epoch == Epoch(1, 2)
            assert asyncio.get_running_loop().time() - began < 4.0

    virtual_time.run(case())


def test_results_that_came_back_older_than_the_ledger_are_written_again(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer(SUBJECTS)
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            before = server.copy()
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(1.0)
            told = [stored.data for stored in await cli.read(SUBJECTS.stream("RESULTS"), SUBJECTS.results())]
            assert told
            between = server.copy() | {SUBJECTS.stream("RESULTS"): before[SUBJECTS.stream("RESULTS")]}
            server.crash()
            await asyncio.sleep(1.0)
            server.restart(between)
            await asyncio.sleep(5.0)
            again = [stored.data for stored in await cli.read(SUBJECTS.stream("RESULTS"), SUBJECTS.results())]
            assert again == told
        assert not [event for event in await events(cli) if isinstance(event, Restored)]

    virtual_time.run(case())
