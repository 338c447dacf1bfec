"""Names of subjects and streams: what may stand in them, and on which a stranger's question is answered."""

from __future__ import annotations

import pytest

from mesh.messages import object_names
from mesh.messages.object_names import ObjectName
from mesh.subjects import Subjects

SUBJECTS = Subjects("mesh")


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "A", "a b", "-a", "x" * 97])
def test_a_name_that_is_no_token_is_refused_everywhere(bad: str) -> None:
    for spell in (SUBJECTS.topic, SUBJECTS.beat, SUBJECTS.gone, SUBJECTS.answer, SUBJECTS.asked, Subjects):
        with pytest.raises(ValueError):
            spell(bad)
    with pytest.raises(ValueError):
        SUBJECTS.command("cli", "submit", bad)
    with pytest.raises(ValueError):
        SUBJECTS.result(bad, "planned", "1-0")


def test_meshes_whose_names_look_alike_share_no_stream() -> None:
    assert Subjects("lab-1").stream("LEDGER") != Subjects("lab_1").stream("LEDGER")
    assert Subjects("mesh").stream("LEDGER") == "MESH_LEDGER"


def test_who_asks_stands_in_the_subject_and_is_answered_in_his_own_inbox_only() -> None:
    assert SUBJECTS.asker(SUBJECTS.ask("scheduler", "w1")) == "w1"
    assert SUBJECTS.asker(SUBJECTS.ask_worker("w1", "cli")) == "cli"
    strangers = ("mesh.ask.scheduler", "mesh.ask.worker.w1", "mesh.ask.scheduler.*", "mesh.beat.x.w1", "other.ask.a.w1")
    assert [SUBJECTS.asker(subject) for subject in strangers] == [""] * 5
    assert SUBJECTS.may_answer("mesh.in.w1.4f.1", "w1")
    assert not SUBJECTS.may_answer("mesh.in.w2.answer", "w1")
    assert not SUBJECTS.may_answer("mesh.in.w11.answer", "w1")


@pytest.mark.parametrize("reply", ["_INBOX.x.1", "mesh.in.cli.4f.1", "other.in.cli.1"])
def test_an_inbox_is_answered(reply: str) -> None:
    assert SUBJECTS.may_answer(reply)


@pytest.mark.parametrize(
    "reply", ["", "mesh.ledger", "mesh.beat.w1", "mesh.cmd.w1.result.x", "$KV.mesh_graph.x", "$JS.API.INFO"]
)
def test_nobody_has_the_leader_write_where_only_it_may(reply: str) -> None:
    assert not SUBJECTS.may_answer(reply)


@pytest.mark.parametrize(
    "name", [object_names.whole("a" * 64), object_names.delta("a" * 64, "b" * 64), object_names.manifest("c" * 64)]
)
def test_a_stored_object_is_told_from_its_subject(name: ObjectName) -> None:
    assert SUBJECTS.stored_name(SUBJECTS.stored(name)) == name
    assert object_names.parse(str(name)) == name
    assert SUBJECTS.stored_name(Subjects("other").stored(name)) is None


@pytest.mark.parametrize("text", ["", "c", "c.", "c.abc", "x." + "a" * 64, "d." + "a" * 64, "c." + "A" * 64, "m.a.b"])
def test_what_is_no_name_of_an_object_is_none(text: str) -> None:
    assert object_names.parse(text) is None
