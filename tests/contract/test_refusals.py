"""The first connection and missing rights: one sentence each, at once, and nothing of the client library in it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import broker
from mesh.broker_api import error_of
from mesh.bus import Message
from mesh.errors import BrokerRefused, BusUnavailable, Conflict, DiskFull, Malformed, NotFound, SettingsInvalid
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects
from tests.contract.conftest import DEADLINE_S
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server
SUBJECTS = Subjects("lab")

RIGHTS = """
authorization {
  users = [
    { user: "all", password: "right" }
    { user: "few", password: "right", permissions: {
        publish: ["lab.may", "$JS.API.STREAM.INFO.S"]
        subscribe: ["lab.in.few.>", "lab.may"] } }
  ]
}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("guarded"), extra=RIGHTS).start()
    yield server
    server.stop()


async def _refused(options: NatsOptions, error: type[Exception], match: str) -> str:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(error, match=match) as caught:
            await broker.connect(options, SUBJECTS, name="few")
    return str(caught.value)


async def test_a_server_that_is_away_is_named() -> None:
    with socket.socket() as free:  # bound and not listening: nobody answers here
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        servers = (f"nats://me:secret@127.0.0.1:{port}", f"nats://localhost:{port}")
        said = await _refused(NatsOptions(servers=servers), BusUnavailable, "no broker answers at nats://127.0.0.1")
        assert "localhost" in said
        assert "secret" not in said


async def test_a_server_that_is_no_broker_is_refused_in_time() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        options = NatsOptions(servers=(f"nats://127.0.0.1:{port}",), connect_timeout_s=0.3)
        await _refused(options, BusUnavailable, "no broker answers")


@pytest.mark.parametrize(
    "credentials", [{}, {"user": "all", "password": "wrong"}, {"user": "nobody", "password": "right"}, {"token": "t"}]
)
async def test_wrong_credentials_are_refused(guarded: NatsServer, credentials: dict[str, str]) -> None:
    options = dataclasses.replace(guarded.options, **credentials)  # type: ignore[arg-type]
    await _refused(options, BrokerRefused, "refuses these credentials")


async def test_unusable_files_are_named(guarded: NatsServer, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    bad, missing, guarded_by = str(nonsense), str(tmp_path / "missing"), guarded.options
    for options in (dataclasses.replace(guarded_by, creds=bad), dataclasses.replace(guarded_by, nkey=bad)):
        await _refused(options, BrokerRefused, "credentials")
    for options in (
        dataclasses.replace(guarded_by, ca=bad),
        dataclasses.replace(guarded_by, cert=bad),
        dataclasses.replace(guarded_by, ca=missing),
    ):
        await _refused(options, SettingsInvalid, "--tlsca")
    await _refused(NatsOptions(servers=()), SettingsInvalid, "--server")
    await _refused(NatsOptions(servers=("nats://127.0.0.1:port",)), SettingsInvalid, "nats://HOST:4222")


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        await _refused(server.options, BrokerRefused, "without JetStream")
    finally:
        server.stop()


async def test_an_old_server_is_refused() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.29","jetstream":true,"max_payload":1048576,"headers":true}\r\n'
        )
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    listening = await asyncio.start_server(old, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        options = NatsOptions(servers=(f"nats://127.0.0.1:{port}",))
        await _refused(options, BrokerRefused, r"expected nats-server 2\.11 or newer at .*, found 2\.10\.29")


async def test_a_missing_right_is_said_at_once(guarded: NatsServer) -> None:
    options = dataclasses.replace(guarded.options, user="few", password="right")
    few = await broker.connect(options, SUBJECTS, name="few")
    try:
        heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def hear(message: Message) -> None:
            heard.set_result(message)

        async with asyncio.timeout(DEADLINE_S):
            for call in (
                few.request("lab.Must-not", b"", timeout_s=3_600),
                few.append("lab.ledger", b"", timeout_s=3_600),
                few.purge("S"),
            ):
                with pytest.raises(BrokerRefused, match="check the rights"):
                    await call
            with pytest.raises(BrokerRefused, match="may not subscribe"):
                await few.subscribe("lab.in.other.>", hear)
            with pytest.raises(NotFound):
                await few.state("S")
            await few.subscribe("lab.may", hear)
            await few.publish("lab.must-not", b"")  # nobody can be told; the connection lives on
            await few.publish("lab.may", b"heard")
            assert (await heard).data == b"heard"
    finally:
        await few.close()


@pytest.mark.parametrize(
    ("code", "number", "text", "error"),
    [
        (400, 10071, "wrong last sequence: 5", Conflict),
        (400, 10164, "wrong last sequence", Conflict),
        (400, 10065, "subjects overlap with an existing stream", Conflict),
        (503, 10077, "maximum bytes exceeded", DiskFull),
        (503, 10077, "store closed", BusUnavailable),
        (500, 10047, "insufficient storage resources available", DiskFull),
        (503, 10023, "insufficient resources", DiskFull),
        (404, 10059, "stream not found", NotFound),
        (404, 10014, "consumer not found", NotFound),
        (400, 10054, "message size exceeds maximum allowed", Malformed),
        (503, 10039, "jetstream not enabled for account", BrokerRefused),
        (400, 10052, "stream configuration update can not change", BrokerRefused),
        (503, 10008, "JetStream system temporarily unavailable", BusUnavailable),
        (500, 0, "something new", BusUnavailable),
    ],
)
def test_every_error_of_the_server_has_a_class(code: int, number: int, text: str, error: type[Exception]) -> None:
    found = error_of({"error": {"code": code, "err_code": number, "description": text}}, "what was asked")
    assert type(found) is error
    assert text in str(found)
    assert error_of({"seq": 1}, "what was asked") is None
