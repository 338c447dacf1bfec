"""What the mesh wants back: a corrupt object was removed from the store, and this worker may have its bytes.

    heard -> which cached artifacts name it -> put what of them is not in the store, checked against their digests

Lost or late, this costs nothing: whoever needs the object and finds it missing has it made anew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from logging import Logger

from mesh import codec
from mesh.artifacts import ArtifactStore
from mesh.bus import Message
from mesh.errors import Malformed, RamifyError
from mesh.messages import object_names
from mesh.messages.collecting import Wanted
from mesh.messages.object_names import ObjectName

WAITING_MAX = 1_000
"""Wanted names that wait for a look at the cache; the oldest is forgotten first."""

ARTIFACTS_MAX = 1_000
"""Cached artifacts that are looked through, used last first."""


class WantedBack:
    """One worker's answer to the mesh's wishes. `run` lasts as long as the worker."""

    def __init__(self, store: ArtifactStore, log: Logger) -> None:
        self._store, self._log = store, log
        self._waiting: OrderedDict[ObjectName, None] = OrderedDict()
        self._heard = asyncio.Event()

    async def hear(self, message: Message) -> None:
        """The leader wants objects back."""
        try:
            wanted = codec.decode(message.data, Wanted)
        except Malformed as error:
            self._log.warning("%s holds no wish: %s", message.subject, error)
            return
        for text in wanted.names:
            if (name := object_names.parse(text)) is not None:
                self._waiting[name] = None
        while len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)
        self._heard.set()

    async def run(self) -> None:
        """Look through the cache after each wish, until cancelled."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            names, self._waiting = set(self._waiting), OrderedDict()
            self._store.forget_stored()  # what was believed to be there has just been removed
            for digest in await asyncio.to_thread(self._store.cached, ARTIFACTS_MAX):
                await self._give(digest, names)

    async def _give(self, digest: str, names: set[ObjectName]) -> None:
        """Put a cached artifact again if any of the names belongs to it."""
        try:
            if await self._store.needs(digest, names) and await self._store.send_again(digest):
                self._log.info("artifact %s was given back to the store, which had lost a part of it", digest[:16])
        except (RamifyError, OSError) as error:
            self._log.warning("artifact %s can not be given back to the store now: %s", digest[:16], error)
