"""A nats-server that lets nobody in without a key, with the accounts and rights of the roles: identities by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mesh import identity, nkeypairs
from mesh.identity import Identity, Role
from mesh.nats_options import NatsOptions
from mesh.subjects import Subjects
from tests.support.nats_server import NatsServer

SUBJECTS = Subjects("mesh")


class GuardedMesh:
    """A server and whoever may come in."""

    def __init__(self, folder: Path, people: Mapping[str, Role], *, almighty: str = "") -> None:
        """people: role by name. almighty: somebody beside them without any bounds, to whom nothing is refused."""
        self._folder = folder
        everybody = [Identity(role, name, nkeypairs.make(self.seed(name))) for name, role in people.items()]
        accounts = identity.accounts(everybody, SUBJECTS)
        if almighty:
            accounts["MESH"]["users"].append({"nkey": nkeypairs.make(self.seed(almighty))})
        self.server = NatsServer(folder, extra=f"accounts: {json.dumps(accounts)}")

    def seed(self, name: str) -> Path:
        """The file with somebody's seed."""
        return self._folder / f"{name}.nk"

    def options(self, name: str) -> NatsOptions:
        """How somebody connects."""
        return NatsOptions(servers=(self.server.url,), connect_timeout_s=10.0, nkey=str(self.seed(name)))

    def environment(self, name: str) -> dict[str, str]:
        """The same for a process."""
        return {"NATS_URL": self.server.url, "NATS_NKEY": str(self.seed(name)), "RAMIFY_NATS_NAME": name}
