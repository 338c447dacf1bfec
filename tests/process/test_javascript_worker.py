"""A worker in another language takes part: it reads the same page of the protocol as everybody."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.artifacts import ArtifactStore
from mesh.messages.tasks import TaskState
from tests.support.fleet import FAST, SUBJECTS, Fleet, fleet
from tests.support.javascript import JavaScriptWorker, worker_program

pytestmark = [pytest.mark.process, pytest.mark.server]

PAYLOAD_BYTES = 700_000
"""Two objects."""


@contextlib.asynccontextmanager
async def in_javascript(mesh: Fleet, name: str) -> AsyncIterator[JavaScriptWorker]:
    """One more worker of this mesh."""
    settings = {**FAST, "NATS_URL": mesh.server.url, "RAMIFY_WORKER_NAME": name}
    worker = await JavaScriptWorker.start(worker_program(), mesh.folder / name, **settings)
    try:
        yield worker
    finally:
        await worker.kill()


async def test_it_finishes_a_task_and_hands_another_one_on(tmp_path: Path) -> None:
    async with fleet(tmp_path) as mesh, in_javascript(mesh, "js") as worker:
        await mesh.submit("made", {"seconds": 0.2, "payload_bytes": PAYLOAD_BYTES})
        made = await mesh.ended("made")
        assert made.outcome is not None, worker.output.read_text()
        assert made.incarnation.startswith("js.")
        assert made.outcome.kpis["attempts"] == 1.0
        store = ArtifactStore(mesh.broker, SUBJECTS, cache=tmp_path / "cache", cache_bytes_max=1 << 30)
        payload = await store.get(made.outcome.outputs["payload"])
        assert sum(file.stat().st_size for file in payload.rglob("*") if file.is_file()) == PAYLOAD_BYTES

        await mesh.submit("refused", {"seconds": -1})
        refused = await mesh.ended("refused")
        assert refused.state is TaskState.PARKED
        assert "noop's seconds" in refused.reason

        await mesh.submit("moved", {"seconds": 2.0, "checkpoint_s": 0.2})
        await mesh.checkpointed("moved")
        assert await worker.stop() == 0, worker.output.read_text()
        await mesh.start_worker("w1")
        moved = await mesh.ended("moved")
        assert moved.outcome is not None
        assert moved.incarnation.startswith("w1.")
        assert moved.outcome.kpis["attempts"] == 2.0  # it went on from a checkpoint that JavaScript wrote
        assert await mesh.lost_leases("moved") == ["given-back"]
