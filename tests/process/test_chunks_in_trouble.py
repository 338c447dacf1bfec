"""Chunks of a real store that rot, or go while somebody relies on them: neither is ever a part of what is used.

corrupt     the newest checkpoint's own object is replaced by other bytes. The next worker finds it out, goes on from
            the checkpoint before, and reports it; the leader removes it from the store
collected   an uploader is held up (SIGSTOP) in the middle; what it has sent has no name, and is collected; it goes on,
            sends that again, and the artifact is whole, also after the next round
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import codec, coding, limits, metrics
from mesh.artifacts import ArtifactStore
from mesh.messages import object_names
from mesh.messages.ledger import CheckpointRecorded, Entry
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.messages.tasks import TaskState
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.objects_folder import FolderBackend
from tests.support.agent_process import DEADLINE_S
from tests.support.fleet import SUBJECTS, Fleet, fleet

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.timeout(120)]

CHECKOUT = Path(__file__).resolve().parents[2]
CHUNKS = 24


async def until(condition: Callable[[], object]) -> None:
    """Wait for another process."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def checkpoints(mesh: Fleet) -> list[CheckpointRecorded]:
    stored = await mesh.broker.read("MESH_LEDGER", SUBJECTS.ledger())
    events = [event for one in stored for event in codec.decode(one.data, Entry).events]
    return [event for event in events if isinstance(event, CheckpointRecorded)]


async def own_object(store: ArtifactStore, digest: str, older: str) -> ObjectName:
    """An object that one artifact has and an older one has not."""
    of_both = [
        {name for entry in (await store.manifest(one)).files for name in entry.objects} for one in (digest, older)
    ]
    return object_names.whole(min(of_both[0] - of_both[1]))


@pytest.mark.parametrize("home", ["broker", "folder"])
async def test_a_corrupt_chunk_is_passed_over_reported_and_removed(tmp_path: Path, home: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    chosen = {} if home == "broker" else {"RAMIFY_ARTIFACTS_BACKEND": "folder", "RAMIFY_ARTIFACTS_FOLDER": str(disk)}
    async with fleet(tmp_path, **chosen) as mesh:
        backend: ObjectBackend = JetStreamBackend(mesh.broker, SUBJECTS)
        if home == "folder":
            backend = FolderBackend(disk, SUBJECTS.prefix)
        worker = await mesh.start_worker("w1")
        await mesh.submit("t", {"seconds": 4.0, "checkpoint_s": 0.2})
        async with asyncio.timeout(DEADLINE_S):
            while len(await checkpoints(mesh)) < 2:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        await worker.stop()  # with a last checkpoint
        before, newest = (await checkpoints(mesh))[-2:]
        store = ArtifactStore(mesh.broker, SUBJECTS, cache=tmp_path / "c", cache_bytes_max=1 << 30, backend=backend)
        bad = await own_object(store, newest.manifest, before.manifest)
        await backend.put(bad, coding.RAW_HEADER + b"rotten", over=True)

        await mesh.start_worker("w2")
        ended = await mesh.ended("t")
        assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 2)
        assert ended.outcome is not None
        (said,) = ended.outcome.facts["passed_over"]
        assert said.startswith(f"checkpoint {newest.number}: ")
        assert "corrupt" in said
        assert ended.outcome.kpis["attempts"] == 2.0, "from the beginning it would be the first"
        await until(lambda: f"{bad} was corrupt in the store and is removed" in mesh.scheduler.output())
        assert not await backend.has(bad)


def begun(url: str, cache: Path, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.artifact_process", "put", url, SUBJECTS.prefix, str(cache), str(file)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip


def held_up_at(percent: int, process: subprocess.Popen[str]) -> None:
    """Stop it, as a machine that goes to sleep does, when it has come so far."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= percent:
            process.send_signal(signal.SIGSTOP)
            return
    raise AssertionError("it ended before that")


async def test_chunks_that_were_collected_meanwhile_are_sent_again(tmp_path: Path) -> None:
    body = random.Random(11).randbytes(CHUNKS * limits.CHUNK_BYTES)
    (tmp_path / "weights").write_bytes(body)
    times = {"RAMIFY_SCHEDULER_COLLECT_EVERY_S": "1", "RAMIFY_SCHEDULER_COLLECT_WAIT_S": "0.3"}
    async with fleet(tmp_path, **times) as mesh:
        backend = JetStreamBackend(mesh.broker, SUBJECTS)
        with begun(mesh.server.url, tmp_path / "c1", tmp_path / "weights") as process:
            try:
                await asyncio.to_thread(held_up_at, 50, process)
                sent = {name async for name in backend.names()}
                assert len(sent) >= CHUNKS // 3
                assert not any(name.kind == MANIFEST for name in sent)
                async with asyncio.timeout(DEADLINE_S):
                    while await backend.absent(sent) != sent:  # noqa: ASYNC110 - another process
                        await asyncio.sleep(0.05)
                process.send_signal(signal.SIGCONT)
                assert process.stdout is not None
                digest = (await asyncio.to_thread(process.stdout.read)).splitlines()[-1]
                assert await asyncio.to_thread(process.wait) == 0
            finally:
                process.kill()
        rounds = await mesh.scheduler.metric('mesh_collections_total{outcome="done"}')
        async with asyncio.timeout(DEADLINE_S):
            while await mesh.scheduler.metric('mesh_collections_total{outcome="done"}') < rounds + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        corrupt = metrics.value("mesh_artifact_corrupt_total")
        reader = ArtifactStore(mesh.broker, SUBJECTS, cache=tmp_path / "c2", cache_bytes_max=1 << 30)
        assert ((await reader.get(digest)) / "weights").read_bytes() == body
        assert metrics.value("mesh_artifact_corrupt_total") == corrupt
        names = {name async for name in backend.names()}
        assert len([name for name in names if name.kind != MANIFEST]) == CHUNKS
        assert object_names.manifest(digest) in names
