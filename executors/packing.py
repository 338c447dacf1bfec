"""The packer: a small process beside a worker that turns snapshots into objects, while training goes on.

    python -P -m executors.packing PARENT_PID

    worker: pack(job 1)         -> packer: packed(job 1) | refused(job 1)       one at a time, in order
    worker: settled(job 1)         its objects are stored, or were given up; no answer
    worker: dropped(folder)        the attempt is over, or what is believed to be stored is not; no answer
    packer: opened                 once, when it is ready

One per worker (`executors/packer.py`), in a group of its own: a child that is killed does not take it along, and what
the child had already handed over is still packed. It ends with its worker. It is polite (a lowered priority) and small:
no torch, no numpy, one thread, a piece at a time whatever the checkpoint's size (`executors/versions.py`), and
MEMORY_BYTES_MAX at the very most.

A snapshot that can not be packed is refused with a reason and costs that checkpoint; whatever else goes wrong ends the
process, and the worker starts another, which begins with whole objects.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, ClassVar

from executors import frames
from executors.frames import Frame, Span
from executors.versions import Lineage
from mesh import platform
from mesh.errors import DataRefused, DiskFull
from mesh.messages.artifacts import FileEntry

MEMORY_BYTES_MAX = 512 * 1024 * 1024
"""Ten times what the largest checkpoint needs: a header that was made to cost memory ends the packer, not the machine.
"""

LINEAGES_MAX = 64
"""Attempts that it cares for at once; beyond it the one that was packed longest ago begins anew."""


class Opened(Frame, frozen=True, kw_only=True):
    """The packer is ready."""

    name: ClassVar[str] = "opened"

    pid: int


class Pack(Frame, frozen=True, kw_only=True):
    """Turn a snapshot into objects."""

    name: ClassVar[str] = "pack"

    job: int
    """Counts up over the packer's life."""
    buffer: str
    files: tuple[Span, ...]
    folder: str
    """Where the new objects are put; names the attempt."""
    plain: str = ""
    """A folder that gets the files as they are, too."""


class Packed(Frame, frozen=True, kw_only=True):
    """A snapshot's objects; its buffer is not read any more."""

    name: ClassVar[str] = "packed"

    job: int
    entries: tuple[FileEntry, ...]
    new_objects: int
    new_bytes: int
    copied: bool
    seconds: float


class Refused(Frame, frozen=True, kw_only=True):
    """A snapshot could not be packed; its buffer is not read any more."""

    name: ClassVar[str] = "refused"

    job: int
    reason: str
    disk_full: bool


class Settled(Frame, frozen=True, kw_only=True):
    """What became of a job's objects."""

    name: ClassVar[str] = "settled"

    job: int
    folder: str
    stored: bool


class Dropped(Frame, frozen=True, kw_only=True):
    """Forget all checkpoints of an attempt: the next one is packed whole."""

    name: ClassVar[str] = "dropped"

    folder: str


FROM_PACKER: dict[str, type[Frame]] = {frame.name: frame for frame in (Opened, Packed, Refused)}
TO_PACKER: dict[str, type[Frame]] = {frame.name: frame for frame in (Pack, Settled, Dropped)}


class Packing:
    """All attempts of a worker. Blocking; for one thread."""

    def __init__(self) -> None:
        self._lineages: dict[str, Lineage] = {}

    def take(self, frame: Frame) -> Frame | None:
        """Do what a frame asks for; the answer, if it has one."""
        if isinstance(frame, Pack):
            return self._pack(frame)
        if isinstance(frame, Settled) and frame.folder in self._lineages:
            self._lineages[frame.folder].settle(frame.job, stored=frame.stored)
        elif isinstance(frame, Dropped):
            self._lineages.pop(frame.folder, None)
        return None

    def _pack(self, wanted: Pack) -> Packed | Refused:
        began = time.monotonic()
        lineage = self._lineages.pop(wanted.folder, None) or Lineage(Path(wanted.folder))
        self._lineages[wanted.folder] = lineage
        while len(self._lineages) > LINEAGES_MAX:
            self._lineages.pop(next(iter(self._lineages)))
        try:
            with open(wanted.buffer, "rb", buffering=0) as buffer:
                plain = Path(wanted.plain) if wanted.plain else None
                made = lineage.pack(wanted.job, buffer, wanted.files, plain)
        except (DataRefused, DiskFull) as error:
            return Refused(job=wanted.job, reason=str(error), disk_full=isinstance(error, DiskFull))
        except OSError as error:
            return Refused(job=wanted.job, reason=f"The snapshot's buffer is gone: {error}.", disk_full=False)
        return Packed(
            job=wanted.job,
            entries=made.entries,
            new_objects=made.new_objects,
            new_bytes=made.new_bytes,
            copied=made.copied,
            seconds=time.monotonic() - began,
        )


def serve(source: BinaryIO, sink: BinaryIO, packing: Packing) -> None:
    """Answer frames until the worker closes the pipe."""
    _send(sink, Opened(pid=os.getpid()))
    while (frame := frames.read(source, TO_PACKER)) is not None:
        answer = packing.take(frame)
        if answer is not None:
            _send(sink, answer)


def _send(sink: BinaryIO, frame: Frame) -> None:
    sink.write(frames.encode(frame))
    sink.flush()


def main(arguments: list[str]) -> None:
    """The process: descriptors apart from what libraries print, bounds, then frames."""
    platform.die_with_parent(int(arguments[0]))
    platform.leave_stopping_to_parent()
    platform.lower_priority()
    platform.limit_memory(MEMORY_BYTES_MAX)
    source, sink = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    serve(source, sink, Packing())


if __name__ == "__main__":
    main(sys.argv[1:])
