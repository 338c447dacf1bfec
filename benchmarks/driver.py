"""A driver: the process that publishes and reads back, and the benchmark's half of the conversation with it.

The other half, and what can be asked, stands in benchmarks/peers/driving.py; our own driver is benchmarks/flood.py.
Every answer has a deadline: a driver that is late has failed, and so has one that answers with an error.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from typing import IO, Any

from benchmarks.parts import STOP_S, Part
from mesh import platform
from mesh.errors import BusUnavailable

OPEN_S = 60.0
"""Patience with a driver's start: some peers start a whole node first."""


class Driver:
    """A running driver."""

    def __init__(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        self._part, self._process = part, process
        self._lines: queue.Queue[bytes] = queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(process.stdout,), name=f"read {part.name}", daemon=True).start()

    def _read(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def ask(self, do: str, timeout_s: float, **more: float) -> dict[str, Any]:
        """The answer. BusUnavailable, in a sentence, when it is late, an error, or the driver has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._process.stdin.flush()
        return self.answer(timeout_s, do)

    def answer(self, timeout_s: float, to: str) -> dict[str, Any]:
        """The next line that is an answer; what else a peer prints is passed over."""
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except queue.Empty:
                raise BusUnavailable(f"no answer to {to!r} within {timeout_s:.0f} s{self._part.last_words()}") from None
            if not line:
                raise BusUnavailable(f"the driver ended before its answer to {to!r}{self._part.last_words()}")
            with contextlib.suppress(ValueError):
                found: Any = json.loads(line)
                if isinstance(found, dict):
                    if "error" in found:
                        raise BusUnavailable(f"{to!r} failed: {found['error']}")
                    return found


@contextlib.contextmanager
def driven(part: Part, timeout_s: float = OPEN_S) -> Iterator[Driver]:
    """A driver that has connected; at the end its input is closed, and it is killed when it does not leave."""
    with part.log.open("ab") as log:
        process = platform.spawn_group(
            part.argv,
            env=part.env,
            cwd=part.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            die_with_parent=True,
        )
    driver = Driver(part, process)
    try:
        driver.answer(timeout_s, "open")
        yield driver
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            platform.kill_group(process.pid, hard=True)
            process.wait()
