"""What guards a broker that other machines may reach: TLS with an authority of its own, and a key for everybody.

    <home>/broker/guard.json     written last: from then on this home's broker asks everybody for TLS and a key, on
                                 loopback too, for what was stored there is no longer this machine's alone
    <home>/broker/tls/           certificates (mesh/certificates.py); ca.pem is what clients verify with
    <home>/broker/keys/          seeds of who works on this machine: <role>.nk, or <role>.<name>.nk where both differ
    <home>/broker/members.json   whoever has joined, and open invitations (mesh/members.py)

Everybody has a name and a role, and the role's permissions for that name (mesh/identity.py). Those of this machine are
no members: who can read the home folder may be any of them, and they come and go with it.

Not covered: another user of this machine who can read the home folder (its files are private to their owner), and a
second mesh with another prefix in the same home: one home that is guarded has one mesh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import re
import socket
from pathlib import Path
from typing import Any

from mesh import certificates, identity, platform
from mesh.errors import Conflict, DiskFull, EnvironmentUnfit, SettingsInvalid
from mesh.identity import Identity, Role
from mesh.members import Members
from mesh.messages.base import check_name
from mesh.setting_tree import BrokerSettings
from mesh.setting_values import place
from mesh.subjects import Subjects

VERSION = 1

PORT = 4222
"""Where a broker listens when no other port is said: the one that clients of NATS expect."""

MESH = "MESH"
"""The account in which the streams and this machine's agents are."""

HERE = (
    Role.SCHEDULER, Role.PLANNER, Role.CONSENSUS, Role.GATE, Role.FEEDER, Role.GATEWAY, Role.OPERATOR, Role.KEEPER,
)  # fmt: skip
"""Roles that have one identity on this machine, made together with the guard; workers get theirs by their names."""

LOCAL_MAX = 1_000
"""Identities of this machine: more workers on one machine are a script gone wrong."""

ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """The guard of one broker's folder, for the mesh with this prefix."""

    folder: Path
    prefix: str

    @property
    def tls(self) -> Path:
        """The folder of the certificates."""
        return self.folder / "tls"

    @property
    def authority(self) -> Path:
        """What clients verify with."""
        return certificates.authority(self.tls)

    @classmethod
    def found(cls, folder: Path) -> Guard | None:
        """The guard of this folder; None when the broker in it is open to this machine. EnvironmentUnfit for a note
        that can not be read: nobody may be let in without a key because of that."""
        path = folder / "guard.json"
        try:
            note = json.loads(path.read_bytes())
            if note["version"] != VERSION:
                raise ValueError(f"it is of form {note['version']}, and this program knows form {VERSION}")
            check_name(note["prefix"], "the mesh's prefix")
            return cls(folder, note["prefix"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentUnfit(
                f"{path} must say whose broker this is, but it can not be read ({str(error).rstrip('.')}): put a copy "
                "back."
            ) from None

    @classmethod
    def prepare(cls, folder: Path, broker: BrokerSettings, prefix: str) -> Guard | None:
        """What guards the broker with these settings, made or completed; None where it stays on open loopback.

        EnvironmentUnfit or DiskFull with a sentence.
        """
        guard = cls.found(folder)
        if guard is None and not broker.listen:
            return None
        if guard is not None and guard.prefix != prefix:
            raise EnvironmentUnfit(
                f"The broker in {folder} is guarded for the mesh {guard.prefix!r}, not for {prefix!r}: "
                f"use --prefix {guard.prefix}, or another --home."
            )
        new, guard = guard is None, guard or cls(folder, prefix)
        try:
            certificates.prepare(guard.tls, certified(broker))
            for role in HERE:
                guard.make_seed(role, role)
            if new:
                note = {"version": VERSION, "prefix": prefix}
                platform.write_private(folder / "guard.json", json.dumps(note).encode())
                platform.sync_folder(folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"There is no room for keys in {folder}: free some space.") from None
            raise EnvironmentUnfit(f"The folder {folder} must be yours to read and write: {error.strerror}.") from None
        return guard

    # -- who works on this machine ------------------------------------------------------------------------------------

    def seed(self, role: str, name: str) -> Path:
        """Where the seed of an identity of this machine lies."""
        return self.folder / "keys" / (f"{role}.nk" if role == name else f"{role}.{name}.nk")

    def make_seed(self, role: str, name: str) -> bool:
        """Make an identity of this machine; was it made just now? Conflict for a name that another one here has."""
        check_name(name, "a name in the mesh")
        if self.seed(role, name).exists():
            return False
        here = self.local()
        if name in {other for _, other in here}:
            raise Conflict(f"{name!r} is the name of another agent on this machine: choose another with --name.")
        if len(here) >= LOCAL_MAX:
            raise Conflict(f"This machine has {LOCAL_MAX} identities: remove old ones from {self.folder / 'keys'}.")
        from mesh import nkeypairs  # brings a library for keys along: an open broker's keeper can spare it

        self.seed(role, name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        nkeypairs.make(self.seed(role, name))
        return True

    def local(self) -> list[tuple[str, str]]:
        """(role, name) of everybody on this machine."""
        found = []
        for path in sorted((self.folder / "keys").glob("*.nk")):
            role, _, name = path.name.removesuffix(".nk").partition(".")
            with contextlib.suppress(ValueError):
                Role(role)
                check_name(name or role, "a name in the mesh")
                found.append((role, name or role))
        return found

    def taken(self) -> frozenset[str]:
        """Names that nobody else may have."""
        return frozenset(name for _, name in self.local())

    # -- for the server's configuration -------------------------------------------------------------------------------

    def accounts(self, members: Members) -> dict[str, Any]:
        """Everybody who may connect, as nats-server's configuration wants it: this machine's own, members, and those
        who hold an invitation. EnvironmentUnfit for a seed or a role that can not be used."""
        from mesh import nkeypairs

        try:
            who = [(role, name, nkeypairs.public_key(self.seed(role, name))) for role, name in self.local()]
            who += [(one.role, one.name, one.key) for one in members.members]
            who += [(Role.INVITED, one.id, one.key) for one in members.invitations]
            everybody = [Identity(Role(role), name, key) for role, name, key in who]
        except (OSError, ValueError, SettingsInvalid) as error:
            raise EnvironmentUnfit(f"Who may use the broker in {self.folder} can not be read: {error}.") from None
        return identity.accounts(everybody, Subjects(self.prefix), mesh=MESH)


def listening(broker: BrokerSettings) -> tuple[str, int]:
    """(host, port) where a broker with these settings listens; port 0: a free one."""
    found = place(broker.listen, PORT) if broker.listen else None
    return found or (broker.host, broker.port)


def local_host(host: str) -> str:
    """The address by which this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in ANYWHERE else host


def certified(broker: BrokerSettings) -> list[str]:
    """Names and addresses for which the certificate of a broker with these settings has to hold."""
    host, _ = listening(broker)
    names = {"localhost", "127.0.0.1", "::1", local_host(host), *_host_names()}
    names |= {found[0] for text in broker.advertise if (found := place(text))}
    return sorted(names | set(own_addresses() if host in ANYWHERE else ()))


def addresses(broker: BrokerSettings, port: int) -> list[str]:
    """HOST:PORT under which other machines may reach a broker with these settings, the likeliest first; none on
    loopback. port: where it listens."""
    host, _ = listening(broker)
    said = [found for text in broker.advertise if (found := place(text, port))]
    if not said and broker.listen:
        hosts = [*own_addresses(), *_host_names()[:1]] if host in ANYWHERE else [host]
        said = [(one, port) for one in hosts]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in said]


def own_addresses() -> list[str]:
    """This machine's addresses that others may reach: no loopback, none that holds on one link only."""
    import ipaddress

    import psutil

    found: dict[str, None] = {}
    for _, cards in sorted(psutil.net_if_addrs().items()):
        for card in cards:
            if card.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(card.address.partition("%")[0])
                if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                    found[str(address)] = None
    return sorted(found, key=lambda text: ":" in text)


def _host_names() -> list[str]:
    """This host's name as far as it can be one in a certificate."""
    name = socket.gethostname()
    return [name.lower()] if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", name) else []
