"""One event loop for one command: the first Ctrl-C asks it to stop in order, the second ends it at once."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mesh import platform


def run_simply(work: Coroutine[Any, Any, int]) -> int:
    """Run a short command: Ctrl-C ends it at once."""
    _quieten()
    return asyncio.run(work)


def run_stoppable(work: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run a long command: it gets an event that the first stop signal sets. KeyboardInterrupt after the second one."""
    _quieten()
    return asyncio.run(_stoppable(work))


def _quieten() -> None:
    """A command's own sentence says what went wrong: below an error, log records would only stand beside it, and
    tear the bars. Agents set up their own log."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logging.getLogger().addHandler(handler)


async def _stoppable(work: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    stop = asyncio.Event()
    main = asyncio.ensure_future(work(stop))
    hurried = False

    def on_signal(_: signal.Signals) -> None:
        nonlocal hurried
        if stop.is_set():
            hurried = True
            main.cancel()
        stop.set()

    undo = platform.on_stop(asyncio.get_running_loop(), on_signal)
    try:
        return await main
    except asyncio.CancelledError:
        if hurried:
            raise KeyboardInterrupt from None
        raise
    finally:
        undo()
