"""A key that the broker takes back: whoever holds it is out at once and hears so; nobody else notices."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

import nkeys
import pytest

from mesh import broker
from mesh.broker import NatsBroker
from mesh.errors import BrokerRefused
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects
from tests.contract.conftest import DEADLINE_S
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server
SUBJECTS = Subjects("lab")


class Users:
    """A server whose users are those whose keys stand in a file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "users.conf"
        self._folder = folder
        self._keys: dict[str, str] = {}
        self.server = NatsServer(folder, extra=f'include "{self._file.name}"')

    def seed(self, name: str) -> str:
        """The seed file of a user; made when new."""
        path = self._folder / f"{name}.nk"
        if not path.exists():
            seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
            path.write_bytes(seed)
            self._keys[name] = nkeys.from_seed(bytearray(seed)).public_key.decode()
        return str(path)

    def admit(self, *names: str) -> None:
        """These and no others, from the next start or reload on."""
        for name in names:
            self.seed(name)
        users = ", ".join(f"{{ nkey: {self._keys[name]} }}" for name in names)
        whole = self._file.with_suffix(".new")  # the server may be reading the old one just now
        whole.write_text(f"authorization {{ users = [ {users} ] }}\n")
        whole.replace(self._file)

    async def connect(self, name: str) -> NatsBroker:
        """Connect as one of them."""
        options: NatsOptions = dataclasses.replace(self.server.options, nkey=self.seed(name))
        return await broker.connect(options, SUBJECTS, name=name)


@pytest.fixture
def users(tmp_path: Path) -> Users:
    users = Users(tmp_path)
    users.admit("stays", "goes")
    return users


async def _until_refused(there: NatsBroker) -> BrokerRefused:
    told = asyncio.Event()
    there.on_state(lambda _: told.set() if there.refusal is not None else None)
    async with asyncio.timeout(DEADLINE_S):
        while there.refusal is None:
            await told.wait()
    return there.refusal


async def test_a_revoked_key_ends_its_connection_for_good(users: Users) -> None:
    users.server.start()
    try:
        goes, stays = await users.connect("goes"), await users.connect("stays")
        lost: list[bool] = []
        stays.on_state(lost.append)

        users.admit("stays")
        users.server.send(signal.SIGHUP)
        refusal = await _until_refused(goes)

        assert "does not let goes in any more: its key was revoked" in str(refusal)
        assert not goes.connected
        for asked in (goes.publish("lab.x", b""), goes.request("lab.x", b"", timeout_s=1.0), goes.state("S")):
            with pytest.raises(BrokerRefused, match="revoked"):
                await asked
        assert stays.connected
        assert lost == []
        await goes.close()
        await stays.close()
    finally:
        users.server.stop()


async def test_a_key_that_was_revoked_while_the_broker_was_away_is_told_so(users: Users) -> None:
    users.server.start()
    try:
        goes = await users.connect("goes")
        await asyncio.to_thread(users.server.kill)
        users.admit("stays")
        await asyncio.to_thread(users.server.start)

        assert "revoked" in str(await _until_refused(goes))
        await goes.close()
    finally:
        users.server.stop()


async def test_a_reload_that_keeps_a_key_is_not_noticed(users: Users) -> None:
    users.server.start()
    try:
        stays = await users.connect("stays")
        for others in (("stays",), ("stays", "goes"), ("stays",)):
            users.admit(*others)
            users.server.send(signal.SIGHUP)
        goes = asyncio.create_task(users.connect("goes"))
        with pytest.raises(BrokerRefused):
            await goes
        assert stays.connected
        assert stays.refusal is None
        await stays.close()
    finally:
        users.server.stop()
