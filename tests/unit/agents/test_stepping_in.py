"""The doors with which a person steps in, against a scheduler on the broker in memory."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents.commands import cancel, checkpoint, dead_letters, drain, publishing, refused, resubmit
from agents.commands.reach import Reach
from agents.scheduler import body
from mesh import codec, virtual_time
from mesh.bus import Message
from mesh.errors import BusUnavailable, NotFound, Reject, Retry, SettingsInvalid
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Key, Record
from mesh.messages.commands import CheckpointMade, FailureClass, FailureFound, ResultFound, Submit
from mesh.messages.leases import Answer, Beat, Held, Lease, Offer, OrderKind, Receipt
from mesh.messages.results import TopicSettled
from mesh.messages.services import Ask, Problem, SaveAnswer, SaveQuestion, Status
from mesh.messages.tasks import Outcome, TaskSpec
from mesh.messages.topics import Topic
from mesh.outbox import Outbox
from mesh.setting_tree import Settings
from mesh.subjects import Subjects
from tests.support import agents
from tests.support.agents import until

SUBJECTS = Subjects()
DOORS = (cancel, checkpoint, dead_letters, drain, refused, resubmit)


class Mesh:
    """A scheduler, a worker made by hand, and the doors."""

    def __init__(self, broker: MemoryBroker, home: Path) -> None:
        self.broker, self.home, self.beats = broker, home, 0
        self.answers: list[Answer] = []
        self.held: tuple[Held, ...] = ()

    async def plan(self, *names: str, after: dict[str, tuple[str, ...]] | None = None) -> None:
        tasks = tuple(TaskSpec(id=one, topic="t1", executor="noop", after=(after or {}).get(one, ())) for one in names)
        submit = Submit(id=f"s-{names[0]}", topic="t1", tasks=tasks)
        await self.put(SUBJECTS.command("planner", submit.kind, submit.id), submit)

    async def put(self, subject: str, record: Record) -> None:
        await self.broker.append(subject, codec.encode(record), subject_seq=0)

    async def hear(self) -> None:
        async def on_answer(message: object) -> None:
            self.answers.append(codec.decode(message.data, Answer))  # type: ignore[attr-defined]

        await self.broker.subscribe(SUBJECTS.answer("w1"), on_answer)

    async def beat(self, leases_max: int = 1) -> Answer:
        self.beats += 1
        heard = len(self.answers)
        offer = Offer(
            number=self.beats, leases_max=leases_max, cores=1, memory_bytes=1 << 30, disk_bytes=1 << 40,
            kinds={"noop": 1},
        )  # fmt: skip
        beat = Beat(
            worker="w1", incarnation="w1.1", number=self.beats, reply=SUBJECTS.answer("w1"), loop_age_s=0.0,
            offer=offer, held=self.held,
        )  # fmt: skip
        await self.broker.publish(SUBJECTS.beat("w1"), codec.encode(beat))
        await until(lambda: len(self.answers) > heard, "an answer to the beat")
        return self.answers[-1]

    async def take(self) -> Lease:
        """The worker gets a task and holds it."""
        lease = (await self.beat()).leases[0]
        self.held = (Held(task=lease.task.id, epoch=lease.epoch),)
        return lease

    async def fail(self, lease: Lease) -> None:
        """What the worker holds is rejected: parked."""
        key = Key(lease.task.id, lease.epoch, FailureFound.kind, 1)
        row = FailureFound(key=key, incarnation="w1.1", failure=FailureClass.REJECT, reason="unreadable")
        self.held = ()
        await self.put(SUBJECTS.owed("w1", key), row)
        await self.settled()

    async def settled(self) -> None:
        last = (await self.broker.state(SUBJECTS.stream("COMMANDS"))).last_seq
        for _ in range(200):
            status = await self.ask("leader")
            if status.commands_seq >= last:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the scheduler does not hear its commands")

    async def ask(self, what: str) -> Status:
        subject = SUBJECTS.ask("scheduler", self.broker.name)
        message = await self.broker.request(subject, codec.encode(Ask(what=what)), timeout_s=1.0)
        return codec.decode(message.data, Status)

    async def door(self, module: ModuleType, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
        """Run one command with --json -; its document."""
        given = _given(module, "--json", "-", *words)
        settings = Settings(home=self.home)
        if module is refused:
            one = refused.choose(refused.on_this_machine(self.home), given.key)
            await refused._hand_in(given, settings, one)
        else:
            assert await module._run(given, settings) == 0
        document: dict[str, object] = json.loads(capsys.readouterr().out)
        return document


def _given(module: ModuleType, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_flags(parser)
    return parser.parse_args(words)


Play = Callable[[Callable[[Mesh], object]], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    def run(scene: Callable[[Mesh], object]) -> None:
        async def main() -> None:
            server = MemoryServer()
            broker = server.connect("hand")

            @contextlib.asynccontextmanager
            async def near(settings: Settings) -> AsyncIterator[Reach]:
                yield Reach(settings, broker, SUBJECTS)

            for module in DOORS:
                monkeypatch.setattr(module, "reach", near)
            async with agents.running(agents.make(server, "scheduler", tmp_path), body):
                mesh = Mesh(broker, tmp_path)
                await ready(mesh)
                await mesh.hear()
                await scene(mesh)  # type: ignore[misc]
            await broker.close()

        virtual_time.run(main())

    return run


async def ready(mesh: Mesh) -> None:
    for _ in range(200):
        with contextlib.suppress(Exception):
            await mesh.ask("leader")
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the scheduler does not answer")


def test_a_parked_task_is_listed_with_its_reason_and_starts_again(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a", "b", after={"b": ("a",)})
        await mesh.fail(await mesh.take())
        found = await mesh.door(dead_letters, capsys)
        rows = {row["task"]: row for row in found["dead_letters"]}  # type: ignore[attr-defined]
        assert rows["a"]["reason"] == "unreadable"
        assert rows["a"]["attempts"] == 1
        assert rows["b"]["reason"] == "needs a, which is parked: unreadable"
        assert (await mesh.door(dead_letters, capsys, "t2"))["dead_letters"] == []
        assert await mesh.door(resubmit, capsys, "a") == {"resubmitted": ["a", "b"], "count": 2}
        assert (await mesh.ask("tasks")).counts == {"waiting": 1, "ready": 1, "leased": 0} | dict.fromkeys(
            ("succeeded", "parked", "canceled"), 0
        )
        with pytest.raises(NotFound, match="nothing that is parked is called 'a'"):
            await mesh.door(resubmit, capsys, "a")

    play(scene)


def test_a_topic_or_a_task_is_withdrawn(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a", "b", "c")
        await mesh.settled()
        assert await mesh.door(cancel, capsys, "b") == {"canceled": ["b"]}
        assert await mesh.door(cancel, capsys, "t1") == {"canceled": ["a", "c"]}
        with pytest.raises(NotFound, match="no open task or topic is called 't1'"):
            await mesh.door(cancel, capsys, "t1")

    play(scene)


def test_a_divided_topic_is_ended_as_a_whole_though_nothing_of_its_own_is_open(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene(mesh: Mesh) -> None:
        branch = Topic(id="t9-b0", text="cards", parent="t9", node="cards-1")
        await mesh.put(SUBJECTS.topic(branch.id), branch)
        assert await mesh.door(cancel, capsys, "t9", "--reason", "enough") == {"canceled": []}
        await mesh.settled()
        (stored,) = await mesh.broker.read(SUBJECTS.stream("RESULTS"), SUBJECTS.results("t9", TopicSettled.kind))
        settled = codec.decode(stored.data, TopicSettled)
        assert (settled.why, settled.facts["canceled"]) == ("enough", True)
        with pytest.raises(NotFound, match="no open task or topic is called 't9'"):
            await mesh.door(cancel, capsys, "t9")

    play(scene)


def test_a_drained_worker_is_asked_to_give_back_and_gets_nothing_until_it_is_back(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a", "b")
        await mesh.take()
        assert (await mesh.door(drain, capsys, "w1", "--now", "--reason", "it moves"))["drained"]
        answer = await mesh.beat()
        assert [(one.order, one.reason) for one in answer.orders] == [(OrderKind.CHECKPOINT, "it moves")]
        assert answer.leases == ()
        row = (await mesh.ask("workers")).workers[0]
        assert (row.drained, row.note) == (True, "it moves")
        assert not (await mesh.door(drain, capsys, "w1", "--undo"))["drained"]
        answer = await mesh.beat()
        assert [one.order for one in answer.orders] == [OrderKind.KEEP]
        assert [lease.task.id for lease in answer.leases] == ["b"]

    play(scene)


class Listening:
    """A worker that answers what it is asked, as it is told to."""

    def __init__(self, mesh: Mesh, answer: SaveAnswer | Problem, made: CheckpointMade | None = None) -> None:
        self.mesh, self.answer, self.made = mesh, answer, made
        self.asked: list[str] = []

    async def __call__(self, message: Message) -> None:
        self.asked.append(codec.decode(message.data, SaveQuestion).task)
        await self.mesh.broker.publish(message.reply, codec.encode(self.answer))
        if self.made is not None:
            await self.mesh.put(SUBJECTS.owed("w1", self.made.key), self.made)


async def _checkpoint_of(
    mesh: Mesh, capsys: pytest.CaptureFixture[str], answer: SaveAnswer | Problem, number: int = 0
) -> Any:
    """What the command says when the worker answers so, and then records a checkpoint of this number."""
    lease = mesh.held[0]
    made = None
    if number:
        key = Key(lease.task, lease.epoch, CheckpointMade.kind, number)
        made = CheckpointMade(
            key=key, incarnation="w1.1", manifest="ab" * 32, step=10 * number, best=False, trained_s=1.0
        )
    listening = Listening(mesh, answer, made)
    heard = await mesh.broker.subscribe(SUBJECTS.asked_worker("w1"), listening)
    try:
        return await mesh.door(checkpoint, capsys, lease.task, "--wait", "1s")
    finally:
        assert listening.asked == [lease.task]
        await heard.close()


def test_a_running_task_is_asked_for_a_checkpoint(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a", "b")
        with pytest.raises(NotFound, match=r"no open task is called 'x'.*tasks --open"):
            await mesh.door(checkpoint, capsys, "x")
        with pytest.raises(Reject, match="a does not run, so there is nothing new to keep: no worker"):
            await mesh.door(checkpoint, capsys, "a")
        await mesh.take()
        with pytest.raises(BusUnavailable, match="w1, which runs a, did not answer"):
            await mesh.door(checkpoint, capsys, "a")

        told = await _checkpoint_of(mesh, capsys, SaveAnswer(task="a", asked=True, number=2), number=3)
        assert told == {"task": "a", "number": 3, "step": 30, "worker": "w1"}
        with pytest.raises(Reject, match="a takes no checkpoint now: it is being stopped"):
            await _checkpoint_of(mesh, capsys, SaveAnswer(task="a", asked=False, reason="it is being stopped"))
        with pytest.raises(Reject, match="it does not understand"):
            await _checkpoint_of(mesh, capsys, Problem(reason="it does not understand"))
        with pytest.raises(Retry, match=r"a was asked, and after 1 s .*older than the request \(4 .*next step"):
            await _checkpoint_of(mesh, capsys, SaveAnswer(task="a", asked=True, number=4), number=4)
        with pytest.raises(Retry, match="its kind takes none"):
            await _checkpoint_of(mesh, capsys, SaveAnswer(task="a", asked=True, number=9, reason="its kind takes none"))

    play(scene)


def test_an_attempt_that_ends_meanwhile_is_told_of(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a")
        lease = await mesh.take()

        async def fail(message: Message) -> None:
            await mesh.broker.publish(message.reply, codec.encode(SaveAnswer(task="a", asked=True)))
            await mesh.fail(lease)

        await mesh.broker.subscribe(SUBJECTS.asked_worker("w1"), fail)
        with pytest.raises(Reject, match="this attempt at a ended before the checkpoint was on record"):
            await mesh.door(checkpoint, capsys, "a")

    play(scene)


def test_a_late_result_is_handed_in_once_its_task_is_open_again(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(mesh: Mesh) -> None:
        await mesh.plan("a")
        lease = await mesh.take()
        await mesh.fail(lease)
        key = Key("a", lease.epoch, ResultFound.kind, 1)
        row = ResultFound(key=key, incarnation="w1.1", outcome=Outcome(kpis={"accuracy": 1.0}))
        outbox = Outbox(mesh.home / "workers" / "w1")
        outbox.record(key, SUBJECTS.owed("w1", key), codec.encode(row))
        outbox.settle(Receipt(key=key, recorded=False, reason="task a has ended as parked"))
        outbox.close()

        [one] = refused.on_this_machine(mesh.home)
        assert (one.worker, one.row.key, one.row.reason) == ("w1", str(key), "task a has ended as parked")
        with pytest.raises(Reject, match=r"refuses it again: task a has ended as parked.*resubmit a"):
            await mesh.door(refused, capsys, "hand-in", str(key))
        assert refused.on_this_machine(mesh.home), "what was refused again is kept"
        assert (await mesh.ask("status")).stale_writes == 0, "a hopeless row is not even sent"

        await mesh.door(resubmit, capsys, "a")
        done = await mesh.door(refused, capsys, "hand-in", str(key))
        assert done["recorded_as"] == f"a/{lease.epoch}/result/2"
        assert (await mesh.ask("status")).counts["succeeded"] == 1
        assert refused.on_this_machine(mesh.home) == []
        with pytest.raises(NotFound, match="no refused row here has the key"):
            await mesh.door(refused, capsys, "hand-in", str(key))

    play(scene)


def test_contradictory_options_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="--now or --undo"):
        drain.run(_given(drain, "w1", "--now", "--undo"))
    with pytest.raises(SettingsInvalid, match="a TASK, a TOPIC or --all"):
        resubmit.run(_given(resubmit))
    with pytest.raises(SettingsInvalid, match="hand-in expects a KEY"):
        refused.run(_given(refused, "hand-in"))
    with pytest.raises(SettingsInvalid, match="take-out expects a KEY and a DIR"):
        refused.run(_given(refused, "take-out", "a/1-1/result/1"))
    assert refused.on_this_machine(tmp_path) == []
    assert dead_letters.picture([], 0) == "no task is parked."
    assert dead_letters.picture([], 0, "t1") == "no task of a topic t1 is parked.", "others may be"
    assert "nothing" in resubmit.told([], 0)


def test_how_long_a_task_waits_for_its_worker_is_said_when_publishing() -> None:
    parser = argparse.ArgumentParser()
    publishing.add_flags(parser)
    given = parser.parse_args(["digits", "--on-disconnect", "wait", "--wait-limit", "2h"])
    publishing.look(given)
    topic = publishing.topic_of(given, None)
    assert (topic.on_disconnect.value, topic.wait_s) == ("wait", 7_200.0)
    assert publishing.topic_of(parser.parse_args(["digits", "--on-disconnect", "wait"]), None).wait_s == 600.0
    given = parser.parse_args(["digits", "--on-disconnect", "wait", "--wait-limit", "40d"])
    with pytest.raises(SettingsInvalid, match="--wait-limit is at most 30 days"):
        publishing.look(given)
    given = parser.parse_args(["digits", "--wait-limit", "2h"])
    with pytest.raises(SettingsInvalid, match="it needs --on-disconnect wait"):
        publishing.look(given)
