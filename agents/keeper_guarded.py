"""The keeper's part in a guarded broker: who asks is told the way with a key of its own, and certificates stay young.

    lease, look              the address, the authority's certificate, and the seed file of the role that asks; a name
                             that is new on this machine gets an identity, and the broker is told before the answer
    invite, members, revoke  the registrar's: agents/keeper_members.py
    once an hour             a certificate of which a third is left is made anew, and the broker told

The registrar has a connection of its own, as role `keeper`, for the machines that ask to join.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agents.keeper_members import Registrar
from mesh import certificates, keeper, log, members
from mesh.errors import Conflict, EnvironmentUnfit, RamifyError
from mesh.guard import HERE, Guard, certified
from mesh.identity import Role
from mesh.server import Server
from mesh.setting_tree import NatsSettings, Settings

LOOK_S = 3_600.0
"""How often the certificate's age is looked at; it is renewed a month before its end."""

AGAIN_S = 2.0
"""Pause before the registrar's connection is tried again."""

LOOKS = ("lease", "look")


class GuardedKeeper:
    """What a keeper of a guarded broker does besides."""

    def __init__(self, guard: Guard, server: Server, settings: Settings) -> None:
        self._guard, self._server, self._settings = guard, server, settings
        self._log = log.get("agents.keeper")
        self._registrar = Registrar(guard, server, settings)

    async def run(self, ready: asyncio.Event) -> None:
        """Renew and register, for as long as the keeper lives. ready: set while the broker runs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew(), name="certificates")
            tasks.create_task(self._register(ready), name="registrar")

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """To one question. A RamifyError with a sentence."""
        prefix = asked.get("prefix", self._guard.prefix)
        if prefix != self._guard.prefix:
            raise EnvironmentUnfit(
                f"The broker of {self._settings.home} is guarded for the mesh {self._guard.prefix!r}, not for "
                f"{prefix!r}: use --prefix {self._guard.prefix}, or another --home."
            )
        if asked["want"] not in LOOKS:
            return await self._registrar.answer(asked)
        role = str(asked.get("role") or keeper.PERSON)
        return await self._way_for(role, str(asked.get("name") or role))

    def way(self, role: str = keeper.PERSON, name: str = "") -> dict[str, Any]:
        """The way to the broker with an identity that is there."""
        name = name or role
        return {
            "url": self._server.url,
            "ca": str(self._guard.authority),
            "nkey": str(self._guard.seed(role, name)),
            "name": name,
            "listen": self._settings.broker.listen,
            "advertise": list(self._settings.broker.advertise),
        }

    async def _way_for(self, role: str, name: str) -> dict[str, Any]:
        if role not in (*HERE, Role.WORKER):
            raise EnvironmentUnfit(f"There is no role {role!r} for this machine: update Ramify here, or there.")
        if await asyncio.to_thread(self._make, role, name):
            await self._server.reload()
        return self.way(role, name)

    def _make(self, role: str, name: str) -> bool:
        if members.load(self._guard.folder).member(name) is not None:
            raise Conflict(f"{name!r} is the name of a member of this mesh: choose another with --name.")
        try:
            return self._guard.make_seed(role, name)
        except ValueError as error:
            raise EnvironmentUnfit(f"{error}.") from None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                names = certified(self._settings.broker)
                if await asyncio.to_thread(certificates.prepare, self._guard.tls, names):
                    await self._server.reload()
                    self._log.info("the broker has a new certificate")
            except RamifyError as error:  # there is a month left
                self._log.error("the certificate can not be renewed yet: %s", error)

    async def _register(self, ready: asyncio.Event) -> None:
        while True:
            await ready.wait()
            try:
                await self._registrar.run(self._nats())
            except RamifyError as error:
                self._log.warning("who wants to join is not heard now: %s", error)
            await asyncio.sleep(AGAIN_S)

    def _nats(self) -> NatsSettings:
        return keeper.at(self._settings, self.way(Role.KEEPER))
