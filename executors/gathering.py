"""The peers of a child: further processes that train with it (executors/parallel.py), started before its kind runs.

They run the same kind with the same task, in the child's own process group: whoever ends the group ends them, and they
end with the child, however that dies. Their output goes where the child's goes. Light: no torch.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from executors import frames
from executors.frames import Start

LEAVE_S = 10.0
"""How long peers may take to leave when the first process is done."""

MEETING = "team"
"""Folder below the task's scratch folder."""


@contextlib.contextmanager
def gathered(start: Start, processes: int) -> Iterator[str]:
    """Inside, the peers of this task run; the folder where they meet, '' when there are none."""
    if processes <= 1:
        yield ""
        return
    meeting = Path(start.scratch) / MEETING
    meeting.mkdir()
    peers: list[subprocess.Popen[bytes]] = []
    done = False
    try:
        for rank in range(1, processes):
            peers.append(_peer(start, rank, processes, meeting))
        yield str(meeting)
        done = True
    finally:
        for peer in peers:
            _end(peer, LEAVE_S if done else 0.0)


def _peer(start: Start, rank: int, processes: int, meeting: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-m", "executors.peer", str(os.getpid()), str(rank), str(processes), str(meeting)]
    peer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=2)  # where whatever a library prints goes
    assert peer.stdin is not None
    with contextlib.suppress(OSError):  # one that died already is missed where the others meet
        peer.stdin.write(frames.encode(start))
        peer.stdin.close()
    return peer


def _end(peer: subprocess.Popen[bytes], patience_s: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        peer.wait(patience_s)
    peer.kill()
    peer.wait()
