"""`bin/agent ask`: which model a name means, what may be asked, how it waits, and what people and programs see."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from agents import cli
from agents.commands import ask, asked
from agents.commands.asked import Asked
from agents.commands.reach import Reach
from agents.commands.starting import Started
from executors import kinds
from executors.questions import TEXTS_BYTES_MAX
from mesh import codec
from mesh.bus import Message
from mesh.errors import BusUnavailable, DataRefused, EnvironmentUnfit, NotFound, SettingsInvalid
from mesh.messages.base import Epoch, Facts
from mesh.messages.commands import Cancel, Submit
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion
from mesh.messages.models import BaseModel, PushedModel
from mesh.messages.results import Planned, TaskEnded
from mesh.messages.services import Ask, Status, TaskRow, WorkerRow
from mesh.messages.tasks import Line, Outcome, TaskSpec, TaskState
from mesh.messages.topics import Topic
from tests.support.memory_mesh import MemoryMesh

NODE = "customers-questions-3fa1c2"
LABELS: Facts = {
    "form": "labels",
    "answers": [{"labels": [["arrival", 0.91], ["refund", 0.0001]], "through": [["cards", 0.8], ["flat", 0.2]]}],
}
GOES_ON: Facts = {
    "form": "text",
    "answers": [{"text": "x:\n\x1bpass", "tokens": 7, "ended": True, "through": [["code", 1.0]]}],
}
FOUND = Asked("a" * 64, NODE, 3)


def parsed(*words: str) -> argparse.Namespace:
    return cli.parser_of("ask", cli.load("ask")).parse_args([*words])


@pytest.fixture
async def mesh(tmp_path: Path) -> MemoryMesh:
    return await MemoryMesh(tmp_path / "mesh").start()


def reach_of(mesh: MemoryMesh) -> Reach:
    return Reach(mesh.settings, mesh.server.connect("cli"), mesh.subjects)


async def champion(mesh: MemoryMesh, topic: str) -> None:
    await mesh.promote(
        Champion(
            specialization=NODE, version_number=3, model="a" * 64, topic=topic, task="t", line=Line.EVOLVER, verdict="v"
        )
    )


async def published(mesh: MemoryMesh, id_: str, text: str) -> None:
    topic = Topic(id=id_, text=text)
    await mesh.leader.append(mesh.subjects.topic(id_), codec.encode(topic), subject_seq=0)


# -- whom -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NODE, "t-1", "Customers'  questions", "t-2", "a" * 12])
async def test_a_name_is_a_specialization_a_topic_its_sentence_or_a_digest(mesh: MemoryMesh, name: str) -> None:
    await champion(mesh, "t-1")
    await published(mesh, "t-1", "customers' questions")
    await published(mesh, "t-2", "the same questions, later")  # its candidates did not win
    planned = Planned(topic="t-2", specialization=NODE, submit="s", tasks=(), facts={}, ledger_seq=1, at_ms=1)
    await mesh.result(planned)
    assert await asked.find(reach_of(mesh), name) == FOUND


async def test_a_pushed_model_can_be_asked(mesh: MemoryMesh) -> None:
    pushed = PushedModel(name="mine", version_number=2, base=BaseModel(model="b" * 64))
    await mesh.leader.append(mesh.subjects.key("models", "mine"), codec.encode(pushed))
    assert await asked.find(reach_of(mesh), "mine") == Asked("b" * 64, "mine", 2)


async def test_what_has_no_champion_is_said_so(mesh: MemoryMesh) -> None:
    await champion(mesh, "t-1")
    node = Specialization(id="optics", parent="physics", name="optics")
    await mesh.leader.append(mesh.subjects.key("graph", "optics"), codec.encode(node))
    await published(mesh, "t-9", "light")
    planned = Planned(topic="t-9", specialization="optics", submit="s", tasks=(), facts={}, ledger_seq=1, at_ms=1)
    await mesh.result(planned)
    for name in ("optics", "t-9", "light"):
        with pytest.raises(NotFound, match="'optics' has no champion yet"):
            await asked.find(reach_of(mesh), name)
    with pytest.raises(
        NotFound, match=f"no model, specialization or topic is called 'customers'; did you mean '{NODE}'"
    ):
        await asked.find(reach_of(mesh), "customers")


# -- what -------------------------------------------------------------------------------------------------------------


def test_texts_come_from_the_line_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "texts"
    file.write_bytes("one\n\n  \nzwei ☃\n".encode() + b"\xff\n")
    assert ask.texts_of(parsed("x", "a", "b \udc80")) == ["a", "b ?"]
    assert ask.texts_of(parsed("x", "--file", str(file))) == ["one", "zwei ☃", "\ufffd"]
    assert ask.texts_of(parsed("x", "--file", str(file), "--whole")) == [file.read_bytes().decode("utf-8", "replace")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    assert ask.texts_of(parsed("x")) == ["from stdin"]


@pytest.mark.parametrize(
    ("words", "error", "why"),
    [
        (["a", "--file", "f"], SettingsInvalid, "not both"),
        (["--file", "/nowhere/at-all"], DataRefused, "can not be read"),
        (["--file", "EMPTY"], SettingsInvalid, "no line of text"),
        (["--file", "LARGE"], SettingsInvalid, "48 KiB are asked at once"),
        (["a"] * 65, SettingsInvalid, "texts are 1 to 64, got 65"),
        (["é" * TEXTS_BYTES_MAX], SettingsInvalid, "at most 49152 bytes"),
    ],
)
def test_what_can_not_be_asked_is_said_before_anything_starts(
    tmp_path: Path, words: list[str], error: type[Exception], why: str
) -> None:
    (tmp_path / "EMPTY").write_text(" \n")
    (tmp_path / "LARGE").write_text("x" * (TEXTS_BYTES_MAX + 1))
    given = parsed("x", *(str(tmp_path / word) if word.isupper() and word != "é" else word for word in words))
    with pytest.raises(error, match=why) as told:
        ask.wanted_of(given, ask.texts_of(given))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["-1", "11", "warm", "nan"])
def test_a_temperature_has_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 0 to 10"):
        ask.temperature(text)


# -- how it waits -----------------------------------------------------------------------------------------------------


def worker(**fields: Any) -> WorkerRow:
    values: dict[str, Any] = {
        "name": "w1", "incarnation": "w1.a", "state": "live", "beat_age_s": 0.1, "cores_free": 2.0,
        "memory_free_bytes": 1 << 30, "gpus_free": 0, "labels": (), "kinds": {"answer": 1}, "held": (),
    }  # fmt: skip
    return WorkerRow(**{**values, **fields})


def status(rows: tuple[TaskRow, ...] = (), workers: tuple[WorkerRow, ...] = ()) -> Status:
    return Status(
        leader="s.1", term=1, generation=1, ledger_seq=1, commands_seq=1 << 30, counts={}, tasks=rows, workers=workers
    )


async def leads(mesh: MemoryMesh, said: Status) -> None:
    """A leader that answers the same to everything."""

    async def answer(message: Message) -> None:
        codec.decode(message.data, Ask)
        await mesh.leader.publish(message.reply, codec.encode(said))

    await mesh.leader.subscribe(mesh.subjects.asked("scheduler"), answer)


async def test_no_worker_that_can_answer_is_said_before_a_task_is_made(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = reach_of(mesh)
    await leads(mesh, status(workers=(worker(kinds={"noop": 1}), worker(state="lost"))))
    with pytest.raises(EnvironmentUnfit, match="none of the 1 workers here has the kind 'answer'"):
        await ask.check_worker(there)


async def test_a_machine_without_torch_says_that_it_can_be_no_worker(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leads(mesh, status())
    await ask.check_worker(reach_of(mesh))  # a worker starts here
    monkeypatch.setattr(kinds, "missing", lambda info: ["torch"])
    with pytest.raises(EnvironmentUnfit, match="no worker is there to answer"):
        await ask.check_worker(reach_of(mesh))


async def test_a_worker_that_can_answer_is_enough(mesh: MemoryMesh) -> None:
    await leads(mesh, status(workers=(worker(), worker(kinds={"noop": 1}))))
    await ask.check_worker(reach_of(mesh))


class Whole(Started):
    """A mesh whose agents never fail."""

    def check(self) -> None:
        """They do not."""


def whole(mesh: MemoryMesh) -> Whole:
    found: Any = None
    return Whole(reach_of(mesh), found, None)


async def submitted(mesh: MemoryMesh) -> TaskSpec:
    async with asyncio.timeout(10), mesh.commands() as commands:
        async for command in commands:
            assert isinstance(command, Submit)
            return command.tasks[0]
    raise AssertionError


async def test_the_answer_is_the_end_of_a_task(mesh: MemoryMesh, tmp_path: Path) -> None:
    await leads(mesh, status())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    digest = await mesh.store.put(tmp_path / "model", media="model")
    wanted = ask.wanted_of(parsed("x", "where is my card?", "--top", "3"), ["where is my card?"])
    task = await ask.task_of(reach_of(mesh), Asked(digest, NODE, 1), wanted)
    assert (task.executor, task.priority, task.inputs, task.settings["top"]) == ("answer", 9, {"model": digest}, 3)
    asking = asyncio.create_task(ask._answered(whole(mesh), task, 10.0, asyncio.Event()))
    assert await submitted(mesh) == task
    await mesh.result(
        Planned(
            topic=task.topic,
            specialization="",
            submit="s",
            tasks=(task,),
            facts={"stage": "task"},
            ledger_seq=1,
            at_ms=1,
        )
    )
    await mesh.result(
        TaskEnded(topic=task.topic, specialization="", task=task, state=TaskState.SUCCEEDED, epoch=Epoch(1, 1),
                  outcome=Outcome(facts=LABELS), ledger_seq=2, at_ms=2)
    )  # fmt: skip
    async with asyncio.timeout(10):
        story = await asking
    (end,) = story.ended.values()
    assert end.outcome is not None
    assert end.outcome.facts == LABELS


async def test_who_waited_in_vain_withdraws_the_task_and_says_what_it_waited_for(mesh: MemoryMesh) -> None:
    reason = "no worker can take it: w1 offers 96 MiB of disk, 200 MiB needed"
    task = TaskSpec(id="answer-1", topic="answer-1", executor="answer", purpose="answer")
    row = TaskRow(id="answer-1", topic="answer-1", specialization="", executor="answer", purpose="answer", line=None,
                  state=TaskState.READY, reason=reason)  # fmt: skip
    await leads(mesh, status((row,)))
    with pytest.raises(BusUnavailable, match=f"no answer came within 0 s: {reason}; ask again with a longer --wait"):
        await ask._answered(whole(mesh), task, 0.05, asyncio.Event())
    stored = await mesh.all(mesh.subjects.stream("COMMANDS"), mesh.subjects.commands())
    (cancel,) = [one for one in (codec.decode(each.data, Submit, Cancel) for each in stored) if isinstance(one, Cancel)]
    assert cancel.task == "answer-1"


# -- what is seen -----------------------------------------------------------------------------------------------------


def test_labels_are_shown_with_those_who_answered() -> None:
    assert asked.shown(["where"], LABELS).splitlines() == [
        "label    probability", "arrival  0.910", "through cards (0.80), flat (0.20)",
    ]  # fmt: skip
    twice = {"form": "labels", "answers": LABELS["answers"] * 2}
    assert asked.shown(["where\x1b", "when"], twice).splitlines()[:2] == ["where?", "label    probability"]


def test_a_text_is_shown_with_what_follows_and_no_control_characters() -> None:
    assert asked.shown(["def f()"], GOES_ON) == "def f()x:\n?pass [ends]\nthrough code (1.00)"
    open_end = {"form": "text", "answers": [{"text": "b", "tokens": 1, "ended": False, "through": []}]}
    assert asked.shown(["a"], open_end) == "ab […]"


def test_programs_get_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = parsed("x", "where", "--json", str(tmp_path / "a.json"))
    ask.tell(given, FOUND, ["where"], LABELS)
    assert "arrival" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "model": "a" * 64, "name": NODE, "version": 3, "form": "labels",
        "answers": [{
            "text": "where",
            "labels": [{"label": "arrival", "probability": 0.91}, {"label": "refund", "probability": 0.0001}],
            "through": [{"name": "cards", "share": 0.8}, {"name": "flat", "share": 0.2}],
        }],
    }  # fmt: skip
    told = asked.document(FOUND, ["def f()"], GOES_ON)["answers"][0]
    assert (told["continuation"], told["ended"], told["tokens"]) == ("x:\n\x1bpass", True, 7)


async def test_an_adapter_is_asked_together_with_its_base(mesh: MemoryMesh, tmp_path: Path) -> None:
    digests = []
    for name in ("adapter", "below"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'"{name}"' + " " * (2_000_000 if name == "below" else 1))
        digests.append(await mesh.store.put(tmp_path / name, media="model"))
    model, below = digests
    made = Champion(
        specialization=NODE, version_number=1, model=model, base=below, topic="t-1", task="t-1-evolver",
        line=Line.EVOLVER, verdict="t-1-verdict",
    )  # fmt: skip
    _, revision = await mesh.champion(NODE)
    await mesh.promote(made, revision=revision)
    found = await asked.find(reach_of(mesh), NODE)
    assert found.base == below
    wanted = ask.wanted_of(parsed("x", "where is my card?"), ["where is my card?"])
    task = await ask.task_of(reach_of(mesh), found, wanted)
    assert task.inputs == {"model": model, "base": below}
    assert task.needs.memory_bytes > 512 * 1024 * 1024 + 2 * 2_000_000, "both are loaded"
