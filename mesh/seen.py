"""The newest ledger entry that a process has seen, in a small file of a scheduler or worker.

Who starts on a broker that came back older can not learn from the store what is missing in it; this file says so. A
scheduler writes it after every append, before anything is answered, a worker with every answer that tells of a newer
entry. It is not synced: it survives kill -9 at any instruction, and a power cut costs this one warning, nothing else.

    <generation> <highest generation ever> <sequence> <digest> <check>
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from mesh import codec

BYTES = 160
"""Every writing has this length, so that one never leaves a part of another."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """An entry of the ledger that somebody has seen."""

    generation: int = 0
    seq: int = 0
    digest: str = ""
    """Of the entry, or how it begins; '' when it was not told."""


class SeenFile:
    """One file; a place where nothing can be written only costs the warning."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def read(self) -> tuple[Seen, int]:
        """What was written last, and the highest generation; Seen() and 0 when there is nothing whole."""
        with contextlib.suppress(OSError, ValueError):
            os.lseek(self._fd, 0, os.SEEK_SET)
            generation, highest, seq, digest, check = os.read(self._fd, BYTES).decode("ascii").split()
            if check == _check(generation, highest, seq, digest):
                return Seen(int(generation), int(seq), digest), int(highest)
        return Seen(), 0

    def write(self, seen: Seen, generation_max: int) -> None:
        """Remember this entry."""
        words = (str(seen.generation), str(generation_max), str(seen.seq), seen.digest or "-")
        line = " ".join((*words, _check(*words))).ljust(BYTES).encode("ascii")
        with contextlib.suppress(OSError):
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, line)

    def close(self) -> None:
        """Close the file. What is written later goes nowhere: its number may be another file's by then."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1


def _check(*words: str) -> str:
    return codec.digest(" ".join(words).encode("ascii"))[:16]
