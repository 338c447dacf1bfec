"""The one place where Linux, macOS and Windows differ: groups of processes, locks, shared memory, signals, limits, what
is free.

Every child of the mesh is the leader of a process group of its own, so that a Ctrl-C in the terminal reaches only the
command, and so that a child can be killed together with everything that it started:

    spawn_group / spawn_group_async    start a program as the leader of a new group
    kill_group                         ask a whole group to stop, or end it at once
    die_with_parent                    for our own Python children: end when the parent is gone, even by kill -9

`die_with_parent=True` for a foreign program is the kernel's promise on Linux (parent-death signal) and on Windows (a
job that closes with its owner). On macOS there is no such promise: whoever starts a foreign program there writes down
its process id and ends the orphan at the next start, as `mesh/server.py` does.

`FileLock` is held by an open file: the system lets it go when the holder dies, in whatever way.

Not covered: network file systems whose locks are only advisory between machines; Windows and macOS branches are written
to their documentation and are tried on Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SYSTEM = sys.platform
"""Which system this is, for people: `linux`, `darwin`, `win32`."""

NICE_STEP = 10
"""Lowered priority: a desktop stays responsive, an otherwise idle machine still gives everything."""

PARENT_POLL_S = 1.0
"""Where no parent-death signal exists, how often a child looks whether its parent still lives."""

KEY_POLL_S = 0.05
"""How often a key is looked for where the system can not wait for one: sooner than a hand notices."""

KEYS_BYTES_MAX = 64
"""Keys taken at once."""

_LOCK_OFFSET = 1 << 30
"""Byte that is locked on Windows: far behind the text, which others may still read."""

_PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

VECTOR_FLAGS = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "bf16", "i8mm", "fphp")
"""Beginnings of the names that Linux gives to vector extensions, on x86 and on ARM."""

Stream = int | IO[Any] | None


# -- groups of processes ----------------------------------------------------------------------------------------------


def spawn_group(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    die_with_parent: bool,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` as the leader of a new process group (on POSIX: of a new session). OSError when it does not start.

    die_with_parent: the program ends when this process does (on Linux: when the thread that started it does, so call
    from a thread that lives as long as the process).
    """
    child = subprocess.Popen(
        list(argv), env=None if env is None else dict(env), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
        pass_fds=tuple(pass_fds), **_group_options(die_with_parent),
    )  # fmt: skip
    if die_with_parent:
        _join_job(child.pid)
    return child


async def spawn_group_async(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    die_with_parent: bool,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """`spawn_group` for an event loop: the process can be awaited."""
    child = await asyncio.create_subprocess_exec(
        *argv, env=None if env is None else dict(env), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
        pass_fds=tuple(pass_fds), **_group_options(die_with_parent),
    )  # fmt: skip
    if die_with_parent:
        _join_job(child.pid)
    return child


def kill_group(pid: int, hard: bool) -> None:
    """Ask the group led by `pid` to stop (SIGTERM, Ctrl-Break), or end it at once (hard). A group that is gone is fine.

    Call it before the leader was waited for, or while members may live: afterwards the number may belong to others.
    """
    if sys.platform == "win32":
        _kill_tree(pid, hard)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(pid, signal.SIGKILL if hard else signal.SIGTERM)


def die_with_parent(parent: int) -> None:
    """For a Python child, called first: end this process at once when the process `parent` is gone.

    parent: the parent's id as the parent itself knows it; when it is dead already, this process ends here.
    """
    if sys.platform == "linux":
        _ask_death_signal(parent, _libc())
    else:
        threading.Thread(target=_watch_parent, args=(parent,), name="parent-watch", daemon=True).start()


def lower_priority() -> None:
    """Let interactive programs of the machine's owner go first. Inherited by children; a refusal changes nothing."""
    if sys.platform == "win32":
        import psutil

        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        with contextlib.suppress(OSError):
            os.nice(NICE_STEP)


def _group_options(die_with_parent: bool) -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    elif sys.platform == "linux" and die_with_parent:
        # Between fork and exec only this runs: a system call, and a look whether the parent was gone before it.
        return {"start_new_session": True, "preexec_fn": functools.partial(_ask_death_signal, os.getpid(), _libc())}
    else:
        return {"start_new_session": True}


def _ask_death_signal(parent: int, libc: ctypes.CDLL) -> None:
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def is_running(pid: int) -> bool:
    """Is there a process of this number, whoever's it is?"""
    if sys.platform == "win32":
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watch_parent(parent: int) -> None:
    import psutil

    while psutil.pid_exists(parent) and (sys.platform == "win32" or os.getppid() == parent):
        time.sleep(PARENT_POLL_S)
    os._exit(1)


def _kill_tree(pid: int, hard: bool) -> None:
    import psutil

    if sys.platform == "win32":
        if not hard:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.CTRL_BREAK_EVENT)
            return
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in [*leader.children(recursive=True), leader]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _join_job(pid: int) -> None:
    """Windows: put a child into this process's job, which ends its members when this process ends."""
    if sys.platform == "win32":
        process = ctypes.windll.kernel32.OpenProcess(0x0101, False, pid)  # PROCESS_SET_QUOTA | PROCESS_TERMINATE
        ctypes.windll.kernel32.AssignProcessToJobObject(_job(), process)
        ctypes.windll.kernel32.CloseHandle(process)


_jobs: list[int] = []
"""Windows: handle of this process's job, made when first needed; the system closes it with the process."""


def _job() -> int:
    """Windows: the handle of this process's job."""
    if sys.platform == "win32" and not _jobs:
        # JOBOBJECT_EXTENDED_LIMIT_INFORMATION is 144 bytes on 64-bit Windows; LimitFlags stands at byte 16.
        information = ctypes.create_string_buffer(144)
        ctypes.c_uint32.from_buffer(information, 16).value = 0x2000  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        job = ctypes.windll.kernel32.CreateJobObjectW(None, None)
        ctypes.windll.kernel32.SetInformationJobObject(job, 9, information, 144)  # 9: extended limits
        _jobs.append(job)
    return _jobs[0]


# -- locks, private files, ports --------------------------------------------------------------------------------------


class FileLock:
    """An exclusive lock on a file, between processes. The file stays; the lock goes with its holder, whatever kills it.

    The file's text is the holder's process id, for messages: `holder()` may read it without the lock. Two FileLocks of
    one process exclude each other as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it; never waits. OSError when the folder can not be written."""
        if self._fd is not None:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if not _lock(fd):
                os.close(fd)
                return False
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        self._fd = fd
        return True

    def holder(self) -> int | None:
        """Process id that the last holder wrote; None when there is none. Says nothing about whether it still lives."""
        try:
            text = self.path.read_text("ascii", "replace").strip()
        except OSError:
            return None
        return int(text) if text.isascii() and text.isdigit() else None

    def release(self) -> None:
        """Let the lock go; harmless when it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> FileLock:
        """`with` a lock that was acquired: lets it go at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too, where the system can be asked to (not on Windows)."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all (temporary name, sync, rename)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lock(fd: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(fd, _LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now; connections of an earlier one that are still ending do not count."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe, contextlib.suppress(OSError):
        if sys.platform != "win32":  # there the option would let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return True
    return False


# -- memory that other processes read ---------------------------------------------------------------------------------


def shared_memory(folder: Path) -> tuple[int, str]:
    """An empty file to be mapped, and the path by which other processes of the same user open it while it is open here.

    On Linux it lives in memory alone (a memfd, which no limit of /dev/shm bounds) and goes with its last user;
    elsewhere it is a file in `folder`: whoever owns the folder removes it. Give it its size with `reserve`. OSError.
    """
    if sys.platform == "linux":
        fd = os.memfd_create("ramify-snapshot", os.MFD_CLOEXEC)
        return fd, f"/proc/{os.getpid()}/fd/{fd}"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"snapshot-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return os.open(path, flags, 0o600), str(path)


def shared_again(path: str) -> tuple[int, str]:
    """Open for reading what `shared_memory` named, so that it outlives its maker: a descriptor, and the path by which
    other processes of the same user open it while it is open here. OSError when it is gone."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    return fd, f"/proc/{os.getpid()}/fd/{fd}" if path.startswith("/proc/") else path


def reserve(fd: int, size_bytes: int) -> None:
    """Make a file at least this long, with its room taken: what does not fit is an OSError here, and no signal at the
    first write to the mapped memory (where the system can promise that; macOS and Windows can not)."""
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, size_bytes)
    elif os.fstat(fd).st_size < size_bytes:
        os.ftruncate(fd, size_bytes)


# -- signals ----------------------------------------------------------------------------------------------------------


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to stop in order. SIGUSR1 is what batch systems send as a notice (Slurm's
    `--signal=USR1@60`)."""
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGBREAK)
    else:
        return (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def on_stop(loop: asyncio.AbstractEventLoop, callback: Callable[[signal.Signals], None]) -> Callable[[], None]:
    """Call back in the event loop for every stop signal; the answer undoes it. From the main thread only.

    A hang-up that the process was started to ignore (nohup) stays ignored.
    """
    taken: list[tuple[signal.Signals, Any]] = []
    for number in stop_signals():
        before = signal.getsignal(number)
        if sys.platform != "win32" and number == signal.SIGHUP and before == signal.SIG_IGN:
            continue
        taken.append((number, before))
        if sys.platform == "win32":
            signal.signal(number, lambda got, _frame: loop.call_soon_threadsafe(callback, signal.Signals(got)))
        else:
            loop.add_signal_handler(number, callback, number)

    def undo() -> None:
        for number, before in taken:
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, before)

    return undo


def leave_stopping_to_parent() -> None:
    """Ignore the stop signals: they reach whole control groups (systemd, Slurm, a terminal), and a child that ended at
    once could not make the last checkpoint that its parent is about to ask for. The parent kills it in the end."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


# -- what the machine has ---------------------------------------------------------------------------------------------


def processor() -> str:
    """Vendor, model and vector extensions of the processor, as far as the system tells: what a numerical library may
    choose its code by. '' when it tells nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            text = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0]
            said = {name.strip(): value.strip() for name, _, value in (row.partition(":") for row in text.splitlines())}
            flags = (said.get("flags") or said.get("Features") or "").split()
            vector = sorted(flag for flag in flags if flag.startswith(VECTOR_FLAGS))
            who = [said.get(name, "") for name in ("vendor_id", "CPU implementer", "cpu family", "model", "CPU part")]
            return " ".join(filter(None, [*who, *vector]))
    import platform

    return platform.processor()


def cores() -> float:
    """Processor cores that this process may use: the scheduler's mask and, on Linux, the container's quota."""
    if sys.platform == "linux":
        count = float(len(os.sched_getaffinity(0)))
        with contextlib.suppress(OSError, ValueError):
            quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
            if quota != "max":
                count = min(count, int(quota) / int(period))
        return count
    else:
        return float(os.cpu_count() or 1)


def memory_available() -> int:
    """Bytes of memory that can be taken without swapping: the machine's, and on Linux within the container's limit."""
    import psutil

    available = int(psutil.virtual_memory().available)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
            if limit != "max":
                used = int(Path("/sys/fs/cgroup/memory.current").read_text())
                available = min(available, max(0, int(limit) - used))
    return available


def memory_kills() -> int:
    """How many processes the system has killed for lack of memory since it started, containers' own limits included;
    0 where it does not count them."""
    if sys.platform == "linux":
        for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
            with contextlib.suppress(OSError, ValueError):
                for line in Path(path).read_text("ascii").splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
    return 0


def memory_peak() -> int:
    """The most memory that this process has used so far, in bytes; 0 where the system does not count it."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def disk_free(path: Path) -> int:
    """Bytes that this user may still write under `path` (or under its nearest existing parent)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def limit_memory(bytes_max: int) -> bool:
    """Bound the memory that this process and each child may allocate; False where the system has no such bound.

    Counts private writable memory (RLIMIT_DATA), not files that are mapped: large read-only models do not count.
    """
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, bytes_max))
        return True
    else:
        return False


class Keys:
    """Single keys from a terminal, without waiting for Enter and without echo, as long as the context lasts."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._before: list[Any] | None = None

    def __enter__(self) -> Keys:
        if sys.platform != "win32":
            import termios
            import tty

            self._before = termios.tcgetattr(self._stream.fileno())
            tty.setcbreak(self._stream.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32" and self._before is not None:
            import termios

            termios.tcsetattr(self._stream.fileno(), termios.TCSADRAIN, self._before)

    def next(self, timeout_s: float) -> str:
        """What was typed; '' when nothing came in time, Ctrl-D at the end of the input. Blocks: call it in a thread."""
        if sys.platform == "win32":
            import msvcrt

            until = time.monotonic() + timeout_s
            while not msvcrt.kbhit():
                if time.monotonic() > until:
                    return ""
                time.sleep(KEY_POLL_S)
            return msvcrt.getwch()
        ready, _, _ = select.select([self._stream], [], [], timeout_s)
        if not ready:
            return ""
        return os.read(self._stream.fileno(), KEYS_BYTES_MAX).decode("utf-8", "replace") or "\x04"
