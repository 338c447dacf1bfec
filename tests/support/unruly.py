"""A kind that misbehaves in every way that a worker has to survive; `install` lays it out as an installed package."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from executors import port
from executors.port import Context, Job, Made, Runtime, Taken
from mesh.messages.tasks import Needs


class UnrulySettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which misbehaviour."""

    how: str


class Unruly:
    """The kind `unruly`."""

    name: ClassVar[str] = "unruly"
    version: ClassVar[int] = 3
    runtime: ClassVar[Runtime] = Runtime.LIGHT
    Settings: ClassVar[type[port.Settings]] = UnrulySettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """Nothing special."""
        return Needs()

    def run(self, job: Job, context: Context) -> Made:
        """Misbehave."""
        ways: dict[str, Callable[[Job, Context], Made]] = {
            "print": _print, "grandchild": _grandchild, "hog": _hog, "deaf": _deaf, "outside": _outside, "exit": _exit,
            "babble": _babble, "recurse": _recurse, "full": _full, "torn": _torn, "chatty": _chatty, "gil": _gil,
            "snapshots": _snapshots, "asked": _asked,
        }  # fmt: skip
        return ways[job.settings.how](job, context)


def _print(job: Job, context: Context) -> Made:
    print("this is no frame")
    os.write(1, b"\x00\x00\x00\x05hello")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", "print('nor is this')"], check=True)
    assert sys.stdin.read() == ""
    path = job.scratch / "out"
    path.write_text("made")
    return Made(outputs={"out": path}, kpis={"x": 1.0})


def _grandchild(job: Job, context: Context) -> Made:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    context.progress(grandchild.pid, 0.5, {}, "forked")
    _sleep_for_ever()


def _hog(job: Job, context: Context) -> Made:
    kept = []
    while True:
        kept.append(b"x" * (16 << 20))
        context.progress(len(kept), 0.0, {}, f"{len(kept)}")
        time.sleep(0.02)


def _deaf(job: Job, context: Context) -> Made:
    while True:
        context.progress(1, 0.1, {}, "")
        time.sleep(0.02)


def _outside(job: Job, context: Context) -> Made:
    return Made(outputs={"out": Path("/etc/hostname")})


def _exit(job: Job, context: Context) -> NoReturn:
    raise SystemExit(3)


def _babble(job: Job, context: Context) -> Made:
    for number in range(50_000):
        print(f"line {number}", file=sys.stderr)
    sys.stderr.write("x" * 1_000_000)
    return Made()


def _full(job: Job, context: Context) -> Made:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _recurse(job: Job, context: Context) -> Made:
    return _recurse(job, context)


def _torn(job: Job, context: Context) -> NoReturn:
    context._channel._sink.write(b"\x7f\xff\xff\xff garbage")  # type: ignore[attr-defined]
    context._channel._sink.flush()  # type: ignore[attr-defined]
    _sleep_for_ever()


def _chatty(job: Job, context: Context) -> Made:
    for step in range(100_000):
        context.progress(step, step / 100_000, {"loss": float("nan")}, "training")
    return Made()


def _gil(job: Job, context: Context) -> Made:
    """Twenty seconds inside C code that never lets another thread of this process run."""
    context.progress(1, 0.1, {}, "holding")
    ctypes.PyDLL(None).sleep(20)
    return Made(kpis={"held_s": 20.0})


def _snapshots(job: Job, context: Context) -> Made:
    """Two snapshots in a row; the second when the first is released."""
    packs = float(context.packs)
    for number in (1, 2):
        buffer = job.scratch / f"buffer-{number}"
        buffer.write_bytes(b"0123456789")
        files = (("a", 0, 4), ("b", 4, 6))
        context.snapshot(Taken(number, 10 * number, False, 1.5, str(buffer), files, {"fingerprint": {}}, number - 1))
        if not context.released(number, 20.0):
            raise RuntimeError("the snapshot was not released")
    if context.released(3, 0.01):
        raise RuntimeError("what was not taken can not be released")
    lacked_room = [number for number in (1, 2) if context.lacked_room(number)]
    kpis = {"packs": packs, "packs_at_the_end": float(context.packs), "lacked_room": float(sum(lacked_room))}
    return Made(kpis=kpis)


def _asked(job: Job, context: Context) -> Made:
    """Until it was asked twice to save."""
    while (asked := context.saves_requested()) < 2:
        context.progress(asked, 0.1, {}, f"asked {asked} times")
        time.sleep(0.01)
    return Made()


def _sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def install(folder: Path) -> Path:
    """Lay the kind out as an installed distribution in `folder`, to be put on PYTHONPATH."""
    info = folder / "unruly-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "unruly.py").write_text(Path(__file__).read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ramify.kinds]\nunruly = unruly:Unruly\n")
    return folder
