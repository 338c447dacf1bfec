"""A nats-server that somebody else runs: each kind of credentials, streams that its operator provisions, agents without
the right to make or change any."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import cli
from mesh import broker, certificates, codec, nkeypairs, platform, streams
from mesh.broker import NatsBroker
from mesh.errors import BrokerRefused, BusUnavailable, NotFound
from mesh.messages.services import Ask, Status
from mesh.settings import load
from mesh.subjects import Subjects
from tests.support.nats_credentials import Mint
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server]
ROOT = Path(__file__).parents[2]
SUBJECTS = Subjects("mesh")
DEADLINE_S = 60.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[NatsServer]]:
    found: list[NatsServer] = []
    yield found
    for server in found:
        server.stop()


def client_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of a client, signed by the authority in this folder."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    above = x509.load_pem_x509_certificate(certificates.authority(folder).read_bytes())
    above_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    assert isinstance(above_key, ec.EllipticCurvePrivateKey)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")]))
        .issuer_name(above.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(above_key, hashes.SHA256())
    )
    form = serialization
    (folder / "agent.crt").write_bytes(made.public_bytes(form.Encoding.PEM))
    (folder / "agent.key").write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    return folder / "agent.crt", folder / "agent.key"


def way(kind: str, folder: Path) -> tuple[str, dict[str, str]]:
    """(lines of the server's configuration, options of a client that it lets in)."""
    if kind == "user and password":
        return 'authorization { user: "agent", password: "right" }', {"user": "agent", "password": "right"}
    if kind == "nkey":
        seed = folder / "agent.nk"
        return f'authorization {{ users: [ {{ nkey: "{nkeypairs.make(seed)}" }} ] }}', {"nkey": str(seed)}
    if kind == "creds":
        mint, path = Mint(), folder / "agent.creds"
        path.write_text(mint.credentials(life_s=3_600))
        return mint.server_lines(), {"creds": str(path)}
    certificates.prepare(folder, ("127.0.0.1",))
    served, (cert, key) = certificates.combined(folder), client_certificate(folder)
    ca = certificates.authority(folder)
    lines = f'tls {{ cert_file: "{served}", key_file: "{served}", ca_file: "{ca}", verify: true }}'
    return lines, {"cert": str(cert), "key": str(key), "ca": str(ca)}


@pytest.mark.parametrize("kind", ["user and password", "nkey", "creds", "client certificate"])
async def test_each_kind_of_credentials_lets_in(kind: str, tmp_path: Path, servers: list[NatsServer]) -> None:
    lines, given = way(kind, tmp_path)
    servers.append(NatsServer(tmp_path / "server", extra=lines).start())
    options = dataclasses.replace(servers[0].options, **given)  # type: ignore[arg-type]
    async with broker.connection(options, SUBJECTS, name="agent") as connected:
        await streams.make(connected, SUBJECTS, artifact_bytes_max=64 << 20, owner=False)
        assert await connected.append(SUBJECTS.topic("t"), b"kept") == 1
    with pytest.raises((BrokerRefused, BusUnavailable)):
        await broker.connect(
            dataclasses.replace(options, user="", nkey="", creds="", cert="", key=""), SUBJECTS, name="x"
        )


# -- provision --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def operated(tmp_path: Path, servers: list[NatsServer], capsys: pytest.CaptureFixture[str]) -> Path:
    """A server with the users that `provision --users` wrote, in the folder that is given."""
    users = tmp_path / "users"
    assert await asyncio.to_thread(cli.main, ["provision", "--users", str(users), "--member", "worker:gpu1"]) == 0
    assert "provision --config" in capsys.readouterr().out
    servers.append(NatsServer(tmp_path / "server", extra=(users / "accounts.conf").read_text()).start())
    return users


async def connected_as(name: str, users: Path, server: NatsServer) -> NatsBroker:
    settings = load({"config": users / f"{name}.toml", "nats.url": server.url}, {}, users)
    return await broker.connect(settings.nats, SUBJECTS, name=name)


async def provision(users: Path, server: NatsServer, who: str = "operator", *more: str) -> int:
    line = ["provision", "--config", str(users / f"{who}.toml"), "--server", server.url, "--home", str(users / "home")]
    return await asyncio.to_thread(cli.main, [*line, *more])


async def test_only_the_operator_makes_streams(
    operated: Path, servers: list[NatsServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = servers[0]
    assert await provision(operated, server, "scheduler") == BrokerRefused.exit_code
    assert "run `bin/agent provision` with credentials that may" in capsys.readouterr().err
    report = tmp_path / "made.json"
    assert await provision(operated, server, "operator", "--json", str(report)) == 0
    made = json.loads(report.read_text())
    assert made["streams"] == list(streams.names(SUBJECTS))
    assert made["changed"] == [f"{name}: missing" for name in made["streams"]]
    assert await provision(operated, server, "operator", "--json", str(report)) == 0
    assert json.loads(report.read_text())["changed"] == []


async def test_agents_live_without_the_right_to_administer_streams(
    operated: Path, servers: list[NatsServer], tmp_path: Path
) -> None:
    server = servers[0]
    assert await provision(operated, server) == 0
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    agents = [
        await platform.spawn_group_async(
            [sys.executable, "-P", "-m", "agents", role, "--config", str(operated / f"{role}.toml"),
             "--server", server.url, "--home", str(tmp_path / role)],
            env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, die_with_parent=True,
        )
        for role in ("scheduler", "planner")
    ]  # fmt: skip
    try:
        operator = await connected_as("operator", operated, server)
        await both_at_work(operator)
        await operator.close()
    finally:
        for agent in agents:
            platform.kill_group(agent.pid, hard=False)
        await asyncio.gather(*(agent.wait() for agent in agents))
    assert "Violation" not in (tmp_path / "server" / "server.log").read_text()
    scheduler = await connected_as("scheduler", operated, server)
    for name in ("MESH_LEDGER", "OTHER"):
        for verb in ("CREATE", "UPDATE", "DELETE"):
            with pytest.raises(BrokerRefused):
                await scheduler.request(f"$JS.API.STREAM.{verb}.{name}", b"{}", timeout_s=5.0)
    await scheduler.close()


async def both_at_work(operator: NatsBroker) -> None:
    """Until the leader names both agents."""
    question, subject = codec.encode(Ask(what="status")), SUBJECTS.ask("scheduler", "operator")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(NotFound, BusUnavailable):
                answer = codec.decode((await operator.request(subject, question, timeout_s=5.0)).data, Status)
                if {"scheduler", "planner"} <= {one.role for one in answer.agents}:
                    return
            await asyncio.sleep(0.1)


async def test_the_number_of_copies_is_left_as_it_is_found(servers: list[NatsServer], tmp_path: Path) -> None:
    servers.append(NatsServer(tmp_path / "server").start())
    async with broker.connection(servers[0].options, SUBJECTS, name="agent") as connected:
        declared = streams.table(SUBJECTS, artifact_bytes_max=64 << 20, replicas=1)
        await streams.ensure_all(connected, declared)
        for spec in streams.table(SUBJECTS, artifact_bytes_max=64 << 20):
            assert await connected.differences(spec) == []
        assert await connected.differences(dataclasses.replace(declared[0], replicas=3)) == [
            "MESH_TOPICS: replicas is 1, declared 3"
        ]
