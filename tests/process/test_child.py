"""Real children: whatever they do, the worker's side gets a typed answer in bounded time, and nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import pytest_asyncio

from executors import isolation
from executors.frames import Checkpointed, Finished, Frame, Halted, Heeds, Progressed, Snapshotted, Start
from executors.isolation import Bounds, Child
from executors.pool import Pool
from executors.port import Runtime
from mesh import metrics, platform, tracing
from mesh.errors import ArtifactCorrupt, ChildBroke, OutOfMemory, Reject, Retry
from tests.support import unruly

pytestmark = pytest.mark.process

BOUNDS = Bounds(wall_s=60.0, stall_s=30.0, memory_bytes=256 << 20)


class Bench:
    """A child, what it said, and a way to give it tasks."""

    def __init__(self, child: Child, folder: Path, said: list[str]) -> None:
        self.child, self.folder, self.said = child, folder, said
        self.heard: list[Frame] = []

    def start(self, kind: str = "noop", version: int = 1, task: str = "t1", **settings: Any) -> Start:
        run = self.child.runs + 1
        scratch = self.folder / f"run{run}"
        scratch.mkdir()
        return Start(
            run=run, task=task, kind=kind, kind_version=version, settings=settings, inputs={}, scratch=str(scratch),
            cores=1.0, memory_bytes=0, budget_s=60.0,
        )  # fmt: skip

    async def run(self, start: Start, bounds: Bounds = BOUNDS) -> Finished | Halted:
        return await self.child.run(start, bounds, self.heard.append)

    async def misbehave(self, how: str, bounds: Bounds = BOUNDS) -> Finished | Halted:
        return await self.run(self.start("unruly", 3, how=how), bounds)

    async def nth(self, number: int) -> Frame:
        """The frame that was heard as this one, counted from 1."""
        await until(lambda: len(self.heard) >= number)
        return self.heard[number - 1]

    async def until(self, wanted: type[Frame]) -> Any:
        await until(lambda: any(isinstance(frame, wanted) for frame in self.heard))
        return next(frame for frame in self.heard if isinstance(frame, wanted))


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", str(unruly.install(tmp_path / "site")))
    monkeypatch.setenv("NATS_PASSWORD", "secret")
    said: list[str] = []
    child = await Child.start(Runtime.LIGHT, folder=tmp_path, threads=1, say=said.append)
    yield Bench(child, tmp_path, said)
    await child.close()
    assert gone(child.pid)


def gone(pid: int) -> bool:
    """True when no process of this id is left but a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only shows from outside; fails after 30 seconds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    await until(lambda: gone(pid))


async def test_a_light_child_says_what_it_can_and_serves_task_after_task(bench: Bench) -> None:
    assert bench.child.ready is not None
    assert bench.child.ready.kinds["noop"].runtime is Runtime.LIGHT
    assert bench.child.ready.kinds["unruly"].version == 3
    assert bench.child.ready.fingerprint["python"] == sys.version.split()[0]
    for size in (10, 20):
        ending = await bench.run(bench.start(payload_bytes=size))
        assert isinstance(ending, Finished)
        assert Path(ending.outputs["payload"]).stat().st_size == size
        assert ending.stopped_by == "finished"


async def test_prints_and_foreign_bytes_on_stdout_never_reach_the_frames(bench: Bench) -> None:
    ending = await bench.misbehave("print")
    assert isinstance(ending, Finished)
    assert ending.kpis == {"x": 1.0}
    await bench.child.close()
    assert "this is no frame" in bench.said
    assert any(line.endswith("nor is this") for line in bench.said)
    assert all(line.isprintable() for line in bench.said)


async def test_what_it_tells_belongs_to_the_task_that_it_runs(bench: Bench) -> None:
    """A child serves task after task, and was started by yet another one."""
    for _ in range(2):
        told: list[tracing.Trace | None] = []
        with tracing.within(tracing.begin()) as span:
            start = bench.start(seconds=0.3, checkpoint_s=0.1)
            await bench.child.run(start, BOUNDS, lambda _, told=told: told.append(tracing.current()))
        assert set(told) == {span}


async def test_a_child_knows_nothing_of_the_broker(bench: Bench) -> None:
    environment = psutil.Process(bench.child.pid).environ()
    assert not [name for name in environment if name.startswith(("NATS_", "RAMIFY_"))]


async def test_libraries_in_a_child_fetch_nothing_by_themselves(bench: Bench) -> None:
    environ = psutil.Process(bench.child.pid).environ()
    assert (environ["HF_HUB_OFFLINE"], environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")


async def test_it_leads_a_group_of_its_own(bench: Bench) -> None:
    assert os.getpgid(bench.child.pid) == bench.child.pid != os.getpgid(0)


async def test_progress_checkpoints_and_a_stop_on_request(bench: Bench) -> None:
    running = asyncio.create_task(bench.run(bench.start(seconds=600.0, checkpoint_s=0.1)))
    checkpoint = await bench.until(Checkpointed)
    assert Path(checkpoint.folder).is_dir()
    assert (checkpoint.number, checkpoint.best) == (1, False)
    assert isinstance(await bench.until(Progressed), Progressed)
    bench.child.halt("checkpoint")
    assert isinstance(await running, Halted)
    ending = await bench.run(bench.start(task="next"))
    assert isinstance(ending, Finished), "the halt was for the task before"


async def test_snapshots_are_handed_over_and_released(bench: Bench) -> None:
    start = msgspec.structs.replace(bench.start("unruly", 3, how="snapshots"), packs=True)
    running = asyncio.create_task(bench.run(start))
    for number in (1, 2):
        taken = await bench.nth(number)
        assert isinstance(taken, Snapshotted)
        assert (taken.number, taken.step, taken.skipped, taken.trained_s) == (number, 10 * number, number - 1, 1.5)
        data = Path(taken.buffer).read_bytes()
        assert {file.path: data[file.offset : file.offset + file.size_bytes] for file in taken.files} == {
            "a": b"0123", "b": b"456789",
        }  # fmt: skip
        bench.child.release(99, 2)  # of another run: nobody listens
        bench.child.release(start.run, number, unreadable=number == 2, lacked_room=number == 1)
    ending = await running
    assert isinstance(ending, Finished)
    assert ending.kpis == {"packs": 1.0, "packs_at_the_end": 0.0, "lacked_room": 1.0}


async def test_a_task_is_asked_to_save_and_goes_on(bench: Bench) -> None:
    running = asyncio.create_task(bench.misbehave("asked"))
    await bench.until(Progressed)
    bench.child.save()
    await until(lambda: any(isinstance(frame, Progressed) and frame.step == 1 for frame in bench.heard))
    bench.child.save()
    assert isinstance(await running, Finished)
    assert [type(frame) for frame in bench.heard].count(Heeds) == 1, "it is told once that it looks"


async def test_a_checkpoint_that_can_not_be_continued_from_is_named_so(bench: Bench, tmp_path: Path) -> None:
    """Not a reason to set the task aside: an older checkpoint may do."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    start = msgspec.structs.replace(bench.start(), resume=str(folder))
    with pytest.raises(ArtifactCorrupt, match="none of noop's"):
        await bench.run(start)


@pytest.mark.parametrize(("fail", "error"), [("retry", Retry), ("reject", Reject), ("memory", OutOfMemory)])
async def test_a_kinds_own_failure_keeps_its_class_and_reason(bench: Bench, fail: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="noop was asked") as caught:
        await bench.run(bench.start(fail=fail))
    assert type(caught.value) is error
    assert gone(bench.child.pid)


async def test_what_can_not_be_run_is_rejected_with_a_sentence(bench: Bench, tmp_path: Path) -> None:
    pool = Pool(folder=tmp_path, threads=1, say=bench.said.append)
    starts: list[tuple[str, int, dict[str, Any]]] = [
        ("noop", 1, {"seconds": -1}),
        ("noop", 9, {}),
        ("nothing", 1, {}),
        ("noop", 1, {"unknown": 1}),
    ]
    for (kind, version, settings), words in zip(starts, ("0 to 3600", "update", "nothing", "unknown"), strict=True):
        bench.child = await pool.take(Runtime.LIGHT)
        bench.folder = tmp_path / words.replace(" ", "")
        bench.folder.mkdir()
        with pytest.raises(Reject, match=words.replace("3600", "3,?600")):
            await bench.run(bench.start(kind, version, **settings))
    await pool.close()


async def test_outputs_outside_the_scratch_folder_are_refused(bench: Bench) -> None:
    with pytest.raises(Reject, match="must lie below"):
        await bench.misbehave("outside")


async def test_a_crash_is_told_with_the_last_words(bench: Bench) -> None:
    with pytest.raises(ChildBroke, match="exit code 66"):
        await bench.run(bench.start(fail="crash"))


async def test_kill_9_is_told_at_once(bench: Bench) -> None:
    running = asyncio.create_task(bench.run(bench.start(seconds=600.0)))
    await bench.until(Progressed)
    os.kill(bench.child.pid, signal.SIGKILL)
    with pytest.raises(ChildBroke, match="killed from outside"):
        await running


async def test_a_kill_by_the_systems_memory_killer_is_told_as_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = asyncio.create_task(bench.run(bench.start(seconds=600.0)))
    await bench.until(Progressed)
    monkeypatch.setattr(platform, "memory_kills", lambda: 2**40)
    os.kill(bench.child.pid, signal.SIGKILL)
    with pytest.raises(OutOfMemory, match=r"system killed the child \(signal 9\) for lack of memory"):
        await running


async def test_a_child_that_dies_idle_fails_the_next_task_and_no_other(bench: Bench) -> None:
    os.kill(bench.child.pid, signal.SIGKILL)
    with pytest.raises(ChildBroke):
        await bench.run(bench.start())
    assert not bench.child.alive


async def test_silence_is_ended_after_the_stall_limit(bench: Bench) -> None:
    before = metrics.value("mesh_child_kills_total", reason="silence")
    with pytest.raises(ChildBroke, match=r"no sign of life for 0\.3 s"):
        await bench.run(bench.start(fail="hang"), Bounds(wall_s=60.0, stall_s=0.3, memory_bytes=0))
    assert gone(bench.child.pid)
    assert metrics.value("mesh_child_kills_total", reason="silence") == before + 1
    assert metrics.value("mesh_child_start_seconds") >= 1


async def test_wall_time_is_ended_although_it_gives_signs_of_life(bench: Bench) -> None:
    with pytest.raises(ChildBroke, match=r"limit of 0\.5 s"):
        await bench.misbehave("deaf", Bounds(wall_s=0.5, stall_s=30.0, memory_bytes=0))
    assert gone(bench.child.pid)


async def test_the_whole_group_dies_with_a_cancelled_task(bench: Bench) -> None:
    running = asyncio.create_task(bench.misbehave("grandchild"))
    grandchild = (await bench.until(Progressed)).step
    assert not gone(grandchild)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(bench.child.pid)
    await until_gone(grandchild)


async def test_memory_over_its_bound_is_ended_as_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "WATCH_S", 0.05)
    with pytest.raises(OutOfMemory, match="leased 100 MiB"):
        await bench.misbehave("hog", Bounds(wall_s=60.0, stall_s=30.0, memory_bytes=100 << 20))
    assert gone(bench.child.pid)


async def test_a_torn_protocol_ends_the_child(bench: Bench) -> None:
    with pytest.raises(ChildBroke, match="announces"):
        await bench.misbehave("torn")
    assert gone(bench.child.pid)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "SystemExit"),
        ("recurse", "RecursionError"),
        ("full", "^There is no room left below .*: free some space"),
    ],
)
async def test_odd_exceptions_are_failures_like_any_other(bench: Bench, how: str, words: str) -> None:
    with pytest.raises(Retry, match=words):
        await bench.misbehave(how)


async def test_endless_output_is_bounded_in_the_log(bench: Bench) -> None:
    ending = await bench.misbehave("babble")
    assert isinstance(ending, Finished)
    await bench.child.close()
    assert len(bench.said) < isolation.LINES_BURST + 500
    assert all(len(line) <= 2_000 for line in bench.said)


async def test_progress_is_thinned_out_at_the_source(bench: Bench) -> None:
    await bench.misbehave("chatty")
    assert 1 <= len(bench.heard) < 1_000


async def test_a_child_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ChildBroke, match="not ready after 0 s"):
        await Child.start(Runtime.LIGHT, folder=tmp_path, threads=1, say=lambda line: None, ready_s=0.0)


async def test_the_pool_reuses_light_children_and_gives_them_up_when_idle(tmp_path: Path) -> None:
    pool = Pool(folder=tmp_path, threads=1, say=lambda line: None)
    first = await pool.take(Runtime.LIGHT)
    pool.give(first)
    assert await pool.take(Runtime.LIGHT) is first
    second = await pool.take(Runtime.LIGHT)
    pool.give(first)
    pool.give(second)
    os.kill(second.pid, signal.SIGKILL)
    await until_gone(second.pid)
    await until(lambda: not second.alive)
    assert await pool.take(Runtime.LIGHT) is first, "a dead one is never handed out"
    pool.give(first)
    pool.tidy(now=1e12)
    await pool.close()
    assert gone(first.pid)


async def test_a_science_child_is_used_once_and_a_spare_stands_ready(tmp_path: Path) -> None:
    pool = Pool(folder=tmp_path, threads=1, say=lambda line: None)
    first = await pool.take(Runtime.SCIENCE)
    assert first.ready is not None
    assert "numpy" in first.ready.fingerprint
    pool.give(first)
    second = await pool.take(Runtime.SCIENCE)
    assert second is not first
    pool.give(second)
    await pool.close()
    assert gone(first.pid)
    assert gone(second.pid)


async def test_children_end_with_a_worker_that_was_killed(tmp_path: Path) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    child = int(await asyncio.wait_for(worker.stdout.readline(), 30))
    assert not gone(child)
    worker.kill()
    await worker.wait()
    await until_gone(child)


WORKER = """
import asyncio, sys
from pathlib import Path
from executors.isolation import Bounds, Child
from executors.frames import Start
from executors.port import Runtime
async def main():
    child = await Child.start(Runtime.LIGHT, folder=Path(sys.argv[1]), threads=1, say=print)
    print(child.pid, flush=True)
    start = Start(run=1, task="t", kind="noop", kind_version=1, settings={"seconds": 600}, inputs={},
                  scratch=sys.argv[1], cores=1, memory_bytes=0, budget_s=1)
    await child.run(start, Bounds(wall_s=600, stall_s=600, memory_bytes=0), lambda frame: None)
asyncio.run(main())
"""
