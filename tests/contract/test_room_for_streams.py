"""How much artifacts may fill: as much as the broker has room for, and changed only by who has the broker's folder."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.scheduler import ARTIFACTS_SHARE
from mesh import broker as mesh_broker
from mesh import limits, streams
from mesh.bus import Broker
from mesh.disconnects import SystemNote
from mesh.errors import DiskFull
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server

ROOM = 2_100_000_000
"""Most bytes of the server's store."""

HERE, OTHER = Subjects("here"), Subjects("other")


@contextlib.asynccontextmanager
async def small(folder: Path, room: int = ROOM) -> AsyncIterator[Broker]:
    store = f'jetstream {{ store_dir: "{folder / "store"}", max_file_store: {room}, sync_interval: always }}'
    server = NatsServer(folder, jetstream=False, extra=store).start()
    try:
        async with mesh_broker.connection(server.options, HERE, name="a") as broker:
            yield broker
    finally:
        server.stop()


async def limit(broker: Broker, subjects: Subjects) -> int:
    return (await broker.state(subjects.stream(streams.ARTIFACTS))).limit_bytes


async def test_a_standby_elsewhere_leaves_the_limit_as_it_is(tmp_path: Path) -> None:
    """It knows nothing of this broker's disk, and takes it for one of the largest."""
    async with small(tmp_path) as broker:
        assert await streams.make(broker, HERE, artifact_bytes_max=800_000_000, owner=True) == 800_000_000
        assert await streams.make(broker, HERE, artifact_bytes_max=16 << 30, owner=False) == 800_000_000
        assert await streams.make(broker, HERE, artifact_bytes_max=100_000_000, owner=False) == 800_000_000
        assert await limit(broker, HERE) == 800_000_000


async def test_the_owner_of_the_folder_changes_it_where_there_is_room(tmp_path: Path) -> None:
    async with small(tmp_path) as broker:
        for wanted, given in ((500_000_000, 500_000_000), (1_500_000_000, 1_500_000_000), (16 << 30, 1_500_000_000)):
            assert await streams.make(broker, HERE, artifact_bytes_max=wanted, owner=True) == given
            assert await limit(broker, HERE) == given


async def test_a_smaller_broker_and_a_second_mesh_get_what_room_there_is(tmp_path: Path) -> None:
    async with small(tmp_path) as broker:
        assert await streams.make(broker, HERE, artifact_bytes_max=3_200_000_000, owner=False) == 1_600_000_000
        assert await streams.make(broker, OTHER, artifact_bytes_max=1_600_000_000, owner=True) == 200_000_000
        assert await limit(broker, OTHER) == 200_000_000
        assert await broker.differences(streams.table(OTHER, artifact_bytes_max=1)[0]) == []


async def test_the_least_store_that_the_settings_allow_has_room_for_a_mesh(tmp_path: Path) -> None:
    least = limits.STORE_BYTES_LEAST
    async with small(tmp_path, room=least) as broker:
        given = await streams.make(broker, HERE, artifact_bytes_max=int(least * ARTIFACTS_SHARE), owner=True)
        assert given >= streams.ARTIFACTS_BYTES_LEAST
        assert await limit(broker, HERE) == given


async def test_a_broker_without_any_room_is_refused(tmp_path: Path) -> None:
    async with small(tmp_path, room=50_000_000) as broker:
        with pytest.raises(DiskFull, match="insufficient storage"):
            await streams.make(broker, HERE, artifact_bytes_max=16 << 30, owner=True)


def test_whose_broker_it_is_stands_in_its_folder(tmp_path: Path) -> None:
    assert not SystemNote.is_of(tmp_path, "nats://127.0.0.1:4222")
    SystemNote.path(tmp_path).write_text('{"url": "nats://127.0.0.1:4222", "user": "system", "password": "x"}')
    assert SystemNote.is_of(tmp_path, "nats://me:secret@127.0.0.1:4222")
    assert not SystemNote.is_of(tmp_path, "nats://127.0.0.1:4223")
