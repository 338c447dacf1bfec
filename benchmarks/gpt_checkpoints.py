"""Checkpoints of a small GPT in training, as a process of its own; and what it reports.

    python -P -m benchmarks.gpt_checkpoints …

    measure FOLDER quick|full    what the next checkpoint costs (weights and moments, weights alone, adapters on a
                                 frozen network), and how long the loop stands still, beside other ways to save
    loop SECONDS yes|no          a loop that saves as trainings do, or not, and talks to its parent in a child's frames

The last line on stdout is a JSON object (`loop`: the facts of its last frame). States are copied, cut and coded by the
code that trainings and packers run; nothing is estimated.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpt import Shape, Training
from executors import checkpoint, frames
from executors.cadence import Cadence
from executors.checkpoint import Snapshot
from executors.child import Channel, TaskContext
from executors.frames import Span
from executors.saving import Mark, Saver
from executors.snapshot import Buffer
from executors.versions import Lineage
from mesh import codec, coding, limits
from mesh.messages import object_names
from mesh.messages.artifacts import FileEntry, Manifest

SMALL = Shape(layers=2, width=64, heads=2)
DENSE = Shape(layers=6, width=256, heads=4)
"""4.8 million parameters, 58 MB with moments."""
LORA, SMALL_LORA = Shape(layers=6, width=512, heads=8, rank=8), Shape(layers=2, width=128, heads=2, rank=2)
"""19 million frozen parameters, 98 thousand in adapters."""

WARM_STEPS = 60
"""Before the first checkpoint: moments need some twenty steps to be what they are later."""

SERIES = {1: 20, 10: 12, 100: 3}
QUICK_SERIES = {1: 3, 10: 2}
"""Steps between two checkpoints, and how many follow the first one."""

ROUNDS, QUICK_ROUNDS = 9, 2
EVERY_S = 0.5
"""How often the loop would like a checkpoint: far more often than its budget of 1 % allows."""


class Stream:
    """One row of checkpoints, each packed upon the one before."""

    def __init__(self, folder: Path) -> None:
        self._lineage, self._buffer, self._job = Lineage(folder), Buffer(folder), 0
        self.shares: list[float] = []
        """Bytes to send, manifest included, over the bytes of the state."""
        self.coded_s: list[float] = []
        self.state_bytes = 0

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """One more checkpoint; looks whether it can be put together again."""
        spans = [Span(*each) for each in self._buffer.fill(Snapshot(tensors, {"generators": checkpoint.generators()}))]
        self._job += 1
        began = time.perf_counter()
        with open(self._buffer.path, "rb", buffering=0) as source:
            packed = self._lineage.pack(self._job, source, spans)
        self.coded_s.append(time.perf_counter() - began)
        manifest = Manifest(media="checkpoint", files=packed.entries, facts={})
        sent = packed.new_bytes + len(codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX))
        self.state_bytes = sum(span.size_bytes for span in spans)
        self.shares.append(sent / self.state_bytes)
        for entry in packed.entries:
            looked_at(self._lineage.folder, entry)
        self._lineage.settle(self._job, stored=True)

    def report(self) -> dict[str, Any]:
        """What came of it."""
        return {"shares": self.shares, "coded_s": self.coded_s, "state_bytes": self.state_bytes}


def looked_at(folder: Path, entry: FileEntry) -> None:
    """Decode a file from its objects, base and delta; what it does not come back as raises."""
    for digest, base in zip(entry.objects, entry.bases or [""] * len(entry.objects), strict=True):
        path = folder / str(object_names.of_part(digest, base))
        if path.exists():  # else it is of an earlier checkpoint, and was looked at then
            beneath = coding.decode((folder / str(object_names.whole(base))).read_bytes()) if base else None
            if codec.digest(bytes(coding.decode(path.read_bytes(), beneath))) != digest:
                raise RuntimeError(f"the object {digest} does not come back")


def sizes(folder: Path, quick: bool) -> dict[str, Any]:
    """Weights and moments in float32, and the weights alone in bfloat16, from one training."""
    training = Training(SMALL if quick else DENSE)
    training.step(WARM_STEPS)
    found: dict[str, Any] = {}
    for apart, count in (QUICK_SERIES if quick else SERIES).items():
        dense, rounded = Stream(folder / f"dense{apart}"), Stream(folder / f"rounded{apart}")
        for number in range(count + 1):
            training.step(apart if number else 0)
            dense.take(training.tensors())
            rounded.take(training.weights(torch.bfloat16))
        found[str(apart)] = {"float32": dense.report(), "bfloat16": rounded.report()}
    return found


def adapters(folder: Path, quick: bool) -> dict[str, Any]:
    """A frozen network with adapters and their moments."""
    training = Training(SMALL_LORA if quick else LORA)
    training.step(5 if quick else 20)
    found: dict[str, Any] = {}
    for apart, count in ({1: 2} if quick else {1: 8, 10: 4, 100: 1}).items():
        stream = Stream(folder / str(apart))
        for number in range(count + 1):
            training.step(apart if number else 0)
            stream.take(training.tensors())
        found[str(apart)] = {"LoRA": stream.report()}
    return found


# -- how long the loop stands still -----------------------------------------------------------------------------------


def stall(folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds of one save in each way, round by round."""
    training = Training(SMALL if quick else DENSE)
    training.step(3)
    buffer = Buffer(folder)
    flat = torch.cat([each.reshape(-1).view(torch.uint8) for each in training.tensors().values()])
    target = torch.empty_like(flat)

    def ours() -> None:
        buffer.fill(Snapshot(training.tensors(), {"generators": checkpoint.generators()}))

    ways: dict[str, Callable[[], object]] = {
        "memcpy": lambda: target.copy_(flat),
        "snapshot": ours,
        "torch": lambda: torch_file(folder / "state.pt", training),
        "safetensors": lambda: tensors_file(folder / "state.safetensors", training),
    }
    ours()  # makes its memory, as the first checkpoint of a training does
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for name, way in ways.items():
            training.step()  # so that no way finds its source in the cache
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {"seconds": seconds, "state_bytes": len(flat), "threads": torch.get_num_threads()}


def torch_file(path: Path, training: Training) -> None:
    """What most training scripts do: pickled state dictionaries. Written only, and never read back."""
    state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    torch.serialization.save(state, path)
    synced(path)


def tensors_file(path: Path, training: Training) -> None:
    """The same as a safetensors file."""
    save_file({name: each.contiguous() for name, each in training.tensors().items()}, path)
    synced(path)


def synced(path: Path) -> None:
    """On the disk; then out of the way."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.unlink()


# -- a loop that saves ------------------------------------------------------------------------------------------------


def loop(seconds: float, saves: bool) -> None:
    """Train for so long, with checkpoints whenever the budget allows one (executors/trainer.py does it so)."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    context = TaskContext(Channel(source, sink), 1, packs=True)
    training = Training(SMALL if seconds < 20 else DENSE)
    training.step(5)
    saver = Saver(context, Path.cwd() / "folders", 0)
    began = now = time.monotonic()
    begun_at = training.steps
    cadence = Cadence(every_steps=0, every_s=EVERY_S, overhead=0.01, now=now, step=training.steps)
    while now - began < seconds:
        packing = saves and not saver.free()
        training.step()
        ended = time.monotonic()
        cadence.stepped(ended - now, packing=packing)
        if saves and cadence.why_now(ended, training.steps, improved=False, asked=False, free=saver.free()):
            first, snapshot = saver.empty(), Snapshot(training.tensors(), {"generators": checkpoint.generators()})
            saver.take(snapshot, (), Mark(training.steps, False, ended - began, {}))
            cadence.took(time.monotonic(), training.steps, time.monotonic() - ended, once=first)
        now = time.monotonic()
    facts = {
        "steps": training.steps - begun_at, "seconds": now - began, "taken": cadence.taken, "once_s": cadence.once_s,
        "stopped_s": cadence.stopped_s, "slowed_s": cadence.slowed_s, "skipped": cadence.skipped,
        "postponed": cadence.postponed,
    }  # fmt: skip
    if saves and saver.number:
        context.released(saver.number, 60.0)
    saver.close()
    sink.write(
        frames.encode(
            frames.Finished(
                run=1, outputs={}, media={}, facts_of={}, kpis={}, stopped_by="time", facts=facts, exact=True
            )
        )
    )
    sink.flush()
    os._exit(0)  # the thread that listens would keep the process until its parent closes the pipe


def main(arguments: list[str]) -> None:
    """Do one thing, report it."""
    if arguments[0] == "loop":
        loop(float(arguments[1]), arguments[2] == "yes")
        return
    folder, quick = Path(arguments[1]), arguments[2] == "quick"
    report = {}
    for name, work in {"stall": stall, "bytes": sizes, "adapters": adapters}.items():
        (folder / name).mkdir(parents=True)
        report[name] = work(folder / name, quick)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
