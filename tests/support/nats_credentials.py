"""Credentials of a server in operator mode, minted here: an operator, its accounts, and users whose time runs out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys

_LIMITS = "subs data payload imports exports conn leaf mem_storage disk_storage streams consumer"
_UNLIMITED = {**dict.fromkeys(_LIMITS.split(), -1), "wildcards": True}
_NO_STREAMS = {"mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}


class _Key:
    """A key pair of one kind (nkeys.PREFIX_BYTE_…)."""

    def __init__(self, kind: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), kind)).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public = self._pair.public_key.decode()

    def sign(self, subject: str, name: str, claims: dict[str, Any], expires_s: float = 0.0) -> str:
        """A JWT about `subject`, issued by this key; expires_s: the wall clock's time, 0 for never."""
        body: dict[str, Any] = {"iat": int(time.time()), "iss": self.public, "name": name, "sub": subject}
        body["nats"] = {"version": 2, **claims}
        if expires_s:
            body["exp"] = round(expires_s)
        digest = hashlib.new("sha512_256", json.dumps(body, sort_keys=True).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{signed}.{_text(self._pair.sign(signed.encode()))}"


class Mint:
    """One operator with a system account and one account for everybody else."""

    def __init__(self) -> None:
        self._operator = _Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = _Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def server_lines(self) -> str:
        """What the server's configuration says about them."""
        sign, system, account = self._operator.sign, self._system.public, self._account.public
        operator = sign(self._operator.public, "op", {"type": "operator", "system_account": system})
        system_jwt = sign(system, "SYS", {"type": "account", "limits": _UNLIMITED | _NO_STREAMS})
        account_jwt = sign(account, "MESH", {"type": "account", "limits": _UNLIMITED})
        accounts = f'{{ {account}: "{account_jwt}", {system}: "{system_jwt}" }}'
        return f'operator: "{operator}"\nresolver: MEMORY\nresolver_preload: {accounts}'

    def credentials(self, *, life_s: float) -> str:
        """The content of a credentials file of a user who may do everything for so long."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        jwt = self._account.sign(user.public, "user", claims, time.time() + life_s)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


def _part(fields: dict[str, Any]) -> str:
    return _text(json.dumps(fields).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
