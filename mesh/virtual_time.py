"""An event loop whose clock jumps: a simulated day takes milliseconds, and always the same ones.

The loop never waits. When nothing is ready it adds the time to the next timer to a counter, which `loop.time()`
returns; so every asyncio deadline, sleep and call_later works unchanged. When nothing is ready and no timer is armed,
nothing can ever happen again: that is a lost wake-up, and the loop raises `InvariantBroken`.

Not for threads, sockets or children: the loop would jump ahead of them. Use it with the memory broker.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from mesh.errors import InvariantBroken

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Polls without waiting; what it was asked to wait for is added to `now_s`."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events:
            return events
        if timeout is None:
            raise InvariantBroken("deadlock in virtual time: no task is ready and no timer is armed")
        self.now_s += max(0.0, timeout)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, starting at 0 seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on virtual time. InvariantBroken when it can never end."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
