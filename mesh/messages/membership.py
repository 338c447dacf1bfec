"""Joining: an invited machine asks the keeper for credentials of its own."""

from __future__ import annotations

from typing import ClassVar

from mesh.messages.base import Record, check_name, check_text

SERVERS_MAX = 16
WORDS_MAX = 300
"""Characters of an address, a host's name, a setting."""


class Join(Record, frozen=True, kw_only=True):
    """A machine wishes to become a member. Sent over the invitation's credentials; repeated, it changes nothing."""

    kind: ClassVar[str] = "join"
    bytes_max: ClassVar[int] = 8 * 1024

    name: str
    """The name that it wishes; another is given when that is taken."""
    key: str
    """Public half of the key that it has made for itself; the other half never leaves it."""
    role: str = ""
    """What it means to be; empty: whatever the invitation gives."""
    program: str = ""
    """Version of the program."""
    host: str = ""
    """What the machine calls itself: for people."""

    def __post_init__(self) -> None:
        check_name(self.name, "a member's name")
        if self.role:
            check_name(self.role, "a role")
        check_text(self.key, "a public key", 100)
        if len(self.host) > WORDS_MAX or len(self.program) > WORDS_MAX:
            raise ValueError(f"a host and a version are at most {WORDS_MAX} characters")


class Joined(Record, frozen=True, kw_only=True):
    """The key counts from now on: the broker knows it already when this is sent."""

    kind: ClassVar[str] = "joined"

    name: str
    """Under which the member stands in subjects."""
    role: str
    """What it may do: the rights that the broker gives its key."""
    prefix: str
    """Name of the mesh in subjects."""
    servers: tuple[str, ...]
    """Addresses of the broker, with their scheme."""
    artifacts: dict[str, str] = {}
    """Where artifacts lie when that is not the broker: settings of section `artifacts` by name, none of them secret."""
    expires_ms: int = 0
    """When the membership ends by itself; 0: never."""

    def __post_init__(self) -> None:
        check_name(self.name, "a member's name")
        check_name(self.role, "a role")
        check_name(self.prefix, "the mesh's prefix")
        if not 0 < len(self.servers) <= SERVERS_MAX:
            raise ValueError(f"a broker has 1 to {SERVERS_MAX} addresses, got {len(self.servers)}")
        if any(not server.startswith("tls://") or len(server) > WORDS_MAX for server in self.servers):
            raise ValueError("a member's broker speaks TLS: each address begins with tls://")
