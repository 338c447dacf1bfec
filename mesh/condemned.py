"""The lists of the condemned, as those read them who rely on stored objects.

    doomed    read the new lists  ->  which of these names stand on one, and were not stored again here since?
    renewed   this process has stored it: no list that had been read before that speaks of this version

Each list is read once; only a bounded number stands in the stream, and so in memory. Lists are removed from the front,
long after what they name is gone, and the newest one always stays. A reader that was away so long that it missed some,
or whose stream is another one now, can trust nothing that it believed to be stored: `on_gap` is called.
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

LISTS_KEPT_MAX = 512
"""Lists kept in memory; the collector stops at less. More is not the collector's doing: they count as missed."""


class CondemnedLists:
    """Reads the lists. For one event loop."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self.on_gap: Callable[[], None] = lambda: None
        """Lists may have been missed: called before `doomed` answers."""
        self._log, self._stream, self._subject = log, subjects.stream("CONDEMNED"), subjects.condemned()
        self._lists: dict[int, Condemned] = {}
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
        return next((number for number in reversed(self._lists) if self._lists[number].holds(name)), 0)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read what was published since."""
        try:
            while batch := await self._following():
                for stored in batch:
                    self._take(stored)
                if len(batch) < LISTS_READ_MAX - 1:
                    break
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
        self._read, self._digest = stored.seq, codec.digest(stored.data)
        try:
            self._lists[stored.seq] = codec.decode(stored.data, Condemned)
        except Malformed:  # of a newer program: what it names is unknown
            self.on_gap()
        while len(self._lists) > LISTS_KEPT_MAX:
            oldest = next(iter(self._lists))
            del self._lists[oldest]
            self._renewed = {name: number for name, number in self._renewed.items() if number > oldest}
            self.on_gap()

    def _start_anew(self) -> None:
        if self._read:
            self._lists.clear()
            self._renewed.clear()
            self._read, self._digest = 0, ""
            self.on_gap()
