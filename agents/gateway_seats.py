"""The seats of a gateway: who has one, and what becomes of those on which nobody sits any more.

    register -> opened, or taken again          a gateway that starts opens all that its folder holds: somebody may be
    silent for FORGET_S, nothing owed -> closed      at work, and rows may be owed
    closed, and untouched for a week -> its folder is removed

At most SEATS_MAX are open.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from agents.gateway_problems import refuse
from agents.gateway_seat import Seat
from agents.gateway_seat_file import Offering, load
from agents.runtime import Agent, home_folder, now_s, within
from mesh.artifacts import ArtifactStore
from mesh.cache import remove_folder
from mesh.errors import RamifyError
from mesh.log import get as get_log
from mesh.messages.base import NAME as NAMES
from mesh.outbox import Outbox

log = get_log("agents.gateway.seats")

SEATS_MAX = 256
"""Seats at a time: each has a file of its own open, two helpers, and a beat every two seconds."""

TURN_S = 0.5
"""How often it is looked who is silent, and whose offer nobody waits for."""

FORGET_S = 3_600.0
"""A seat without a word for so long is closed."""

REOPEN_S = 5.0
"""Patience of a request that comes while the seats of the gateway before are being opened."""

KEEP_S = 7 * 86_400.0
"""The folder of a closed seat stays so long: what it was refused can be read."""


class Seats:
    """All seats of one gateway. For one event loop."""

    def __init__(self, agent: Agent, store: ArtifactStore) -> None:
        self._agent, self._store = agent, store
        self._folder = home_folder(agent.settings, "gateway", "seats")
        self._open: dict[str, Seat] = {}
        self._opening = asyncio.Lock()
        self._reopened = asyncio.Event()
        """The seats of the gateway before are open: until then nobody is told that he has none."""

    # -- for the routes -----------------------------------------------------------------------------------------------

    async def of(self, name: str) -> Seat:
        """The seat of this name, whose hands have just spoken. Refused when nobody has registered under it."""
        if self._agent.stopping.is_set() or not await within(REOPEN_S, self._reopened):
            raise refuse("unavailable", "the gateway stops, or has just begun: try again soon.", Retry_After="1")
        seat = self._open.get(name)
        if seat is None:
            raise refuse("no-seat", f"{name!r} has no seat: POST /api/v1/network/workers/register first.")
        seat.speaks()
        return seat

    async def register(self, name: str, offering: Offering, incarnation: str) -> Seat:
        """Sit down, or come back. Refused when all seats are taken."""
        async with self._opening:
            seat = self._open.get(name)
            if seat is None:
                if len(self._open) >= SEATS_MAX:
                    raise refuse("unavailable", f"all {SEATS_MAX} seats are taken: try again later.", Retry_After="60")
                seat = await self._opened(name)
            await seat.take_place(offering, incarnation)
        return seat

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open what an earlier gateway has left, then let time pass for all, until cancelled."""
        self._agent.broker.on_state(self._on_broker)
        await self._reopen()
        self._reopened.set()
        while True:
            for seat in tuple(self._open.values()):
                await seat.watch()
                if now_s() - seat.heard_at > FORGET_S and not seat.owes:
                    await self._close(seat)
            await asyncio.sleep(TURN_S)

    async def close(self) -> None:
        """Fall silent; seats and what they owe stay on the disk for the next gateway."""
        for seat in tuple(self._open.values()):
            await self._close(seat)

    async def _reopen(self) -> None:
        """Those used last first; one that can not be opened is left where it is."""
        for folder, used_at in sorted(self._folders(), key=lambda one: one[1], reverse=True):
            async with self._opening:
                if folder.name in self._open or len(self._open) >= SEATS_MAX:
                    continue
                try:
                    if time.time() - used_at > KEEP_S and not await asyncio.to_thread(_owes, folder):
                        await asyncio.to_thread(remove_folder, folder)
                        continue
                    seat = await self._opened(folder.name)
                except RamifyError as error:
                    self._agent.failed("seat", f"the seat {folder.name} can not be opened: {error}")
                else:
                    seat.speaks()

    def _folders(self) -> list[tuple[Path, float]]:
        """Folders of seats, and when each was last used."""
        folders = [path for path in self._folder.iterdir() if NAMES.match(path.name)]
        return [(path, found.used_at) for path in folders if (found := load(path)) is not None]

    async def _opened(self, name: str) -> Seat:
        seat = self._open[name] = Seat(self._agent, self._folder / name, name, self._store)
        await seat.open()
        return seat

    async def _close(self, seat: Seat) -> None:
        self._open.pop(seat.name, None)
        await seat.close()

    def _on_broker(self, connected: bool) -> None:
        if connected:
            for seat in self._open.values():
                seat.nudge()


def _owes(folder: Path) -> bool:
    """Is anything in a seat's outbox without a receipt?"""
    outbox = Outbox(folder)
    try:
        return bool(outbox.pending(1))
    finally:
        outbox.close()
