"""The configuration of the embedded nats-server: what it stores, where it listens, who may come in, and all its bounds.

    open      on loopback, open to this machine (`no_auth_user`): the account MESH has one user
    guarded   TLS and a key for everybody (mesh/guard.py): each user has the permissions of its role, and a guest's
              account (mesh/identity.py) shows it nothing of the mesh but what its role needs

The server reads JSON as its own format. It is written anew before each start; while the server runs, only the accounts
change in it, and the certificates behind the same names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh import certificates
from mesh.guard import MESH, Guard

LOG_BYTES_MAX = 4 << 20
"""The server's own log is started anew beyond this; two old ones are kept."""

MEMORY_STORE_BYTES = 256 << 20
"""Memory-only streams and consumers; ours are small."""

PAYLOAD_BYTES_MAX = 1024 * 1024
"""One message; records and chunks are made to fit."""

SYSTEM_USER = "system"

CONNECTIONS_MAX = 8_192
"""A worker has three. Beyond it newcomers are turned away, and those who are in stay in."""

SUBSCRIPTIONS_MAX = 1_000
"""Of one connection: the scheduler, who has most, has a dozen and one per open question."""

PENDING_BYTES_MAX = 64 << 20
"""What the server holds for one connection that reads slowly; with more it is cut. The windows of a reader of artifacts
are half of this."""

CONTROL_LINE_BYTES_MAX = 4_096
"""A subject, a reply subject and two lengths."""

WRITE_DEADLINE_S = 10
"""How long one write to a connection may take before it counts as stuck."""

AUTH_TIMEOUT_S = 5
"""For the handshake, and for the key's signature after it: strangers do not hold a place for longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """What the configuration is made from. `accounts`: of a guarded server (mesh/guard.py)."""

    folder: Path
    log_file: Path
    host: str
    port: int
    """-1: a free one."""
    store_bytes: int
    password: str = dataclasses.field(repr=False)
    """Of the system account, and of nobody else."""
    guard: Guard | None = None
    accounts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def text(plan: ServerPlan) -> bytes:
    """The configuration file, without spaces: a thousand members are 4 MB of it, which the server reads at each change.
    It knows all of JSON but \\u escapes."""
    return json.dumps(tree(plan), ensure_ascii=False, separators=(",", ":")).encode()


def tree(plan: ServerPlan) -> dict[str, Any]:
    """The configuration."""
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    common: dict[str, Any] = {
        "server_name": "ramify",
        "listen": f"{host}:{plan.port}",
        "ports_file_dir": str(plan.folder / "ports"),
        "log_file": str(plan.log_file),
        "log_size_limit": LOG_BYTES_MAX,
        "log_max_num": 2,
        "max_payload": PAYLOAD_BYTES_MAX,
        "max_connections": CONNECTIONS_MAX,
        "max_subscriptions": SUBSCRIPTIONS_MAX,
        "max_pending": PENDING_BYTES_MAX,
        "max_control_line": CONTROL_LINE_BYTES_MAX,
        "write_deadline": f"{WRITE_DEADLINE_S}s",
        "jetstream": {
            "store_dir": str(plan.folder / "store"),
            "max_file_store": plan.store_bytes,
            "max_memory_store": MEMORY_STORE_BYTES,
            "sync_interval": "always",
        },
        "system_account": "SYS",
    }
    system = {"users": [{"user": SYSTEM_USER, "password": plan.password}]}
    if plan.guard is None:
        mesh = {"jetstream": "enabled", "users": [{"user": "mesh", "password": plan.password}]}
        return common | {"accounts": {"SYS": system, MESH: mesh}, "no_auth_user": "mesh"}
    served = str(certificates.combined(plan.guard.tls))
    return common | {
        "accounts": {"SYS": system, **plan.accounts},
        "tls": {"cert_file": served, "key_file": served, "timeout": AUTH_TIMEOUT_S, "min_version": "1.2"},
        "authorization": {"timeout": AUTH_TIMEOUT_S},
    }
