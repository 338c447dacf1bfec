"""Room on the disk for what a task writes at its end: waited for, since what it cost to compute is worth more.

    write --full--> what was half-written goes away, wait, write again … for `patience_s`, then DiskFull
                    (meanwhile: signs of life in the phase WAITS, which the worker tells on; a stop is obeyed)

Every kind writes its outputs through `written`. A run's last checkpoint waits in the same manner (executors/saving.py),
so that a task that has waited in vain goes on from its last step, on this machine or on another one.

Not covered: a disk that is full before the work is done fails the task, where the kind has no way to wait.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from executors.port import Context, Stopped
from mesh.errors import DiskFull

T = TypeVar("T")

ROOM_S = 600.0
"""How long outputs wait for room: time for other tasks to end and for a person who was told to free some. Shorter loses
what was computed since the last checkpoint; longer holds a lease that another machine could have."""

LAST_S = 60.0
"""How long a run's last checkpoint waits for room; as long as the worker waits for its upload (FULL_S there)."""

PAUSE_S_FIRST, PAUSE_S_MAX = 1.0, 15.0
"""Pauses between two tries, doubled each time: a try may write hundreds of megabytes before it meets the end."""

LOOK_S = 1.0
"""How often who waits gives a sign of life and looks whether it is to stop."""

WAITS = "waits for room"
"""The phase of a task that has computed its outputs and can not write them."""

STATES = 5
"""A training's checkpointed state lies in its scratch folder at most so many times over: the objects that deltas are
made against, those of checkpoints on their way and in the making (three in all; 2.8 were seen, in a new cycle of
weights that do not compress), a plain copy for the cache, and a buffer file or a folder where no memory is shared."""

FULL = (errno.ENOSPC, errno.EDQUOT)


def of_training(state_bytes: int, outputs_bytes: int) -> int:
    """Bytes of disk that a training takes at its peak, beside its inputs. state_bytes: weights, moments, best ones."""
    return STATES * state_bytes + outputs_bytes


def is_full(error: BaseException) -> bool:
    """Does this error mean that there is no room? The safetensors library says so in words only."""
    if isinstance(error, OSError):
        return error.errno in FULL
    in_words = type(error).__name__ == "SafetensorError" and any(f"(os error {code})" in str(error) for code in FULL)
    return isinstance(error, DiskFull) or in_words


class Patience:
    """The pauses of one wait for room, all together `patience_s` at most."""

    def __init__(self, patience_s: float, tick: Callable[[], None]) -> None:
        """tick: called every LOOK_S while waiting; it may raise."""
        self._ends_at = time.monotonic() + patience_s
        self._pause_s, self._tick = PAUSE_S_FIRST, tick

    def pause(self) -> bool:
        """Wait until it is time for another try; False when there was enough of that."""
        try_at = min(self._ends_at, time.monotonic() + self._pause_s)
        self._pause_s = min(PAUSE_S_MAX, 2 * self._pause_s)
        if time.monotonic() >= self._ends_at:
            return False
        while (left_s := try_at - time.monotonic()) > 0:
            self._tick()
            time.sleep(min(LOOK_S, left_s))
        return True


def written(context: Context, place: Path, write: Callable[[Path], T], *, step: int = 0) -> T:
    """What `write` gives for `place`, a file or folder that it makes there; nothing else may stand in it. It is called
    again while the disk is full.

    step: where the work stands, for the signs of life. Stopped when that is asked for meanwhile, DiskFull after ROOM_S.
    """

    def tick() -> None:
        if why := context.stop_requested():
            raise Stopped(f"stopped while {place.name} waited for room on the disk, as asked: {why}")
        context.progress(step, 1.0, {}, WAITS)

    patience: Patience | None = None
    while True:
        try:
            made = write(place)
        except Exception as error:
            if not is_full(error):
                raise
            _remove(place)
        else:
            if patience is not None:
                context.log(f"there is room for {place.name} again: it is written")
            return made
        if patience is None:
            context.log(f"there is no room for {place.name} below {place.parent}: it waits, free some space")
            patience = Patience(ROOM_S, tick)
        if not patience.pause():
            raise DiskFull(
                f"There was no room for {place.name} below {place.parent} for {ROOM_S:.0f} s: free some space. "
                "The task goes on from its last checkpoint, if it keeps any."
            )


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
