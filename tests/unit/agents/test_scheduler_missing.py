"""The leader looks for what tasks can not get: who made it is done once more, who needs it waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.scheduler import body
from mesh import codec, virtual_time
from mesh.artifacts import ArtifactStore
from mesh.bus import Message
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Key
from mesh.messages.collecting import Wanted
from mesh.messages.commands import FailureClass, FailureFound, Missed, ResultFound, Submit
from mesh.messages.leases import Held, Lease
from mesh.messages.ledger import AnyEvent, Entry, LeaseEnded, TaskParked, TaskReopened, TaskSucceeded
from mesh.messages.results import TaskEnded, TaskMoved
from mesh.messages.tasks import Outcome, TaskSpec, TaskState
from tests.support import agents
from tests.support.agents import until
from tests.unit.agents.test_scheduler import SUBJECTS, Hand, put, ready, results

LOST = "ab" * 32


class Worker(Hand):
    """Takes a lease and ends it as it is told."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.offers = 0

    async def lease(self, task: str = "") -> Lease:
        """Offer until a task is leased; it must be this one."""
        self.offers += 1
        for _ in range(1_000):
            answer = await self.beat(offer=self.offers)
            for lease in answer.leases:
                assert task in ("", lease.task.id)
                self.held = (Held(task=lease.task.id, epoch=lease.epoch),)
                return lease
            await _pause()
        raise AssertionError(f"{task} was never leased")

    async def succeed(self, lease: Lease, **outputs: str) -> None:
        key = Key(lease.task.id, lease.epoch, "result", 1)
        await self._end(ResultFound(key=key, incarnation=self.incarnation, outcome=Outcome(outputs=outputs)))

    async def lack(self, lease: Lease) -> None:
        """Fail, because an input is not in the store."""
        key = Key(lease.task.id, lease.epoch, "failure", 1)
        row = FailureFound(
            key=key,
            incarnation=self.incarnation,
            failure=FailureClass.RETRY,
            reason="not in the store",
            missing=tuple(lease.task.inputs.values()),
        )
        await self._end(row)

    async def _end(self, row: ResultFound | FailureFound) -> None:
        await self.broker.append(SUBJECTS.owed(self.name, row.key), codec.encode(row), subject_seq=0)
        while not (await self.beat(offer=self.offers, leases_max=0, owed=(row.key,))).receipts:
            await _pause()
        self.held = ()


async def _pause() -> None:
    await asyncio.sleep(1.0)


async def plan(cli: MemoryBroker, name: str, **inputs: str) -> None:
    spec = TaskSpec(id=name, topic="t1", executor="noop", inputs=inputs)
    await put(cli, Submit(id=f"s-{name}", topic="t1", tasks=(spec,)), f"s-{name}")


async def events(cli: MemoryBroker, wanted: type[AnyEvent]) -> list[AnyEvent]:
    stored = await cli.read(SUBJECTS.stream("LEDGER"), SUBJECTS.ledger())
    return [event for one in stored for event in codec.decode(one.data, Entry).events if isinstance(event, wanted)]


def test_a_lost_output_that_a_task_needs_is_made_anew(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli, worker = server.connect("cli"), Worker(server.connect("w1"))
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await worker.listen()
            asked: list[Message] = []

            async def hear(message: Message) -> None:
                asked.append(message)

            await cli.subscribe(SUBJECTS.wanted(), hear)
            await plan(cli, "make")
            await worker.succeed(await worker.lease("make"), model=LOST)
            await plan(cli, "use", model=LOST)
            lacked = 0
            while (again := await worker.lease()).task.id == "use":
                await worker.lack(again)
                lacked += 1
            assert 3 <= lacked <= 6
            assert again.epoch.count == 2
            await worker.succeed(again, model=LOST)
            await worker.succeed(await worker.lease("use"))
            assert [codec.decode(one.data, Wanted).names for one in asked] == [(f"m.{LOST}",)]
            (reopened,) = await events(cli, TaskReopened)
            assert isinstance(reopened, TaskReopened)
            assert reopened.waiting == ("use",)
            assert len(await events(cli, TaskSucceeded)) == 3
            causes = [event.cause for event in await events(cli, LeaseEnded)]  # type: ignore[union-attr]
            assert causes == ["input"] * lacked
            told = [one for one in await results(cli) if isinstance(one, TaskEnded | TaskMoved)]
            of_make = [one.state for one in told if (one.task if isinstance(one, TaskMoved) else one.task.id) == "make"]
            assert of_make == [
                TaskState.LEASED, TaskState.SUCCEEDED, TaskState.READY, TaskState.LEASED, TaskState.SUCCEEDED,
            ]  # fmt: skip

    virtual_time.run(case())


def test_what_is_in_the_store_after_all_reopens_nothing(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli, worker = server.connect("cli"), Worker(server.connect("w1"))
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await worker.listen()
            await plan(cli, "make")
            await worker.succeed(await worker.lease("make"), model=LOST)
            found: list[str] = []

            async def there(_: ArtifactStore, digest: str) -> bool:
                found.append(digest)
                return False

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ArtifactStore, "missing", there)
                await put(cli, Missed(id="m1", topic="t1", digest=LOST), "m1", writer="consensus")
                await until(lambda: found == [LOST], "a look into the store")
                await _pause()
            assert await events(cli, TaskReopened) == []
            await put(cli, Missed(id="m2", topic="t1", digest=LOST), "m2", writer="consensus")
            assert (await worker.lease("make")).epoch.count == 2

    virtual_time.run(case())


def test_a_user_s_data_that_nobody_has_end_the_task_with_what_to_do(tmp_path: Path) -> None:
    async def case() -> None:
        server = MemoryServer()
        cli, worker = server.connect("cli"), Worker(server.connect("w1"))
        async with agents.running(agents.make(server, "scheduler", tmp_path), body):
            await ready(cli)
            await worker.listen()
            await plan(cli, "use", data=LOST)
            for _ in range(12):
                await worker.lack(await worker.lease("use"))
            (parked,) = await events(cli, TaskParked)
            assert isinstance(parked, TaskParked)
            assert "publish the topic again" in parked.reason

    virtual_time.run(case())
