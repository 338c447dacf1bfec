"""Checkpoints of one running task on their way into the mesh: one upload at a time, the newest waits, older give way.

Training never waits for this. A checkpoint's row is put into the outbox only after all its objects and its manifest are
stored. A checkpoint that gave way is removed and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from agents.worker_spool import patiently
from executors.frames import Checkpointed
from mesh import metrics
from mesh.artifacts import ArtifactStore
from mesh.cache import remove_folder
from mesh.errors import ArtifactCorrupt, DataRefused, EnvironmentUnfit
from mesh.messages.base import Epoch, Facts, Key
from mesh.messages.commands import CheckpointMade


class Checkpoints:
    """The uploads of one lease."""

    def __init__(
        self,
        task: str,
        epoch: Epoch,
        incarnation: str,
        store: ArtifactStore,
        owe: Callable[[CheckpointMade], Awaitable[None]],
        say: Callable[[str], None],
        facts: Facts,
    ) -> None:
        """facts: go into each manifest beside task, epoch, number and step."""
        self.skipped = 0
        self._task, self._epoch, self._incarnation = task, epoch, incarnation
        self._store, self._owe, self._say, self._facts = store, owe, say, facts
        self._waiting: Checkpointed | None = None
        self._upload: asyncio.Task[None] | None = None

    def offer(self, made: Checkpointed) -> None:
        """Take over a finished checkpoint folder."""
        if self._waiting is not None:
            self.skipped += 1
            metrics.count("mesh_checkpoints_total", outcome="skipped")
            remove_folder(Path(self._waiting.folder))
        self._waiting = made
        if self._upload is None or self._upload.done():
            self._upload = asyncio.create_task(self._run(), name=f"checkpoints of {self._task}")

    async def flush(self) -> None:
        """Wait until the newest checkpoint is owed."""
        if self._upload is not None:
            await self._upload

    async def close(self) -> None:
        """Stop uploading; what was not finished is lost."""
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.gather(self._upload, return_exceptions=True)

    async def _run(self) -> None:
        while (made := self._waiting) is not None:
            self._waiting = None
            await self._one(made)

    async def _one(self, made: Checkpointed) -> None:
        key = Key(self._task, self._epoch, CheckpointMade.kind, made.number)
        facts = {"task": self._task, "epoch": str(self._epoch), "number": made.number, "step": made.step, **self._facts}
        folder = Path(made.folder)
        try:
            manifest = await patiently(
                lambda: self._store.put(folder, media="checkpoint", facts=facts, keep=True),
                f"checkpoint {made.number} of {self._task}",
                self._say,
            )
        except (DataRefused, ArtifactCorrupt, EnvironmentUnfit) as error:
            self._say(f"checkpoint {made.number} of {self._task} is not kept: {error}")
            return
        finally:
            await asyncio.to_thread(remove_folder, folder)
        metrics.count("mesh_checkpoints_total", outcome="made")
        await self._owe(
            CheckpointMade(
                key=key,
                incarnation=self._incarnation,
                manifest=manifest,
                step=made.step,
                best=made.best,
                trained_s=made.trained_s,
            )
        )
