"""The scheduler agent on the broker in memory: what it commits, answers, projects, and how it starts again."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from agents.scheduler import body
from mesh import codec, virtual_time
from mesh.bus import Message
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Facts, Key, Record
from mesh.messages.commands import ResultFound, Submit
from mesh.messages.leases import Answer, Beat, Held, Offer
from mesh.messages.results import Planned, TaskEnded, TaskMoved
from mesh.messages.services import Ask, Hello, OwedAnswer, OwedQuestion, Problem, Status, Welcome
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from mesh.packed import split
from mesh.subjects import Subjects
from tests.support import agents
from tests.support.agents import until

SUBJECTS = Subjects()


class Hand:
    """A worker made by hand: beats when told, remembers the answers."""

    def __init__(self, broker: MemoryBroker, name: str = "w1") -> None:
        self.broker, self.name, self.incarnation = broker, name, f"{name}.1"
        self.answers: list[Answer] = []
        self.held: tuple[Held, ...] = ()
        self.number = 0
        self.seen: Answer | None = None
        """The answer whose ledger entry the beats name as seen."""

    async def listen(self) -> None:
        async def hear(message: Message) -> None:
            self.answers.append(codec.decode(message.data, Answer))

        await self.broker.subscribe(SUBJECTS.answer(self.name), hear)

    async def beat(self, *, offer: int = 1, leases_max: int = 1, owed: tuple[Key, ...] = ()) -> Answer:
        self.number += 1
        heard = len(self.answers)
        beat = Beat(
            worker=self.name,
            incarnation=self.incarnation,
            number=self.number,
            reply=SUBJECTS.answer(self.name),
            loop_age_s=0.0,
            offer=Offer(
                number=offer,
                leases_max=leases_max,
                cores=1,
                memory_bytes=1 << 30,
                disk_bytes=1 << 40,
                kinds={"noop": 1},
            ),
            held=self.held,
            owed=owed,
            ledger_seq=self.seen.ledger_seq if self.seen else 0,
            generation=self.seen.generation if self.seen else 0,
            ledger_digest=self.seen.ledger_digest if self.seen else "",
        )
        await self.broker.publish(SUBJECTS.beat(self.name), codec.encode(beat))
        await until(lambda: len(self.answers) > heard, "an answer to the beat")
        return self.answers[-1]


def submit(*names: str) -> Submit:
    tasks = tuple(TaskSpec(id=name, topic="t1", executor="noop") for name in names)
    return Submit(id=f"s-{names[0]}", topic="t1", tasks=tasks)


async def put(broker: MemoryBroker, record: Record, id_: str, writer: str = "planner") -> None:
    await broker.append(SUBJECTS.command(writer, record.kind, id_), codec.encode(record), subject_seq=0)


async def results(broker: MemoryBroker) -> list[Record]:
    stored = await broker.read(SUBJECTS.stream("RESULTS"), SUBJECTS.results())
    return [codec.decode(one.data, Planned, TaskMoved, TaskEnded) for pack in stored for one in split(pack)]


async def ready(broker: MemoryBroker) -> None:
    """Until the scheduler answers."""
    for _ in range(200):
        try:
            subject = SUBJECTS.ask("scheduler", broker.name)
            await broker.request(subject, codec.encode(Ask(what="leader")), timeout_s=1.0)
            return
        except Exception:
            await asyncio.sleep(0.05)
    raise AssertionError("the scheduler does not answer")


async def finish(hand: Hand, task: str, lease_answer: Answer) -> Key:
    """Hand in the result of a lease."""
    lease = next(lease for lease in lease_answer.leases if lease.task.id == task)
    key = Key(task, lease.epoch, "result", 1)
    row = ResultFound(key=key, incarnation=hand.incarnation, outcome=Outcome(kpis={"loss": 0.5}))
    await hand.broker.append(SUBJECTS.owed(hand.name, key), codec.encode(row), subject_seq=0)
    return key


def test_a_task_goes_once_around_and_subscribers_see_it(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            hand = Hand(server.connect("w1"))
            await hand.listen()
            await put(cli, submit("a"), "s-a")
            answer = await hand.beat()
            while not answer.leases:
                answer = await hand.beat()
            # The same offer gets the same answer.
            assert (await hand.beat()).leases == answer.leases
            key = await finish(hand, "a", answer)
            hand.held = (Held(task="a", epoch=key.epoch),)
            receipts = (await hand.beat(offer=2, leases_max=0, owed=(key,))).receipts
            while not receipts:
                receipts = (await hand.beat(offer=2, leases_max=0, owed=(key,))).receipts
            assert [receipt.recorded for receipt in receipts] == [True]
            subject = SUBJECTS.ask("scheduler", cli.name)
            asked = await cli.request(subject, codec.encode(OwedQuestion(keys=(key,))), timeout_s=2.0)
            assert codec.decode(asked.data, OwedAnswer).receipts[0].recorded
        kinds = [record.kind for record in await results(cli)]
        assert kinds == ["planned", "task-moved", "task-ended"]
        ended = (await results(cli))[-1]
        assert isinstance(ended, TaskEnded)
        assert ended.state is TaskState.SUCCEEDED
        assert ended.outcome is not None
        assert ended.outcome.kpis == {"loss": 0.5}

    virtual_time.run(case())


def test_a_new_start_replays_the_ledger_and_repeats_nothing(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await put(cli, submit("a", "b"), "s-a")
            hand = Hand(server.connect("w1"))
            await hand.listen()
            answer = await hand.beat()
            while not answer.leases:
                answer = await hand.beat()
            first = answer.leases[0]
        before = [codec.encode(record) for record in await results(cli)]
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            subject = SUBJECTS.ask("scheduler", cli.name)
            asked = await cli.request(subject, codec.encode(Ask(what="tasks")), timeout_s=2.0)
            status = codec.decode(asked.data, Status)
            assert status.term == 2
            rows = {row.id: row for row in status.tasks}
            assert rows["a"].state is TaskState.LEASED
            assert rows["a"].epoch == first.epoch
            assert rows["b"].state is TaskState.READY
            # The lease is good under the new leader: the worker that holds it hands its result in.
            key = await finish(hand, "a", answer)
            hand.held = (Held(task="a", epoch=key.epoch),)
            while not (await hand.beat(offer=2, leases_max=0, owed=(key,))).receipts:
                pass
        after = [codec.encode(record) for record in await results(cli)]
        assert after[: len(before)] == before
        assert len(after) == len(set(after))

    virtual_time.run(case())


def test_rubbish_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await cli.append(SUBJECTS.command("cli", "submit", "x"), b"\x00rubbish")
            await cli.publish(SUBJECTS.beat("w1"), b"")
            await cli.publish(SUBJECTS.gone("w1"), b"\xc1")
            answer = await cli.request(SUBJECTS.ask("scheduler", cli.name), b"nonsense", timeout_s=2.0)
            assert codec.decode(answer.data, Problem).reason
            await put(cli, submit("a"), "s-a")
            await put(cli, submit("a"), "s-a-again")
            status = Status(leader="", term=0, generation=0, ledger_seq=0, commands_seq=0, counts={})
            while status.commands_seq < 3:
                question = codec.encode(Ask(what="tasks"))
                asked = await cli.request(SUBJECTS.ask("scheduler", cli.name), question, timeout_s=2.0)
                status = codec.decode(asked.data, Status)
                await asyncio.sleep(0.05)
            assert [row.id for row in status.tasks] == ["a"]

    virtual_time.run(case())


def test_a_hello_of_another_protocol_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli, w9 = server.connect("cli"), server.connect("w9")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)

            async def welcome(protocol: int) -> Welcome:
                hello = Hello(
                    role="worker",
                    name="w9",
                    incarnation="w9.1",
                    protocol_min=protocol,
                    protocol_max=protocol,
                    program="9.9",
                )
                asked = await w9.request(SUBJECTS.ask("scheduler", "w9"), codec.encode(hello), timeout_s=2.0)
                return codec.decode(asked.data, Welcome)

            assert (await welcome(1)).accepted
            hello = Hello(role="worker", name="w8", incarnation="w8.1", protocol_min=1, protocol_max=1, program="9")
            asked = await w9.request(SUBJECTS.ask("scheduler", "w9"), codec.encode(hello), timeout_s=2.0)
            assert codec.decode(asked.data, Problem).reason == "'w9' says that it is 'w8'"
            refused = await welcome(99)
            assert not refused.accepted
            assert "update the older side" in refused.reason

    virtual_time.run(case())


def test_an_agent_that_has_its_artifacts_elsewhere_is_refused(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli, w9 = server.connect("cli"), server.connect("w9")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)

            async def welcome(facts: Facts) -> Welcome:
                hello = Hello(
                    role="worker",
                    name="w9",
                    incarnation="w9.1",
                    protocol_min=1,
                    protocol_max=1,
                    program="9",
                    facts=facts,
                )
                asked = await w9.request(SUBJECTS.ask("scheduler", "w9"), codec.encode(hello), timeout_s=2.0)
                return codec.decode(asked.data, Welcome)

            assert (await welcome({})).accepted, "who does not say it is believed"
            assert (await welcome({"artifacts": "the broker"})).accepted
            refused = await welcome({"artifacts": "the bucket lab"})
            assert not refused.accepted
            assert "lie in the broker, w9 has them in the bucket lab: " in refused.reason

    virtual_time.run(case())


def test_work_goes_on_after_the_broker_was_away(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            server.crash()
            await asyncio.sleep(60)
            server.restart()
            await until(lambda: cli.connected, "the reconnect")
            await put(cli, submit("a"), "s-a")
            async with cli.tail(SUBJECTS.stream("RESULTS"), SUBJECTS.results()) as told:
                first = await asyncio.wait_for(anext(told), 30.0)
            assert codec.decode(first.data, Planned).tasks[0].id == "a"

    virtual_time.run(case())


def test_a_full_store_is_waited_out(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli = server.connect("cli")
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            ledger = server.stream(SUBJECTS.stream("LEDGER"))
            spec = ledger.spec
            ledger.spec = dataclasses.replace(spec, max_bytes=ledger.size_bytes)
            await put(cli, submit("a"), "s-a")
            await asyncio.sleep(20)
            ledger.spec = spec
            async with asyncio.timeout(30.0), cli.tail(SUBJECTS.stream("RESULTS"), SUBJECTS.results()) as told:
                first = await anext(told)
            assert SUBJECTS.results(kind="planned").split(".")[-2] == first.subject.split(".")[-2]

    virtual_time.run(case())
