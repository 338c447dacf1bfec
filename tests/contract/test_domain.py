"""Streams behind a leaf node, in a JetStream domain: all works from a server that has no JetStream of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path

import pytest

from mesh import broker, streams
from mesh.errors import BrokerRefused, BusUnavailable
from mesh.subjects import Subjects
from tests.contract.conftest import DEADLINE_S
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.server


async def test_a_mesh_reaches_its_streams_through_a_leaf_node(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f'jetstream {{ store_dir: "{tmp_path / "store"}", domain: hub, sync_interval: always }}'
    hub = NatsServer(tmp_path / "hub", jetstream=False, extra=f'leafnodes {{ listen: "127.0.0.1:{port}" }}\n{store}')
    remote = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}'
    leaf = NatsServer(tmp_path / "leaf", jetstream=False, extra=remote)
    subjects = Subjects("mesh")
    try:
        hub.start()
        leaf.start()
        with pytest.raises(BrokerRefused, match="--js-domain"):
            await broker.connect(leaf.options, subjects, name="a")
        one = await broker.connect(dataclasses.replace(leaf.options, js_domain="hub"), subjects, name="a")
        async with asyncio.timeout(DEADLINE_S):
            await _table(one, subjects)
            key, bucket, ledger = subjects.key("graph", "root"), subjects.bucket("graph"), subjects.stream("LEDGER")
            assert await one.append(subjects.ledger(), b"1", stream_seq=0) == 1
            assert await one.append(key, b"1", subject_seq=0) == 1
            assert await one.append(key, b"2", subject_seq=1) == 2
            found = await one.last(bucket, key)
            assert found is not None
            assert found.data == b"2"
            assert [message.data for message in await one.read(ledger, subjects.ledger())] == [b"1"]
            async with one.tail(ledger, subjects.ledger()) as messages:
                assert (await anext(messages)).data == b"1"
            async with one.consume(ledger, subjects.ledger(), durable="d") as deliveries:
                await (await anext(deliveries)).ack()
        await one.close()
    finally:
        leaf.stop()
        hub.stop()


async def _table(one: broker.NatsBroker, subjects: Subjects) -> None:
    """Make the streams, as soon as the leaf has found its hub."""
    while True:
        try:
            await streams.ensure_all(one, streams.table(subjects, artifact_bytes_max=10**8))
        except BusUnavailable:
            await asyncio.sleep(0.02)
        else:
            return
