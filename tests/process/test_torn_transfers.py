"""Uploads and downloads that are killed, kill -9, at random moments: nothing torn is seen, nothing is moved twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh import broker as real
from mesh import codec, limits, metrics, streams
from mesh.artifacts import ArtifactStore
from mesh.broker import NatsBroker
from mesh.messages import object_names
from mesh.messages.artifacts import Manifest
from mesh.messages.object_names import MANIFEST
from mesh.object_lists import parts_of
from mesh.objects import JetStreamBackend
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.timeout(240)]

CHECKOUT = Path(__file__).resolve().parents[2]
KILLS = 4
CHUNKS = 40
SUBJECTS = Subjects("torn")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path).start()
    yield made
    made.stop()


@pytest.fixture
async def broker(server: NatsServer) -> AsyncIterator[NatsBroker]:
    async with real.connection(server.options, SUBJECTS, name="judge") as connected:
        await streams.ensure_all(connected, streams.table(SUBJECTS, artifact_bytes_max=1 << 30))
        yield connected


def begun(*arguments: str) -> subprocess.Popen[str]:
    """A process that moves an artifact."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.artifact_process", *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip


def killed_at(percent: int, *arguments: str) -> None:
    """Begin, and kill it when it has come so far."""
    with begun(*arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= percent:
                break
        process.kill()


def finished(*arguments: str) -> str:
    """Run to the end; its last line."""
    with begun(*arguments) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    return lines[-1]


async def whole_manifests(backend: JetStreamBackend) -> list[str]:
    """Every manifest in the store, each of which has all of its objects."""
    names = [name async for name in backend.names()]
    found = [name for name in names if name.kind == MANIFEST]
    for name in found:
        data = await backend.get(name)
        assert data is not None
        for entry in codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX).files:
            assert {part for part, _ in parts_of(entry)} <= set(names)
    return [name.digest for name in found]


async def test_transfers_that_are_killed_go_on(server: NatsServer, broker: NatsBroker, tmp_path: Path) -> None:
    rng, backend = random.Random(5), JetStreamBackend(broker, SUBJECTS)
    body = rng.randbytes(CHUNKS * limits.CHUNK_BYTES)
    (tmp_path / "weights").write_bytes(body)
    put = ("put", server.url, SUBJECTS.prefix, str(tmp_path / "c1"), str(tmp_path / "weights"))
    for percent in sorted(rng.randint(5, 85) for _ in range(KILLS)):
        killed_at(percent, *put)
        assert await whole_manifests(backend) == []
    digest = finished(*put)
    assert await whole_manifests(backend) == [digest]
    state = await broker.state(SUBJECTS.stream("ARTIFACTS"))
    assert state.messages == CHUNKS + 1

    get = ("get", server.url, SUBJECTS.prefix, str(tmp_path / "c2"), digest)
    killed_at(60, *get)
    assert not (tmp_path / "c2" / digest).exists()
    before = metrics.value("mesh_artifact_chunks_total", outcome="in")
    reader = ArtifactStore(broker, SUBJECTS, cache=tmp_path / "c2", cache_bytes_max=1 << 30)
    assert ((await reader.get(digest)) / "weights").read_bytes() == body
    assert metrics.value("mesh_artifact_chunks_total", outcome="in") - before <= 0.5 * CHUNKS
    assert list((tmp_path / "c2").glob(".part-*")) == []
    assert await backend.has(object_names.manifest(digest))
