"""After the broker came back older: what this worker has told the mesh is made true again, artifacts before rows.

    receipted rows -> of tasks without artifacts         owed again at once
                   -> of tasks with results, checkpoints   their artifacts looked for in the store -> put again from the
                      cache, chunks before manifests -> their rows owed again, in the order in which they were written
    inputs and checkpoints of leases that run here, rows without receipt     looked for and put again likewise

Rows without receipt also at the start of each life and after each outage: of what was not told yet nobody else has
heard, so nobody could notice that the store has lost it.

A result whose outputs are neither in the store nor here is not told again: the ledger, which has lost it too, has its
task done once more. So are those of older checkpoints than a lease may start from (worker_resume.py). Everything waits
for a broker that is away, and is begun anew by a new notice. It runs beside the tasks, one artifact at a time; a worker
that dies in the middle begins anew in its next life, which hears the same generation.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from logging import Logger

from agents.owed import Debts
from agents.patience import patiently
from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.errors import EnvironmentUnfit, Malformed
from mesh.messages.base import Key
from mesh.messages.commands import CheckpointMade, FailureFound, GiveBack, ResultFound
from mesh.outbox import Outbox, Row

PAGE = 1_000
"""Rows read from the outbox at once: 1 MB or so."""

CHECKPOINTS = 2
"""Newest checkpoints of a lease that are told again, beside the best: what the ledger knows of a task."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """One row of a task that has artifacts, and which ones."""

    key: Key
    artifacts: tuple[str, ...] = ()
    best: bool = False


class Again:
    """The restoring of one worker life. `run` lasts as long as it."""

    def __init__(
        self, outbox: Outbox, debts: Debts, store: ArtifactStore, held: Callable[[], Iterable[str]], log: Logger
    ) -> None:
        """held: digests that the leases which run here need."""
        self._outbox, self._debts, self._store, self._held, self._log = outbox, debts, store, held, log
        self._noticed = asyncio.Event()
        self._due = asyncio.Event()
        """A look is due, at what is not told yet at least."""
        self._due.set()
        self._whole: dict[str, bool] = {}
        """What was found out since the notice: is the artifact in the store?"""

    async def noticed(self, why: str) -> None:
        """The broker's store is older than what was heard."""
        self._store.forget_stored()
        tasks = await asyncio.to_thread(self._with_artifacts)
        count = await self._debts.owe_again(besides=tasks.keys())
        self._log.warning(
            "%s: %d receipted rows are sent again, those of %d tasks after a look for their artifacts",
            why, count, len(tasks),
        )  # fmt: skip
        self._noticed.set()
        self._due.set()

    def _came_back(self) -> None:
        self._store.forget_stored()
        self._due.set()

    async def run(self) -> None:
        """Restore after each notice and look after each outage, until cancelled."""
        self._debts.on_connected(self._came_back)
        while True:
            await self._due.wait()
            self._due.clear()
            older = self._noticed.is_set()
            self._noticed.clear()
            self._whole.clear()
            await self._put_untold()
            if older:
                await self._restore()

    async def _put_untold(self) -> None:
        """Have in the store what rows without a receipt name."""
        for row in await asyncio.to_thread(self._outbox.pending, PAGE):
            for digest in told(row).artifacts:
                await self._is_whole(digest)

    async def _restore(self) -> None:
        for digest in list(self._held()):
            await self._is_whole(digest)
        tasks = await asyncio.to_thread(self._with_artifacts)
        for task, rows in tasks.items():
            if self._noticed.is_set():
                return
            keys = await self._tellable(rows)
            count = await self._debts.reopen(keys)
            self._log.info("%s: %d of %d receipted rows are sent again", task, count, len(rows))
        lost = sum(not whole for whole in self._whole.values())
        self._log.info("%d artifacts were looked for in the older store, %d are lost", len(self._whole), lost)

    async def _tellable(self, rows: Sequence[Told]) -> tuple[Key, ...]:
        """Rows of one task that may be told again, in their order."""
        results = [row for row in rows if row.key.kind == ResultFound.kind and await self._all_whole(row)]
        checkpoints = [] if results else await self._checkpoints(rows)
        told_again = {row.key for row in (*results, *checkpoints)}
        return tuple(row.key for row in rows if row.key in told_again or row.key.kind in _BARE)

    async def _checkpoints(self, rows: Sequence[Told]) -> list[Told]:
        """Those from which the task may go on: the newest whole ones and the best."""
        newest = sorted(
            (row for row in rows if row.key.kind == CheckpointMade.kind),
            key=lambda row: (row.key.epoch, row.key.number),
            reverse=True,
        )
        found: list[Told] = []
        for row in newest:
            if (len(found) < CHECKPOINTS or row.best) and await self._all_whole(row):
                found.append(row)
                if row.best and len(found) >= CHECKPOINTS:
                    break
        return found

    async def _all_whole(self, row: Told) -> bool:
        return all([await self._is_whole(digest) for digest in row.artifacts])

    async def _is_whole(self, digest: str) -> bool:
        """Is the artifact in the store, now or again?"""
        if digest not in self._whole:
            self._whole[digest] = await patiently(lambda: self._look(digest), f"artifact {digest[:16]}", self._log.info)
        return self._whole[digest]

    async def _look(self, digest: str) -> bool:
        try:
            if not await self._store.missing(digest):
                return True
            if await self._store.send_again(digest):
                self._log.info("artifact %s is put again", digest[:16])
                return True
        except (EnvironmentUnfit, Malformed) as error:
            self._log.warning("artifact %s can not be put again: %s", digest[:16], error)
            return False
        self._log.warning("artifact %s is lost: it is neither in the older store nor here", digest[:16])
        return False

    def _with_artifacts(self) -> dict[str, list[Told]]:
        """Receipted rows of tasks of which one names artifacts, by task, oldest first."""
        named = {row.key.task for row in self._kept() if row.artifacts}
        found: dict[str, list[Told]] = {}
        for row in self._kept():
            if row.key.task in named:
                found.setdefault(row.key.task, []).append(row)
        return found

    def _kept(self) -> Iterable[Told]:
        place = 0
        while rows := self._outbox.kept_beyond(place, PAGE):
            place = rows[-1][0]
            yield from (told(row) for _, row in rows)


_BARE = (FailureFound.kind, GiveBack.kind)


def told(row: Row) -> Told:
    """What a row says of artifacts."""
    if row.key.kind in _BARE:
        return Told(row.key)
    wanted: tuple[type[ResultFound | CheckpointMade], ...] = (ResultFound, CheckpointMade)
    try:
        record = codec.decode(row.data, *wanted)
    except Malformed:
        return Told(row.key)
    if isinstance(record, CheckpointMade):
        return Told(row.key, (record.manifest,), record.best)
    return Told(row.key, tuple(record.outcome.outputs.values()))
