"""The worker's side of the packer: started with the first snapshot, asked one at a time, started again when it broke.

    pack      a snapshot's path in, a parcel out: its file entries, and a folder with the new objects as files
    settle    the parcel's objects are stored, or it was given up: the packer builds on it, or forgets it
    drop      the attempt is over, or the store has lost what it held: the next parcel is whole
    tidy      (called every few seconds) ends a packer that nobody needed for IDLE_S
    close     ends it with its group

Whoever asks waits, with a limit that grows with the snapshot; training waits for nothing of this. A packer that dies,
hangs or talks nonsense is killed and raises ChildBroke; the next snapshot begins with a new one, in a folder of its
own, so that the objects of the old one's parcels stay readable until they are settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from executors import frames
from executors.frames import Frame, Span
from executors.isolation import KILL_S, LEAVE_S, environment, to_its_end
from executors.packing import FROM_PACKER, Dropped, Opened, Pack, Packed, Refused, Settled
from mesh import platform
from mesh.cache import remove_folder
from mesh.errors import ChildBroke, DataRefused, DiskFull, EnvironmentUnfit
from mesh.messages.artifacts import FileEntry

READY_S = 60.0
"""Longest time until it answers: it imports little, but a slow disk may be cold."""

PACK_S_LEAST = 60.0
PACK_BYTES_PER_S_LEAST = 2 * 1024 * 1024
"""A snapshot may take this long, and a second more for so many bytes: a fiftieth of the usual speed, for a machine
whose cores are all taken by others of a higher priority."""

IDLE_S = 120.0
"""How long a packer without an attempt is kept: it takes a tenth of a second to start again, and holds 30 MB."""

WORDS_MAX = 2_000
"""Characters of what it printed that an error quotes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """One packed checkpoint, until it is settled."""

    job: int
    attempt: Path
    """The folder that the attempt was packed below."""
    folder: Path
    """Where its new objects lie, in files called as they are (mesh/messages/object_names.py)."""
    entries: tuple[FileEntry, ...]
    new_objects: int
    new_bytes: int
    plain: Path | None
    """Where all its files lie as they are, if they were asked for and could be written."""
    seconds: float


class Packer:
    """At most one packer process. For one event loop."""

    def __init__(self, *, folder: Path) -> None:
        """folder: its current folder."""
        self._folder = folder
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._words: asyncio.Task[str] | None = None
        self._life = 0
        self._job = 0
        self._attempts: set[Path] = set()
        self._removing: set[asyncio.Task[None]] = set()
        self._used_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        return None if self._process is None else self._process.pid

    async def pack(self, attempt: Path, buffer: str, files: Sequence[Span], *, plain: Path | None = None) -> Parcel:
        """Pack a snapshot; its buffer is not read any more when this returns or raises.

        attempt: a folder of the attempt's own. plain: a folder to get the files as they are. ChildBroke when the packer
        broke, DataRefused when the snapshot can not be packed, DiskFull, EnvironmentUnfit when no packer can be
        started.
        """
        async with self._lock:
            try:
                await self._start()
                self._job += 1
                self._attempts.add(attempt)
                folder = attempt / str(self._life)
                wanted = Pack(
                    job=self._job,
                    buffer=buffer,
                    files=tuple(files),
                    folder=str(folder),
                    plain="" if plain is None else str(plain),
                )
                answer = await self._ask(
                    wanted, PACK_S_LEAST + sum(f.size_bytes for f in files) / PACK_BYTES_PER_S_LEAST
                )
            except BaseException:  # also a cancellation: the answer would be taken for that to the next question
                await self._kill()
                raise
            finally:
                self._used_at = time.monotonic()
        if isinstance(answer, Refused):
            raise DiskFull(answer.reason) if answer.disk_full else DataRefused(answer.reason)
        assert isinstance(answer, Packed)
        return Parcel(
            job=answer.job,
            attempt=attempt,
            folder=folder,
            entries=answer.entries,
            new_objects=answer.new_objects,
            new_bytes=answer.new_bytes,
            plain=plain if answer.copied else None,
            seconds=answer.seconds,
        )

    def settle(self, parcel: Parcel, *, stored: bool) -> None:
        """Say what became of a parcel; its new objects are not needed any more."""
        alive = self._process is not None and self._process.returncode is None
        if alive and parcel.folder == parcel.attempt / str(self._life):
            self._tell(Settled(job=parcel.job, folder=str(parcel.folder), stored=stored))
        else:  # of a packer that is gone
            removing = asyncio.create_task(asyncio.to_thread(remove_folder, parcel.folder), name="removing old parcels")
            self._removing.add(removing)
            removing.add_done_callback(self._removing.discard)

    def drop(self, attempt: Path) -> None:
        """Forget an attempt's checkpoints; its folder may be removed afterwards."""
        self._attempts.discard(attempt)
        self._tell(Dropped(folder=str(attempt / str(self._life))))

    async def tidy(self, now: float | None = None) -> None:
        """End a packer that nobody needs. now: monotonic seconds."""
        if self._process is None or self._attempts or self._lock.locked():
            return
        if (time.monotonic() if now is None else now) - self._used_at >= IDLE_S:
            await self.close()

    async def close(self) -> None:
        """End the packer; a snapshot that is being packed is lost."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await process.wait()
        await self._kill()
        await asyncio.gather(*self._removing, return_exceptions=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Have a packer that is ready."""
        if self._process is not None and self._process.returncode is None:
            return
        await self._kill()
        self._life += 1
        argv = [sys.executable, "-P", "-m", "executors.packing", str(os.getpid())]
        try:
            self._process = await platform.spawn_group_async(
                argv,
                env=environment(1),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                die_with_parent=False,  # it asks for it itself: cheaper than doing it between fork and exec
            )
        except OSError as error:
            raise EnvironmentUnfit(f"No packer of checkpoints can be started here: {error}.") from error
        self._words = asyncio.create_task(_last_words(self._process), name="output of the packer")
        answer = await self._answer(READY_S)
        if not isinstance(answer, Opened):
            raise ChildBroke(f"The packer was expected to say that it is ready; it said {answer.name!r}.")

    async def _ask(self, wanted: Pack, within_s: float) -> Packed | Refused:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the answer, which does not come, knows better why
            self._process.stdin.write(frames.encode(wanted))
            await self._process.stdin.drain()
        answer = await self._answer(within_s)
        if not isinstance(answer, Packed | Refused) or answer.job != wanted.job:
            raise ChildBroke(f"The packer was expected to answer job {wanted.job}; it said {answer.name!r}.")
        return answer

    async def _answer(self, within_s: float) -> Frame:
        """The packer's next frame. ChildBroke when it does not come."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                answer = await frames.read_async(self._process.stdout, FROM_PACKER)
        except TimeoutError:
            raise ChildBroke(f"The packer gave no answer within {within_s:.0f} s and was ended.") from None
        if answer is None:
            await self._kill()
            raise ChildBroke(f"The packer ended before it had answered. {await self._said()}")
        return answer

    def _tell(self, frame: Frame) -> None:
        """Write a frame that has no answer. To a packer that is gone there is nothing to say."""
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.write(frames.encode(frame))

    async def _said(self) -> str:
        """The last that it printed."""
        if self._words is None:
            return ""
        done, _ = await asyncio.wait({self._words}, timeout=LEAVE_S)
        return f"Its last output: {self._words.result()}" if done and self._words.result() else ""

    async def _kill(self) -> None:
        """End its group and wait until it is gone; a cancellation waits for that too."""
        await to_its_end(self._bury())

    async def _bury(self) -> None:
        process, words, self._process = self._process, self._words, None
        if process is None:
            return
        platform.kill_group(process.pid, hard=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S):
                await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if words is not None:
            _, pending = await asyncio.wait({words}, timeout=LEAVE_S)
            for task in pending:
                task.cancel()


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what it prints, once it has ended."""
    assert process.stderr is not None
    tail = b""
    while data := await process.stderr.read(WORDS_MAX):
        tail = (tail + data)[-WORDS_MAX:]
    return " | ".join(line.strip() for line in tail.decode("utf-8", "replace").splitlines() if line.strip())
