"""From settings to a connected broker: the one that is named, else the one that runs here.

    named (--server, --context, NATS_URL …)   that one; away means an error, never another one in its place
    a keeper runs for this home folder        its embedded broker
    this home has joined a mesh               that one, with the key that it made then (`bin/agent join`)
    a mesh ran here before                    its broker, started for the time of a command that reads what is stored
    a context is selected in the `nats` tool  that one, for commands that only look
    else                                      one sentence, exit code 4

`run` and `up` take a lease from the keeper for the whole mesh (starting.py); `reach_stored` takes one for reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from mesh import keeper, setting_tree
from mesh import settings as mesh_settings
from mesh.bus import Broker
from mesh.errors import BusUnavailable
from mesh.setting_tree import NatsSettings, Settings
from mesh.setting_values import mask_url
from mesh.subjects import Subjects

if TYPE_CHECKING:
    from mesh.artifacts import ArtifactStore


@dataclasses.dataclass(slots=True)
class Reach:
    """A connected broker and what belongs to it."""

    settings: Settings
    broker: Broker
    subjects: Subjects

    @property
    def where(self) -> str:
        """The broker's address without secrets."""
        return mask_url(self.settings.nats.url)

    def stream(self, name: str) -> str:
        """Full name of a stream of this mesh."""
        return self.subjects.stream(name)

    def store(self) -> ArtifactStore:
        """The artifact store, with this command's cache below the home folder."""
        from mesh.stores import open_store

        cache = self.settings.home / "cache" / "commands"
        return open_store(self.broker, self.subjects, self.settings, cache=cache)


def found(
    settings: Settings, selected: Settings | None = None, *, role: str = keeper.PERSON, name: str = ""
) -> Settings:
    """The settings with the address of the broker to use. BusUnavailable when none is named and none runs here.

    role, name: as whom a broker of this machine that asks for keys is reached; the role's name when it is empty.
    """
    if settings.nats.named:
        return settings
    address = keeper.peek(settings, role, name)
    if address is not None:
        return with_nats(settings, address)
    if has_joined(settings):
        return as_member(settings, "" if role == keeper.PERSON else role)
    if selected is not None and selected.nats.named:
        return selected
    raise BusUnavailable(
        f"no mesh runs here (home {settings.home}) and no broker is named: start one with `bin/agent up`, "
        "or name one with --server nats://HOST:4222."
    )


@contextlib.asynccontextmanager
async def reach_stored(settings: Settings, selected: Settings | None = None) -> AsyncIterator[Reach]:
    """Connect to read what is stored. Where no broker is named and a mesh ran in this home folder before, its broker is
    held as long as the context lasts, and started for it when nobody else uses it: no agent is needed to read.

    BusUnavailable as `found` when nothing is stored here; EnvironmentUnfit or DiskFull when the broker can not start.
    """
    if settings.nats.named or has_joined(settings) or not keeper.has_store(settings):
        async with reach(await asyncio.to_thread(found, settings, selected)) as there:
            yield there
        return
    async with (
        await keeper.KeeperLease.acquire(settings) as lease,
        reach(with_nats(settings, lease.nats)) as there,
    ):
        yield there


def has_joined(settings: Settings) -> bool:
    """Is this home a member of a mesh whose broker runs elsewhere?"""
    return (settings.home / "membership" / "membership.json").exists()


def as_member(settings: Settings, role: str = "") -> Settings:
    """The settings by which the mesh is reached that this home has joined. Conflict when that was as another role."""
    from agents.commands.joining import check_role
    from mesh.membership import Place, with_membership

    found, known = with_membership(settings), Place(settings.home).load()
    if found is None or known is None:  # `leave`, just now
        raise BusUnavailable(f"this home ({settings.home}) has joined no mesh any more: ask for an invitation.")
    check_role(known, role)
    return found


def with_nats(settings: Settings, nats: NatsSettings) -> Settings:
    """The same settings with another broker."""
    return dataclasses.replace(settings, nats=nats)


@contextlib.asynccontextmanager
async def reach(settings: Settings, *, name: str = "cli") -> AsyncIterator[Reach]:
    """Connect to the broker of these settings; closed at the end. name: ours, where the credentials bind none."""
    subjects = Subjects(settings.prefix)
    broker = await _connect(settings.nats, subjects, settings.nats.name or name)
    try:
        yield Reach(settings, broker, subjects)
    finally:
        await broker.close()


async def _connect(nats: NatsSettings, subjects: Subjects, name: str) -> Broker:
    """Connect. The NATS client imports an HTTP library for web sockets, half the time of a short command's start: it is
    told that there is none, unless an address asks for web sockets."""
    spared = "aiohttp" not in sys.modules and not any(url.startswith(("ws://", "wss://")) for url in nats.servers)
    if spared:
        sys.modules["aiohttp"] = None  # type: ignore[assignment]  # Python's own way to say "not installed"
    try:
        from mesh import broker as mesh_broker
    finally:
        if spared:
            del sys.modules["aiohttp"]
    return await mesh_broker.connect(nats, subjects, name=name)


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a child process has exactly these settings, secrets included."""
    plain = Settings()
    kept = {name: value for name, value in environ.items() if not _ours(name)}
    for name in setting_tree.known():
        value = settings.value(name)
        if name == "home" or value != plain.value(name):
            kept[mesh_settings.variable(name)] = _text(value)
    return kept


def _ours(variable: str) -> bool:
    """Variables that would be read as settings again: their effect is in the tree already."""
    if variable in mesh_settings.NOT_OURS:
        return variable == "RAMIFY_CONFIG"
    return variable.startswith("RAMIFY_") or variable in mesh_settings.NATS_ENVIRONMENT


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
