"""Kinds on a disk that is really full, and has room again while they wait: run in a mount namespace of its own.

python -m tests.support.small_disk kinds FOLDER     FOLDER: the mount point of a disk of two megabytes
python -m tests.support.small_disk worker FOLDER    of forty: a whole worker lives on it
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agents.commands.asking import ask
from agents.commands.reach import Reach
from executors import room
from executors.kinds.noop import Noop
from executors.models import store
from mesh import codec
from mesh.bus import Message
from mesh.messages.results import Progress
from tests.process.test_worker import Mesh
from tests.support.executing import Recorder, job_for


def fill(ballast: Path) -> None:
    """Take all room that is left."""
    try:
        ballast.write_bytes(b"x" * (64 << 20))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    else:
        raise AssertionError("this disk is not small")


class Making(Recorder):
    """A context on a full disk: room is made at the second sign of life from somebody who waits."""

    def __init__(self, disk: Path) -> None:
        super().__init__(disk / "kept")
        self._ballast, self._waited = disk / "ballast", 0
        fill(self._ballast)

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """Count the waiting."""
        self._waited += phase == room.WAITS
        if self._waited == 2:
            self._ballast.unlink(missing_ok=True)


def kinds(disk: Path) -> None:
    """A model by the safetensors library, then a payload by plain writes; says what lies there in the end."""
    room.PAUSE_S_FIRST = 0.01
    arrays = {"w": np.zeros(250_000, np.float32)}
    context = Making(disk)
    model = room.written(
        context, disk / "model", lambda place: store.write_model(place, arrays, {"labels": ["a", "b"]}, "card")
    )
    print(*(f"{path.name}={path.stat().st_size}" for path in sorted(model.iterdir())), context.lines)
    for path in model.iterdir():
        path.unlink()
    context = Making(disk)
    job = job_for(Noop(), {}, disk / "scratch", {"seconds": 0.0, "payload_bytes": 1_000_000})
    print(Noop().run(job, context).outputs["payload"].stat().st_size, context.lines)


async def worker(disk: Path) -> None:
    """A task of a real worker ends on a full disk: what is told meanwhile, and what comes of it."""
    mesh, ballast, phases = Mesh(disk), disk / "ballast", list[str]()
    begun, waits = asyncio.Event(), asyncio.Event()

    async def hear(message: Message) -> None:
        phases.append(codec.decode(message.data, Progress).phase)
        begun.set()
        if phases[-1] == room.WAITS:
            waits.set()

    async with asyncio.timeout(90), mesh.leading(), mesh.worker() as agent:
        await mesh.bus.subscribe(mesh.subjects.all_progress(), hear)
        task = await mesh.submit(settings={"seconds": 3.0, "payload_bytes": 6_000_000})
        await begun.wait()
        fill(ballast)
        await waits.wait()
        there = Reach(agent.settings, mesh.bus, mesh.subjects)
        while not (note := (await ask(there, "workers")).workers[0].note):  # noqa: ASYNC110 - it comes with a beat
            await asyncio.sleep(0.05)
        print(note)
        ballast.unlink()
        ended = await mesh.ended(task, 60.0)
    assert ended.outcome is not None
    print(ended.state, ended.attempts, *ended.outcome.outputs)


if __name__ == "__main__":
    if sys.argv[1] == "kinds":
        kinds(Path(sys.argv[2]))
    else:
        asyncio.run(worker(Path(sys.argv[2])))
