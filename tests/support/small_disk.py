"""Kinds on a disk that is really full, and has room again while they wait: run in a mount namespace of its own.

python -m tests.support.small_disk FOLDER       FOLDER: the mount point of a disk of two megabytes
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from executors import room
from executors.kinds.noop import Noop
from executors.models import store
from tests.support.executing import Recorder, job_for


class Making(Recorder):
    """A context on a full disk: room is made at the second sign of life from somebody who waits."""

    def __init__(self, disk: Path) -> None:
        super().__init__(disk / "kept")
        self._ballast, self._waited = disk / "ballast", 0
        try:
            self._ballast.write_bytes(b"x" * (4 << 20))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error  # noqa: PT017 - half of it stays, and that is what is wanted
        else:
            raise AssertionError("this disk is not small")

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """Count the waiting."""
        self._waited += phase == room.WAITS
        if self._waited == 2:
            self._ballast.unlink(missing_ok=True)


def main(disk: Path) -> None:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
