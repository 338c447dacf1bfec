"""One process's traffic with the store of objects: what is sent, what is believed to be there, what is fetched.

    store    believed to be there? -> nothing.  told so a moment ago of others? -> ask.  else -> send, put if absent
    settle   before a manifest: what was seen too long ago is asked again; what is condemned is sent again
    fetch    the object, for a delta its base beside it -> decode -> check the digest -> hand out

What is stored may be removed by the collector of garbage while somebody relies on it. The rule that prevents that has
two halves. Here: every object that a manifest names was stored, or seen, at most BELIEF_S before the manifest is
written, and the list of the condemned was read after that; what stands on it is written again, over the old one. The
collector: publishes the list, waits longer than BELIEF_S, looks at the manifests again, and removes only what was not
written again meanwhile.

Not covered: a store that came back older. Whoever notices it calls `forget`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable

from mesh import codec, coding, limits, metrics
from mesh.errors import ArtifactCorrupt, ArtifactMissing, RamifyError
from mesh.messages import object_names
from mesh.messages.artifacts import CODING_DELTA, OBJECT_FORMAT, OBJECT_MAGIC
from mesh.messages.object_names import ObjectName
from mesh.objects import ObjectBackend
from mesh.windows import in_window, patiently, together

Bytes = bytes | bytearray | memoryview

Condemned = Callable[[], Awaitable[Collection[ObjectName]]]
"""Reads the collector's current list."""

Report = Callable[[ObjectName], Awaitable[None]]
"""Tells the mesh of a corrupt object."""

Resend = Callable[[ObjectName, bool], Awaitable[None]]
"""Stores an object that was believed to be there; True: over the one that is."""

BELIEFS_MAX = 60_000
"""Names believed to be stored (12 MB of memory, 30 GB of chunks); all are forgotten when there are more."""


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
        condemned: Condemned | None = None,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.condemned, self.report = condemned, report
        self._clock = clock
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
        missing = await patiently(lambda: self.backend.absent(doubtful))
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
        sent = await patiently(lambda: self.backend.put(name, data, over=over))
        self.saw(name)
        if asking is not None:
            asking.found(not sent)
        metrics.count("mesh_artifact_chunks_total", outcome="out" if sent else "there")
        if sent:
            metrics.count("mesh_artifact_bytes_total", len(data), direction="out")

    async def settle(self, names: Collection[ObjectName], resend: Resend) -> None:
        """Have every object of a manifest stored, and none of them condemned, before the manifest is written."""
        for lost in await self.absent(names):
            await resend(lost, False)
        if self.condemned is None:
            return
        doomed = set(await patiently(self.condemned)).intersection(names)
        await in_window(doomed, lambda name: resend(name, True))

    async def put_manifest(self, digest: str, data: bytes) -> None:
        """Store a manifest, last of all."""
        name = object_names.manifest(digest)
        doomed = self.condemned is not None and name in await patiently(self.condemned)
        await patiently(lambda: self.backend.put(name, data, over=doomed))

    # -- fetching -----------------------------------------------------------------------------------------------------

    async def fetch_manifest(self, digest: str) -> bytes:
        """The bytes of a manifest. ArtifactMissing, ArtifactCorrupt, BusUnavailable."""
        name = object_names.manifest(digest)
        data = await patiently(lambda: self.backend.get(name))
        if data is None:
            raise ArtifactMissing(f"The artifact {digest[:16]} is not in the store.", digest=digest, name=name)
        if codec.digest(data) != digest:
            raise await self._corrupt(name, f"The manifest {digest[:16]} does not match its digest.")
        return data

    async def fetch(self, digest: str, base: str, size: int, take: Callable[[Bytes], None]) -> None:
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
        stored = await patiently(lambda: self.backend.get(name))
        if stored is not None:
            metrics.count("mesh_artifact_chunks_total", outcome="in")
            metrics.count("mesh_artifact_bytes_total", len(stored), direction="in")
        return stored

    def _there(self, name: ObjectName, stored: bytes | None) -> bytes:
        if stored is None:
            self._seen_at.pop(name, None)
            raise ArtifactMissing(f"The object {short(name)} is not in the store.", digest=name.digest, name=name)
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
