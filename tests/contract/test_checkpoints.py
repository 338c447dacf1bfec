"""Checkpoints and a stream that is full: they wait, the newest goes out by itself when there is room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents import worker_checkpoints
from agents.worker_checkpoints import Checkpoints
from executors.frames import Snapshotted
from mesh import bus, streams
from mesh.artifacts import ArtifactStore
from mesh.messages import object_names
from mesh.messages.base import Epoch
from mesh.messages.commands import CheckpointMade
from mesh.objects import JetStreamBackend
from tests.contract.conftest import World, until
from tests.support.packing import PackerAtHand
from tests.support.snapshots import STATE, TENSORS, a_step_later, buffer_of, tensors_file, weights

FILLER = object_names.whole("f" * 64)


def store_in(broker: bus.Broker, world: World, folder: Path) -> ArtifactStore:
    return ArtifactStore(broker, world.subjects, cache=folder, cache_bytes_max=10**9)


async def test_a_full_stream_pauses_checkpoints_until_there_is_room(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_checkpoints, "PAUSE_S_FIRST", 0.01)
    monkeypatch.setattr(worker_checkpoints, "PAUSE_S_MAX", 0.05)
    broker = await world.connect()
    await streams.ensure_all(broker, streams.table(world.subjects, artifact_bytes_max=400_000))
    owed, released = list[CheckpointMade](), list[int]()

    async def owe(row: CheckpointMade) -> None:
        owed.append(row)

    checkpoints = Checkpoints(
        "task", Epoch(1, 1), "w1.1", store_in(broker, world, tmp_path / "mine"), PackerAtHand(tmp_path), owe,
        tmp_path / "packed",
    )  # fmt: skip
    states = [weights(20_000, seed=1)]
    for number in (2, 3):
        states.append(a_step_later(states[-1], seed=number))
    files = [{TENSORS: tensors_file({"w": body}), STATE: b"state"} for body in states]

    def snapshot(number: int) -> None:
        path = tmp_path / f"buffer{number}"
        spans = buffer_of(path, files[number - 1])
        made = Snapshotted(run=1, number=number, step=number, best=False, trained_s=0.0, buffer=str(path), files=spans)
        checkpoints.take(made, lambda lacked_room: released.append(number))

    snapshot(1)
    await checkpoints.flush()
    backend = JetStreamBackend(broker, world.subjects)
    await backend.put(FILLER, os.urandom(320_000))
    snapshot(2)
    await until(lambda: "full" in checkpoints.paused)
    snapshot(3)
    await until(lambda: 3 in released)
    assert [row.key.number for row in owed] == [1]
    await backend.remove(FILLER)
    await checkpoints.flush()
    assert ([row.key.number for row in owed], checkpoints.paused) == ([1, 3], "")
    other = store_in(await world.connect("b"), world, tmp_path / "other")
    for row, expected in zip(owed, (files[0], files[2]), strict=True):
        folder = await other.get(row.manifest)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    await checkpoints.close()
