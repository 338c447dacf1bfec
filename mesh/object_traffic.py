"""One process's traffic with the store of objects: what is sent, what is believed to be there, what is fetched.

    store    believed to be there? -> nothing.  told so a moment ago of others? -> ask.  else -> send, put if absent
    settle   what was seen too long ago is asked again, what is condemned is sent again, over the old one
    seal     settle -> write the manifest -> settle once more, until there is nothing to do
    fetch    the object, for a delta its base beside it -> decode -> check the digest -> hand out

What is stored may be removed by the collector of garbage while somebody relies on it. The rule that prevents that has
two halves, and needs no clock. Here: the lists of the condemned are read after the manifest is stored and before
anybody is told its digest; what stands on one is written again. The collector: publishes a list, looks after that at
the manifests, and removes what none of them names, in the version that it has condemned. So whatever is condemned
after we have read finds our manifest, and whatever was condemned before is stored anew. Settling before the manifest,
too, means that none is stored without its objects.

Not covered: a store that came back older. Whoever notices it calls `forget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

from mesh import codec, coding, limits, metrics
from mesh.condemned import CondemnedLists
from mesh.errors import ArtifactCorrupt, ArtifactMissing, BusUnavailable, RamifyError
from mesh.messages import object_names
from mesh.messages.artifacts import CODING_DELTA, OBJECT_FORMAT, OBJECT_MAGIC
from mesh.messages.object_names import ObjectName
from mesh.objects import ObjectBackend
from mesh.windows import Pace, in_window, patiently, together

Bytes = bytes | bytearray | memoryview

Report = Callable[[ObjectName], Awaitable[None]]
"""Tells the mesh of a corrupt object."""

Resend = Callable[[ObjectName, bool], Awaitable[None]]
"""Stores an object that was believed to be there; True: over the one that is."""

Pages = Callable[[], AsyncIterator[tuple[Collection[ObjectName], Resend]]]
"""All that a manifest names, a bounded number at a time, each page with what stores its objects again. Lists of objects
come before the objects in them: as long as a list is missing, the collector does not know what it names."""

NAMES_AT_ONCE = 12_000
"""Names of one page."""

BELIEFS_MAX = 60_000
"""Names believed to be stored (12 MB of memory, 30 GB of chunks); all are forgotten when there are more."""


SETTLES_MAX = 50
"""Times that one artifact is settled after its manifest was written; a list is published once in minutes."""

_DELTA_HEADER = OBJECT_MAGIC + bytes((OBJECT_FORMAT, CODING_DELTA))


class Asking:
    """Whether to ask before sending, within one upload: as long as the answers are 'there'.

    A resumed upload so asks for what it has sent before, a new one sends without a question. A change from one to the
    other costs a window of questions, or a window of bytes.
    """

    def __init__(self) -> None:
        self.first = True

    def found(self, there: bool) -> None:
        """Learn from an answer."""
        self.first = there


class Traffic:
    """Sends and fetches objects. For one event loop."""

    def __init__(
        self,
        backend: ObjectBackend,
        *,
        condemned: CondemnedLists | None = None,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.condemned, self.report = condemned, report
        if condemned is not None:
            condemned.on_gap = self.forget
        self._clock = clock
        self._out, self._in = Pace(), Pace()
        self._seen_at: dict[ObjectName, float] = {}

    # -- beliefs ------------------------------------------------------------------------------------------------------

    def believes(self, name: ObjectName) -> bool:
        """Was it stored, or seen to be stored, lately?"""
        seen_at = self._seen_at.get(name)
        return seen_at is not None and self._clock() - seen_at < limits.BELIEF_S

    def saw(self, name: ObjectName) -> None:
        """It is there now."""
        if len(self._seen_at) >= BELIEFS_MAX:
            self._seen_at.clear()
        self._seen_at[name] = self._clock()

    def forget(self) -> None:
        """Believe nothing any more."""
        self._seen_at.clear()

    async def absent(self, names: Iterable[ObjectName]) -> set[ObjectName]:
        """Those that are neither believed to be there nor are."""
        doubtful = {name for name in names if not self.believes(name)}
        if not doubtful:
            return doubtful
        missing = await patiently(lambda: self.backend.absent(sorted(doubtful)))
        for name in doubtful - missing:
            self.saw(name)
        return missing

    # -- sending ------------------------------------------------------------------------------------------------------

    async def is_there(self, name: ObjectName, asking: Asking) -> bool:
        """May sending be spared? Asks the store only while others were there too."""
        if not self.believes(name):
            if not asking.first:
                return False
            there = await patiently(lambda: self.backend.has(name))
            asking.found(there)
            if not there:
                return False
            self.saw(name)
        metrics.count("mesh_artifact_chunks_total", outcome="there")
        return True

    async def send(self, name: ObjectName, stored: Bytes, asking: Asking | None = None, *, over: bool = False) -> None:
        """Put if absent, or over what is there. BusUnavailable, DiskFull."""
        data = stored if isinstance(stored, bytes) else bytes(stored)
        position = self.condemned.position if self.condemned is not None else 0
        sent = await patiently(lambda: self._out.carry(lambda: self.backend.put(name, data, over=over)))
        self.saw(name)
        if sent and self.condemned is not None:
            self.condemned.renewed(name, position)
        if asking is not None:
            asking.found(not sent)
        metrics.count("mesh_artifact_chunks_total", outcome="out" if sent else "there")
        if sent:
            metrics.count("mesh_artifact_bytes_total", len(data), direction="out")

    async def renew(self, name: ObjectName) -> bool:
        """Write a whole object again from what is stored; False when it is not there, or wrong."""
        stored = await patiently(lambda: self.backend.get(name)) if name.kind == object_names.WHOLE else None
        if stored is None:
            return False
        try:
            right = codec.digest(coding.decode(stored)) == name.digest
        except ArtifactCorrupt:
            right = False
        if right:
            await self.send(name, stored, over=True)
        return right

    async def settle(self, names: Collection[ObjectName], resend: Resend) -> bool:
        """Have all these objects stored, and none of them condemned; True when nothing had to be done."""
        lists = self.condemned
        doomed = await patiently(lambda: lists.doomed(names)) if lists is not None else set[ObjectName]()
        lost = await self.absent(name for name in names if name not in doomed)  # after a gap in the lists: asks for all
        await in_window(sorted(lost), lambda name: resend(name, False))  # sorted: each run of a seed is the same
        await in_window(sorted(doomed), lambda name: resend(name, True))
        return not lost and not doomed

    async def seal(self, names: Collection[ObjectName], digest: str, manifest: bytes, resend: Resend) -> None:
        """Store a manifest whose objects are stored; they are, and will be, when this returns."""

        async def pages() -> AsyncIterator[tuple[Collection[ObjectName], Resend]]:
            yield names, resend

        await self.seal_pages(pages, digest, manifest)

    async def seal_pages(self, pages: Pages, digest: str, manifest: bytes) -> None:
        """`seal` for more names than should be held at once: each page is settled by itself. That each was, after the
        manifest was stored, is all that the rule asks for."""
        async for names, resend in pages():
            await self.settle(names, resend)
        await self.put_manifest(digest, manifest)
        async for names, resend in pages():
            for _ in range(SETTLES_MAX):
                if await self.settle(names, resend):
                    break
            else:
                raise BusUnavailable(f"the store loses objects of {digest[:16]} as fast as they are sent: try later")

    async def put_manifest(self, digest: str, data: bytes) -> None:
        """Store a manifest, over an older one: the collector counts from then on how long it has no name."""
        await patiently(lambda: self.backend.put(object_names.manifest(digest), data, over=True))

    def now(self) -> float:
        """Seconds of the clock by which beliefs age."""
        return self._clock()

    # -- fetching -----------------------------------------------------------------------------------------------------

    async def fetch_manifest(self, digest: str) -> bytes:
        """The bytes of a manifest. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""
        name = object_names.manifest(digest)
        data = await patiently(lambda: self.backend.get(name))
        if data is None:
            raise ArtifactMissing(
                f"The artifact {digest[:16]} is not in {self.backend.where}.", digest=digest, name=name
            )
        if codec.digest(data) != digest:
            raise await self._corrupt(name, f"The manifest {digest[:16]} does not match its digest.")
        return data

    async def fetch_list(self, digest: str) -> bytes:
        """The bytes of a list of objects. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""
        found = list[bytes]()
        await self.fetch(digest, "", None, lambda body: found.append(bytes(body)))
        return found[0]

    async def fetch(self, digest: str, base: str, size: int | None, take: Callable[[Bytes], None]) -> None:
        """Fetch an object and hand its decoded, checked bytes to `take`, which runs in a thread.

        What is stored under a delta's name may be whole (`mesh/artifact_again.py`): then its base may be missing.
        ArtifactMissing, ArtifactCorrupt (reported, too), BusUnavailable, and what `take` raises.
        """
        name = object_names.of_part(digest, base)
        if not base:
            await self._checked(name, self._there(name, await self._stored(name)), None, size, take)
            return
        beneath = object_names.whole(base)
        found, found_base = await together(self._stored(name), self._stored(beneath))
        stored, body = self._there(name, found), None
        if is_delta(stored):
            body = await self._checked(beneath, self._there(beneath, found_base), None, None, None)
        await self._checked(name, stored, body, size, take)

    async def _stored(self, name: ObjectName) -> bytes | None:
        stored = await patiently(lambda: self._in.carry(lambda: self.backend.get(name)))
        if stored is not None:
            metrics.count("mesh_artifact_chunks_total", outcome="in")
            metrics.count("mesh_artifact_bytes_total", len(stored), direction="in")
        return stored

    def _there(self, name: ObjectName, stored: bytes | None) -> bytes:
        if stored is None:
            self._seen_at.pop(name, None)
            raise ArtifactMissing(
                f"The object {short(name)} is not in {self.backend.where}.", digest=name.digest, name=name
            )
        return stored

    async def _checked(
        self,
        name: ObjectName,
        stored: bytes,
        base: Bytes | None,
        size: int | None,
        take: Callable[[Bytes], None] | None,
    ) -> Bytes:
        def work() -> Bytes:
            body = coding.decode(stored, base)
            actual = codec.digest(body)
            if actual != name.digest or (size is not None and len(body) != size):
                wanted = f"{size} bytes" if size is not None else "it"
                raise ArtifactCorrupt(f"{wanted} expected, found {actual[:16]} of {len(body)} bytes.")
            if take is not None:
                take(body)
            return body

        try:
            return await asyncio.to_thread(work)
        except ArtifactCorrupt as error:
            raise await self._corrupt(name, f"The object {short(name)} is corrupt: {error}") from None

    async def _corrupt(self, name: ObjectName, sentence: str) -> ArtifactCorrupt:
        metrics.count("mesh_artifact_corrupt_total")
        self._seen_at.pop(name, None)
        if self.report is not None:
            with contextlib.suppress(RamifyError):
                await self.report(name)
        return ArtifactCorrupt(sentence, digest=name.digest, name=name)


def is_delta(stored: bytes) -> bool:
    """Does it say that it needs its base?"""
    return stored[:4] == _DELTA_HEADER


def short(name: ObjectName) -> str:
    """A name for people."""
    return name.digest[:16] + (f" (against {name.base[:16]})" if name.base else "")
