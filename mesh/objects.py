"""Where objects and manifests lie: a small port, and its first implementation on JetStream.

Both kinds are immutable and named by digest, so writing is put-if-absent and repeating is free. Other homes (a shared
folder, S3) implement the same four methods. Whatever comes back is checked by the caller; a backend checks nothing.
"""

from __future__ import annotations

from typing import Protocol

from mesh.bus import Log
from mesh.errors import Conflict
from mesh.subjects import Subjects

PUT_TIMEOUT_S = 30.0
"""Longest wait for one stored chunk: a slow uplink needs 16 s for 512 KiB at 256 kbit/s."""


class ObjectBackend(Protocol):
    """A store of immutable bytes by digest. BusUnavailable when away, DiskFull when full."""

    async def put_object(self, digest: str, stored: bytes) -> bool:
        """Store an object if it is absent; False when it was there. On the backend's disk when this returns."""
        ...

    async def get_object(self, digest: str) -> bytes | None:
        """The stored bytes of an object, or None."""
        ...

    async def put_manifest(self, digest: str, data: bytes) -> bool:
        """Store a manifest if it is absent; False when it was there."""
        ...

    async def get_manifest(self, digest: str) -> bytes | None:
        """The bytes of a manifest, or None."""
        ...


class JetStreamBackend:
    """Objects and manifests as messages of the ARTIFACTS stream, one subject each."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._subjects = subjects
        self._stream = subjects.stream("ARTIFACTS")

    async def put_object(self, digest: str, stored: bytes) -> bool:
        """Store an object if it is absent; False when it was there."""
        return await self._put(self._subjects.chunk(digest), stored)

    async def get_object(self, digest: str) -> bytes | None:
        """The stored bytes of an object, or None."""
        return await self._get(self._subjects.chunk(digest))

    async def put_manifest(self, digest: str, data: bytes) -> bool:
        """Store a manifest if it is absent; False when it was there."""
        return await self._put(self._subjects.manifest(digest), data)

    async def get_manifest(self, digest: str) -> bytes | None:
        """The bytes of a manifest, or None."""
        return await self._get(self._subjects.manifest(digest))

    async def _put(self, subject: str, data: bytes) -> bool:
        try:
            await self._log.append(subject, data, subject_seq=0, timeout_s=PUT_TIMEOUT_S)
        except Conflict:  # the same digest, so the same bytes: somebody stored it before
            return False
        return True

    async def _get(self, subject: str) -> bytes | None:
        found = await self._log.last(self._stream, subject)
        return None if found is None else found.data
