"""A running lease passes over checkpoints that its child refuses, and tells the leader which input it could not get."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

from agents.holdings import Begin
from agents.worker_task import Running, Tools
from executors.frames import Finished, Start
from executors.port import Runtime
from mesh.errors import ArtifactCorrupt, ArtifactMissing
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass, FailureFound, ResultFound
from mesh.messages.leases import Lease, OlderCheckpoint
from mesh.messages.tasks import TaskSpec

NEWEST, OLDER, INPUT = "a" * 64, "b" * 64, "c" * 64


class Mesh:
    """Everything that a running lease uses, and what it did with it."""

    pid, step, silent_s, runs = 1, 0, 0.0, 0

    def __init__(self, folder: Path, *, refused: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> None:
        self.refused, self.missing = refused, missing
        self.started: list[Start] = []
        self.owed: list[Any] = []
        self.tools = Tools(
            worker="w", incarnation="w.1", store=cast(Any, self), pool=cast(Any, self), packer=cast(Any, self),
            debts=cast(Any, self), scratch=folder, runtimes={"noop": Runtime.LIGHT}, gpu_numbers=(),
            light=asyncio.Semaphore(1),
        )  # fmt: skip

    # the store
    async def get(self, digest: str, *, progress: object = None) -> Path:
        if digest in self.missing:
            raise ArtifactMissing("an object is not in the store", digest=digest)
        return Path("/cache") / digest

    def hold(self, *digests: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    # the pool, and its child
    async def take(self, runtime: Runtime) -> Mesh:
        return self

    def give(self, child: Mesh) -> None:
        """Back again."""

    async def run(self, start: Start, bounds: object, hear: object) -> Finished:
        self.started.append(start)
        if Path(start.resume).name in self.refused:
            raise ArtifactCorrupt("the checkpoint does not fit this task")
        return Finished(
            run=start.run, outputs={}, media={}, facts_of={}, kpis={}, stopped_by="finished", facts={}, exact=True
        )

    # the packer
    def drop(self, folder: Path) -> None:
        """Nothing was packed."""

    # the debts
    async def owe(self, row: Any) -> None:
        self.owed.append(row)


def lease(**inputs: str) -> Lease:
    return Lease(
        task=TaskSpec(id="t", topic="t", executor="noop", inputs=inputs), epoch=Epoch(1, 2), attempt=2, resume=NEWEST,
        checkpoint_number=9, trained_s=90.0, older=(OlderCheckpoint(manifest=OLDER, number=7, trained_s=70.0),),
    )  # fmt: skip


async def run(mesh: Mesh, lease: Lease) -> ResultFound | FailureFound:
    async with asyncio.timeout(10.0):
        await Running(Begin(lease, ()), mesh.tools).run()
    (row,) = mesh.owed
    assert isinstance(row, ResultFound | FailureFound)
    return row


async def test_the_newest_is_resumed_with_its_time_and_number(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    row = await run(mesh, lease())
    (start,) = mesh.started
    assert (Path(start.resume).name, start.trained_s, start.checkpoint_number) == (NEWEST, 90.0, 9)
    assert isinstance(row, ResultFound)
    assert row.outcome.facts == {}


async def test_a_checkpoint_that_the_child_refuses_is_passed_over(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, refused=(NEWEST,))
    row = await run(mesh, lease())
    assert [(Path(one.resume).name, one.trained_s, one.checkpoint_number) for one in mesh.started] == [
        (NEWEST, 90.0, 9),
        (OLDER, 70.0, 9),  # the number goes on from the newest that is recorded
    ]
    assert isinstance(row, ResultFound)
    assert row.outcome.facts == {"passed_over": ["checkpoint 9: the checkpoint does not fit this task"]}
    assert 70.0 <= row.outcome.seconds < 90.0


async def test_without_a_usable_one_the_training_begins_anew(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, refused=(NEWEST,), missing=(OLDER,))
    row = await run(mesh, lease())
    assert [(one.resume, one.trained_s) for one in mesh.started][-1] == ("", 0.0)
    assert isinstance(row, ResultFound)
    assert len(row.outcome.facts["passed_over"]) == 2


async def test_an_input_that_is_not_there_is_named_and_no_failure_of_the_task(tmp_path: Path) -> None:
    row = await run(Mesh(tmp_path, missing=(INPUT,)), lease(data=INPUT))
    assert isinstance(row, FailureFound)
    assert (row.failure, row.missing) == (FailureClass.RETRY, (INPUT,))
