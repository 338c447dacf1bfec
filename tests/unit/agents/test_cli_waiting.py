"""Why tasks wait: below a table, and told once while a topic is followed."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from agents.commands import tasks, waiting
from agents.commands.display import Lines
from agents.commands.following import follow
from agents.commands.reach import Reach
from agents.commands.story import Story
from mesh import codec
from mesh.bus import Message
from mesh.messages.results import Planned
from mesh.messages.services import Ask, Status, TaskRow
from mesh.messages.tasks import Line, TaskSpec, TaskState
from tests.support.agents import until
from tests.support.memory_mesh import MemoryMesh

TRAIN = TaskSpec(id="t-1-evolver", topic="t-1", executor="classify", purpose="train", line=Line.EVOLVER)
TOO_SMALL = "no worker can take it: w1 offers 96 MiB of disk, 200 MiB needed"


def row(reason: str, *, id_: str = TRAIN.id, state: TaskState = TaskState.READY, attempts: int = 0) -> TaskRow:
    return TaskRow(
        id=id_, topic="t-1", specialization="", executor="classify", purpose="train", line=Line.EVOLVER, state=state,
        reason=reason, attempts=attempts,
    )  # fmt: skip


def status(*rows: TaskRow) -> Status:
    return Status(leader="s.1", term=1, generation=1, ledger_seq=1, commands_seq=1, counts={}, tasks=rows)


def reasons(mesh: MemoryMesh, told: list[str]) -> waiting.Reasons:
    story = Story("t-1")
    story.add(Planned(topic="t-1", specialization="", submit="s-1", tasks=(TRAIN,), facts={}, ledger_seq=1, at_ms=1))
    return waiting.Reasons(Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects), story, told.append)


def test_whole_reasons_stand_below_the_table_and_tasks_share_them() -> None:
    rows = (row(TOO_SMALL), row(TOO_SMALL, id_="b"), row("x", id_="c", state=TaskState.WAITING), row("", id_="d"))
    shown = tasks.picture(rows, 0).splitlines()
    assert shown[-3:] == ["", "waiting", f"  t-1-evolver and 1 more: {TOO_SMALL}"]
    assert waiting.lines(rows[2:]) == []
    many = waiting.lines(row(f"reason {number}", id_=f"t{number}") for number in range(30))
    assert many[-1] == "  … and 20 more reasons"
    assert len(many) == 2 + waiting.LINES_MAX + 1


def test_a_reason_is_told_after_ten_seconds_once_and_again_when_it_changes(tmp_path: Path) -> None:
    told: list[str] = []
    asker = reasons(MemoryMesh(tmp_path), told)
    asker.hear([row("w1 is busy (0 of 1 cores free, 1 needed)")], 0.0)
    asker.hear([row("w1 is busy (0 of 1 cores free, 1 needed)")], 9.0)
    assert told == []
    asker.hear([row("w1 is busy (0 of 1 cores free, 1 needed)")], 10.0)
    asker.hear([row("w1 is busy (0.5 of 1 cores free, 1 needed)")], 20.0)
    assert told == ["evolver train waits: w1 is busy (0 of 1 cores free, 1 needed)"]
    asker.hear([row(TOO_SMALL)], 25.0)
    assert told[1:] == [f"evolver train waits: {TOO_SMALL}"]


def test_a_task_that_ran_meanwhile_waits_anew(tmp_path: Path) -> None:
    told: list[str] = []
    asker = reasons(MemoryMesh(tmp_path), told)
    asker.hear([row("no worker is there")], 0.0)
    asker.hear([row("", state=TaskState.LEASED, attempts=1)], 8.0)
    asker.hear([row("no worker is there", attempts=1)], 12.0)
    assert told == []
    asker.hear([row("no worker is there", attempts=1)], 22.0)
    assert told == ["evolver train waits: no worker is there"]


async def test_a_scheduler_that_does_not_answer_twice_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    asker = reasons(await MemoryMesh(tmp_path).start(), told)
    for now in (0.0, 1.0, 5.0, 10.0, 15.0):
        await asker.look(now)
        assert len(told) == (now >= 5.0), "asked every five seconds, told when the second question has no answer"
    assert "no scheduler" in told[0]


async def test_a_follower_sees_why_its_topic_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(waiting, "READY_S", 0.0)
    mesh, stream, stop = await MemoryMesh(tmp_path).start(), io.StringIO(), asyncio.Event()
    there = Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)
    asked: list[Ask] = []

    async def answer(message: Message) -> None:
        asked.append(codec.decode(message.data, Ask))
        await mesh.leader.publish(message.reply, codec.encode(status(row(TOO_SMALL))))

    await mesh.leader.subscribe(mesh.subjects.asked("scheduler"), answer)
    planned = Planned(topic="t-1", specialization="", submit="s-1", tasks=(TRAIN,), facts={}, ledger_seq=1, at_ms=1)
    await mesh.leader.append(mesh.subjects.result("t-1", planned.kind, "r-1"), codec.encode(planned))
    following = asyncio.create_task(
        follow(there, Story("t-1"), Lines(stream), from_seq=1, stop=stop, look_every_s=0.001)
    )
    await until(lambda: len(asked) > 3, "the follower's questions")
    stop.set()
    async with asyncio.timeout(10):
        await following
    assert stream.getvalue().splitlines() == [f"evolver train waits: {TOO_SMALL}"]
    assert {(one.what, one.topic) for one in asked} == {("tasks", "t-1")}
    await there.broker.close()
