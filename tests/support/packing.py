"""A packer without a process: the same work, done at once, in the test's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from executors.frames import Span
from executors.packer import Packer, Parcel
from executors.packing import Dropped, Pack, Packed, Packing, Refused, Settled
from mesh.errors import ChildBroke, DataRefused, DiskFull


class PackerAtHand(Packer):
    """Fails when told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder)
        self.packing = Packing()
        self.parcels: list[Parcel] = []
        self.settled: list[tuple[int, bool]] = []
        self.failures: list[ChildBroke | DiskFull] = []
        self.plain_wanted: list[bool] = []

    async def pack(self, attempt: Path, buffer: str, files: Sequence[Span], *, plain: Path | None = None) -> Parcel:
        self.plain_wanted.append(plain is not None)
        if self.failures:
            raise self.failures.pop(0)
        wanted = Pack(
            job=len(self.parcels) + 1, buffer=buffer, files=tuple(files), folder=str(attempt),
            plain="" if plain is None else str(plain),
        )  # fmt: skip
        answer = self.packing.take(wanted)
        if isinstance(answer, Refused):
            raise DiskFull(answer.reason) if answer.disk_full else DataRefused(answer.reason)
        assert isinstance(answer, Packed)
        parcel = Parcel(
            job=answer.job, attempt=attempt, folder=attempt, entries=answer.entries, new_objects=answer.new_objects,
            new_bytes=answer.new_bytes, plain=plain if answer.copied else None, seconds=0.0,
        )  # fmt: skip
        self.parcels.append(parcel)
        return parcel

    def settle(self, parcel: Parcel, *, stored: bool) -> None:
        self.settled.append((parcel.job, stored))
        self.packing.take(Settled(job=parcel.job, folder=str(parcel.folder), stored=stored))

    def drop(self, attempt: Path) -> None:
        self.packing.take(Dropped(folder=str(attempt)))
