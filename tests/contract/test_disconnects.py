"""Whose connection has closed: the same on the embedded server and in memory; and what only the real one can do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh import broker as mesh_broker
from mesh import disconnects
from mesh.broker import NatsBroker
from mesh.broker_dial import abort
from mesh.bus import Broker, Disconnects, Message
from mesh.disconnects import ServerDisconnects, SystemNote, client_of
from mesh.memory import MemoryBroker, MemoryDisconnects, MemoryServer
from mesh.nats_options import NatsOptions
from mesh.server import Server
from mesh.setting_tree import BrokerSettings
from mesh.subjects import DISCONNECTED, Subjects
from tests.contract.conftest import DEADLINE_S, until

SUBJECTS = Subjects("t")


class Told:
    """A broker, connections to it that bear names, and who is told."""

    def __init__(
        self, who: Disconnects, dial: Callable[[str], Awaitable[Broker]], cut: Callable[[Broker], None]
    ) -> None:
        self.who, self.dial, self.cut = who, dial, cut
        self.names: list[str] = []

    async def __aenter__(self) -> Told:
        self._listening = asyncio.create_task(self._listen())
        await until(lambda: self.who.available)
        return self

    async def _listen(self) -> None:
        async with self.who.follow() as names:
            async for name in names:
                self.names.append(name)

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Server]:
    """An embedded server for as long as the context lasts."""
    server = new_server(tmp_path)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        server.release()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Server]:
    async with running(tmp_path) as server:
        yield server


def new_server(tmp_path: Path) -> Server:
    return Server(tmp_path / "broker", BrokerSettings(), tmp_path / "server.log")


def told_by(server: Server) -> Told:
    async def dial(name: str) -> Broker:
        return await mesh_broker.connect(
            NatsOptions(servers=(server.url,)), SUBJECTS, name=name.partition(".")[0], client=name
        )

    def cut(broker: Broker) -> None:
        assert isinstance(broker, NatsBroker)
        abort(broker._link.client)

    return Told(ServerDisconnects(server.folder, server.url, name="scheduler"), dial, cut)


def told_in_memory() -> Told:
    memory = MemoryServer(SUBJECTS)

    async def dial(name: str) -> Broker:
        return memory.connect(name.partition(".")[0], client=name)

    def cut(broker: Broker) -> None:
        assert isinstance(broker, MemoryBroker)
        memory.cut(broker.name)

    return Told(MemoryDisconnects(memory), dial, cut)


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.server)])
async def told(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Told]:
    if request.param == "memory":
        async with told_in_memory() as made:
            yield made
    else:
        async with running(tmp_path) as server, told_by(server) as made:
            yield made


async def test_who_closes_is_named_once_per_connection(told: Told) -> None:
    first, second, beats = [await told.dial(name) for name in ("w1.aa", "w2.bb", "w1.aa")]
    await first.close()
    await until(lambda: told.names == ["w1.aa"])
    await beats.close()
    await until(lambda: told.names == ["w1.aa", "w1.aa"])
    await second.close()
    await until(lambda: told.names == ["w1.aa", "w1.aa", "w2.bb"])


async def test_a_connection_that_breaks_is_named(told: Told) -> None:
    broker = await told.dial("w1.aa")
    told.cut(broker)
    await until(lambda: told.names == ["w1.aa"])
    await broker.close()


async def test_what_closed_before_nobody_is_told(told: Told) -> None:
    await (await told.dial("w1.aa")).close()
    await until(lambda: told.names)
    async with told.who.follow() as names:
        await until(lambda: told.who.available)
        await (await told.dial("w2.bb")).close()
        assert await asyncio.wait_for(anext(names), DEADLINE_S) == "w2.bb"


async def test_in_memory_a_silent_cut_and_a_crash_tell_nobody() -> None:
    memory = MemoryServer(SUBJECTS)
    who = MemoryDisconnects(memory)
    async with who.follow() as names:
        first, second = memory.connect("w1"), memory.connect("w2")
        memory.cut("w1", silently=True)
        memory.crash()
        assert not who.available
        await first.close()
        memory.restart()
        await second.close()
        assert await asyncio.wait_for(anext(names), DEADLINE_S) == "w2"


@pytest.mark.server
async def test_the_note_is_private_and_goes_with_the_server(embedded: Server) -> None:
    path = SystemNote.path(embedded.folder)
    assert path.stat().st_mode & 0o777 == 0o600
    note = SystemNote.read(embedded.folder)
    assert note is not None
    assert note.url == embedded.url
    assert note.password not in repr(note)
    await embedded.stop()
    assert not path.exists()
    assert SystemNote.read(embedded.folder) is None


@pytest.mark.server
async def test_the_mesh_itself_hears_nothing_of_it(embedded: Server) -> None:
    async with told_by(embedded) as told:
        heard: list[Message] = []

        async def hear(message: Message) -> None:
            heard.append(message)

        spy = await told.dial("spy.aa")
        await spy.subscribe(DISCONNECTED, hear)
        await (await told.dial("w1.aa")).close()
        await until(lambda: told.names)
        assert isinstance(spy, NatsBroker)
        await spy._link.barrier()
        assert heard == []
        await spy.close()


@pytest.mark.server
async def test_it_goes_on_with_the_next_server_and_the_next_password(
    embedded: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnects, "LOOK_S", 0.05)
    async with told_by(embedded) as told:
        await embedded.stop()
        await until(lambda: not told.who.available)
        await embedded.start()
        await until(lambda: told.who.available)
        url = embedded.url
        await embedded.stop()
        embedded.release()
        another = new_server(tmp_path)  # as of another keeper: the same port, a new password
        await another.start()
        try:
            assert another.url == url
            assert another.system_password != embedded.system_password
            await until(lambda: told.who.available)
            await (await told_by(another).dial("w1.aa")).close()
            await until(lambda: "w1.aa" in told.names)
        finally:
            await another.stop()
            another.release()


@pytest.mark.server
@pytest.mark.parametrize("case", ["no note", "another broker", "no sense", "wrong password"])
async def test_where_it_can_not_be_had_nothing_comes_and_nothing_fails(
    embedded: Server, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnects, "LOOK_S", 0.02)
    looked = 0
    read = SystemNote.read

    def count(folder: Path) -> SystemNote | None:
        nonlocal looked
        looked += 1
        return read(folder)

    monkeypatch.setattr(SystemNote, "read", count)
    path, url = SystemNote.path(embedded.folder), embedded.url
    if case == "no note":
        path.unlink()
    if case == "another broker":
        url = "nats://127.0.0.1:1"
    if case == "no sense":
        path.write_text('{"url": 7}')
    if case == "wrong password":
        path.write_bytes(path.read_bytes().replace(embedded.system_password.encode(), b"guess"))
    who = ServerDisconnects(embedded.folder, url, name="scheduler")
    async with who.follow() as names:
        waiting = asyncio.ensure_future(anext(names))
        await until(lambda: looked >= 3)
        assert not who.available
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b'{"client": {}}', b'{"client": {"name": 7}}', b"\xff"])
def test_a_notice_without_a_name_is_nobody_s(data: bytes) -> None:
    assert client_of(data) == ""


async def test_names_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryServer(SUBJECTS)
    async with MemoryDisconnects(memory).follow() as names:
        for number in range(5_000):
            await memory.connect("w", client=f"w.{number}").close()
        assert await anext(names) == "w.904"
