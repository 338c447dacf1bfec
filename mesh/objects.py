"""Where objects and manifests lie: a small port, and its first implementation on JetStream.

What is stored is immutable and named by digest (`mesh/messages/object_names.py`), so writing is put-if-absent and
repeating is free. Whatever comes back is checked by the caller; a backend checks nothing. Other homes keep the same
promises: `mesh/objects_folder.py` (a shared disk) and `mesh/objects_s3.py`.

Removing is for the collector of garbage, who must not take what somebody has just sent again: `mark` is a moment in the
store's own time, and `remove(name, mark=…)` leaves alone what was written after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from mesh.bus import Log
from mesh.errors import Conflict, DiskFull, InvariantBroken
from mesh.messages.object_names import ObjectName
from mesh.subjects import Subjects
from mesh.windows import in_window

PUT_TIMEOUT_S = 30.0
"""Longest wait for one stored chunk: a slow uplink needs 16 s for 512 KiB at 256 kbit/s."""


NO_SEQUENCE = 2**62
"""No stream comes so far: a write that expects it as its subject's last is never taken, and is told the true one."""


class ObjectBackend(Protocol):
    """A store of immutable bytes by name. BusUnavailable when away, DiskFull when full, a Stop when it refuses us."""

    @property
    def where(self) -> str:
        """Where the objects lie, for people; without secrets."""
        ...

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        """Store if absent; False when it was there. On the backend's disk when this returns.

        over: write again although it is there, so that a collector who has seen the old one leaves this one alone.
        """
        ...

    async def get(self, name: ObjectName) -> bytes | None:
        """The stored bytes, or None."""
        ...

    async def has(self, name: ObjectName) -> bool:
        """Is it there? Moves no bytes of it."""
        ...

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """Those of the names that are not there; many at once, as cheap as the backend can."""
        ...

    def names(self) -> AsyncIterator[ObjectName]:
        """Everything that is stored now, in no order. What comes or goes meanwhile may be missed or told."""
        ...

    async def use(self) -> tuple[int, int]:
        """(bytes that are stored, most that may be); -1 for what is not known. Cheap: it is asked twice a minute."""
        ...

    async def mark(self) -> str:
        """This moment, as `remove` understands it."""
        ...

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        """Remove; with a mark only what was last written before it. True when something was removed."""
        ...

    async def close(self) -> None:
        """Let go of connections."""


class JetStreamBackend:
    """Objects and manifests as messages of the ARTIFACTS stream, one subject each."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._subjects = subjects
        self._stream = subjects.stream("ARTIFACTS")

    @property
    def where(self) -> str:
        """The stream's name."""
        return f"the stream {self._stream}"

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        """Store if absent; False when it was there."""
        subject = self._subjects.stored(name)
        try:
            await self._log.append(subject, data, subject_seq=None if over else 0, timeout_s=PUT_TIMEOUT_S)
        except Conflict:  # the same name, so the same bytes: somebody stored it before
            return False
        except DiskFull as error:
            raise DiskFull(
                f"The artifact store is full ({error}): raise the broker's limit, or wait for the next collection."
            ) from None
        return True

    async def get(self, name: ObjectName) -> bytes | None:
        """The stored bytes, or None."""
        found = await self._log.last(self._stream, self._subjects.stored(name))
        return None if found is None else found.data

    async def has(self, name: ObjectName) -> bool:
        """Is it there? Asked by a write that can not succeed: only who knows a name hears of it, and whoever may write
        objects need not be allowed to list them."""
        try:
            await self._log.append(self._subjects.stored(name), b"", subject_seq=NO_SEQUENCE)
        except Conflict as error:
            return bool(error.last_seq)
        raise InvariantBroken(f"{self._stream} stored {name} behind the sequence {NO_SEQUENCE}")

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """Those that are not there: each is asked for, many at a time."""
        absent = set[ObjectName]()

        async def ask(name: ObjectName) -> None:
            if not await self.has(name):
                absent.add(name)

        await in_window(names, ask)
        return absent

    async def names(self) -> AsyncIterator[ObjectName]:
        """Everything that is stored now, a page of subjects at a time."""
        async for page in self._log.subjects(self._stream, self._subjects.artifacts()):
            for subject in page:
                name = self._subjects.stored_name(subject)
                if name is not None:
                    yield name

    async def use(self) -> tuple[int, int]:
        """The stream's size and limit."""
        state = await self._log.state(self._stream)
        return state.size_bytes, state.limit_bytes

    async def mark(self) -> str:
        """The stream's last sequence."""
        return str((await self._log.state(self._stream)).last_seq)

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        """Purge the subject, with a mark only up to that sequence: both in one step of the server."""
        below_seq = int(mark) + 1 if mark else 0
        return bool(await self._log.purge(self._stream, subject=self._subjects.stored(name), below_seq=below_seq))

    async def close(self) -> None:
        """The connection is the agent's."""
