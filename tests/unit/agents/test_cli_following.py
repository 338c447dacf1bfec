"""Following a topic on the broker in memory, what counts as missing, and what children get as settings."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from agents.commands.display import Lines
from agents.commands.following import follow
from agents.commands.reach import Reach, environment, found
from agents.commands.starting import missing_roles
from agents.commands.story import Ending, Story
from mesh import codec
from mesh import settings as mesh_settings
from mesh.errors import BusUnavailable, EnvironmentUnfit
from mesh.messages.base import Epoch
from mesh.messages.results import Progress, TaskEnded, TopicTurnedDown
from mesh.messages.services import AgentRow, Status, WorkerRow
from mesh.messages.tasks import TaskSpec, TaskState
from tests.support.agents import until
from tests.support.memory_mesh import MemoryMesh

PROFILE = TaskSpec(id="t-1-profile", topic="t-1", executor="profile", purpose="profile")


def reached(mesh: MemoryMesh) -> Reach:
    return Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)


async def put(mesh: MemoryMesh, record: TaskEnded | TopicTurnedDown, number: int) -> None:
    subject = mesh.subjects.result(record.topic, record.kind, f"r-{number}")
    await mesh.leader.append(subject, codec.encode(record))


async def test_a_topic_is_followed_through_its_records_and_progress_to_the_end(tmp_path: Path) -> None:
    mesh, stream = await MemoryMesh(tmp_path).start(), io.StringIO()
    there, story = reached(mesh), Story("t-1")
    following = asyncio.create_task(follow(there, story, Lines(stream), from_seq=1, stop=asyncio.Event()))
    ended = TaskEnded(
        topic="t-1", specialization="", task=PROFILE, state=TaskState.PARKED, reason="row 7", ledger_seq=1, at_ms=1
    )
    await put(mesh, TopicTurnedDown(topic="t-2", reason="another topic", ledger_seq=1, at_ms=1), 1)
    await put(mesh, ended, 2)
    await until(lambda: "parked" in stream.getvalue(), "the line about the task")
    progress = Progress(topic="t-1", task="x", epoch=Epoch(0, 1), worker="w", purpose="train", done=0.5)
    await mesh.leader.publish(mesh.subjects.progress("w", "t-1", "x"), b"no record at all")
    await mesh.leader.publish(mesh.subjects.progress("w", "t-1", "x"), codec.encode(progress))
    await until(lambda: "50%" in stream.getvalue(), "the line about progress")
    await put(mesh, TopicTurnedDown(topic="t-1", reason="row 7", ledger_seq=1, at_ms=1), 3)
    async with asyncio.timeout(10):
        assert await following is Ending.TURNED_DOWN
    assert stream.getvalue().splitlines() == ["profile parked: row 7", "train  50%"]
    await there.broker.close()


async def test_a_stop_ends_the_following_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mesh, stop = await MemoryMesh(tmp_path).start(), asyncio.Event()
    there = reached(mesh)
    following = asyncio.create_task(follow(there, Story("t-1"), Lines(io.StringIO()), from_seq=1, stop=stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(10):
        assert await following is Ending.INTERRUPTED
    await there.broker.close()


async def test_a_helper_that_died_ends_the_following_with_its_sentence(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there = reached(mesh)

    def watch() -> None:
        raise EnvironmentUnfit("the gate fell off its hinges")

    await put(mesh, TopicTurnedDown(topic="t-1", reason="x", ledger_seq=1, at_ms=1), 1)
    with pytest.raises(EnvironmentUnfit, match="hinges"):
        await follow(there, Story("t-1"), Lines(io.StringIO()), from_seq=1, stop=asyncio.Event(), watch=watch)
    await there.broker.close()


async def test_a_topic_that_nobody_works_on_ends_with_the_name_of_who_is_missing(tmp_path: Path) -> None:
    mesh = await MemoryMesh(tmp_path).start()
    there = reached(mesh)
    with pytest.raises(BusUnavailable, match="no planner has planned"):
        await follow(
            there, Story("t-1"), Lines(io.StringIO()), from_seq=1, stop=asyncio.Event(), quiet_s=0.0, look_every_s=0.001
        )
    await there.broker.close()


# -- what is missing --------------------------------------------------------------------------------------------------


def status(roles: dict[str, float], workers: dict[str, str]) -> Status:
    agents = [
        AgentRow(role=role, name=role, incarnation=f"{role}.1", program="0", host="h", pid=1, seen_age_s=age)
        for role, age in roles.items()
    ]
    rows = [
        WorkerRow(
            name=name, incarnation=f"{name}.1", state=state, beat_age_s=0, cores_free=1, memory_free_bytes=0,
            gpus_free=0, labels=(), kinds={}, held=(),
        )
        for name, state in workers.items()
    ]  # fmt: skip
    return Status(
        leader="s.1", term=1, generation=0, ledger_seq=1, commands_seq=1, counts={}, agents=tuple(agents),
        workers=tuple(rows),
    )  # fmt: skip


def test_without_a_leader_every_role_is_missing_but_our_own() -> None:
    assert missing_roles(None) == ["scheduler", "planner", "consensus", "gate", "worker"]
    assert missing_roles(None, ["planner"]) == ["scheduler", "consensus", "gate", "worker"]


def test_roles_that_were_heard_lately_are_there() -> None:
    assert missing_roles(status({"planner": 3.0, "consensus": 99.0}, {"w": "live"})) == ["consensus", "gate"]
    assert missing_roles(status({"planner": 3.0, "consensus": 1.0, "gate": 1.0}, {"w": "lost"})) == ["worker"]
    assert missing_roles(status({}, {"w": "suspect"}), ["planner", "gate", "consensus"]) == []


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_childs_environment_gives_exactly_the_same_settings(tmp_path: Path) -> None:
    (tmp_path / "x.creds").write_text("x")
    flags = {
        "home": str(tmp_path / "home"), "nats.url": "nats://h:1", "nats.creds": "x.creds", "worker.cores": "1.5",
        "worker.labels": "a,b", "worker.memory_bytes": "2GiB", "worker.low_priority": "no", "prefix": "lab",
        "log.level": "debug", "nats.connect_timeout_s": "90s",
    }  # fmt: skip
    settings = mesh_settings.load(flags, {"HOME": str(tmp_path)}, tmp_path)
    environ = environment(settings, {"PATH": "/bin", "NATS_URL": "nats://other:1", "RAMIFY_PREFIX": "other"})
    assert mesh_settings.load({}, environ, tmp_path) == settings
    assert environ["PATH"] == "/bin"


def test_a_token_reaches_the_child_and_no_command_line(tmp_path: Path) -> None:
    settings = mesh_settings.load({"home": str(tmp_path), "nats.user": "s3cret", "nats.url": "h"}, {}, tmp_path)
    again = mesh_settings.load({}, environment(settings, {}), tmp_path)
    assert again.nats.token == "s3cret"
    assert again == settings


def test_a_named_broker_wins_and_without_any_there_is_a_sentence(tmp_path: Path) -> None:
    named = mesh_settings.load({"home": str(tmp_path), "nats.url": "nats://h:1"}, {}, tmp_path)
    bare = mesh_settings.load({"home": str(tmp_path)}, {}, tmp_path)
    assert found(named) is named
    assert found(bare, named) is named
    with pytest.raises(BusUnavailable, match="bin/agent up"):
        found(bare, bare)
