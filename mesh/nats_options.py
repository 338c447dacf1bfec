"""How to reach a broker, and as whom: what `mesh.broker.connect` needs to know.

The settings' section `nats` fits as it is; `NatsOptions` is for those who have an address and nothing else.
"""

from __future__ import annotations

import dataclasses
import ssl
from typing import Any, Protocol

from mesh import limits
from mesh.errors import SettingsInvalid


class NatsLike(Protocol):
    """What both have. Paths and texts are '' when they are not given."""

    @property
    def servers(self) -> tuple[str, ...]: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def creds(self) -> str: ...
    @property
    def nkey(self) -> str: ...
    @property
    def cert(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ca(self) -> str: ...
    @property
    def js_domain(self) -> str: ...
    @property
    def inbox_prefix(self) -> str: ...
    @property
    def connect_timeout_s(self) -> float: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class NatsOptions:
    """Addresses (nats://HOST:PORT, tls://…, ws://…), credentials of one kind, and files for TLS."""

    servers: tuple[str, ...]
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    token: str = dataclasses.field(default="", repr=False)
    creds: str = ""
    nkey: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""
    js_domain: str = ""
    inbox_prefix: str = ""
    connect_timeout_s: float = 5.0


def client_arguments(nats: NatsLike, name: str) -> dict[str, Any]:
    """Arguments of the NATS client, all but its callbacks. SettingsInvalid for unusable files or no address."""
    if not nats.servers:
        raise SettingsInvalid("expected the address of a broker, got none: give --server nats://HOST:4222")
    given = {
        "user": nats.user,
        "password": nats.password,
        "token": nats.token,
        "user_credentials": nats.creds,
        "nkeys_seed": nats.nkey,
        "tls": _tls(nats),
    }
    return {
        "servers": list(nats.servers),
        "name": name,
        "connect_timeout": nats.connect_timeout_s,
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,  # for ever: the mesh outlives its broker's outages
        "reconnect_time_wait": 0.1,
        "ping_interval": limits.PING_S,
        "max_outstanding_pings": 2,
        "pending_size": 0,  # nothing is buffered while the broker is away: what must arrive is in an outbox
        "skip_subject_validation": True,  # mesh/wire.py has checked
        **{key: value for key, value in given.items() if value},
    }


def _tls(nats: NatsLike) -> ssl.SSLContext | None:
    secure = any(server.startswith(("tls://", "wss://")) for server in nats.servers)
    if not (secure or nats.cert or nats.ca):
        return None
    try:
        context = ssl.create_default_context(cafile=nats.ca or None)
        if nats.cert:
            context.load_cert_chain(nats.cert, nats.key or None)
    except (OSError, ValueError) as error:
        raise SettingsInvalid(
            f"the files for TLS can not be used ({error}): check --tlscert, --tlskey, --tlsca"
        ) from None
    return context
