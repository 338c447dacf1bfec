"""From which checkpoint a lease starts: the newest recorded one that is whole.

    resume -> the older recorded ones, newest first -> the beginning

One that is missing, damaged or not this task's is passed over and reported: in the log, in a count, and in the
result's facts under `passed_over`. A task is never set aside because of a checkpoint. Numbers go on from the newest
that is recorded, wherever the training starts, so that the ledger takes the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator

from mesh import limits, metrics
from mesh.errors import ArtifactCorrupt, ArtifactMissing
from mesh.log import get as get_log
from mesh.messages.base import Facts
from mesh.messages.leases import Lease

log = get_log("agents.worker")

PASSED_OVER = "passed_over"
"""The fact of a result that says which recorded checkpoints could not be used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """Where an attempt may start; the manifest is '' for the beginning."""

    manifest: str = ""
    number: int = 0
    trained_s: float = 0.0


class Resume:
    """The beginnings of one lease, and what was found wrong with them."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._faults: list[str] = []

    def beginnings(self) -> Iterator[Beginning]:
        """What to try, in order; the last one always works."""
        lease = self._lease
        if lease.resume:
            yield Beginning(lease.resume, lease.checkpoint_number, lease.trained_s)
        yield from (Beginning(one.manifest, one.number, one.trained_s) for one in lease.older)
        yield Beginning()

    @property
    def digests(self) -> tuple[str, ...]:
        """The artifacts that may be fetched."""
        return tuple(one.manifest for one in self.beginnings() if one.manifest)

    async def fetch(self, one: Beginning, get: Callable[[str], Awaitable[str]]) -> str | None:
        """The local path of a checkpoint, '' for the beginning; None when it is not whole."""
        if not one.manifest:
            return ""
        try:
            return await get(one.manifest)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            self.pass_over(one, error)
            return None

    def pass_over(self, one: Beginning, error: Exception) -> None:
        """This checkpoint can not be used."""
        metrics.count("mesh_checkpoints_total", outcome="unusable")
        self._faults.append(f"checkpoint {one.number}: {error}"[: limits.TEXT_CHARS_MAX])
        log.warning("%s passes over checkpoint %d: %s", self._lease.task.id, one.number, error)

    @property
    def facts(self) -> Facts:
        """What the result says about it; nothing when the first one was whole."""
        return {PASSED_OVER: list(self._faults)} if self._faults else {}
