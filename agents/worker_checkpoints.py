"""Checkpoints of one running task on their way into the mesh. Training waits for none of this.

    Snapshotted -> opened here -> packed (executors/packer.py) -> released -> ready --.
    Checkpointed, a folder of files -------------------------------------------> ready --> objects, manifest, row owed

At most one is packed, one ready and one on its way: the newest wins, older ones give way and are counted. The buffer is
opened at once, so that what was handed over survives the child; it is released as soon as it is packed, before anything
travels. The row is owed only when all objects and then the manifest are stored.

While the store is full or away, or this machine's disk is full, uploads *pause*: `paused` says so in a sentence (the
worker's log, its beats and a metric carry it on), training and packing go on, and the newest checkpoint goes out by
itself when there is room again. A last checkpoint is waited for as long as the broker is away, for then nothing else
could be told either; a store that is full delays an ending by FULL_S at most.

What was stored goes into the local cache too when that is cheap (COPY_…), so that a resume on this machine downloads
nothing; the copy of the checkpoint before is dropped then.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agents.patience import PAUSE_S_FIRST, PAUSE_S_MAX
from agents.runtime import within
from executors.frames import Checkpointed, Snapshotted
from executors.packer import Packer, Parcel
from mesh import metrics, platform
from mesh.artifacts import ArtifactStore
from mesh.cache import remove_folder
from mesh.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    BusUnavailable,
    ChildBroke,
    DataRefused,
    DiskFull,
    EnvironmentUnfit,
    NotFound,
    RamifyError,
)
from mesh.log import get as get_log
from mesh.messages.base import Epoch, Facts, Key
from mesh.messages.commands import CheckpointMade

log = get_log("agents.worker.checkpoints")

FULL_S = 60.0
"""How long the end of an attempt waits for room for its last checkpoint, in the store or on this disk."""

LOOK_S = 1.0
"""How often an end that waits looks whether that time is over."""

COPY_BYTES_MAX = 2 * 1024 * 1024 * 1024
"""Largest checkpoint of which a plain copy goes into the local cache: writing it takes a disk some ten seconds."""

COPY_CACHE_SHARE = 0.25
"""Nor one that takes more than this share of the cache: it would put out what other tasks need."""

COPY_DISK_SHARE = 0.25
"""Nor one that takes more than this share of the disk's free room."""

COPY_TIME_SHARE = 0.1
"""Nor so soon after the last copy that packing with copies takes more than this share of the time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """A checkpoint that lies as files in a folder of its own."""

    made: Checkpointed


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A checkpoint that was packed."""

    made: Snapshotted
    parcel: Parcel


class Snapshot:
    """A snapshot in its child's buffer, held open until it is let go."""

    def __init__(self, made: Snapshotted, release: Callable[[bool], None]) -> None:
        """release: tells the child that its buffer may be overwritten; True: because there was no room for what is in
        it. OSError when there is no such buffer."""
        self.made, self._release = made, release
        self._fd, self.path = platform.shared_again(made.buffer)

    def let_go(self, *, lacked_room: bool = False) -> None:
        """It is not read any more."""
        os.close(self._fd)
        self._release(lacked_room)


class Checkpoints:
    """The checkpoints of one lease. For one event loop."""

    def __init__(
        self,
        task: str,
        epoch: Epoch,
        incarnation: str,
        store: ArtifactStore,
        packer: Packer,
        owe: Callable[[CheckpointMade], Awaitable[None]],
        folder: Path,
        *,
        cache_bytes_max: int = 0,
    ) -> None:
        """folder: in the attempt's scratch folder, for objects on their way. cache_bytes_max: of the local cache."""
        self.skipped = 0
        self.paused = ""
        """Why nothing is uploaded at the moment, in a sentence; '' when nothing stands in the way."""
        self.stored_at = time.monotonic()
        """When the newest one was stored; before the first, when that was made."""
        self._task, self._epoch, self._incarnation = task, epoch, incarnation
        self._store, self._packer, self._owe, self._folder = store, packer, owe, folder
        self._cache_bytes_max = cache_bytes_max
        self._snapshot: Snapshot | None = None
        self._ready: Folder | Packed | None = None
        self._news = asyncio.Event()
        """A newer checkpoint is ready than the one that is on its way."""
        self._packing: asyncio.Task[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._full_since: float | None = None
        self._cached = ""
        """Digest of the checkpoint whose copy is in the local cache."""
        self._removing: set[asyncio.Task[None]] = set()
        self._copies = itertools.count(1)
        self._copied_at, self._pack_s = float("-inf"), 0.0

    # -- what comes in ------------------------------------------------------------------------------------------------

    def take(self, made: Snapshotted, release: Callable[[bool], None]) -> None:
        """Take over a snapshot. release: called once, when its buffer is not read any more; with True when this disk
        had no room for it."""
        self._skip(made.skipped)
        try:
            snapshot = Snapshot(made, release)
        except OSError as error:
            release(False)
            self._lost(made.number, f"its buffer can not be opened ({error.strerror})")
            return
        if self._snapshot is not None:
            self._skip()
            self._snapshot.let_go()
        self._snapshot = snapshot
        if self._packing is None or self._packing.done():
            self._packing = asyncio.create_task(self._pack(), name=f"packing checkpoints of {self._task}")

    def offer(self, made: Checkpointed) -> None:
        """Take over a finished checkpoint folder; it is removed when it is stored or gave way."""
        self._get_ready(Folder(made))

    async def flush(self) -> None:
        """Wait until the newest checkpoint is owed or lost; with a full store or disk for FULL_S at most."""
        while working := {task for task in (self._packing, self._upload) if task is not None and not task.done()}:
            await asyncio.wait(working, timeout=LOOK_S)
            if (
                self._full_since is not None
                and time.monotonic() - self._full_since >= FULL_S
                and not all(task.done() for task in working)
            ):
                log.warning("the last checkpoint of %s is given up: %s", self._task, self.paused)
                return

    async def close(self) -> None:
        """Stop; what was not finished is lost."""
        for task in (self._packing, self._upload):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._snapshot is not None:
            self._snapshot.let_go()
        if self._ready is not None:
            self._give_up(self._ready)
        self._snapshot, self._ready = None, None
        self.paused, self._full_since = "", None
        self._packer.drop(self._folder)
        await asyncio.gather(*self._removing, return_exceptions=True)

    # -- packing ------------------------------------------------------------------------------------------------------

    async def _pack(self) -> None:
        while self._snapshot is not None:
            snapshot, self._snapshot = self._snapshot, None
            made, lacked_room = snapshot.made, False
            try:
                parcel = await self._packer.pack(self._folder, snapshot.path, made.files, plain=self._copy_to(made))
            except DiskFull as error:
                lacked_room = True
                self._pause(error)
                self._lost(made.number, str(error))
                continue
            except (ChildBroke, DataRefused, EnvironmentUnfit) as error:
                self._lost(made.number, str(error))
                continue
            finally:
                snapshot.let_go(lacked_room=lacked_room)
            self._pack_s = parcel.seconds
            if parcel.plain is not None:
                self._copied_at = time.monotonic()
            metrics.count(
                "mesh_checkpoint_bytes_total", sum(entry.size_bytes for entry in parcel.entries), what="state"
            )
            metrics.count("mesh_checkpoint_bytes_total", parcel.new_bytes, what="packed")
            self._get_ready(Packed(made, parcel))

    def _copy_to(self, made: Snapshotted) -> Path | None:
        """A folder for a plain copy, if one is cheap enough now."""
        size = sum(span.size_bytes for span in made.files)
        small = size <= min(COPY_BYTES_MAX, COPY_CACHE_SHARE * self._cache_bytes_max)
        seldom = time.monotonic() - self._copied_at >= self._pack_s / COPY_TIME_SHARE
        if not (small and seldom and size <= COPY_DISK_SHARE * platform.disk_free(self._folder)):
            return None
        return self._folder / "plain" / str(next(self._copies))

    # -- uploading ----------------------------------------------------------------------------------------------------

    def _get_ready(self, ready: Folder | Packed) -> None:
        """A checkpoint can go; one that waited gives way."""
        if self._ready is not None:
            self._skip()
            self._give_up(self._ready)
        self._ready = ready
        self._news.set()
        if self._upload is None or self._upload.done():
            self._upload = asyncio.create_task(self._send(), name=f"uploads of {self._task}")

    async def _send(self) -> None:
        while self._ready is not None:
            ready, self._ready = self._ready, None
            self._news.clear()
            try:
                manifest = await self._stored(ready)
            except (ArtifactCorrupt, ArtifactMissing, DataRefused, EnvironmentUnfit) as error:
                if isinstance(error, ArtifactMissing):  # what was believed to be stored is not: begin again, whole
                    self._packer.drop(self._folder)
                self._lost(ready.made.number, str(error))
                self._give_up(ready)
            except BaseException:
                self._give_up(ready)
                raise
            else:
                await self._settle(ready, manifest)

    async def _stored(self, ready: Folder | Packed) -> str:
        """The digest of its manifest; '' when a newer checkpoint came while this one could not be stored."""
        pause_s = PAUSE_S_FIRST
        while True:
            try:
                manifest = await self._put(ready)
            except (BusUnavailable, NotFound, DiskFull) as error:
                self._pause(error)
            else:
                self._resumed()
                return manifest
            if await within(pause_s, self._news):
                return ""
            pause_s = min(PAUSE_S_MAX, 2 * pause_s)

    async def _put(self, ready: Folder | Packed) -> str:
        made = ready.made
        facts: Facts = {"task": self._task, "epoch": str(self._epoch), "number": made.number, "step": made.step}
        if isinstance(ready, Folder):
            return await self._store.put(Path(ready.made.folder), media="checkpoint", facts=facts, keep=True)
        return await self._store.put_packed(
            ready.parcel.entries,
            ready.parcel.folder,
            media="checkpoint",
            facts={**facts, **ready.made.facts},
            plain=ready.parcel.plain,
        )

    async def _settle(self, ready: Folder | Packed, manifest: str) -> None:
        """It is stored: owe its row, let the packer build on it. Without a manifest it gave way."""
        if not manifest:
            self._skip()
            self._give_up(ready)
            return
        made = ready.made
        metrics.count("mesh_checkpoints_total", outcome="made")
        self.stored_at = time.monotonic()
        await self._owe(
            CheckpointMade(
                key=Key(self._task, self._epoch, CheckpointMade.kind, made.number),
                incarnation=self._incarnation,
                manifest=manifest,
                step=made.step,
                best=made.best,
                trained_s=made.trained_s,
            )
        )
        self._clean(ready, stored=True)
        if isinstance(ready, Folder) or ready.parcel.plain is not None:
            before, self._cached = self._cached, manifest
            if before and before != manifest:
                await asyncio.to_thread(self._store.drop, before)

    # -- what is left -------------------------------------------------------------------------------------------------

    def _give_up(self, ready: Folder | Packed) -> None:
        self._clean(ready, stored=False)

    def _clean(self, ready: Folder | Packed, *, stored: bool) -> None:
        """Its files are not needed any more."""
        if isinstance(ready, Folder):
            self._remove(Path(ready.made.folder))
            return
        self._packer.settle(ready.parcel, stored=stored)
        if ready.parcel.plain is not None:
            self._remove(ready.parcel.plain)

    def _remove(self, folder: Path) -> None:
        task = asyncio.create_task(asyncio.to_thread(remove_folder, folder), name=f"removing {folder.name}")
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    def _skip(self, count: int = 1) -> None:
        self.skipped += count
        if count:
            metrics.count("mesh_checkpoints_total", count, outcome="skipped")

    def _lost(self, number: int, reason: str) -> None:
        metrics.count("mesh_checkpoints_total", outcome="lost")
        log.warning("checkpoint %d of %s is not kept: %s", number, self._task, reason)

    def _pause(self, error: RamifyError) -> None:
        if not self.paused:
            log.warning("checkpoints of %s wait, its training goes on: %s", self._task, error)
        self.paused = f"Checkpoints of {self._task} wait, its training goes on: {error}"
        if not isinstance(error, DiskFull):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = time.monotonic()

    def _resumed(self) -> None:
        if self.paused:
            log.info("checkpoints of %s are stored again", self._task)
        self.paused, self._full_since = "", None
