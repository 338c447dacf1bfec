"""What checkpoints of a training cost: bytes to send, and time that the loop loses.

    bytes    a small GPT, trained on text, checkpoints 1, 10 and 100 steps apart: what is sent (objects and manifest)
             over the bytes of the state. "next": the first after a whole one. "stream": the mean of a row of
             checkpoints, its whole ones included, as a training sends them.
    time     one save: the snapshot, a bare copy of as many bytes, torch's file and a safetensors file, both synced
    loop     a training that saves through a real packer into a store in a folder, as often as 1 % of its time allows,
             beside one that does not save; in turn, so that a busy moment hits both

The training runs in processes of its own (benchmarks/gpt_checkpoints.py) and is real; every object is decoded again and
compared. Not covered: the way over a network (bench artifacts), a GPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

from agents.worker_checkpoints import Checkpoints
from benchmarks import programs
from benchmarks.document import SHARE
from benchmarks.frame import Frame, environment
from executors import frames
from executors.frames import Finished, Released, Snapshotted
from executors.isolation import environment as child_environment
from executors.packer import Packer
from mesh import platform
from mesh.artifacts import ArtifactStore
from mesh.bus import Log
from mesh.errors import RamifyError
from mesh.messages.base import Epoch
from mesh.messages.commands import CheckpointMade
from mesh.objects_folder import FolderBackend
from mesh.subjects import Subjects

NAME = "checkpoints"
WHY = "What a checkpoint of a training costs: bytes to send, and time that the loop loses."

MB = 1_000_000
PART_S = 1_500.0
"""Patience with the bytes: some 600 steps of a quarter of a second on one core."""

LOOP_S, QUICK_LOOP_S = 60.0, 3.0
ROUNDS, QUICK_ROUNDS = 3, 1
END_S = 90.0
"""Patience with a loop beyond its time: start, imports, the last release."""

WANTED = {("float32", "1"): 0.76, ("float32", "10"): 0.82, ("bfloat16", "1"): 0.32, ("bfloat16", "10"): 0.53}
"""Most that the next checkpoint may cost, by kind and steps apart."""

LORA_WANTED = 0.015
COPY_WANTED, SHARE_WANTED = 1.5, 0.01

KINDS = {
    "float32": "float32, weights and moments",
    "bfloat16": "bfloat16, weights alone",
    "LoRA": "LoRA with its moments, on a frozen network",
}
SNAPSHOT, MEMCPY = "snapshot", "memcpy"
WAYS = {SNAPSHOT: "snapshot", MEMCPY: "bare copy", "torch": "torch.save, synced", "safetensors": "safetensors, synced"}


def run(frame: Frame) -> None:
    """Bytes, the time of one save, then loops that save and loops that do not."""
    with frame.home() as home:
        found = reported(frame, home)
        if found is not None:
            bytes_rows(frame, found["bytes"])
            bytes_rows(frame, found["adapters"])
            stall_rows(frame, found["stall"])
        loops(frame, home)


def reported(frame: Frame, home: Path) -> dict[str, Any] | None:
    """What the program reports; None, and a failed row, when it does not."""
    argv = [sys.executable, "-P", "-m", "benchmarks.gpt_checkpoints", "measure", str(home / "states")]
    ran = programs.timed(
        [*argv, "quick" if frame.quick else "full"],
        timeout_s=frame.timeout_s(PART_S),
        env=child_environment(1) | environment(home),
        cwd=home,
    )
    if ran.trouble:
        frame.fail("checkpoints", "bytes to send", SHARE, ran.trouble)
        return None
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


# -- bytes ------------------------------------------------------------------------------------------------------------


def bytes_rows(frame: Frame, found: dict[str, Any]) -> None:
    """Rows and aims of every kind and distance."""
    for apart, kinds in found.items():
        for kind, stream in kinds.items():
            shares, state_mb = stream["shares"], stream["state_bytes"] / MB
            who, steps = KINDS[kind], f"{apart} step{'s' if apart != '1' else ''} apart"
            if apart == min(found, key=int):
                frame.row(who, "first checkpoint", shares[:1], SHARE, f"of {state_mb:.1f} MB")
            frame.row(who, f"next, {steps}", shares[1:2], SHARE)
            frame.row(who, f"stream, {steps}", statistics.fmean(shares), SHARE, f"mean of {len(shares)} checkpoints")
            speeds = [state_mb / seconds for seconds in stream["coded_s"]]
            frame.row(who, f"coded, {steps}", speeds, "MB/s", "cut, digested, coded and written by one core")
            if kind == "LoRA":
                frame.at_most(f"{who}: next checkpoint, {steps}", LORA_WANTED, SHARE, shares[1:2])
            elif (kind, apart) in WANTED:
                frame.at_most(f"{who}: next checkpoint, {steps}", WANTED[kind, apart], SHARE, shares[1:2])


# -- one save ---------------------------------------------------------------------------------------------------------


def stall_rows(frame: Frame, found: dict[str, Any]) -> None:
    """How long the loop stands still in each way."""
    seconds: dict[str, list[float]] = found["seconds"]
    for name, who in WAYS.items():
        frame.row(who, "loop stands still", seconds[name], "s", f"{found['state_bytes'] / MB:.1f} MB of state")
    ratios = [ours / bare for ours, bare in zip(seconds[SNAPSHOT], seconds[MEMCPY], strict=True)]
    frame.row(WAYS[SNAPSHOT], "over a bare copy", ratios, SHARE, "round by round")
    frame.at_most("the copy, over a bare copy of as many bytes", COPY_WANTED, SHARE, ratios)


# -- loops ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Looped:
    """One loop's own facts, and what was stored of it."""

    facts: dict[str, Any]
    rows: tuple[CheckpointMade, ...] = ()

    @property
    def pace(self) -> float:
        """Steps a second."""
        return float(self.facts["steps"] / self.facts["seconds"])

    @property
    def share(self) -> float:
        """Of its time, for checkpoints: stood still, or certainly slower."""
        return float((self.facts["stopped_s"] + self.facts["slowed_s"]) / self.facts["seconds"])


def loops(frame: Frame, home: Path) -> None:
    """Rounds of a loop without and a loop with checkpoints; a quick run has no time for the first."""
    saving: list[Looped] = []
    slower: list[float] = []
    for number in range(frame.runs(ROUNDS, QUICK_ROUNDS)):
        try:
            bare = None if frame.quick else asyncio.run(looped(frame, home / f"bare{number}", saves=False))
            saving.append(asyncio.run(looped(frame, home / f"saving{number}", saves=True)))
            if bare is not None:
                slower.append(1.0 - saving[-1].pace / bare.pace)
        except (RamifyError, OSError, TimeoutError) as error:
            frame.fail("training loop", "share for checkpoints", SHARE, str(error) or type(error).__name__)
            break
    who = "training loop"
    if saving:
        shares = [each.share for each in saving]
        frame.row(who, "share for checkpoints", shares, SHARE, "stood still, or certainly slower")
        stored = [float(len(each.rows)) for each in saving]
        frame.row(who, "checkpoints stored", stored, SHARE, f"in {saving[0].facts['seconds']:.0f} s each")
        every = [each.facts["seconds"] / max(1, each.facts["taken"]) for each in saving]
        frame.row(who, "interval that 1 % allows", every, "s")
        frame.row(who, "memory made, once", [each.facts["once_s"] for each in saving], "s", "not in the share")
    if slower:
        frame.row(who, "slower than without", slower, SHARE, "steps a second, pair by pair; noise goes both ways")
    frame.at_most("share of the run for checkpoints", SHARE_WANTED, SHARE, [each.share for each in saving])


async def looped(frame: Frame, home: Path, *, saves: bool) -> Looped:
    """Run one loop; with its packer and store, if it saves."""
    home.mkdir()
    (home / "shared").mkdir()
    seconds = QUICK_LOOP_S if frame.quick else LOOP_S
    argv = [sys.executable, "-P", "-m", "benchmarks.gpt_checkpoints", "loop", str(seconds), "yes" if saves else "no"]
    child = await platform.spawn_group_async(
        argv, env=child_environment(1), cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None,
        die_with_parent=True,
    )  # fmt: skip
    packer, rows = Packer(folder=home), list[CheckpointMade]()

    async def owe(row: CheckpointMade) -> None:
        rows.append(row)

    store = ArtifactStore(
        cast(Log, None), Subjects(), cache=home / "cache", cache_bytes_max=1 << 32,
        backend=FolderBackend(home / "shared", "mesh"),
    )  # fmt: skip
    checkpoints = Checkpoints(
        "bench", Epoch(1, 1), "bench.1", store, packer, owe, home / "packed", cache_bytes_max=1 << 32
    )
    try:
        async with asyncio.timeout(frame.timeout_s(seconds + END_S)):
            facts = await heard(child, checkpoints)
            await checkpoints.flush()
            if rows:
                await store.get(rows[-1].manifest)
        return Looped(facts, tuple(rows))
    finally:
        await checkpoints.close()
        await packer.close()
        platform.kill_group(child.pid, hard=True)
        await child.wait()


async def heard(child: asyncio.subprocess.Process, checkpoints: Checkpoints) -> dict[str, Any]:
    """Take every snapshot of a loop, as a worker does, until it ends; its facts. OSError when it does not say any."""
    assert child.stdout is not None
    while (frame := await frames.read_async(child.stdout, frames.FROM_CHILD)) is not None:
        if isinstance(frame, Snapshotted):
            checkpoints.take(frame, partial(release, child, frame))
        elif isinstance(frame, Finished):
            return dict(frame.facts)
    raise OSError("the loop ended without a word")


def release(child: asyncio.subprocess.Process, made: Snapshotted, lacked_room: bool) -> None:
    """Its buffer may be overwritten."""
    if child.stdin is not None and child.returncode is None:
        with contextlib.suppress(OSError):
            child.stdin.write(frames.encode(Released(run=made.run, number=made.number, lacked_room=lacked_room)))
