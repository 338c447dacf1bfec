"""The artifact store that the settings choose, for an agent or a command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker, Log
from mesh.condemned import CondemnedLists
from mesh.errors import RamifyError
from mesh.log import get as get_log
from mesh.messages.collecting import CorruptFound
from mesh.messages.object_names import ObjectName
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.setting_tree import Settings
from mesh.subjects import Subjects

if TYPE_CHECKING:
    from mesh.objects_folder import FolderBackend
    from mesh.objects_s3 import S3Backend

log = get_log("mesh.stores")

LOOK_S = 2.0
"""Patience with a store that is asked who it is: a file or a small object."""


def open_store(broker: Broker, subjects: Subjects, settings: Settings, *, cache: Path) -> ArtifactStore:
    """The store, with a bounded cache in the folder `cache`. It heeds the collector's lists, and tells the leader of
    corrupt objects. SettingsInvalid for a backend that can not be used."""

    async def report(name: ObjectName) -> None:
        await broker.publish(subjects.ask("scheduler", broker.name), codec.encode(CorruptFound(names=(str(name),))))

    return ArtifactStore(
        broker,
        subjects,
        cache=cache,
        cache_bytes_max=settings.worker.cache_bytes_max,
        backend=open_backend(broker, subjects, settings),
        condemned=CondemnedLists(broker, subjects),
        report=report,
    )


def home_of(settings: Settings) -> str:
    """Where objects lie, in words that are the same on every machine of a mesh: paths and endpoints are not."""
    chosen = settings.artifacts
    if chosen.backend == "s3":
        return f"the bucket {'/'.join(filter(None, (chosen.s3_bucket, chosen.s3_prefix.strip('/'))))}"
    return "a shared folder" if chosen.backend == "folder" else "the broker"


class StoreIdentity:
    """Which folder or bucket this process really reaches, under a path or name that others may have elsewhere, too.

    A shared store keeps a word of its own, made by the first who asks. The broker needs none: it is what all share.
    """

    def __init__(self, subjects: Subjects, settings: Settings) -> None:
        self.value = ""
        """That word, as it was just read; '' when it is not known now, or in the broker."""
        self._subjects, self._settings = subjects, settings
        self._store: FolderBackend | S3Backend | None = None
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> str:
        """Read it anew. '' when the store is away or takes longer than LOOK_S: what it was before may have changed
        meanwhile, and nobody shall be refused for that."""
        if self._settings.artifacts.backend == "broker" or (self._looking is not None and not self._looking.done()):
            return self.value  # else it hangs: whoever asks next need not wait, too
        self._looking = asyncio.create_task(self._read(), name="identity of the artifact store")
        await asyncio.wait({self._looking}, timeout=LOOK_S)
        if not self._looking.done():
            self.value = ""
        return self.value

    async def _read(self) -> None:
        try:
            self._store = self._store or _open_shared(self._subjects, self._settings)
            if self._store is not None:
                self.value = await self._store.identity()
        except RamifyError as error:
            self.value = ""
            log.debug("the artifact store does not say which one it is: %s", error)


def unlike(ours: str, theirs: str, whose: str, home: str) -> str:
    """That two who name the same home of artifacts reach different ones, as a sentence, or ''. ours, theirs: what their
    stores say of themselves, '' when it is not known; whose: name of the second."""
    if ours == theirs or not ours or not theirs:
        return ""
    return (
        f"The artifacts of this mesh lie in {home}, and so do those of {whose}, but it is another one of that name: "
        "give it the disk or the endpoint that the scheduler has, in section artifacts."
    )


def open_backend(log: Log, subjects: Subjects, settings: Settings) -> ObjectBackend:
    """Where the objects lie. The client of another home than the broker is imported only when it was chosen."""
    return _open_shared(subjects, settings) or JetStreamBackend(log, subjects)


def _open_shared(subjects: Subjects, settings: Settings) -> FolderBackend | S3Backend | None:
    """The folder or bucket; None when objects lie in the broker."""
    chosen = settings.artifacts
    if chosen.backend == "folder":
        from mesh.objects_folder import FolderBackend

        return FolderBackend(Path(chosen.folder), subjects.prefix, chosen.bytes_max)
    if chosen.backend == "s3":
        from mesh.objects_s3 import S3Backend

        return S3Backend(chosen, subjects.prefix)
    return None
