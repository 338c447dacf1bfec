"""Bearer tokens of the gateway: who a caller is, and what his role may ask.

    issue    256 random bits for the person, once; the file keeps their SHA-256, a name, a role and an end
    identify the digest of what the caller sent is looked up, and compared in constant time
    revoke   the line leaves the file; a running gateway reads the file again when it has changed

    <home>/gateway/tokens.json    readable by its owner alone, written whole or not at all, under a lock

A token's name is the caller's name in the mesh: a topic's publisher, a worker's seat. So names are unique, and whoever
holds the token of the name `w1` can neither claim nor finish anything as another worker.

Not covered: a token that was read on its way. Off loopback the gateway demands TLS.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mesh.errors import Conflict, EnvironmentUnfit, NotFound, SettingsInvalid
from mesh.messages.base import check_name
from mesh.platform import FileLock, write_private

TOKEN_BYTES = 32
"""Random bytes of a token: 256 bits can not be guessed."""

TOKEN_PREFIX = "rmf_"  # noqa: S105  # what scanners of leaked secrets look for
"""Beginning of every token, so that one is recognised where it should not be."""

TOKEN_CHARS_MAX = 128
"""A longer one is none of ours, and is not even hashed."""

TOKENS_MAX = 1_000
"""Tokens in the file: a larger team puts its own sign-on before the gateway."""

LIFE_S_MAX = 5 * 365 * 86_400.0
"""Longest life of a token."""

LOCK_S = 5.0
"""Patience with another command that writes the file."""


class TokenRole(enum.StrEnum):
    """What the holder of a token is to the mesh."""

    OBSERVER = "observer"
    """Reads status, graph, results, models; changes nothing."""
    PUBLISHER = "publisher"
    """Also publishes topics and asks the planner."""
    OPERATOR = "operator"
    """Also changes the graph."""
    WORKER = "worker"
    """A machine that works over HTTP, under its token's name alone."""


READERS = frozenset((TokenRole.OBSERVER, TokenRole.PUBLISHER, TokenRole.OPERATOR))
PUBLISHERS = frozenset((TokenRole.PUBLISHER, TokenRole.OPERATOR))
OPERATORS = frozenset((TokenRole.OPERATOR,))
WORKERS = frozenset((TokenRole.WORKER,))
ALL = frozenset(TokenRole)
"""Sets of roles, for the table of routes."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the name and role of his token."""

    name: str
    role: TokenRole


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One issued token, without its secret."""

    name: str
    role: TokenRole
    sha256: str
    """Of the whole token, as 64 hex digits."""
    issued_at_ms: int
    expires_at_ms: int

    @property
    def identity(self) -> Identity:
        """Whom it stands for."""
        return Identity(name=self.name, role=self.role)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The file of tokens, for the commands that change it and for the gateway that reads it."""

    def __init__(self, home: Path, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._path = home / "gateway" / "tokens.json"
        self._wall_ms = wall_ms
        self._read_as: tuple[int, int, int] | None = None
        """Inode, size and time of the file that was read last."""
        self._known: dict[str, Token] = {}

    @property
    def path(self) -> Path:
        """Where the tokens stand."""
        return self._path

    # -- the gateway --------------------------------------------------------------------------------------------------

    def identify(self, secret: str) -> Identity | str:
        """Whose token this is, or why it is nobody's, in a sentence. EnvironmentUnfit when the file can not be read."""
        if len(secret) > TOKEN_CHARS_MAX or not secret.isascii():
            return "that is no token of this gateway"
        self._refresh()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = self._known.get(digest)
        if token is None or not hmac.compare_digest(token.sha256, digest):
            return "no such token was issued, or it was revoked"
        if token.expires_at_ms <= self._wall_ms():
            return f"the token of {token.name!r} has expired"
        return token.identity

    def _refresh(self) -> None:
        """Read the file again if it is another one than the last time: one system call when it is not."""
        try:
            stat = self._path.stat()
            now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:
            self._known, self._read_as = {}, None
            return
        except OSError as error:
            raise EnvironmentUnfit(f"{self._path} can not be read ({error.strerror}): check its permissions.") from None
        if now != self._read_as:
            self._known = {token.sha256: token for token in self.listed()}
            self._read_as = now

    # -- commands -----------------------------------------------------------------------------------------------------

    def listed(self) -> tuple[Token, ...]:
        """All tokens, expired ones too. EnvironmentUnfit when the file is none of ours."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).tokens
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error)[:120]
            raise EnvironmentUnfit(f"{self._path} can not be read ({what}): restore it, or move it away.") from None

    def issue(self, role: TokenRole, name: str, life_s: float) -> tuple[str, Token]:
        """A new token: (the secret, which is nowhere else; what is kept). An expired one of that name is replaced.

        SettingsInvalid for a name or life that can not be, Conflict when the name is taken.
        """
        try:
            check_name(name, "a token's name")
        except ValueError as error:
            raise SettingsInvalid(f"{error}.") from None
        if not 1 <= life_s <= LIFE_S_MAX:
            raise SettingsInvalid(f"a token lives 1 second to {LIFE_S_MAX / 86_400:.0f} days, got {life_s:g} s.")
        secret, now_ms = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES), self._wall_ms()
        made = Token(
            name=name, role=role, sha256=hashlib.sha256(secret.encode()).hexdigest(), issued_at_ms=now_ms,
            expires_at_ms=now_ms + int(life_s * 1_000),
        )  # fmt: skip

        def added(before: tuple[Token, ...]) -> tuple[Token, ...]:
            if any(one.name == name and one.expires_at_ms > now_ms for one in before):
                raise Conflict(f"there is a token of the name {name!r}: revoke it first, or choose another --name.")
            kept = tuple(one for one in before if one.name != name)
            if len(kept) >= TOKENS_MAX:
                raise Conflict(f"there are {TOKENS_MAX} tokens: `bin/agent token revoke` those that nobody uses.")
            return (*kept, made)

        self._change(added)
        return secret, made

    def revoke(self, name: str) -> Token:
        """Take a token back; the one that it was. NotFound when there is none of that name."""
        gone: list[Token] = []

        def removed(before: tuple[Token, ...]) -> tuple[Token, ...]:
            gone.extend(one for one in before if one.name == name)
            if not gone:
                raise NotFound(f"no token has the name {name[:96]!r}; `bin/agent token list` lists them.")
            return tuple(one for one in before if one.name != name)

        self._change(removed)
        return gone[0]

    def _change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self._path.with_suffix(".lock"))
            deadline = time.monotonic() + LOCK_S
            while not lock.acquire():
                if time.monotonic() > deadline:
                    raise EnvironmentUnfit(f"{self._path} is being changed by process {lock.holder()}: try again.")
                time.sleep(0.02)
            with lock:
                after = _File(tokens=change(self.listed()))
                write_private(self._path, msgspec.json.format(msgspec.json.encode(after), indent=2) + b"\n")
        except OSError as error:
            raise EnvironmentUnfit(
                f"{self._path} can not be written ({error.strerror}): choose another place with --home."
            ) from None
