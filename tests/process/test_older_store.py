"""A real server whose store is copied back to an older state: nothing that a worker still has is missing afterwards.

before the copy   a: done, then one of its chunks is lost; b, plain: planned
after it          b, plain: done; late: planned and done
the copy is back  every result is on record once, every output can be fetched, no epoch is given a second time
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.errors import ArtifactMissing
from mesh.messages import object_names
from mesh.messages.ledger import AnyEvent, CheckpointRecorded, Entry, Restored, TaskLeased, TaskReopened, TaskSucceeded
from mesh.messages.results import TaskEnded
from mesh.messages.tasks import TaskState
from tests.support.agent_process import DEADLINE_S
from tests.support.fleet import SUBJECTS, Fleet, fleet

pytestmark = [pytest.mark.process, pytest.mark.server]

PAYLOAD = {"payload_bytes": 1_500_000}
"""Three chunks."""


async def events(mesh: Fleet) -> list[AnyEvent]:
    stored = await mesh.broker.read("MESH_LEDGER", SUBJECTS.ledger())
    return [event for one in stored for event in codec.decode(one.data, Entry).events]


async def checkpoints(mesh: Fleet) -> list[CheckpointRecorded]:
    return [event for event in await events(mesh) if isinstance(event, CheckpointRecorded)]


async def recorded(mesh: Fleet, *tasks: str) -> list[TaskSucceeded]:
    """The results in the ledger as it is now, once all of these tasks have one."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = [event for event in await events(mesh) if isinstance(event, TaskSucceeded)]
            if {event.task for event in found} >= set(tasks):
                return found
            await asyncio.sleep(0.1)


async def fetched(mesh: Fleet, digest: str, folder: Path) -> bytes:
    """An output, by somebody who has nothing of it; waited for."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            store = ArtifactStore(mesh.broker, SUBJECTS, cache=folder, cache_bytes_max=1 << 30)
            try:
                return (await store.get(digest) / "payload").read_bytes()
            except ArtifactMissing:
                await asyncio.sleep(0.1)


async def lose_a_chunk(mesh: Fleet, digest: str, folder: Path) -> None:
    """One object of an artifact is not in the store any more."""
    store = ArtifactStore(mesh.broker, SUBJECTS, cache=folder, cache_bytes_max=1 << 30)
    chunk = (await store.manifest(digest)).files[0].objects[1]
    assert await mesh.broker.purge("MESH_ARTIFACTS", subject=SUBJECTS.stored(object_names.whole(chunk))) == 1
    assert await store.missing(digest)


async def swap_store(mesh: Fleet, *, take: Path | None = None, give: Path | None = None) -> None:
    """Stop the server, copy its store away or another one into its place, start it."""
    await asyncio.to_thread(mesh.server.stop)
    store = mesh.folder / "nats" / "store"
    if take is not None:
        await asyncio.to_thread(shutil.copytree, store, take)
    if give is not None:
        await asyncio.to_thread(shutil.rmtree, store)
        await asyncio.to_thread(shutil.copytree, give, store)
    await asyncio.to_thread(mesh.server.start)
    await mesh.answering()


def output(ended: TaskEnded) -> str:
    assert ended.state is TaskState.SUCCEEDED, ended.reason
    assert ended.outcome is not None
    return ended.outcome.outputs["payload"]


async def test_a_store_that_comes_back_older_misses_no_result_and_no_artifact(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with fleet(tmp_path) as mesh:
        worker = await mesh.start_worker("w1")
        await mesh.submit("a", PAYLOAD)
        made = {"a": output(await mesh.ended("a"))}
        await worker.stop()
        await lose_a_chunk(mesh, made["a"], tmp_path / "look")
        await mesh.submit("b", PAYLOAD)
        await mesh.submit("plain", {})
        await swap_store(mesh, take=copy)
        await mesh.start_worker("w1")
        await mesh.submit("late", PAYLOAD)
        for name in ("b", "late"):
            made[name] = output(await mesh.ended(name))
        await mesh.ended("plain")
        before = [event for event in await events(mesh) if isinstance(event, TaskLeased)]
        await swap_store(mesh, give=copy)
        await recorded(mesh, "a", "b", "plain")
        await mesh.submit("late", PAYLOAD)  # as the planner does, when the topic is published again
        results = await recorded(mesh, "a", "b", "plain", "late")
        assert Counter(event.task for event in results) == {"a": 1, "b": 1, "plain": 1, "late": 1}
        for name, digest in made.items():
            assert len(await fetched(mesh, digest, tmp_path / f"fetched-{name}")) == PAYLOAD["payload_bytes"]
        now = await events(mesh)
        assert [event.generation for event in now if isinstance(event, Restored)] == [2]
        restored_at = next(index for index, event in enumerate(now) if isinstance(event, Restored))
        given = [event for event in now[restored_at:] if isinstance(event, TaskLeased)]
        twice = {(one.task, one.epoch) for one in before} & {(one.task, one.epoch) for one in given}
        assert twice == set()
        assert [event for event in now if isinstance(event, TaskReopened)] == []


async def test_an_output_that_nobody_has_any_more_is_made_anew_for_who_needs_it(tmp_path: Path) -> None:
    async with fleet(tmp_path) as mesh:
        worker = await mesh.start_worker("w1")
        await mesh.submit("make", PAYLOAD)
        digest = output(await mesh.ended("make"))
        await lose_a_chunk(mesh, digest, tmp_path / "look")
        await worker.stop()
        cached = tmp_path / "w1" / "workers" / "w1" / "cache" / digest
        assert cached.is_dir()
        await asyncio.to_thread(shutil.rmtree, cached, ignore_errors=True)
        await mesh.start_worker("w1")
        await mesh.submit("use", {}, inputs={"model": digest})
        assert (await mesh.ended("use")).state is TaskState.SUCCEEDED
        (reopened,) = [event for event in await events(mesh) if isinstance(event, TaskReopened)]
        assert (reopened.task, reopened.waiting) == ("make", ("use",))
        results = Counter(event.task for event in await events(mesh) if isinstance(event, TaskSucceeded))
        assert results == {"make": 2, "use": 1}
        assert len(await fetched(mesh, digest, tmp_path / "fetched")) == PAYLOAD["payload_bytes"]


async def test_a_task_goes_on_from_an_older_checkpoint_when_the_newest_is_torn(tmp_path: Path) -> None:
    async with fleet(tmp_path) as mesh:
        worker = await mesh.start_worker("w1")
        await mesh.submit("t", {"seconds": 6.0, "checkpoint_s": 0.3})
        async with asyncio.timeout(DEADLINE_S):
            while len(await checkpoints(mesh)) < 3:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        await worker.stop()  # with a last checkpoint
        made = await checkpoints(mesh)
        lost = made[-1]
        name = object_names.manifest(lost.manifest)
        assert await mesh.broker.purge("MESH_ARTIFACTS", subject=SUBJECTS.stored(name)) == 1
        await mesh.start_worker("w2")
        ended = await mesh.ended("t")
        assert ended.outcome is not None
        assert (ended.state, ended.attempts) == (TaskState.SUCCEEDED, 2)
        (said,) = ended.outcome.facts["passed_over"]
        assert said.startswith(f"checkpoint {lost.number}: ")
        assert ended.outcome.kpis["attempts"] == 2.0, "from the beginning it would be the first"
        numbers = [one.number for one in await checkpoints(mesh)]
        assert numbers == sorted(set(numbers))
