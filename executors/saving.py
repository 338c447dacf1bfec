"""Snapshots on their way out of a training, one at a time, and never waited for but at the end.

    the worker packs      buffer filled --Snapshotted--> worker, packer --Released--> free again
    nobody packs          buffer filled --> a thread writes and syncs a folder --Checkpointed--> worker; free again
    (or nobody there can open the buffer)

At the end of a run, or when it has to stop, the newest state is what counts: the buffer is waited for, but no longer
than a slow packer needs (`patience_s`); then the state is written as a folder after all, which the worker can send by
itself. A full disk is waited for, too, room.LAST_S at most. What goes wrong here costs a checkpoint and a line in the
log, and never the training.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from executors import checkpoint, room
from executors.checkpoint import Snapshot
from executors.port import Context, Taken
from executors.snapshot import Buffer

PATIENCE_S = 3.0
"""How long a packer may take to begin, at the end of a run."""

PACKED_BYTES_S = 50e6
"""What a packer does per second at least, on a core that others use as well; a third of it on a quiet one."""

PATIENCE_S_MAX = 120.0
"""More than any ordered stop grants."""

LOOK_S = 0.25
"""How often the end of a run gives a sign of life while it waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What a checkpoint is called."""

    step: int
    best: bool
    trained_s: float
    facts: Mapping[str, Any]
    """For its manifest."""
    skipped: int = 0


class Saver:
    """The checkpoints of one attempt."""

    def __init__(self, context: Context, folder: Path, number: int) -> None:
        """folder: where folders are written, where it comes to that; number: of the checkpoint before."""
        self.number = number
        self.lost = 0
        """Checkpoints that could not be made."""
        self._context, self._folder = context, folder
        self._buffer = Buffer(folder)
        self._writing: threading.Thread | None = None
        self._given_up = False
        """The buffer was waited for in vain."""
        self._handed = 0
        """Number of the snapshot that was handed over last."""
        self._unwritten = 0
        """Number of the newest checkpoint that the disk had no room for, here."""

    def free(self) -> bool:
        """True when the buffer may be filled."""
        if self._writing is not None and self._writing.is_alive():
            return False
        return not self._handed or self._context.released(self._handed)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin to reserve the memory for snapshots of such tensors, without waiting for it."""
        self._buffer.prepare(tensors)

    def empty(self) -> bool:
        """True before the first snapshot, which makes the memory for all."""
        return not self._buffer.path

    def take(self, snapshot: Snapshot, still: Collection[str], mark: Mark) -> bool:
        """Copy and hand over; the buffer must be free. False when there was no room for it."""
        try:
            files = self._buffer.fill(snapshot, still)
        except OSError as error:
            self._lose(f"there is no memory for it ({error.strerror})")
            return False
        self.number += 1
        if self._context.packs:
            self._handed = self.number
            path = self._buffer.path
            self._context.snapshot(
                Taken(self.number, mark.step, mark.best, mark.trained_s, path, files, mark.facts, mark.skipped)
            )
        else:
            self._writing = threading.Thread(
                target=self._write, args=(self._buffer, self.number, mark), name="writing a checkpoint"
            )
            self._writing.start()
        return True

    def take_last(
        self, make: Callable[[], Snapshot], still: Collection[str], mark: Mark, tick: Callable[[], None]
    ) -> None:
        """Hand over the state at the end of a run, and wait until it is taken. tick: called while waiting."""
        self._hand_over_last(make, still, mark, tick)
        if not self._lacked_room():
            return
        lost = self.lost - (self._unwritten == self.number)  # it is not lost yet
        self._context.log(f"there is no room for the last checkpoint: it waits {room.LAST_S:.0f} s at most")
        patience, again = room.Patience(room.LAST_S, tick), dataclasses.replace(mark, skipped=0)
        while self._lacked_room() and patience.pause():
            self._hand_over_last(make, still, again, tick)
        self.lost = lost + self._lacked_room()

    def _lacked_room(self) -> bool:
        """Was the newest checkpoint lost because a disk is full?"""
        return self.number > 0 and (self._unwritten == self.number or self._context.lacked_room(self.number))

    def _hand_over_last(
        self, make: Callable[[], Snapshot], still: Collection[str], mark: Mark, tick: Callable[[], None]
    ) -> None:
        if self._settled(tick):
            in_memory = self._context.packs
            if not self.take(make(), still, mark):
                return
            if self._settled(tick) and in_memory == self._context.packs:
                return
            self._context.log("the last checkpoint was not packed in time: it is written as a folder")
            self.number += 1
            self._write(self._buffer, self.number, mark)
        else:
            self._context.log("the checkpoint before was not packed in time: the last one is written as a folder")
            self._write_aside(make(), mark)

    def close(self) -> None:
        """Give the memory back. What was handed over just before the run broke off is still taken."""
        if not self._given_up:
            self._settled(lambda: None)
        self._buffer.close()

    def _settled(self, tick: Callable[[], None]) -> bool:
        """Wait until the buffer is free, within the patience."""
        packing_s = PATIENCE_S + self._buffer.size_bytes / PACKED_BYTES_S
        patience_s = min(PATIENCE_S_MAX, packing_s) if self._context.packs else PATIENCE_S_MAX
        deadline = time.monotonic() + patience_s
        while not self.free():
            if time.monotonic() >= deadline:
                self._given_up = True
                return False
            tick()
            if self._writing is not None and self._writing.is_alive():
                self._writing.join(LOOK_S)
            else:
                self._context.released(self._handed, LOOK_S)
        return True

    def _write_aside(self, snapshot: Snapshot, mark: Mark) -> None:
        aside = Buffer(self._folder)
        try:
            aside.fill(snapshot)
            self.number += 1
            self._write(aside, self.number, mark)
        except OSError as error:
            self._lose(f"there is no memory for it ({error.strerror})")
        finally:
            aside.close()

    def _write(self, buffer: Buffer, number: int, mark: Mark) -> None:
        try:
            folder = checkpoint.write(self._folder / f"{number:06d}", buffer.parts())
        except OSError as error:
            shutil.rmtree(self._folder / f"{number:06d}.tmp", ignore_errors=True)  # it takes room, and is no checkpoint
            if room.is_full(error):
                self._unwritten = number
            self._lose(f"it can not be written below {self._folder} ({error.strerror}): free some space")
            return
        self._context.checkpoint(folder, number=number, step=mark.step, best=mark.best, trained_s=mark.trained_s)

    def _lose(self, why: str) -> None:
        self.lost += 1
        self._context.log(f"checkpoint {self.number} is lost, training goes on: {why}")
