"""The registrar: nothing is answered before the list is on the disk and the broker has read it, whatever breaks off."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from agents.keeper_members import Registrar
from mesh import codec, members
from mesh.bus import Message
from mesh.errors import Conflict, EnvironmentUnfit, NotFound, SettingsInvalid
from mesh.guard import Guard
from mesh.invitations import Token, id_of
from mesh.memory import MemoryBroker, MemoryServer
from mesh.messages.base import Record
from mesh.messages.membership import Join, Joined
from mesh.messages.services import Problem
from mesh.setting_tree import BrokerSettings, Settings
from mesh.subjects import Subjects

SUBJECTS = Subjects()
BROKER = BrokerSettings(listen="127.0.0.1", advertise=("mesh.example", "192.0.2.7:5000"))


class FakeServer:
    """Reads the list whenever it is told to; may be told to refuse, or to die before it does."""

    def __init__(self, folder: Path) -> None:
        self.url, self.folder = "tls://127.0.0.1:4333", folder
        self.seen: list[members.Members] = []
        self.fail: Callable[[], None] = lambda: None

    async def reload(self) -> None:
        self.fail()
        self.seen.append(members.load(self.folder))


@dataclasses.dataclass
class Scene:
    registrar: Registrar
    server: FakeServer
    guard: Guard

    def ask(self, want: str, **fields: object) -> dict[str, Any]:
        return asyncio.run(self.registrar.answer({"want": want, **fields}))

    def invite(self, **fields: object) -> Token:
        return Token.read(self.ask("invite", **{"role": "worker", "expires_s": 3_600, **fields})["token"])

    def join(self, token: Token, number: int = 1, **changes: str) -> Record:
        """One question of an invited machine over a broker in memory; its answer."""
        return asyncio.run(self._join(token, {"name": "lab", "key": key(number), "host": "lab.example", **changes}))

    async def _join(self, token: Token, fields: dict[str, str]) -> Record:
        server = MemoryServer(SUBJECTS)
        keeper, id_ = (
            server.connect("keeper"),
            id_of(nkeys.from_seed(bytearray(token.seed.encode())).public_key.decode()),
        )
        there: MemoryBroker = server.connect(id_)

        async def hear(message: Message) -> None:
            await self.registrar._hear(keeper, message)

        await keeper.subscribe(SUBJECTS.joins(), hear)
        answer = await there.request(SUBJECTS.join(id_), codec.encode(Join(**fields)), timeout_s=10.0)
        found: Record = codec.decode(answer.data, Joined, Problem)
        await there.close()
        await keeper.close()
        return found

    def listed(self) -> members.Members:
        return members.load(self.guard.folder)


def key(number: int) -> str:
    seed = nkeys.encode_seed(bytes([number]) * 32, nkeys.PREFIX_BYTE_USER)
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guarded broker's folder: its certificates are made once for all tests."""
    folder = tmp_path_factory.mktemp("broker")
    assert Guard.prepare(folder, BROKER, "mesh") is not None
    return folder


@pytest.fixture
def scene(tmp_path: Path, prepared: Path) -> Scene:
    folder = tmp_path / "broker"
    shutil.copytree(prepared, folder)
    guard = Guard.found(folder)
    assert guard is not None
    server: Any = FakeServer(folder)
    return Scene(Registrar(guard, server, Settings(home=tmp_path, broker=BROKER)), server, guard)


def test_a_token_brings_a_machine_in(scene: Scene) -> None:
    token = scene.invite(artifacts={"backend": "folder", "folder": "/disk", "s3_secret_access_key": "no"})
    answer = scene.join(token)

    assert token.addresses == ("mesh.example:4333", "192.0.2.7:5000")
    assert answer == Joined(
        name="lab", role="worker", prefix="mesh", servers=("tls://mesh.example:4333", "tls://192.0.2.7:5000"),
        artifacts={"backend": "folder", "folder": "/disk"},
    )  # fmt: skip
    assert [one.name for one in scene.server.seen[-1].members] == ["lab"], "the broker knew it before the answer"
    assert token.seed not in members.path_in(scene.guard.folder).read_text()


def test_a_lost_answer_is_given_again_and_costs_no_second_use(scene: Scene) -> None:
    token = scene.invite()
    first = scene.join(token)

    assert scene.join(token) == first
    assert scene.join(token, 2) == Problem(reason="this invitation is used up: ask for another.")


def test_a_keeper_that_dies_between_writing_and_answering_answers_the_same_after_its_return(
    scene: Scene, tmp_path: Path
) -> None:
    token = scene.invite()

    def die() -> None:
        raise KeyboardInterrupt  # nothing after it runs any more

    scene.server.fail = die
    with pytest.raises(KeyboardInterrupt):
        scene.join(token)
    server: Any = FakeServer(scene.guard.folder)
    again = dataclasses.replace(
        scene, registrar=Registrar(scene.guard, server, Settings(home=tmp_path, broker=BROKER)), server=server
    )

    answer = again.join(token)

    assert isinstance(answer, Joined)
    assert [one.name for one in again.listed().members] == ["lab"]


def test_a_list_that_the_broker_does_not_take_is_put_back(scene: Scene) -> None:
    token = scene.invite()
    before, tries = scene.listed(), iter([True, False])

    def refuse() -> None:
        if next(tries, False):
            raise EnvironmentUnfit("The broker does not take its new configuration.")

    scene.server.fail = refuse
    assert scene.join(token) == Problem(reason="The broker does not take its new configuration.")
    assert scene.listed() == before
    assert isinstance(scene.join(token), Joined)


def test_two_machines_that_wish_the_same_name_are_two(scene: Scene) -> None:
    token = scene.invite(uses=3)
    names = [scene.join(token, number, name=name) for number, name in ((1, "lab"), (2, "lab"), (3, "planner"))]

    assert [one.name for one in names if isinstance(one, Joined)] == ["lab", "lab-2", "planner-2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "operator"}, "for a worker, not for a operator"),
        ({"key": "U" + "A" * 55}, "public key"),
        ({"key": "rubbish"}, "public key"),
    ],
)
def test_what_can_not_be_is_said_and_changes_nothing(scene: Scene, changes: dict[str, str], words: str) -> None:
    token = scene.invite()
    before = scene.listed()
    answer = scene.join(token, 1, **changes)

    assert isinstance(answer, Problem)
    assert words in answer.reason
    assert scene.listed() == before


def test_who_is_revoked_is_out_of_the_list_that_the_broker_reads(scene: Scene) -> None:
    token = scene.invite()
    scene.join(token)

    assert scene.ask("revoke", name="lab") == {"name": "lab", "role": "worker"}
    assert scene.server.seen[-1].members == ()
    with pytest.raises(NotFound, match="no member 'lab'"):
        scene.ask("revoke", name="lab")
    with pytest.raises(NotFound, match="works on the mesh's own machine"):
        scene.ask("revoke", name="planner")


def test_an_invitation_that_was_taken_back_lets_nobody_in(scene: Scene) -> None:
    token = scene.invite()
    scene.ask("revoke", invitation=scene.listed().invitations[0].id)

    assert scene.join(token) == Problem(
        reason="this invitation is over: it was used up, has expired or was revoked; ask for another."
    )


def test_time_turns_out_by_the_keepers_own_clock(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_700_000_000.0]
    monkeypatch.setattr("agents.keeper_members.time", types.SimpleNamespace(time=lambda: now[0]))
    token = scene.invite(uses=2, lasts_s=7_200)
    scene.join(token)
    now[0] += 3_601

    assert isinstance(scene.join(token, 2), Problem)
    assert [one["name"] for one in scene.ask("members")["members"]] == ["lab"]
    now[0] += 3_600
    assert not scene.ask("members")["members"]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"role": "king"}, SettingsInvalid, "--role is one of"),
        ({"role": "keeper"}, SettingsInvalid, "--role is one of"),
        ({"expires_s": 5}, SettingsInvalid, "--expires is a time"),
        ({"uses": 0}, SettingsInvalid, "--uses is a whole number"),
        ({"name": "planner"}, SettingsInvalid, "choose another --name"),
        ({"name": "A b"}, SettingsInvalid, "a member's name must be"),
    ],
)
def test_invitations_that_can_not_be(scene: Scene, fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        scene.ask("invite", **{"role": "worker", "expires_s": 3_600, **fields})
    assert scene.listed().invitations == ()


def test_a_name_that_a_member_has_is_not_promised(scene: Scene) -> None:
    scene.join(scene.invite())

    with pytest.raises(Conflict, match="a member 'lab' already"):
        scene.ask("invite", role="worker", expires_s=3_600, name="lab")


def test_without_an_address_for_others_nobody_is_invited(scene: Scene, tmp_path: Path) -> None:
    server: Any = scene.server
    here = Registrar(scene.guard, server, Settings(home=tmp_path))

    with pytest.raises(EnvironmentUnfit, match="--listen ADDRESS"):
        asyncio.run(here.answer({"want": "invite", "expires_s": 3_600}))
