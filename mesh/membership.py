"""What a machine remembers of the mesh that it has joined.

    <home>/membership/seed.nk            private half of its own key (0600); made here, never sent
    <home>/membership/ca.pem             certificate of the mesh's authority: what vouches for the broker
    <home>/membership/membership.json    name, role, mesh, addresses; written last: with it, the machine has joined

One home is a member of one mesh. A crash leaves a key without a membership: the next try asks with the same key, and is
given the same name.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import ssl
from pathlib import Path

import msgspec

from mesh import platform
from mesh.errors import DiskFull, EnvironmentUnfit, SettingsInvalid
from mesh.invitations import Token
from mesh.messages.base import check_name
from mesh.messages.membership import Joined
from mesh.setting_tree import NatsSettings, Settings

FILE_BYTES_MAX = 64 * 1024
VERSION = 1

ARTIFACTS = ("backend", "folder", "s3_bucket", "s3_prefix", "s3_endpoint", "s3_region")
"""Settings of section `artifacts` that all machines of a mesh share; keys for a bucket are each machine's own."""

FORGET = "`bin/agent leave` forgets it"


class Membership(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mesh, as one of its members knows it."""

    name: str
    role: str
    prefix: str
    servers: tuple[str, ...]
    authority: str
    """SHA-256 of the certificate of the mesh's authority, in hexadecimal: which mesh this is."""
    since_ms: int = 0
    expires_ms: int = 0
    artifacts: dict[str, str] = {}
    version: int = VERSION

    def __post_init__(self) -> None:
        check_name(self.name, "a member's name")
        check_name(self.role, "a role")
        check_name(self.prefix, "the mesh's prefix")
        if not self.servers:
            raise ValueError("it names no address")

    @classmethod
    def of(cls, joined: Joined, authority: bytes, now_ms: int) -> Membership:
        """What is to be remembered of an answer; artifacts' places that this program does not know are left out."""
        return cls(
            name=joined.name, role=joined.role, prefix=joined.prefix, servers=joined.servers, authority=authority.hex(),
            since_ms=now_ms, expires_ms=joined.expires_ms,
            artifacts={name: value for name, value in joined.artifacts.items() if name in ARTIFACTS},
        )  # fmt: skip

    def is_of(self, token: Token) -> bool:
        """Is the token's mesh this one?"""
        return self.authority == token.authority.hex() and self.prefix == token.prefix


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The folder below a home folder."""

    home: Path

    @property
    def folder(self) -> Path:
        """All that is remembered."""
        return self.home / "membership"

    @property
    def seed(self) -> Path:
        """The machine's own key."""
        return self.folder / "seed.nk"

    @property
    def invitation(self) -> Path:
        """The invitation's key, while it is being used."""
        return self.folder / "invitation.nk"

    @property
    def authority(self) -> Path:
        """The certificate that vouches for the broker."""
        return self.folder / "ca.pem"

    @property
    def note(self) -> Path:
        """What makes the membership."""
        return self.folder / "membership.json"

    def make(self) -> None:
        """The folder, private. EnvironmentUnfit or DiskFull."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unfit(self.folder, error) from None

    def write(self, path: Path, data: bytes) -> None:
        """One of the files, private, whole, on the disk when this returns. EnvironmentUnfit or DiskFull."""
        try:
            platform.write_private(path, data)
            platform.sync_folder(self.folder)
        except OSError as error:
            raise unfit(self.folder, error) from None

    def load(self) -> Membership | None:
        """The membership; None when there is none. EnvironmentUnfit when it is there and can not be used."""
        try:
            with self.note.open("rb") as file:
                found = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=Membership)
            if found.version > VERSION:
                raise ValueError(f"a newer program wrote it (form {found.version})")
            certificate = ssl.PEM_cert_to_DER_cert(self.authority.read_text("ascii"))
            if hashlib.sha256(certificate).hexdigest() != found.authority:
                raise ValueError("ca.pem is another mesh's")
            if not self.seed.is_file():
                raise ValueError("seed.nk is missing")
            return found
        except FileNotFoundError as error:
            if not self.note.exists():
                return None
            reason = f"{Path(str(error.filename)).name} is missing"
        except (OSError, ValueError) as error:
            reason = str(error).rstrip(".")
        raise EnvironmentUnfit(
            f"What this machine remembers of its mesh ({self.folder}) can not be used ({reason}): {FORGET}, and a new "
            "invitation joins again."
        )

    def store(self, membership: Membership) -> None:
        """The last file: the machine has joined. EnvironmentUnfit or DiskFull."""
        self.write(self.note, msgspec.json.format(msgspec.json.encode(membership), indent=1))

    def forget(self) -> bool:
        """Remove everything, the note first; was there anything? EnvironmentUnfit when it can not be removed."""
        there = self.note.exists() or self.seed.exists()
        try:
            for path in (self.note, self.seed, self.invitation, self.authority):
                path.unlink(missing_ok=True)
            if there:
                platform.sync_folder(self.folder)
        except OSError as error:
            raise unfit(self.folder, error) from None
        return there


def with_membership(settings: Settings) -> Settings | None:
    """The settings by which the mesh is reached that this home has joined; None when it has joined none.

    SettingsInvalid when another mesh is meant: other keys would be needed. EnvironmentUnfit as `Place.load`.
    """
    place = Place(settings.home)
    found = place.load()
    if found is None:
        return None
    if settings.prefix != found.prefix and settings.origin("prefix") != "default":
        raise SettingsInvalid(
            f"prefix must be {found.prefix!r} here, got {settings.prefix!r}: this machine joined that one; {FORGET}.",
            setting="prefix",
        )
    nats = NatsSettings(
        url=",".join(found.servers), nkey=str(place.seed), ca=str(place.authority), name=found.name,
        js_domain=settings.nats.js_domain, connect_timeout_s=settings.nats.connect_timeout_s,
    )  # fmt: skip
    artifacts = settings.artifacts
    if found.artifacts and settings.origin("artifacts.backend") == "default":
        told = {
            name: value for name, value in found.artifacts.items() if settings.origin(f"artifacts.{name}") == "default"
        }
        artifacts = dataclasses.replace(artifacts, **told)  # type: ignore[arg-type]
    worker = dataclasses.replace(settings.worker, name=found.name)
    return dataclasses.replace(settings, prefix=found.prefix, nats=nats, artifacts=artifacts, worker=worker)


def unfit(folder: Path, error: OSError) -> EnvironmentUnfit | DiskFull:
    """The sentence for a folder that can not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"There is no room in {folder}: free some space, or choose another place with --home.")
    return EnvironmentUnfit(
        f"The folder {folder} must be yours to read and write: {error.strerror}; choose another place with --home."
    )
