"""Patience with a broker that is away, old or full: a call is made until it takes part.

For whoever has a disk to wait on: there is no deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import BusUnavailable, DiskFull, NotFound

T = TypeVar("T")

PAUSE_S_FIRST, PAUSE_S_MAX = 0.5, 15.0
"""Pauses while the broker is away or full, doubled each time."""


async def patiently(
    call: Callable[[], Awaitable[T]], what: str, say: Callable[[str], None], *, although_full: bool = True
) -> T:
    """Call until the broker takes part: an outage, a store that came back so old that it has no streams yet (and, for
    uploads, a full one) delay work, they do not end it."""
    pause_s = PAUSE_S_FIRST
    while True:
        try:
            return await call()
        except (BusUnavailable, NotFound, DiskFull) as error:
            if isinstance(error, DiskFull) and not although_full:
                raise
            say(f"{what} waits: {error}")
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, 2 * pause_s)
