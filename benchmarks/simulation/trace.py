"""What happened in a seed, in order: the tail is printed when a promise was broken, its digest tells two runs apart."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque

TAIL_MAX = 40
"""Events shown of a broken seed."""


class Trace:
    """Events of one seed, the faults among them counted by kind."""

    def __init__(self, tail_max: int = TAIL_MAX) -> None:
        self.events = 0
        self.faults: Counter[str] = Counter()
        self.defects: list[str] = []
        self._tail: deque[tuple[float, str]] = deque(maxlen=tail_max)
        self._digest = hashlib.sha256()

    def note(self, text: str) -> None:
        """Something happened."""
        now = asyncio.get_running_loop().time()
        self.events += 1
        self._tail.append((now, text))
        self._digest.update(f"{now:.6f} {text}\n".encode())

    def fault(self, kind: str, text: str = "") -> None:
        """A fault was injected; without a text it is only counted."""
        self.faults[kind] += 1
        if text:
            self.note(f"{kind}: {text}")

    def defect(self, text: str) -> None:
        """Code of ours failed in a way that nobody foresaw."""
        self.defects.append(text)
        self.note(f"DEFECT {text}")

    def tail(self) -> list[str]:
        """The last events, a line each."""
        return [f"{at:10.3f}  {text}" for at, text in self._tail]

    def digest(self) -> str:
        """The same for the same run."""
        return self._digest.hexdigest()
