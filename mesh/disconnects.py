"""Whose connection has closed: the embedded broker tells it within milliseconds, where a missed beat takes seconds.

    <home>/broker/system.json    written by the embedded server when it is ready, private to its owner: address, user
                                 and password of its system account (mesh/server.py)
    $SYS.ACCOUNT.*.DISCONNECT    what the server says there when a client's connection has ended

A connection carries its agent's incarnation as its name (`mesh.broker.connect(client=…)`), so what comes out here are
incarnations, and the names of commands. It is a hint and no verdict: a connection closes for many reasons and may be
back in a moment, an agent may have more than one, and nothing is told of what happened while nobody listened. Where the
broker is another one than this home's embedded one, or its note can not be read, nothing ever comes: beats decide then.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

from mesh import broker as mesh_broker
from mesh.bus import Message
from mesh.errors import RamifyError
from mesh.listening import Names
from mesh.nats_options import NatsOptions
from mesh.subjects import DISCONNECTED, Subjects

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks for the note, and two tries to connect, with jitter: a broker that has started is heard soon."""


@dataclasses.dataclass(frozen=True, slots=True)
class SystemNote:
    """How the owner of an embedded broker reaches its system account."""

    url: str
    user: str
    password: str = dataclasses.field(repr=False)
    ca: str = ""
    """What to verify a guarded broker with."""

    @staticmethod
    def path(folder: Path) -> Path:
        """The note of the broker in this folder (`<home>/broker`)."""
        return folder / "system.json"

    @classmethod
    def read(cls, folder: Path) -> SystemNote | None:
        """The note that is there; None when there is none that can be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(cls.path(folder).read_bytes()))
        return None

    @classmethod
    def is_of(cls, folder: Path, url: str) -> bool:
        """Is the broker at this address the one in this folder?"""
        note = cls.read(folder)
        return note is not None and _place(note.url) == _place(url)

    def options(self) -> NatsOptions:
        """How to connect."""
        return NatsOptions(servers=(self.url,), user=self.user, password=self.password, ca=self.ca)


class ServerDisconnects:
    """`mesh.bus.Disconnects` of the embedded broker in `folder`, for whoever is connected to `url`."""

    def __init__(self, folder: Path, url: str, *, name: str) -> None:
        """folder: `<home>/broker`; url: the broker that the caller uses; name: the caller's."""
        self.available = False
        self._folder, self._place, self._name = folder, _place(url), name

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncIterator[str]]:
        """Names of connections as they close, from now on; it never ends by itself, and never fails."""
        names = Names()
        hearing = asyncio.create_task(self._hear(names.put), name="disconnects")
        try:
            async with contextlib.aclosing(names.follow()) as found:
                yield found
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            self.available = False

    async def _hear(self, put: Callable[[str], None]) -> None:
        """Listen as long as the server lives, and again with the next one: each keeper has a password of its own."""
        while True:
            note = await asyncio.to_thread(SystemNote.read, self._folder)
            if note is not None and _place(note.url) == self._place:
                try:
                    await self._hear_one(note, put)
                except RamifyError as error:
                    log.debug("the broker's system account can not be heard yet: %s", error)
            await asyncio.sleep(random.uniform(LOOK_S / 2, LOOK_S))

    async def _hear_one(self, note: SystemNote, put: Callable[[str], None]) -> None:
        """Until this server's connection is lost."""

        async def hear(message: Message) -> None:
            put(client_of(message.data))

        lost = asyncio.Event()
        async with mesh_broker.connection(note.options(), Subjects(), name=self._name) as broker:
            broker.on_state(lambda up: None if up else lost.set())
            await broker.subscribe(DISCONNECTED, hear)
            self.available = True
            try:
                await lost.wait()
            finally:
                self.available = False


def client_of(data: bytes) -> str:
    """The name that a closed connection bore, from the server's notice; '' when it bore none."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        name = json.loads(data)["client"]["name"]
        return name if isinstance(name, str) else ""
    return ""


def _place(url: str) -> str:
    """Host and port of an address, without scheme and secrets."""
    return urlsplit(url if "://" in url else f"nats://{url}").netloc.rpartition("@")[2]
