"""One upload on the disk: what was announced, how much of it is here, what it became.

    <home>/gateway/uploads/<id>/upload      owner, media, facts, files; at the end the digest
    <home>/gateway/uploads/<id>/files/…     the files, filled one after the other

The offset is the sum of the files' sizes, so that it needs no record of its own. Every request that brought bytes ends
with a sync: what was answered survives a power cut; what was not may be shorter than it was, and is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from pathlib import Path
from typing import Annotated

import msgspec

from agents.gateway_claim_bodies import Amount, Body
from mesh import codec, limits
from mesh.cache import disk_errors, remove_folder
from mesh.errors import Malformed
from mesh.log import get as get_log
from mesh.messages.artifacts import FileEntry, Manifest
from mesh.messages.base import Facts
from mesh.platform import write_private

log = get_log("agents.gateway.uploads")

BYTES_MAX = 256 * 1024 * 1024 * 1024
"""Bytes of one upload; the disk bounds it sooner."""

AGE_S = 24 * 3_600.0
"""An upload without a request for so long is forgotten."""

NAME_BYTES_MAX = 255
"""Of one part of a path: what file systems take."""

NAME = "upload"

KEPT_BYTES_MAX = 16 * 1024 * 1024
"""Of what is written down of one: it came as a smaller body."""


class UploadFile(Body, frozen=True, kw_only=True):
    """One file of the artifact."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
    """Inside the artifact: relative, with `/`, without `..`."""
    size_bytes: Amount
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of its bytes, if it shall be checked."""


class StartUpload(Body, frozen=True, kw_only=True):
    """What will be uploaded."""

    media: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]{0,31}$")]
    """What it is: `dataset`, `model`, `checkpoint`, `outcomes`, `document` …"""
    files: Annotated[tuple[UploadFile, ...], msgspec.Meta(min_length=1, max_length=limits.ARTIFACT_FILES_MAX)]
    facts: Facts = msgspec.field(default_factory=dict)
    """Of a checkpoint: task, epoch, number, step."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(one.size_bytes for one in self.files)

    def check(self) -> None:
        """Malformed for what can not become an artifact."""
        if self.size_bytes > BYTES_MAX:
            raise Malformed(f"an upload has at most {BYTES_MAX} bytes, this one has {self.size_bytes}.")
        paths = {one.path for one in self.files}
        for path in paths:
            parts = path.split("/")
            if not path.isprintable() or any(_too_long(part) for part in parts):
                raise Malformed(f"{path[:80]!r} can not be the path of a file: plain names of up to 255 bytes are.")
            above = {"/".join(parts[:count]) for count in range(1, len(parts))}
            if not above.isdisjoint(paths):
                raise Malformed(f"{path[:80]!r} lies in something that is a file itself.")
        try:
            entries = tuple(FileEntry(path=one.path, size_bytes=0, objects=(), sizes=()) for one in self.files)
            manifest = Manifest(media=self.media, files=entries, facts=self.facts)
        except ValueError as error:
            raise Malformed(f"{error}.") from None
        data = codec.encode(manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
        codec.decode(data, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)


class UploadState(msgspec.Struct, frozen=True, kw_only=True):
    """How far an upload is."""

    id: str
    offset: int
    """Bytes that are here."""
    size_bytes: int
    digest: str = ""
    """The artifact's, once it is made."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file beside the files."""

    owner: str
    asked: StartUpload
    digest: str = ""


class Upload:
    """One upload. `lock` is held by who changes it; writes block for as long as the disk takes."""

    def __init__(self, folder: Path, kept: _Kept) -> None:
        self.id = folder.name
        self.lock = asyncio.Lock()
        self._folder, self._kept = folder, kept
        self._touched_at = time.monotonic()
        self._unsynced: set[Path] = set()
        """Files with bytes that the disk may not have yet."""
        self.offset = self.size_bytes if kept.digest else self._on_disk()
        """Bytes that are here."""

    @classmethod
    def make(cls, folder: Path, owner: str, asked: StartUpload) -> Upload:
        """A new one, on disk when this returns. DiskFull, EnvironmentUnfit."""
        with disk_errors("An upload", folder.parent):
            (folder / "files").mkdir(mode=0o700, parents=True)
        made = cls(folder, _Kept(owner=owner, asked=asked))
        made._save()
        return made

    @property
    def owner(self) -> str:
        """Name of the token that began it."""
        return self._kept.owner

    @property
    def asked(self) -> StartUpload:
        """What was announced."""
        return self._kept.asked

    @property
    def digest(self) -> str:
        """The artifact that it became, or ''."""
        return self._kept.digest

    @property
    def files(self) -> Path:
        """Folder of the files."""
        return self._folder / "files"

    @property
    def size_bytes(self) -> int:
        """Bytes that were announced."""
        return self._kept.asked.size_bytes

    def state(self) -> UploadState:
        """How far it is."""
        return UploadState(id=self.id, offset=self.offset, size_bytes=self.size_bytes, digest=self.digest)

    def touched(self) -> None:
        """Somebody goes on with it."""
        self._touched_at = time.monotonic()

    def age_s(self) -> float:
        """Since somebody did."""
        return time.monotonic() - self._touched_at

    # -- bytes --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Take the next bytes; they do not exceed what was announced. DiskFull."""
        rest, begin = memoryview(data), 0
        with disk_errors("An upload", self._folder):
            for one in self.asked.files:
                end = begin + one.size_bytes
                if self.offset < end and rest:
                    part = rest[: end - self.offset]
                    rest = rest[len(part) :]
                    with self._open(one.path, self.offset - begin) as file:
                        while part:  # a nearly full disk takes a part before it refuses the rest
                            count = file.write(part)
                            self.offset, part = self.offset + count, part[count:]
                begin = end

    def sync(self) -> None:
        """Have what was received on the disk for good: the file that is being filled, and those before it."""
        with disk_errors("An upload", self._folder):
            for path in self._unsynced:
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            self._unsynced.clear()

    def finish(self) -> str:
        """All bytes are here: make the empty files, check the digests that were named; what does not match, or ''."""
        with disk_errors("An upload", self._folder):
            for one in self.asked.files:
                path = self.files / one.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                if one.sha256 and _sha256(path) != one.sha256:
                    return f"the bytes of {one.path[:80]!r} do not have the digest {one.sha256[:16]} that was announced"
        return ""

    def became(self, digest: str) -> None:
        """It is an artifact now: its bytes are not needed here any more."""
        self._kept = msgspec.structs.replace(self._kept, digest=digest)
        self._save()
        remove_folder(self.files)

    def remove(self) -> None:
        """Remove all of it."""
        remove_folder(self._folder)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open(self, name: str, offset: int) -> io.FileIO:
        """A file to go on with at this offset: where it is longer, that was never counted."""
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if offset else "wb", buffering=0)
        file.truncate(offset)
        file.seek(offset)
        self._unsynced.add(path)
        return file

    def _on_disk(self) -> int:
        """Bytes that stand there: full files, and what there is of the next one."""
        found = 0
        for one in self.asked.files:
            path = self.files / one.path
            size = path.stat().st_size if path.is_file() else 0
            found += min(size, one.size_bytes)
            if size < one.size_bytes:
                break
        return found

    def _save(self) -> None:
        with disk_errors("An upload", self._folder):
            write_private(self._folder / NAME, codec.pack(msgspec.to_builtins(self._kept)))


def load_all(folder: Path) -> list[Upload]:
    """The uploads of a gateway before; what is none is removed."""
    found = []
    for path in sorted(folder.iterdir()):
        try:
            body = codec.unpack((path / NAME).read_bytes(), bytes_max=KEPT_BYTES_MAX)
            found.append(Upload(path, msgspec.convert(body, _Kept)))
        except (OSError, Malformed, msgspec.ValidationError, ValueError) as error:
            log.warning("what lies in %s is no upload and is removed: %s", path, error)
            remove_folder(path)
    return found


def _too_long(part: str) -> bool:
    try:
        return len(part.encode()) > NAME_BYTES_MAX
    except UnicodeEncodeError:  # half a character
        return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
