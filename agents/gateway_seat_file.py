"""What a seat writes down: whose life it is, what it offers, which leases were handed out.

One small file, replaced as a whole: whoever reads it finds the state before or after a change, never between.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agents.holdings import Capacity
from mesh import codec, limits
from mesh.errors import Malformed
from mesh.messages.base import Epoch
from mesh.messages.leases import Lease
from mesh.platform import write_private

NAME = "seat"


class Offering(msgspec.Struct, frozen=True, kw_only=True):
    """What the hands said that they have."""

    kinds: dict[str, int] = {}
    cores: float = 1.0
    memory_bytes: int = 1 << 30
    disk_bytes: int = 1 << 30
    leases_max: int = 1
    gpu_memory_bytes: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def capacity(self) -> Capacity:
        """The same as the holdings count it."""
        return Capacity(
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
            leases_max=self.leases_max,
            gpu_memory_bytes=self.gpu_memory_bytes,
            labels=self.labels,
            kinds=self.kinds,
        )


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that was handed out."""

    lease: Lease
    gpus: tuple[int, ...] = ()
    gpu_memory_bytes: int = 0


class SeatFile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that outlives the gateway's process, but for the outbox."""

    incarnation: str
    opened: int = 0
    """How often the seat was opened under any gateway: numbers of beats and offers go on from it."""
    used_at: float = 0.0
    """When the hands last sat down or took a lease: wall clock in seconds, to forget seats that nobody uses."""
    offering: Offering = Offering()
    leases: tuple[Kept, ...] = ()
    past: tuple[tuple[str, Epoch, str], ...] = ()
    """Task, epoch and incarnation of every lease that was handed out, oldest first, a bounded list."""


def save(folder: Path, seat: SeatFile) -> None:
    """Write it; on disk when this returns."""
    write_private(folder / NAME, codec.pack(msgspec.to_builtins(seat)))


def load(folder: Path) -> SeatFile | None:
    """What is written in a folder; None when nothing valid is."""
    try:
        body = codec.unpack((folder / NAME).read_bytes(), bytes_max=limits.FRAME_BYTES_MAX)
        return msgspec.convert(body, SeatFile)
    except (OSError, Malformed, msgspec.ValidationError, ValueError):
        return None
