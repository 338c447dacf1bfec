"""Bytes on their way, as a person sees them: a bar in a terminal, a line now and then elsewhere, on stderr.

An instance is what the artifact store calls with (bytes done, bytes in all). It may be called from any thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any

from agents.commands import output

LINE_EVERY_S = 5.0
"""Plain lines: often enough to see life, seldom enough for a log."""


class Transfer:
    """Progress of one transfer; a context that leaves the terminal as it was. `what`: 'sending', 'fetching' …"""

    def __init__(self, what: str, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._stream, self._clock = what, stream if stream is not None else sys.stderr, clock
        self._bar: Any = None
        self._task: Any = None
        self._shown_at = clock()

    def __enter__(self) -> Transfer:
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many bytes are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = self._clock()
        if now - self._shown_at < LINE_EVERY_S:
            return
        self._shown_at = now
        share = f" ({done / total:.0%})" if total else ""
        print(f"{self._what}: {output.size(done)} of {output.size(total)}{share}", file=self._stream, flush=True)


def _bar(stream: IO[str]) -> Any:
    """Description, bar, bytes, speed, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream, highlight=False),
        transient=True,
        refresh_per_second=4,
    )
