"""The artifact store that the settings choose, for an agent or a command."""

from __future__ import annotations

from pathlib import Path

from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.bus import Broker, Log
from mesh.condemned import CondemnedLists
from mesh.messages.collecting import CorruptFound
from mesh.messages.object_names import ObjectName
from mesh.objects import JetStreamBackend, ObjectBackend
from mesh.setting_tree import Settings
from mesh.subjects import Subjects


def open_store(broker: Broker, subjects: Subjects, settings: Settings, *, cache: Path) -> ArtifactStore:
    """The store, with a bounded cache in the folder `cache`. It heeds the collector's lists, and tells the leader of
    corrupt objects. SettingsInvalid for a backend that can not be used."""

    async def report(name: ObjectName) -> None:
        await broker.publish(subjects.ask("scheduler"), codec.encode(CorruptFound(names=(str(name),))))

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


def open_backend(log: Log, subjects: Subjects, settings: Settings) -> ObjectBackend:
    """Where the objects lie. The client of another home than the broker is imported only when it was chosen."""
    chosen = settings.artifacts
    if chosen.backend == "folder":
        from mesh.objects_folder import FolderBackend

        return FolderBackend(Path(chosen.folder), subjects.prefix)
    if chosen.backend == "s3":
        from mesh.objects_s3 import S3Backend

        return S3Backend(chosen, subjects.prefix)
    return JetStreamBackend(log, subjects)
