"""A peer: one of the processes that train a network together with a child (executors/gathering.py starts it).

    python -P -m executors.peer PARENT_PID RANK PROCESSES MEETING     its task comes as a frame on stdin

It runs the task's kind as the child does, in a scratch folder of its own, and is dismissed when the training is over:
reports, checkpoints and answers are the first process's. When it fails it leaves word in the meeting place, and the
first process, which loses it in the middle of a step, says that instead of its own surprise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from executors import child, frames
from executors.frames import Start
from executors.port import Runtime, Stopped, Taken
from mesh import platform


class Silent:
    """A context in which nobody listens: the first process reports, saves, and is asked to stop."""

    packs = False

    def progress(self, step: int, done: float, metrics: Mapping[str, float], phase: str = "") -> None:
        """The first process reports."""

    def snapshot(self, taken: Taken) -> None:
        """The first process saves."""

    def released(self, number: int, wait_s: float = 0.0) -> bool:
        """Nothing is ever taken."""
        return True

    def lacked_room(self, number: int) -> bool:
        """Nothing is written."""
        return False

    def saves_requested(self) -> int:
        """The first process is asked."""
        return 0

    def checkpoint(self, folder: Path, *, number: int, step: int, best: bool, trained_s: float) -> None:
        """The first process saves."""

    def stop_requested(self) -> str:
        """The first process is asked."""
        return ""

    def log(self, text: str) -> None:
        """The first process says it."""


def main(arguments: list[str]) -> None:
    """Run the task to the end of its training."""
    parent, rank, processes, meeting = int(arguments[0]), int(arguments[1]), int(arguments[2]), Path(arguments[3])
    platform.die_with_parent(parent)
    platform.leave_stopping_to_parent()
    start = frames.read(sys.stdin.buffer, frames.TO_CHILD)
    assert isinstance(start, Start)
    from executors import parallel

    try:
        help_with(start, rank, processes, meeting)
    except (parallel.Dismissed, Stopped):
        return
    except BaseException as error:
        parallel.fail(meeting, rank, error)


def help_with(start: Start, rank: int, processes: int, meeting: Path) -> None:
    """Run the kind in a scratch folder of this process, as far as its training goes."""
    kind, settings = child.understood(start)
    scratch = meeting / f"peer-{rank}"
    scratch.mkdir()
    own = msgspec.structs.replace(start, scratch=str(scratch))
    job = child.job_of(own, settings, processes=processes, rank=rank, meeting=str(meeting))
    with child.threads(Runtime.TORCH, job.allotment.threads):
        kind.run(job, Silent())


if __name__ == "__main__":
    main(sys.argv[1:])
