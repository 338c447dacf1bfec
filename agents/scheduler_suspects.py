"""Suspects: stored objects that somebody found corrupt. The leader looks itself, and removes what really is.

    reported -> the moment is noted -> read -> decode, compare with the name
             -> right: the report was wrong, or somebody has stored it again
             -> wrong: list of the condemned (nobody believes any more that it is there) -> remove that version
                       -> counted, logged, named by the doctor -> ask caches to store it again

Put-if-absent would protect a corrupt object for ever: this is the only way in which it leaves. Reports may be repeated
or lost; the next reader reports it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from agents.runtime import Agent, now_s
from mesh import codec, coding
from mesh.errors import ArtifactCorrupt, BusUnavailable, Conflict, RamifyError
from mesh.messages import object_names
from mesh.messages.collecting import CorruptRow, Wanted, Why
from mesh.messages.object_names import MANIFEST, ObjectName
from mesh.objects import ObjectBackend

WAITING_MAX = 1_000
"""Reports that wait; what is beyond is reported again by the next reader."""

REMEMBERED_MAX = 100
"""Removed ones that the doctor can name; the oldest is forgotten first."""

Publish = Callable[[Iterable[ObjectName], Why], Awaitable[int]]


class Suspects:
    """Reports of one term."""

    def __init__(self, agent: Agent, backend: ObjectBackend, publish: Publish) -> None:
        self._agent, self._backend, self._publish = agent, backend, publish
        self._waiting: OrderedDict[ObjectName, None] = OrderedDict()
        self._removed: OrderedDict[ObjectName, tuple[float, bool]] = OrderedDict()
        """When, and is it back?"""

    def add(self, names: Iterable[str]) -> None:
        """Somebody reports these."""
        for text in names:
            name = object_names.parse(text)
            if name is not None and len(self._waiting) < WAITING_MAX:
                self._waiting[name] = None

    def rows(self) -> tuple[CorruptRow, ...]:
        """What was removed, newest last."""
        now = now_s()
        return tuple(
            CorruptRow(name=str(name), age_s=round(now - at, 1), back=back)
            for name, (at, back) in self._removed.items()
        )

    async def look(self) -> None:
        """Examine what was reported, and see what has come back. BusUnavailable: the rest waits."""
        while self._waiting:
            name = next(iter(self._waiting))
            try:
                await self._examine(name)
            except BusUnavailable:
                raise
            except RamifyError as error:  # it would stand in the way of all others; its next reader reports it again
                self._agent.failed("suspect", f"{name} was reported as corrupt and can not be examined: {error}")
            self._waiting.pop(name, None)
        for name, (at, back) in list(self._removed.items()):
            if not back and await self._backend.has(name):
                self._removed[name] = (at, True)

    async def _examine(self, name: ObjectName) -> None:
        mark = await self._backend.mark()
        stored = await self._backend.get(name)
        if stored is None:
            return
        wrong = await self._wrong(name, stored)
        if not wrong:
            return
        try:
            await self._publish([name], Why.CORRUPT)
        except Conflict:  # another leader publishes too: it hears the next report
            return
        if await self._backend.remove(name, mark=mark):
            self._agent.metrics.count("mesh_corrupt_removed_total")
            self._agent.log.error("%s was corrupt in the store and is removed: %s", name, wrong)
            self._removed.pop(name, None)
            self._removed[name] = (now_s(), False)
            while len(self._removed) > REMEMBERED_MAX:
                self._removed.popitem(last=False)
        try:
            await self._agent.broker.publish(self._agent.subjects.wanted(), codec.encode(Wanted(names=(str(name),))))
        except BusUnavailable:
            return  # who needs it finds that it is missing

    async def _wrong(self, name: ObjectName, stored: bytes) -> str:
        """What is wrong with it; '' when nothing is, or when that can not be known."""
        base: bytes | None = None
        if name.base:
            beneath = object_names.whole(name.base)
            base_stored = await self._backend.get(beneath)
            if base_stored is None:
                return ""
            found = _decoded(beneath, base_stored, None)
            if isinstance(found, str):  # the base is what is corrupt
                self.add([str(beneath)])
                return ""
            base = found
        found = _decoded(name, stored, base)
        return found if isinstance(found, str) else ""


def _decoded(name: ObjectName, stored: bytes, base: bytes | None) -> bytes | str:
    """The bytes that a name stands for, or what is wrong with them."""
    try:
        body = stored if name.kind == MANIFEST else bytes(coding.decode(stored, base))
    except ArtifactCorrupt as error:
        return str(error)
    actual = codec.digest(body)
    return body if actual == name.digest else f"its digest is {actual[:16]}"
