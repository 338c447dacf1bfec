"""`bin/agent models`: what goes in comes out, whole or not at all, and every refusal is a sentence."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import cli
from agents.commands import known_models, models_push, publishing
from agents.commands.reach import Reach
from agents.commands.transfer import Transfer
from mesh import codec
from mesh.errors import (
    ArtifactMissing,
    DiskFull,
    EnvironmentUnfit,
    ModelRefused,
    NotFound,
    RamifyError,
    SettingsInvalid,
)
from mesh.messages.base import Facts
from mesh.messages.graph import Specialization
from mesh.messages.judgement import Champion, Choice, Recommendation, Verdict
from mesh.messages.models import PushedModel
from mesh.messages.tasks import Line
from mesh.messages.topics import DataRef, Topic
from mesh.objects import NO_SEQUENCE
from tests.support import model_folders
from tests.support.memory_mesh import MemoryMesh
from tests.support.model_commands import command, contents, reached

NODE = "digits-3fa1c2"


@pytest.fixture
async def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryMesh, Reach]:
    """A mesh in memory that the commands reach, and how."""
    return await reached(tmp_path / "mesh", monkeypatch)


@pytest.fixture
def mesh(meeting: tuple[MemoryMesh, Reach]) -> MemoryMesh:
    """The mesh alone."""
    return meeting[0]


@pytest.fixture
def there(meeting: tuple[MemoryMesh, Reach]) -> Reach:
    """The commands' reach alone."""
    return meeting[1]


async def champion(mesh: MemoryMesh, folder: Path, **fields: Any) -> Champion:
    """A champion whose files are those of `folder`."""
    digest = await mesh.store.put(folder, media="model")
    values: dict[str, Any] = {
        "specialization": NODE, "name": "digits", "version_number": 1, "model": digest, "topic": "t-1",
        "task": "t-1-evolver", "line": Line.EVOLVER, "verdict": "t-1-verdict", "holdout": "h" * 64, "holdout_uses": 2,
        "kpis": {"accuracy": 0.9812, "loss": 0.06, "latency_p95_ms": 1.5, "size_bytes": 2_000.0}, "fits": "text",
    }  # fmt: skip
    made = Champion(**{**values, **fields})
    _, revision = await mesh.champion(NODE)
    await mesh.promote(made, revision=revision)
    return made


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        model_folders.transformers_folder, model_folders.sharded_folder, model_folders.adapter_folder,
        model_folders.ramify_folder,
    ],
)  # fmt: skip
async def test_what_was_pushed_comes_out_byte_for_byte(
    mesh: MemoryMesh, tmp_path: Path, make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "My Model")
    kept = contents(folder)
    (folder / "training_args.bin").write_bytes(b"\x80\x04 a pickle")
    assert await command("push", str(folder)) == 0
    digest = capsys.readouterr().out.strip()
    assert len(digest) == 64
    assert await command("pull", "my-model", str(tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == kept
    assert await command("pull", digest[:8], str(tmp_path / "again")) == 0
    assert contents(tmp_path / "again") == kept
    assert await command("push", str(tmp_path / "out"), "--name", "other") == 0
    assert capsys.readouterr().out.splitlines()[-1] == digest, "the same files are the same model under any name"


async def test_a_champion_that_is_an_adapter_brings_what_it_adapts(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    below = model_folders.transformers_folder(tmp_path / "below")
    (below / "evil.py").write_text("import os")
    base = await mesh.store.put(below, media="model")
    await champion(mesh, model_folders.adapter_folder(tmp_path / "adapter"), base=base)
    assert await command("pull", NODE, str(tmp_path / "out")) == 0
    said = capsys.readouterr()
    assert f"what it adapts ({base[:12]}) in {tmp_path / 'out' / 'base'}" in said.out
    assert "left out: base/evil.py" in said.err
    kept = {f"base/{name}": bytes_ for name, bytes_ in contents(below).items() if name != "evil.py"}
    own = contents(tmp_path / "adapter")
    pulled = contents(tmp_path / "out")
    assert pulled.pop("README.md") != own.pop("README.md", b"")
    assert pulled == {**own, **kept}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "only together with the model that it adapts, in `base/`" in card


async def test_pushing_says_what_stays_behind_and_what_comes_next(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folders.ramify_folder(tmp_path / "questions")
    (folder / "optimizer.pt").write_bytes(b"x")
    assert await command("push", str(folder), "--name", "questions-1") == 0
    said = capsys.readouterr().err
    assert "left out: optimizer.pt (a pickle" in said
    assert "publish TOPIC --data D --base questions-1" in said
    assert await command("push", str(model_folders.transformers_folder(tmp_path / "bert"))) == 0
    assert "publish TOPIC --data D --task lora --base bert" in capsys.readouterr().err


async def test_the_same_model_changes_nothing_and_another_is_the_next_version(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folders.transformers_folder(tmp_path / "bert")
    for _ in range(2):
        assert await command("push", str(folder)) == 0
    assert "bert v1 (it was there already)" in capsys.readouterr().err
    before = mesh.server.connect("count")
    held = (await before.state(mesh.subjects.stream("ARTIFACTS"))).messages
    (folder / "vocab.txt").write_text("another\n")
    assert await command("push", str(folder), "--json", str(tmp_path / "said.json")) == 0
    document = json.loads((tmp_path / "said.json").read_text())
    assert (document["new"], document["pushed"]["version_number"], document["name"]) == (True, 2, "bert")
    assert document["pushed"]["base"]["model"] == document["model"]
    held_after = (await before.state(mesh.subjects.stream("ARTIFACTS"))).messages
    assert held_after == held + 2, "one changed file and one manifest"
    first = codec.decode(
        (await mesh.all(mesh.subjects.bucket("models"), mesh.subjects.keys("models")))[0].data, PushedModel
    )
    assert await command("pull", first.model, str(tmp_path / "old")) == 0, "an earlier version by its whole digest"
    assert (tmp_path / "old" / "vocab.txt").read_text() == "[PAD]\nhello\n"


async def test_two_people_push_under_one_name_at_once(mesh: MemoryMesh, there: Reach, tmp_path: Path) -> None:
    """Whoever comes second reads again and becomes the next version: nobody's model loses its name silently."""
    first, second = (
        models_push._record("bert", letter * 64, models_push.look(model_folders.transformers_folder(tmp_path / letter)))
        for letter in "ab"
    )
    real, raced = there.broker.last, list[bool]()

    async def last(stream: str, subject: str) -> Any:
        found = await real(stream, subject)
        if not raced:
            raced.append(True)
            await models_push._register(there, second)
        return found

    there.broker.last = last  # type: ignore[method-assign]
    record, new = await models_push._register(there, first)
    assert (record.version_number, record.model, new) == (2, "a" * 64, True)


async def test_an_interrupted_push_leaves_no_name_and_the_next_one_sends_the_rest(
    mesh: MemoryMesh, there: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folders.sharded_folder(tmp_path / "bert")
    real, sent = there.broker.append, list[str]()

    async def append(subject: str, data: bytes, **more: Any) -> int:
        if more.get("subject_seq") == NO_SEQUENCE:
            return await real(subject, data, **more)  # asks whether it is there
        if len(sent) == 3:
            raise DiskFull("the store is full.")
        sent.append(subject)
        return await real(subject, data, **more)

    monkeypatch.setattr(there.broker, "append", append)
    await refusal(DiskFull, "push", str(folder))
    assert await mesh.all(mesh.subjects.bucket("models"), mesh.subjects.keys("models")) == []
    stored = len(await mesh.all(mesh.subjects.stream("ARTIFACTS"), mesh.subjects.artifacts()))
    assert stored == 3
    monkeypatch.setattr(there.broker, "append", real)
    assert await command("push", str(folder)) == 0
    assert await command("pull", "bert", str(tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == contents(folder)


async def test_the_list_shows_both(mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await command() == 0
    assert capsys.readouterr().out == "no champion yet.\n"
    await champion(mesh, model_folders.ramify_folder(tmp_path / "line"))
    await command("push", str(model_folders.adapter_folder(tmp_path / "lora")))
    capsys.readouterr()
    assert await command("--json", str(tmp_path / "list.json")) == 0
    shown = capsys.readouterr().out
    assert NODE in shown
    assert "lora" in shown
    assert "adapter" in shown
    document = json.loads((tmp_path / "list.json").read_text())
    assert [one["specialization"] for one in document["models"]] == [NODE]
    assert [(one["name"], one["adapts"]) for one in document["pushed"]] == [("lora", "bert-base-uncased")]


async def test_a_removed_model_is_forgotten_and_its_name_is_free(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folders.transformers_folder(tmp_path / "bert")
    await command("push", str(folder))
    (folder / "vocab.txt").write_text("another\n")
    await command("push", str(folder))
    digest = capsys.readouterr().out.split()[-1]
    assert "is no name of a pushed model" in await refusal(NotFound, "remove", digest[:8])
    assert await command("remove", "bert") == 0
    assert capsys.readouterr().out == "bert is removed (2 versions)\n"
    assert "no model is called" in await refusal(NotFound, "pull", "bert", str(tmp_path / "out"))
    assert "no model is called" in await refusal(NotFound, "remove", "bert")
    await command("push", str(folder))
    assert "bert v1;" in (said := capsys.readouterr().err) or "bert v1:" in said
    await champion(mesh, folder)
    assert "a champion is called so" in await refusal(NotFound, "remove", NODE)


async def test_a_model_beyond_what_an_artifact_holds_is_refused_before_anything_is_sent(
    mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_push, "OBJECTS_MAX", 5)
    said = await refusal(ModelRefused, "push", str(model_folders.transformers_folder(tmp_path / "bert")))
    assert "a smaller one" in said
    assert await mesh.all(mesh.subjects.stream("ARTIFACTS"), mesh.subjects.artifacts()) == []


# -- champions leave with a card --------------------------------------------------------------------------------------


async def told(mesh: MemoryMesh, topic: Topic) -> None:
    """The topic and its verdict, as they stand in the streams."""
    await mesh.leader.append(mesh.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
    recommendation = Recommendation(
        id=f"{topic.id}-recommendation", topic=topic.id, specialization=NODE, choice=Choice.EVOLVER, why="better.",
        effect=0.02, interval=(0.01, 0.03), candidates=(), holdout="h" * 64, holdout_examples=180,
    )  # fmt: skip
    verdict = Verdict(
        id=f"{topic.id}-verdict", topic=topic.id, specialization=NODE, accepted=True, choice=Choice.EVOLVER, checks=(),
        why="accuracy 0.98 is at least 0.9.", recommendation=recommendation,
    )  # fmt: skip
    subject = mesh.subjects.result(topic.id, Verdict.kind, verdict.id)
    await mesh.leader.append(subject, codec.encode(verdict), subject_seq=0)


async def test_a_champion_leaves_with_what_the_mesh_knows_of_it(mesh: MemoryMesh, there: Reach, tmp_path: Path) -> None:
    folder = model_folders.ramify_folder(tmp_path / "line", ["a`b", "<script>"])
    await command("push", str(folder), "--name", "start")
    base = await known_models.base_of(there, "start")
    before = await champion(mesh, folder, changed="lays the first champion with the kind's defaults")
    (folder / "LICENSE").write_text("another\n")
    await told(
        mesh, Topic(id="t-2", text='Digits: "0" | <b>9</b>', data=DataRef(source="d" * 64, name="my.csv"), base=base)
    )
    now = await champion(
        mesh,
        folder,
        version_number=2,
        topic="t-2",
        verdict="t-2-verdict",
        changed="learning_rate 0.001 instead of 0.004",
    )
    assert await command("pull", NODE, str(tmp_path / "out")) == 0
    found = contents(tmp_path / "out")
    card = found.pop("README.md").decode()
    assert found == {name: data for name, data in contents(folder).items() if name != "README.md"}
    for words in (
        now.model, before.model[:12], "version 2", "180 examples", "2 challengers", "accuracy 0.98 is at least 0.9",
        "my.csv", f"start ({base.model[:12]})", "learning_rate 0.001", "class Classifier", "can not load it",
        "lays the first champion", "0.9812",
    ):  # fmt: skip
        assert words in card, words
    assert "<b>" not in card.split("## How to load it")[0]


async def test_what_the_mesh_forgot_is_left_out(mesh: MemoryMesh, tmp_path: Path) -> None:
    """A month later neither the topic nor the verdict is stored: the card says what the champion's record knows."""
    await champion(mesh, model_folders.ramify_folder(tmp_path / "line"), kpis={})
    assert await command("pull", NODE, str(tmp_path / "out")) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no longer knows what was measured" in card
    assert "model-index" not in card


async def test_a_champion_of_another_form_keeps_its_cards_text(mesh: MemoryMesh, tmp_path: Path) -> None:
    await champion(mesh, model_folders.transformers_folder(tmp_path / "line"))
    assert await command("pull", NODE, str(tmp_path / "out")) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card.split("---")[1]
    assert "from_pretrained" in card
    assert "# A model" in card


# -- what goes wrong --------------------------------------------------------------------------------------------------


async def refusal(kind: type[RamifyError], *words: str) -> str:
    with pytest.raises(kind) as refused:
        await command(*words)
    return str(refused.value)


async def test_an_unknown_name_says_the_nearest_and_a_known_one_without_champion_says_so(
    mesh: MemoryMesh, tmp_path: Path
) -> None:
    await command("push", str(model_folders.transformers_folder(tmp_path / "tiny-bert")))
    node = Specialization(id=NODE, name="digits", parent="root", task="classify")
    await mesh.leader.append(mesh.subjects.key("graph", NODE), codec.encode(node), subject_seq=0)
    out = str(tmp_path / "out")
    assert "did you mean 'tiny-bert'?" in await refusal(NotFound, "pull", "tinybert", out)
    assert "has no champion yet" in await refusal(NotFound, "pull", NODE, out)
    assert "`bin/agent models` lists them" in await refusal(NotFound, "pull", "f" * 64, out)
    assert not Path(out).exists()


async def test_a_name_of_the_graph_is_not_given_twice(mesh: MemoryMesh, tmp_path: Path) -> None:
    folder = model_folders.ramify_folder(tmp_path / "line")
    await champion(mesh, folder)
    assert "a --name of its own" in await refusal(SettingsInvalid, "push", str(folder), "--name", NODE)


async def test_a_folder_that_holds_files_is_left_alone_or_moved_aside(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folders.transformers_folder(tmp_path / "bert")
    await command("push", str(folder))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "--replace" in await refusal(EnvironmentUnfit, "pull", "bert", str(out))
    assert contents(out) == {"mine.txt": b"mine"}
    assert await command("pull", "bert", str(out), "--replace") == 0
    assert contents(out) == contents(folder)
    assert contents(tmp_path / "out.before") == {"mine.txt": b"mine"}
    assert "out.before" in capsys.readouterr().err
    assert await command("pull", "bert", str(out), "--replace") == 0
    assert contents(tmp_path / "out.before-2") == contents(folder)
    (tmp_path / "file").write_text("x")
    assert "is no folder" in await refusal(EnvironmentUnfit, "pull", "bert", str(tmp_path / "file"), "--replace")
    monkeypatch.chdir(tmp_path)
    assert "where this command runs" in await refusal(EnvironmentUnfit, "pull", "bert", ".", "--replace")
    assert "existing folder" in await refusal(EnvironmentUnfit, "pull", "bert", str(tmp_path / "no" / "such"))


async def test_a_full_disk_and_a_lost_right_leave_nothing_behind(
    mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folders.transformers_folder(tmp_path / "bert")
    await command("push", str(folder))
    out, here = tmp_path / "out", sorted(tmp_path.iterdir())
    usage = shutil._ntuple_diskusage(100, 99, 1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage)
        assert "make some room" in await refusal(DiskFull, "pull", "bert", str(out))
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        assert "is not writable; name another" in await refusal(EnvironmentUnfit, "pull", "bert", str(out))
    for number, kind in ((errno.ENOSPC, DiskFull), (errno.EACCES, EnvironmentUnfit)):

        def failing(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copyfile", failing)
            assert str(out) in await refusal(kind, "pull", "bert", str(out))
    assert sorted(tmp_path.iterdir()) == here, "nothing half-made is left"


async def test_a_pull_that_was_killed_is_swept_and_the_cache_spares_the_way(
    mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folders.transformers_folder(tmp_path / "bert")
    await command("push", str(folder))
    half = tmp_path / ".out.pull-999999999-ab12cd34"
    half.mkdir()
    (half / "config.json").write_text("{")
    assert await command("pull", "bert", str(tmp_path / "out")) == 0
    assert not half.exists()

    async def nothing(*_: object, **__: object) -> None:
        raise AssertionError("an object was fetched although the cache has it")

    monkeypatch.setattr("mesh.objects.JetStreamBackend.get", nothing)
    assert await command("pull", "bert", str(tmp_path / "second")) == 0
    assert contents(tmp_path / "second") == contents(folder)


async def test_code_that_somebody_slipped_in_does_not_come_out(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker or another program may write any artifact and call it a model: the rule holds at the way out, too."""
    folder = model_folders.ramify_folder(tmp_path / "line")
    model_folders.write(folder, {"load.py": "evil", "deep/vocab.txt": b"\x80\x04 a pickle", "notes.onnx": "no harm"})
    await champion(mesh, folder)
    assert await command("pull", NODE, str(tmp_path / "out")) == 0
    assert set(contents(tmp_path / "out")) == {"README.md", "config.json", "model.safetensors", "notes.onnx"}
    said = capsys.readouterr().err
    assert "left out: load.py (code: no code travels)" in said
    assert "left out: deep/vocab.txt (a pickle" in said


async def test_a_model_that_was_collected_is_a_sentence(mesh: MemoryMesh, tmp_path: Path) -> None:
    await command("push", str(model_folders.transformers_folder(tmp_path / "bert")))
    await mesh.leader.purge(mesh.subjects.stream("ARTIFACTS"))
    assert "no longer stored" in await refusal(ArtifactMissing, "pull", "bert", str(tmp_path / "out"))


async def test_a_mesh_of_an_older_program_takes_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mesh import streams

    whole = streams.table
    monkeypatch.setattr(streams, "table", lambda *a, **k: [s for s in whole(*a, **k) if "_models" not in s.name])
    made = await MemoryMesh(tmp_path / "mesh").start()
    there = Reach(made.settings, made.server.connect("cli"), made.subjects)
    assert (await known_models.known(there)).pushed == {}
    with pytest.raises(NotFound, match="start a scheduler of this version"):
        await models_push._check_name(there, "bert")


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["push"], SettingsInvalid, "models push expects one DIR"),
        (["push", "a", "b"], SettingsInvalid, "models push expects one DIR"),
        (["remove"], SettingsInvalid, "models remove expects one NAME"),
        (["pull", "a"], NotFound, "a NAME and a DIR"),
        (["pull", "a", "b", "--name", "c"], SettingsInvalid, "--name belongs to models push"),
        (["push", "a", "--replace"], SettingsInvalid, "--replace belongs to models pull"),
        (["push", "no-such-folder"], ModelRefused, "does not exist"),
    ],
)
async def test_words_that_do_not_fit_are_sentences(
    mesh: MemoryMesh, words: list[str], kind: type[RamifyError], said: str
) -> None:
    assert said in await refusal(kind, *words)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal() -> None:
    stream, now = io.StringIO(), [0.0]
    with Transfer("sending", stream, clock=lambda: now[0]) as transfer:
        for second in range(12):
            now[0] = float(second)
            transfer(second * 2**20, 12 * 2**20)
    assert stream.getvalue() == "sending: 5.0 MiB of 12 MiB (42%)\nsending: 10 MiB of 12 MiB (83%)\n"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_in_a_terminal_and_leaves_it_clean() -> None:
    stream = Terminal()
    with Transfer("sending", stream) as transfer:
        transfer(2**20, 4 * 2**20)
    assert "sending" in stream.getvalue()
    assert "MiB" in stream.getvalue()


def test_facts_of_a_record_stay_small(tmp_path: Path) -> None:
    """The record of a model with very many labels fits where records go."""
    settings: Facts = {"hidden": [64]}
    folder = model_folders.ramify_folder(
        tmp_path, [f"label {number} " * 20 for number in range(5_000)], settings=settings
    )
    record = models_push._record("many", "a" * 64, models_push.look(folder))
    assert len(codec.encode(record)) < 20_000
    assert record.base.labels == 5_000


# -- as base of a topic -----------------------------------------------------------------------------------------------


async def test_a_pushed_model_and_a_champion_become_the_base_of_a_topic(
    mesh: MemoryMesh, there: Reach, tmp_path: Path
) -> None:
    folder = model_folders.ramify_folder(tmp_path / "line", ["no", "yes"])
    await command("push", str(folder), "--name", "start")
    pushed = await publishing.base_of(there, "start")
    assert pushed is not None
    assert (pushed.name, pushed.task, pushed.fits, pushed.labels, pushed.label_names) == (
        "start", "classify", "text", 2, ("no", "yes"),
    )  # fmt: skip
    assert await publishing.base_of(there, pushed.model[:10]) == pushed
    first = await champion(mesh, folder, settings={"dropout": 0.1})
    base = await publishing.base_of(there, NODE)
    assert base is not None
    assert (base.model, base.name, base.task, base.fits, base.settings) == (
        first.model, NODE, "classify", "text", {"dropout": 0.1},
    )  # fmt: skip
    (folder / "README.md").write_text("another")
    await champion(mesh, folder, version_number=2)
    older = await publishing.base_of(there, first.model)
    assert older is not None
    assert older.model == first.model, "an earlier version, by its whole digest"
    given = cli.parser_of("publish", cli.load("publish")).parse_args(["a topic", "--base", "start"])
    topic = publishing.topic_of(given, None, pushed)
    assert codec.decode(codec.encode(topic), Topic).base == pushed
    assert await publishing.base_of(there, None) is None


async def test_the_base_of_an_adapter_is_a_transformers_folder_and_nothing_else(
    mesh: MemoryMesh, there: Reach, tmp_path: Path
) -> None:
    given = cli.parser_of("run", cli.load("run")).parse_args(["a topic", "--data", "builtin:digits", "--task", "lora"])
    with pytest.raises(SettingsInvalid, match="models push DIR"):
        publishing.look(given)
    await command("push", str(model_folders.transformers_folder(tmp_path / "bert")))
    await command("push", str(model_folders.ramify_folder(tmp_path / "own")))
    await command("push", str(model_folders.adapter_folder(tmp_path / "tuned")))
    found = await publishing.base_of(there, "bert", "lora")
    assert found is not None
    assert found.architecture.startswith("Bert")
    for name in ("own", "tuned"):
        with pytest.raises(ModelRefused, match="an adapter is put on a transformers folder"):
            await publishing.base_of(there, name, "lora")
    with pytest.raises(ModelRefused, match="ask for an adapter to it with --task lora"):
        await publishing.base_of(there, "bert")
    await champion(mesh, tmp_path / "tuned", base=found.model)
    with pytest.raises(ModelRefused, match="a peft adapter"):
        await publishing.base_of(there, NODE, "lora")


async def test_who_starts_from_a_rounded_champion_starts_from_what_was_rounded(
    mesh: MemoryMesh, there: Reach, tmp_path: Path
) -> None:
    full = await mesh.store.put(model_folders.ramify_folder(tmp_path / "full"), media="model")
    small = model_folders.ramify_folder(tmp_path / "small")
    (small / "README.md").write_text("in few bits")
    await champion(mesh, small, full=full)
    base = await publishing.base_of(there, NODE)
    assert base is not None
    assert base.model == full


async def test_a_base_that_is_not_there_is_a_sentence(mesh: MemoryMesh, there: Reach, tmp_path: Path) -> None:
    folder = model_folders.ramify_folder(tmp_path / "start")
    with pytest.raises(NotFound, match="is a folder here: take it in with `bin/agent models push"):
        await publishing.base_of(there, str(folder))
    await command("push", str(folder))
    with pytest.raises(NotFound, match="did you mean 'start'"):
        await publishing.base_of(there, "strat")
    await mesh.leader.purge(mesh.subjects.stream("ARTIFACTS"))
    with pytest.raises(ArtifactMissing, match="no longer stored"):
        await publishing.base_of(there, "start")
