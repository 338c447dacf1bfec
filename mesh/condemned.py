"""The lists of the condemned, as those read them who rely on stored objects.

    doomed    read the new lists  ->  which of these names stand on one, and were not stored again here since?
    renewed   this process has stored it: no list that had been read before that speaks of this version

Each list is read once, and forgotten when the collector has removed it: long after its round, and later than anything
is believed to be stored without being asked for again. The collector keeps a bounded number (some 400,000 names, 14 MB
here). It removes them from the front, and the newest one stays. A reader that was away so long that it missed some, or
whose stream is another one now, can trust nothing that it believed to be stored: `on_gap` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from mesh import codec
from mesh.bus import Log, Stored
from mesh.errors import Malformed, NotFound
from mesh.messages.collecting import Condemned
from mesh.messages.object_names import ObjectName
from mesh.subjects import Subjects

LISTS_READ_MAX = 16
"""Lists read at once: up to 3.5 MiB."""

_PREFIXES = 1 << 16
"""First two bytes of digests, a bit each: most names are on no list, and are known not to be without a search."""


class _Kept:
    """One list, quick to say no."""

    def __init__(self, listed: Condemned) -> None:
        self._listed = listed
        self._bits = bytearray(_PREFIXES // 8)
        for name in listed.names():
            prefix = int(name.digest[:4], 16)
            self._bits[prefix >> 3] |= 1 << (prefix & 7)

    def holds(self, name: ObjectName, prefix: int) -> bool:
        return bool(self._bits[prefix >> 3] & (1 << (prefix & 7))) and self._listed.holds(name)


class CondemnedLists:
    """Reads the lists. For one event loop."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self.on_gap: Callable[[], None] = lambda: None
        """Lists may have been missed: called before `doomed` answers."""
        self._log, self._stream, self._subject = log, subjects.stream("CONDEMNED"), subjects.condemned()
        self._lists: dict[int, _Kept] = {}
        """By number, ascending."""
        self._read = 0
        """Number of the newest list that was read."""
        self._digest = ""
        self._renewed: dict[ObjectName, int] = {}
        """Names on a list, to the number of the newest list that had been read when this process stored them again."""

    async def doomed(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """Those of `names` that have to be stored again, over what is there. BusUnavailable."""
        await self.refresh()
        return {name for name in names if self._doomed(name)}

    @property
    def position(self) -> int:
        """Number of the newest list that was read: ask before a put, tell `renewed` after it."""
        return self._read

    def renewed(self, name: ObjectName, position: int) -> None:
        """This process has stored it, fresh or over the old one; the put began at `position`."""
        if self._newest(name):
            self._renewed[name] = max(position, self._renewed.get(name, 0))

    def _doomed(self, name: ObjectName) -> bool:
        newest = self._newest(name)
        return newest > self._renewed.get(name, 0)

    def _newest(self, name: ObjectName) -> int:
        """Number of the newest list that names it; 0 for none."""
        prefix = int(name.digest[:4], 16)
        return next((number for number, kept in reversed(self._lists.items()) if kept.holds(name, prefix)), 0)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read what was published since."""
        try:
            while batch := await self._following():
                for stored in batch:
                    self._take(stored)
                oldest = await self._log.read(self._stream, self._subject, messages_max=1)
                self._forget(oldest[0].seq if oldest else self._read + 1)
        except NotFound:  # no such stream: nobody has ever condemned anything
            self._start_anew()

    async def _following(self) -> list[Stored]:
        """Lists behind the last one read; the gap is noticed here."""
        batch = await self._log.read(
            self._stream, self._subject, from_seq=max(1, self._read), messages_max=LISTS_READ_MAX
        )
        if not self._read:
            return batch
        if batch and batch[0].seq == self._read and codec.digest(batch[0].data) == self._digest:
            return batch[1:]
        if batch and batch[0].seq == self._read + 1:  # ours has been removed, and none between
            return batch
        self._start_anew()
        return await self._log.read(self._stream, self._subject, messages_max=LISTS_READ_MAX)

    def _take(self, stored: Stored) -> None:
        try:
            self._lists[stored.seq] = _Kept(codec.decode(stored.data, Condemned))
        except Malformed as error:
            raise Malformed(
                f"A list of what may be removed from the artifact store can not be read ({error}): update this program."
            ) from None
        self._read, self._digest = stored.seq, codec.digest(stored.data)

    def _forget(self, first: int) -> None:
        """Lists before this one are over."""
        for number in [number for number in self._lists if number < first]:
            del self._lists[number]
        self._renewed = {name: number for name, number in self._renewed.items() if number >= first}

    def _start_anew(self) -> None:
        if self._read:
            self._lists.clear()
            self._renewed.clear()
            self._read, self._digest = 0, ""
            self.on_gap()
