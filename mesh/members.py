"""Who may use this home's broker: its members, and the invitations by which others may become some.

    <home>/broker/members.json    {"version": 1, "members": [...], "invitations": [...]}, private to its owner

Only the keeper writes it, whole or not at all and on the disk before anybody is told; the embedded server's users are
made from it (mesh/server.py). A member is a name, a role and the public half of a key: there is nothing secret in here.

    invitation --a machine asks with its own key--> member       one use less
               --the same key asks again----------> the same member, no use spent
               --no use left----------------------> stays for SPENT_KEPT_S, for those only whose answer was lost
               --expired--------------------------> gone
    member     --revoked, or its time is over-----> gone

What is decided here is decided without a clock: whoever asks says what time it is, and that is always the keeper.
"""

from __future__ import annotations

import base64
import binascii
import errno
import re
from pathlib import Path

import msgspec

from mesh import platform
from mesh.errors import Conflict, DiskFull, EnvironmentUnfit, NotFound
from mesh.limits import NAME_CHARS_MAX
from mesh.messages.base import check_name

MEMBERS_MAX = 10_000
"""More are another kind of mesh, with accounts and tokens of a server of its own."""

INVITATIONS_MAX = 1_000
"""Open ones at a time."""

USES_MAX = 1_000
"""Of one invitation: a rack of machines that are set up by one script."""

FILE_BYTES_MAX = 8 << 20
"""Of the file: full lists are half of this."""

SPENT_KEPT_S = 600.0
"""How long an invitation without uses answers those that it has let in: their answer may have been lost."""

NAMES_TRIED_MAX = 1_000
"""Numbers that are tried behind a name that is taken."""

VERSION = 1

_KEY = re.compile(r"U[A-Z2-7]{55}\Z")
"""The public half of a user's nkey pair, as it is written."""


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine or a person that has joined."""

    name: str
    """Its name in subjects; no two have the same."""
    role: str
    key: str
    """Public half of its nkey pair."""
    since_ms: int
    expires_ms: int = 0
    """When its membership ends by itself; 0: never."""
    invitation: str = ""
    """Id of the invitation that let it in."""
    host: str = ""
    """What the machine called itself: for people."""

    def __post_init__(self) -> None:
        check_name(self.name, "a member's name")
        check_name(self.role, "a role")
        check_key(self.key)


class Invitation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The right to become a member, held by whoever has its seed."""

    id: str
    role: str
    """What whoever comes by it becomes."""
    key: str
    """Public half of the invitation's own nkey pair, which stands in the token."""
    uses_left: int
    made_ms: int
    expires_ms: int
    name: str = ""
    """The name that is given; '' leaves it to the machine."""
    lasts_ms: int = 0
    """How long a membership lasts that comes of it; 0: for good."""
    artifacts: dict[str, str] = {}
    """Where artifacts lie when that is not the broker: settings of section `artifacts`, none of them secret."""
    spent_ms: int = 0
    """When the last use was taken."""

    def __post_init__(self) -> None:
        check_name(self.id, "an invitation's id")
        check_name(self.role, "a role")
        check_key(self.key)
        if self.name:
            check_name(self.name, "a member's name")
        if not 0 <= self.uses_left <= USES_MAX:
            raise ValueError(f"an invitation has 0 to {USES_MAX} uses left, got {self.uses_left}")

    def over_ms(self) -> int:
        """When it is of no use to anybody any more."""
        return min(self.expires_ms, self.spent_ms + int(SPENT_KEPT_S * 1000)) if self.spent_ms else self.expires_ms


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. Every change is a new value."""

    version: int = VERSION
    members: tuple[Member, ...] = ()
    invitations: tuple[Invitation, ...] = ()

    def __post_init__(self) -> None:
        if len({one.name for one in self.members}) < len(self.members):
            raise ValueError("two members have the same name")
        keys = [*(one.key for one in self.members), *(one.key for one in self.invitations)]
        if len(set(keys)) < len(keys):
            raise ValueError("a key stands there twice")

    def member(self, name: str) -> Member | None:
        """The member of this name."""
        return next((one for one in self.members if one.name == name), None)

    def holder(self, key: str) -> Member | None:
        """The member that has this key."""
        return next((one for one in self.members if one.key == key), None)

    def invitation(self, id_: str) -> Invitation | None:
        """The invitation of this id."""
        return next((one for one in self.invitations if one.id == id_), None)

    def live(self, now_ms: int) -> Members:
        """Without those whose time is over; the same value when there are none."""
        members = tuple(one for one in self.members if not one.expires_ms or one.expires_ms > now_ms)
        invitations = tuple(one for one in self.invitations if one.over_ms() > now_ms)
        if len(members) == len(self.members) and len(invitations) == len(self.invitations):
            return self
        return msgspec.structs.replace(self, members=members, invitations=invitations)

    def next_end_ms(self) -> int:
        """When the first of them ends by itself; 0 when none does."""
        ends = [one.expires_ms for one in self.members if one.expires_ms] + [one.over_ms() for one in self.invitations]
        return min(ends, default=0)

    def inviting(self, invitation: Invitation) -> Members:
        """With one more invitation. Conflict when its name is taken, or when there are too many."""
        if len(self.invitations) >= INVITATIONS_MAX:
            raise Conflict(f"{INVITATIONS_MAX} invitations are open: revoke some (bin/agent members lists them).")
        if invitation.name and self.member(invitation.name) is not None:
            raise Conflict(f"there is a member {invitation.name!r} already: choose another --name, or revoke that one.")
        return msgspec.structs.replace(self, invitations=(*self.invitations, invitation))

    def admitting(
        self, id_: str, *, name: str, role: str, key: str, host: str, now_ms: int, taken: frozenset[str] = frozenset()
    ) -> tuple[Members, Member]:
        """(with whoever asks, as what): a key that is a member's already stays what it is and spends nothing.

        name: the wished one; another is given when it is taken, by a member or as one of `taken`; role: the wished one,
        '' for whatever the invitation gives.
        Reject with a sentence: NotFound for an invitation that is over, Conflict for a role that it does not give or a
        key that already has another one.
        """
        invitation = self.live(now_ms).invitation(id_)
        if invitation is None:
            raise NotFound("this invitation is over: it was used up, has expired or was revoked; ask for another.")
        if role and role != invitation.role:
            raise Conflict(f"this invitation is for a {invitation.role}, not for a {role}: join as that.")
        role = invitation.role
        known = self.holder(key)
        if known is not None:
            if known.role == role:
                return self, known
            raise Conflict(
                f"this machine is {known.name!r} here already, a {known.role}: `bin/agent leave` there forgets that, "
                "and it joins anew with another key."
            )
        self._check_room(invitation, key)
        used = taken | {one.name for one in self.members}
        member = Member(
            name=_free(invitation.name or name, used), role=role, key=key, since_ms=now_ms, host=host, invitation=id_,
            expires_ms=now_ms + invitation.lasts_ms if invitation.lasts_ms else 0,
        )  # fmt: skip
        left = invitation.uses_left - 1
        spent = msgspec.structs.replace(invitation, uses_left=left, spent_ms=0 if left else now_ms)
        invitations = tuple(spent if one.id == id_ else one for one in self.invitations)
        return msgspec.structs.replace(self, members=(*self.members, member), invitations=invitations), member

    def _check_room(self, invitation: Invitation, key: str) -> None:
        if invitation.uses_left < 1:
            raise NotFound("this invitation is used up: ask for another.")
        if len(self.members) >= MEMBERS_MAX:
            raise Conflict(f"this mesh has {MEMBERS_MAX} members: one has to be revoked first.")
        if key in {one.key for one in self.invitations}:
            raise Conflict("a machine joins with a key of its own, not with an invitation's.")

    def without(self, name: str) -> Members:
        """Without the member of this name. NotFound when there is none."""
        if self.member(name) is None:
            raise NotFound(f"there is no member {name!r}: `bin/agent members` lists them.")
        return msgspec.structs.replace(self, members=tuple(one for one in self.members if one.name != name))

    def without_invitation(self, id_: str) -> Members:
        """Without this invitation; who has joined by it stays. NotFound when there is none."""
        if self.invitation(id_) is None:
            raise NotFound(f"there is no open invitation {id_!r}: `bin/agent members` lists them.")
        return msgspec.structs.replace(self, invitations=tuple(one for one in self.invitations if one.id != id_))


def check_key(key: str) -> None:
    """Raise ValueError unless `key` is the public half of a user's nkey pair: one that is none would have the broker
    refuse its whole configuration."""
    raw = base64.b32decode(key) if _KEY.match(key) else b""
    if not raw or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError(f"the public key of a user is U and 55 more characters with a checksum, got {key[:80]!r}")


def _free(wished: str, used: frozenset[str]) -> str:
    """The wished name, or with a number behind it. Conflict when that is hopeless."""
    if wished not in used:
        return wished
    for number in range(2, NAMES_TRIED_MAX + 2):
        tail = f"-{number}"
        if (name := wished[: NAME_CHARS_MAX - len(tail)] + tail) not in used:
            return name
    raise Conflict(f"{NAMES_TRIED_MAX} members are called like {wished!r}: choose another --name.")


def path_in(folder: Path) -> Path:
    """The file, in the folder of the broker (`<home>/broker`)."""
    return folder / "members.json"


def load(folder: Path) -> Members:
    """What the file holds; nobody when there is none. EnvironmentUnfit when it can not be read as what it should be: it
    is never overwritten then, for that would turn everybody out."""
    path = path_in(folder)
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ValueError(f"it has more than {FILE_BYTES_MAX >> 20} MiB")
        found = msgspec.json.decode(data, type=Members)
    except FileNotFoundError:
        return Members()
    except (OSError, ValueError) as error:
        raise EnvironmentUnfit(
            f"The list of members {path} must be readable, but it is not ({str(error).rstrip('.')}): put a copy back, "
            "or move it away, and invite machines and people anew."
        ) from None
    if found.version > VERSION:
        raise EnvironmentUnfit(
            f"The list of members {path} was written by a newer program (form {found.version}, this one reads "
            f"{VERSION}): update Ramify here."
        )
    return found


def store(folder: Path, members: Members) -> None:
    """Put it in place: whole, and on the disk when this returns. EnvironmentUnfit or DiskFull."""
    data = msgspec.json.format(msgspec.json.encode(members), indent=1)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        platform.write_private(path_in(folder), data)
        platform.sync_folder(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"There is no room for the list of members in {folder}: free some space.") from None
        raise EnvironmentUnfit(f"The folder {folder} must be writable: {error.strerror}.") from None
