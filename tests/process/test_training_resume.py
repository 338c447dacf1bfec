"""A training that is stopped and goes on ends with the bits of one that was not: real children, packer and store.

The worker that goes on has an empty cache. The newest checkpoint may be damaged or gone: then an older recorded one is
taken, and nothing else changes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from executors.checkpoint import STATE, TENSORS
from mesh import codec
from mesh.cache import remove_folder
from mesh.messages.artifacts import Manifest
from mesh.messages.base import Facts
from mesh.messages.object_names import ObjectName
from mesh.messages.results import TaskEnded, TaskMoved
from mesh.messages.tasks import Needs, Outcome, TaskState
from mesh.objects import JetStreamBackend
from tests.process.test_worker import Mesh, children
from tests.support.splits import write_table_split

pytestmark = pytest.mark.process

TRAIN: Facts = {
    "hidden": [64],
    "epochs_max": 120,
    "patience": 10_000,
    "checkpoint_s": 0.1,
    "checkpoint_overhead": 1.0,
    "linear_path": False,
}
"""Some 3,000 steps of a millisecond."""


async def submitted(mesh: Mesh, folder: Path) -> str:
    """A training of three classes of points."""
    generator = np.random.default_rng(4)
    x = generator.normal(size=(900, 6))
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0.3).astype(int) + (x[:, 3] > 0.8)
    inputs = {}
    for name, rows in (("train", slice(0, 700)), ("validation", slice(700, 900))):
        split = write_table_split(folder / name, x[rows], y[rows].tolist(), "abc", [f"f{i}" for i in range(6)])
        inputs[name] = await mesh.store.put(split, media="split")
    needs = Needs(cores=1.0, memory_bytes=256 << 20, disk_bytes=1 << 20)
    return await mesh.submit(executor="classify", settings=TRAIN, inputs=inputs, needs=needs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the training comes to when nobody moves it."""

    async def run() -> TaskEnded:
        folder = tmp_path_factory.mktemp("whole")
        mesh = Mesh(folder)
        async with mesh.leading(), mesh.worker():
            return await mesh.ended(await submitted(mesh, folder), 90.0)

    ended = asyncio.run(run())
    assert ended.outcome is not None
    return ended.outcome


async def newest_checkpoints(mesh: Mesh, task: str) -> list[Manifest]:
    """The manifest of the newest recorded checkpoint, and of those that are stored and not recorded yet."""
    moves = [record for record in await mesh.results() if isinstance(record, TaskMoved) and record.task == task]
    step = max(record.checkpoint_step for record in moves if record.checkpoint_step is not None)
    backend, found = JetStreamBackend(mesh.bus, mesh.subjects), []
    async for name in backend.names():
        data = await backend.get(name) if name.kind == "m" else None
        if data is not None and (manifest := codec.decode(data, Manifest)).media == "checkpoint":
            found.append(manifest)
    newest = [manifest for manifest in found if manifest.facts["step"] >= step]
    assert len(found) > len(newest) > 0, "there is no older one to fall back to"
    return newest


def stored_name(manifest: Manifest, path: str) -> ObjectName:
    """The last object of one of its files."""
    (entry,) = (one for one in manifest.files if one.path == path)
    base = entry.bases[-1] if entry.bases else ""
    return ObjectName("d" if base else "c", entry.objects[-1], base)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("damage", ["", "torn", "missing"])
async def test_it_ends_with_the_same_bits_in_another_life(tmp_path: Path, whole: Outcome, damage: str) -> None:
    mesh = Mesh(tmp_path)
    async with mesh.leading():
        async with mesh.worker():
            task = await submitted(mesh, tmp_path)
            for _ in range(2):
                seen = await mesh.moved(task, lambda record: record.checkpoint_step is not None)
            assert seen.state is TaskState.LEASED
        assert children() == []
        backend = JetStreamBackend(mesh.bus, mesh.subjects)
        for newest in await newest_checkpoints(mesh, task):
            if damage == "torn":
                name = stored_name(newest, TENSORS)
                stored = await backend.get(name)
                assert stored is not None
                await backend.put(name, stored[: len(stored) // 2], over=True)
            elif damage == "missing":
                assert await backend.remove(stored_name(newest, STATE))
        await asyncio.to_thread(remove_folder, mesh.folder() / "cache")
        async with mesh.worker():
            ended = await mesh.ended(task, 90.0)
    assert ended.outcome is not None
    facts = ended.outcome.facts
    assert ended.attempts == 2
    assert (facts["state"], facts["trace"]) == (whole.facts["state"], whole.facts["trace"])
    assert ended.outcome.exact
    passed_over = facts.get("passed_over", [])
    assert bool(passed_over) == bool(damage), passed_over
