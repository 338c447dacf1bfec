"""A lease with GPUs: what becomes of it when they fail, are silent, or run out of memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from agents.holdings import Begin
from agents.owed import Debts
from agents.worker_devices import Devices, Fitted
from agents.worker_task import Running, Tools
from executors.breaker import BreakerPolicy
from executors.frames import Checkpointed, Finished, Frame, Placed, Start
from executors.isolation import Bounds, Child
from executors.pool import Pool
from executors.port import Runtime
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.errors import DeviceBroke, NonFinite, OutOfMemory
from mesh.messages.base import Epoch
from mesh.messages.commands import FailureClass, FailureFound, GiveBack, ResultFound
from mesh.messages.leases import Lease
from mesh.messages.tasks import Needs, TaskSpec
from mesh.subjects import Subjects
from tests.support.gate import Gate
from tests.support.packing import PackerAtHand

Script = Callable[["Scripted", Start], Any]


class Scripted:
    """A child in name that does what a script says."""

    runtime = Runtime.TORCH
    runs, pid, silent_s, step = 0, 1, 0.0, 0

    def __init__(self, script: Script) -> None:
        self._script = script
        self.hear: Callable[[Frame], None] = lambda frame: None
        self.killed = False

    async def run(self, start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Any:
        self.hear = hear
        try:
            return await self._script(self, start)
        except asyncio.CancelledError:
            self.killed = True
            raise


async def works(child: Scripted, start: Start) -> Finished:
    if start.gpus:
        child.hear(Placed(run=1))
    return Finished(run=1, outputs={}, kpis={}, stopped_by="epochs", facts={}, exact=True, media={}, facts_of={})


async def is_silent(child: Scripted, start: Start) -> Finished:
    await asyncio.sleep(3_600)
    raise AssertionError("nobody killed it")


def fails(error: Exception, *before: Frame) -> Script:
    async def script(child: Scripted, start: Start) -> Finished:
        child.hear(Placed(run=1))
        for frame in before:
            child.hear(frame)
        raise error

    return script


class Stage:
    """A lease of GPU 3, run in scripted children, one after the other."""

    def __init__(self, folder: Path, *scripts: Script, memory_attempts: int = 0, timeout_s: float = 30.0) -> None:
        self.children = [Scripted(script) for script in scripts]
        self.started: list[Start] = []
        self.owed: list[Any] = []
        stage, waiting = self, list(self.children)

        class InTurn:
            async def take(self, runtime: Runtime) -> Child:
                child = waiting.pop(0)
                run = child.run

                async def noted(start: Start, bounds: Bounds, hear: Callable[[Frame], None]) -> Any:
                    stage.started.append(start)
                    return await run(start, bounds, hear)

                child.run = noted  # type: ignore[method-assign]
                return cast(Child, child)

            def give(self, child: Child) -> None: ...

        class Owing:
            async def owe(self, row: Any) -> None:
                stage.owed.append(row)

        (folder / "scratch").mkdir(exist_ok=True)
        store = ArtifactStore(
            cast(Log, None), Subjects(), cache=folder / "cache", cache_bytes_max=10**9, backend=Gate()
        )
        self.tools = Tools(
            worker="w1", incarnation="w1.0001", store=store, pool=cast(Pool, InTurn()), packer=PackerAtHand(folder),
            debts=cast(Debts, Owing()), scratch=folder / "scratch", runtimes={"train": Runtime.TORCH}, gpu_numbers=(3,),
            light=asyncio.Semaphore(1), devices=Devices(BreakerPolicy(timeout_s=timeout_s)),
            fitted=Fitted(folder / "fitted.json"),
        )  # fmt: skip
        needs = Needs(gpus=1, gpu_memory_bytes=7 << 30)
        spec = TaskSpec(id="task", topic="topic", executor="train", needs=needs)
        lease = Lease(task=spec, epoch=Epoch(1, 1), attempt=1, memory_attempts=memory_attempts)
        self.running = Running(Begin(lease, (0,), 7 << 30), self.tools)


async def test_a_lease_runs_on_the_gpu_that_it_was_given_within_its_share(tmp_path: Path) -> None:
    stage = Stage(tmp_path, works)
    await stage.running.run()
    assert [(start.gpus, start.gpu_memory_bytes, start.aside) for start in stage.started] == [((3,), 7 << 30, "")]
    assert isinstance(stage.owed[0], ResultFound)


async def test_a_device_that_fails_at_first_leaves_the_task_to_the_cpu(tmp_path: Path) -> None:
    stage = Stage(tmp_path, fails(DeviceBroke("CUDA error: uncorrectable ECC error")), works)
    await stage.running.run()
    assert [start.gpus for start in stage.started] == [(3,), ()]
    assert "uncorrectable ECC" in stage.started[1].aside
    assert stage.started[1].gpu_memory_bytes == 0
    assert [type(row) for row in stage.owed] == [ResultFound], "no failure is counted"


async def test_a_silent_device_costs_its_timeout_and_a_child(tmp_path: Path) -> None:
    stage = Stage(tmp_path, is_silent, works, timeout_s=0.05)
    await stage.running.run()
    assert stage.children[0].killed
    assert [start.gpus for start in stage.started] == [(3,), ()]
    assert "proved nothing within 0.05 s" in stage.started[1].aside


async def test_one_that_has_proved_itself_may_take_its_time(tmp_path: Path) -> None:
    async def slow(child: Scripted, start: Start) -> Finished:
        child.hear(Placed(run=1))
        await asyncio.sleep(0.15)
        return await works(child, start)

    stage = Stage(tmp_path, slow, timeout_s=0.05)
    await stage.running.run()
    assert [start.gpus for start in stage.started] == [(3,)]


async def test_after_a_checkpoint_the_lease_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "task.1-1" / "checkpoints" / "000001"
    made = Checkpointed(run=1, folder=str(folder), number=1, step=10, best=False, trained_s=5.0)
    stage = Stage(tmp_path, fails(DeviceBroke("CUDA error: the launch timed out"), made))
    await stage.running.run()
    (row,) = [row for row in stage.owed if not hasattr(row, "manifest")]
    assert isinstance(row, GiveBack)
    assert "launch timed out" in row.reason


async def test_an_open_breaker_sends_the_next_task_to_the_cpu_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, works)
    for _ in range(3):
        stage.tools.devices.use((3,)).failed("lost")
    await stage.running.run()
    assert stage.started[0].gpus == ()
    assert stage.started[0].aside.startswith("GPU 3 failed 3 times in a row (lost)")


async def test_errors_of_the_task_itself_say_that_the_device_computes(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        stage = Stage(tmp_path / str(number), fails(NonFinite("the loss became nan")))
        await stage.running.run()
        assert isinstance(stage.owed[0], FailureFound)
        assert stage.tools.devices.use((3,)).gpus == (3,)


@pytest.mark.parametrize(("failures", "gpus", "halvings"), [(0, (3,), 1), (2, (3,), 3), (3, (), 4)])
async def test_out_of_memory_goes_down_the_ladder_and_is_remembered(
    tmp_path: Path, failures: int, gpus: tuple[int, ...], halvings: int
) -> None:
    stage = Stage(tmp_path, fails(OutOfMemory("did not fit")), memory_attempts=failures)
    await stage.running.run()
    assert (stage.started[0].gpus, stage.started[0].memory_attempts) == (gpus, failures)
    assert stage.owed[0].failure is FailureClass.MEMORY
    again = Stage(tmp_path, works, memory_attempts=0 if gpus else 3)
    await again.running.run()
    assert again.started[0].memory_attempts == halvings, "a twin begins where it may fit"
