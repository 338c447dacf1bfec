"""The gateway as it listens: bytes that are no HTTP, heads that do not come, TLS, what stands before the mesh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agents import gateway_server, gateway_tls
from agents.gateway import Gateway
from agents.runtime import Agent
from mesh import certificates
from mesh.errors import EnvironmentUnfit, SettingsInvalid
from tests.support import agents
from tests.support.gateway import reached
from tests.support.memory_mesh import MemoryMesh


@contextlib.asynccontextmanager
async def listening(folder: Path, **settings: object) -> AsyncIterator[Gateway]:
    """A gateway on a port of its own."""
    mesh = await MemoryMesh(folder).start()
    flags = {f"gateway.{name}": value for name, value in {"port": 0, **settings}.items()}
    agent = agents.make(mesh.server, "gateway", mesh.settings.home, **flags)
    gateway = Gateway(agent)
    await gateway.start()

    async def body(_: Agent) -> None:
        await gateway.work(agent)

    try:
        async with agents.running(agent, body):
            yield gateway
    finally:
        await gateway.close()


async def told(port: int, data: bytes) -> bytes:
    """What comes back for these bytes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_request_get_a_problem_and_no_place_in_the_log(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(tmp_path) as gateway:
        head, _, body = (await told(gateway.port, data)).partition(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[0]
        assert b"application/problem+json" in head
        assert b"aiohttp" not in head
        assert json.loads(body)["status"] == 400
    assert "Traceback" not in caplog.text


async def test_who_connects_and_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "HEAD_S", 0.2)
    async with listening(tmp_path) as gateway:
        with contextlib.suppress(ConnectionError):
            assert await told(gateway.port, b"GET /health HTTP/1.1\r\nHost:") == b""


async def test_connections_are_bounded_and_those_who_are_in_stay_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "CONNECTIONS_MAX", 1)
    async with listening(tmp_path) as gateway, aiohttp.ClientSession() as session:
        async with session.get(f"{gateway.url}/health") as answer:
            assert answer.status == 200
        with contextlib.suppress(ConnectionError):
            assert await told(gateway.port, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") == b""
        async with session.get(f"{gateway.url}/health") as answer:
            assert answer.status == 200


async def test_off_loopback_it_speaks_tls_with_a_certificate_of_its_own_authority(tmp_path: Path) -> None:
    async with listening(tmp_path, host="0.0.0.0") as gateway, aiohttp.ClientSession() as session:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "home" / "gateway" / "tls" / "ca.pem"))
        async with session.get(f"https://localhost:{gateway.port}/health", ssl=trusted) as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"https://localhost:{gateway.port}/health", ssl=ssl.create_default_context())
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://localhost:{gateway.port}/health")


async def test_a_renewed_certificate_is_taken_up_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_tls, "LOOK_EVERY_S", 0.05)
    folder = tmp_path / "theirs"
    certificates.prepare(folder, ["localhost"], which="gateway")
    pem = certificates.combined(folder, "gateway")
    async with listening(tmp_path, host="127.0.0.1", cert=str(pem), key=str(pem)) as gateway:
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", gateway.port))
        (folder / "gateway.json").unlink()
        certificates.prepare(folder, ["localhost"], which="gateway")
        now: list[str] = []

        async def look() -> None:
            now.append(await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", gateway.port)))

        for _ in range(100):
            await look()
            if now[-1] != shown:
                break
            await asyncio.sleep(0.05)
        assert now[-1] != shown


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0", "behind_proxy": True},
        {"cert": "some.pem"},
        {"cert": "nowhere.pem", "key": "nowhere.pem"},
    ],
)
async def test_what_would_be_open_is_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid):
        async with listening(tmp_path, **settings):
            pass


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async with listening(tmp_path) as gateway:
        with pytest.raises(EnvironmentUnfit, match="--listen"):
            async with listening(tmp_path / "other", port=gateway.port):
                pass


async def test_the_front_needs_no_token_and_says_nothing_of_the_mesh(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        for path, kind in (
            ("/health", "application/json"),
            ("/openapi.json", "application/json"),
            ("/docs", "text/html"),
        ):
            async with there.client.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
        async with there.client.get("/docs") as answer:
            page = await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "<script" not in page
        assert "http://" not in page
        assert "https://" not in page
        assert 'id="stale-epoch"' in page
        _, document = await there.ask("GET", "/openapi.json", None)
        assert document["openapi"] == "3.1.0"
        assert "/api/v1/network/training/enqueue" in document["paths"]


async def test_metrics_are_open_on_loopback_by_its_own_name_alone(tmp_path: Path) -> None:
    async with reached(tmp_path) as there:
        await there.ask("GET", "/health", None)
        async with there.client.get("/metrics") as answer:
            assert answer.status == 200
            assert 'mesh_http_requests_total{route="GET /health",status="200"} 1.0' in await answer.text()
        async with there.client.get("/metrics", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 401
    async with reached(tmp_path / "proxied", behind_proxy=True) as there:
        async with there.client.get("/metrics") as answer:
            assert answer.status == 401
