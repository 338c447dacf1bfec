"""The guarded server, a real one: a key for everybody, out within seconds, and nobody else notices."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh import broker, certificates, members, nkeypairs
from mesh import server as mesh_server
from mesh.broker import NatsBroker
from mesh.bus import Message
from mesh.errors import BrokerRefused, Conflict, EnvironmentUnfit
from mesh.guard import Guard
from mesh.members import Member, Members
from mesh.nats_options import NatsOptions
from mesh.server import Server
from mesh.setting_tree import BrokerSettings
from mesh.subjects import Subjects

pytestmark = pytest.mark.server
SUBJECTS = Subjects("lab")
LISTEN = BrokerSettings(listen="127.0.0.1:0", advertise=("mesh.lab",))
OUT_S = 5.0
"""What is promised about whoever is turned out."""


class Home:
    """A guarded server with two workers that have joined."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "broker"
        self.folder.mkdir()
        guard = Guard.prepare(self.folder, LISTEN, "lab")
        assert guard is not None
        self.guard = guard
        self.server = Server(self.folder, LISTEN, folder / "server.log", guard)
        self.keys = {name: folder / f"{name}.nk" for name in ("w1", "w2")}
        rows = [
            Member(name=name, role="worker", key=nkeypairs.make(path), since_ms=1) for name, path in self.keys.items()
        ]
        self.members = Members(members=tuple(rows))
        members.store(self.folder, self.members)

    def options(self, seed: Path | None, **more: Any) -> NatsOptions:
        found = NatsOptions(
            servers=(self.server.url,),
            nkey=str(seed) if seed else "",
            ca=str(self.guard.authority),
            connect_timeout_s=10,
        )
        return dataclasses.replace(found, **more)

    async def client(self, name: str) -> NatsBroker:
        seed = self.keys.get(name) or self.guard.seed(name, name)
        return await broker.connect(self.options(seed), SUBJECTS, name=name)

    async def refused(self, options: NatsOptions) -> str:
        with pytest.raises(BrokerRefused) as error:
            await broker.connect(options, SUBJECTS, name="stranger")
        return str(error.value)

    def serial(self) -> str:
        """Of the certificate that the server shows now."""
        context = ssl.create_default_context(cafile=self.guard.authority)
        port = int(self.server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 10.0) as connection:
            connection.recv(4_096)  # INFO, before the handshake
            with context.wrap_socket(connection, server_hostname="mesh.lab") as secured:
                return str((secured.getpeercert() or {})["serialNumber"])


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    found = Home(tmp_path)
    await found.server.start()
    yield found
    await found.server.stop()
    found.server.release()


async def test_nobody_comes_in_without_tls_and_a_key(home: Home, tmp_path: Path) -> None:
    assert "refuses these credentials" in await home.refused(home.options(None))
    assert "refuses these credentials" in await home.refused(home.options(None, user="mesh", password="mesh"))
    stranger = tmp_path / "stranger.nk"
    nkeypairs.make(stranger)
    assert "refuses these credentials" in await home.refused(home.options(stranger))
    assert "can not be verified" in await home.refused(home.options(home.keys["w1"], ca=""))
    member = await home.client("w1")
    await member.close()
    assert {"mesh.lab", "127.0.0.1"} <= {*certificates.names_in(home.guard.tls)}


async def test_who_is_turned_out_is_out_at_once_and_nobody_else_notices(home: Home) -> None:
    gone, stays, operator = [await home.client(name) for name in ("w1", "w2", "operator")]
    states: list[str] = []
    heard = asyncio.Queue[bytes]()
    for one in (stays, operator):
        one.on_state(lambda up: states.append("lost" if not up else "back"))
    out = asyncio.Event()
    gone.on_state(lambda up: None if up else out.set())

    async def hear(message: Message) -> None:
        heard.put_nowait(message.data)

    await operator.subscribe(SUBJECTS.all_progress(), hear)
    members.store(home.folder, home.members.without("w1"))
    started = time.monotonic()
    await home.server.reload()
    async with asyncio.timeout(OUT_S):
        await out.wait()
    assert time.monotonic() - started < OUT_S
    await stays.publish(SUBJECTS.progress("w2", "topic", "task"), b"still here")
    async with asyncio.timeout(10):
        assert await heard.get() == b"still here"
    assert states == []
    assert "refuses these credentials" in await home.refused(home.options(home.keys["w1"]))
    for one in (gone, stays, operator):
        await one.close()


async def test_a_new_certificate_is_shown_without_a_restart(home: Home) -> None:
    member, states = await home.client("w1"), list[bool]()
    member.on_state(states.append)
    before = await asyncio.to_thread(home.serial)
    (home.guard.tls / "server.json").unlink()
    assert certificates.prepare(home.guard.tls, ("mesh.lab", "127.0.0.1"))
    await home.server.reload()
    assert await asyncio.to_thread(home.serial) != before
    assert states == []
    await member.close()


async def test_where_no_signal_reloads_the_server_is_started_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.create_task(home.server.wait())
    await asyncio.sleep(0)
    monkeypatch.setattr(mesh_server, "RELOAD_SIGNAL", None)
    url, pid = home.server.url, home.server.pid
    members.store(home.folder, home.members.without("w1"))
    await home.server.reload()
    assert (home.server.url, home.server.pid != pid, waiting.done()) == (url, True, False)
    assert "refuses these credentials" in await home.refused(home.options(home.keys["w1"]))
    await (await home.client("w2")).close()
    waiting.cancel()


async def test_a_configuration_that_the_server_refuses_turns_nobody_out(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, states = await home.client("w1"), list[bool]()
    member.on_state(states.append)
    monkeypatch.setattr(Guard, "accounts", lambda *_: {"MESH": {"users": [{"nkey": "no key"}]}})
    with pytest.raises(EnvironmentUnfit, match="does not take its new configuration"):
        await home.server.reload()
    monkeypatch.undo()
    await home.server.reload()
    assert states == []
    await member.close()


async def test_identities_of_this_machine_have_names_of_their_own(home: Home) -> None:
    assert home.guard.make_seed("worker", "ws1")
    assert not home.guard.make_seed("worker", "ws1")
    with pytest.raises(Conflict, match="another agent on this machine"):
        home.guard.make_seed("planner", "ws1")
    assert ("worker", "ws1") in home.guard.local()
    assert "ws1" in home.guard.taken()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home.folder / "keys").iterdir())
    await home.server.reload()
    worker = await broker.connect(home.options(home.guard.seed("worker", "ws1")), SUBJECTS, name="ws1")
    await worker.close()


async def test_an_address_of_another_machine_is_said(tmp_path: Path) -> None:
    elsewhere = BrokerSettings(listen="203.0.113.5")  # of documentation (RFC 5737): nobody's
    (tmp_path / "broker").mkdir()
    server = Server(
        tmp_path / "broker", elsewhere, tmp_path / "log", Guard.prepare(tmp_path / "broker", elsewhere, "lab")
    )
    with pytest.raises(EnvironmentUnfit, match=r"203\.0\.113\.5 must be an address or name of this machine"):
        await server.start()
    server.release()


async def test_once_guarded_a_home_stays_so(home: Home) -> None:
    assert Guard.prepare(home.folder, BrokerSettings(), "lab") == home.guard
    with pytest.raises(EnvironmentUnfit, match="is guarded for the mesh 'lab', not for 'other'"):
        Guard.prepare(home.folder, BrokerSettings(), "other")
    (home.folder / "guard.json").write_text("{")
    with pytest.raises(EnvironmentUnfit, match="put a copy back"):
        Guard.found(home.folder)
