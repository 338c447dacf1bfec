"""Makes the virtual environment: the slow path of `bin/agent` and `bin/test`, entered only when a stamp does not match.

Aim:     from a supported Python and its package index to a complete environment, with progress, or one sentence.
How:     take the lock beside the environment; look again (somebody else may have finished); remake what a kill left
         half done; install the locked packages by hash, then torch alone; write the stamp last.
Promise: an environment with a stamp is complete. A kill at any moment leaves no stamp, and the next call repairs.
         Two first uses at once: one installs, the other waits and then goes on. A pip that outlives its killed parent
         keeps the lock until it ends, so nobody installs beside it.
Not:     packages that a newer lock no longer names stay behind. Windows does not hand the lock to pip.

torch is not in the hash lock, because its right file differs by machine (docs/install.md, "torch").
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO

from environment import ROOT, SUPPORTED, EnvironmentTrouble, complain, is_ready, stamp_path, venv_python, wanted_stamp
from installing import IndexTrouble, Installer, NotInIndex, Progress, disk_full, short_version, trouble_of_write

LOCK_WAIT_S_MAX = 3600.0  # a CUDA build over a slow line takes half an hour; longer than an hour is a hang
LOCK_POLL_S = 0.25  # how late a waiting call notices that the other one is done
DISK_NEEDED_BYTES = 2_000_000_000  # the CPU build of everything takes 1.6 GB, and pip unpacks beside it
CUDA_NEEDED_BYTES = 9_000_000_000  # 3 GB of downloads that unpack to 6
INTERRUPTED_MARK = ".ramify-installing"  # there while an install runs; found by the next one, it tells of a kill
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DRIVER_TRACES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
VENV_ENTRIES = frozenset({"bin", "include", "lib", "lib64", "Scripts", "Include", "Lib", "share", INTERRUPTED_MARK})


@dataclass(frozen=True)
class Step:
    """One numbered line of progress and the work behind it; the work closes its line itself."""

    title: str
    work: Callable[[], None]


def install(venv: str, groups: Sequence[str]) -> None:
    """Makes every group of packages ready in `venv`.

    Errors: EnvironmentTrouble with the sentence for the user; KeyboardInterrupt on Ctrl-C and SIGTERM.
    """
    check_interpreter()
    try:
        os.makedirs(os.path.dirname(venv), exist_ok=True)
        with stop_signals_interrupt(), only_one_installs(venv) as lock:
            if not all(is_ready(venv, group) for group in groups):
                prepare_folder(venv)  # may empty it, so only now it is known which groups are missing
                missing = [group for group in groups if not is_ready(venv, group)]
                installer = Installer(venv, Progress(sys.stderr), lock.fileno())
                forget_stamps(venv, missing)
                run_steps(installing_steps(missing, installer), installer)
                for group in missing:
                    write_stamp(venv, group)
                os.unlink(os.path.join(venv, INTERRUPTED_MARK))
    except OSError as error:
        raise trouble_of_write(error, venv) from error


def run_steps(steps: Sequence[Step], installer: Installer) -> None:
    """Runs the steps in order, one progress line each."""
    started = time.monotonic()
    complain(f"installing into {installer.venv} (once; later calls start at once)")
    for number, step in enumerate(steps, 1):
        installer.progress.begin(f"[{number}/{len(steps)}] {step.title}")
        try:
            step.work()
        except BaseException as stopped:
            installer.progress.abandon()
            if isinstance(stopped, IndexTrouble):  # nothing is half done: keep what is installed
                os.unlink(os.path.join(installer.venv, INTERRUPTED_MARK))
            raise
    complain(f"the environment is ready after {time.monotonic() - started:.0f} s")


# ------------------------------------------------------------------------------------ what is installed, in order


def installing_steps(groups: Sequence[str], installer: Installer) -> list[Step]:
    """The steps from the folder as it is now to all packages of these groups."""
    steps = []
    if not os.path.exists(venv_python(installer.venv)):
        steps.append(Step("virtual environment", installer.make_venv))
    if "runtime" in groups:
        steps.append(Step("build tool", lambda: install_lock("build.txt", installer)))
        steps.append(Step("locked packages", lambda: install_lock("runtime.txt", installer)))
        steps.append(Step(f"torch {torch_version()}", lambda: install_torch(torch_version(), installer)))
    if "kinds" in groups:
        steps.append(Step("packages for more kinds", lambda: install_lock("kinds.txt", installer)))
    if "dev" in groups:
        steps.append(Step("packages for the tests", lambda: install_lock("dev.txt", installer)))
    return steps


def install_lock(name: str, installer: Installer) -> None:
    """Installs one lock file, every file checked by hash; one package (nkeys) comes as source and is built here."""
    path = os.path.join(ROOT, "requirements", name)
    wheels_only = ("--only-binary", ":all:", "--no-binary", "nkeys", "--no-build-isolation", "--use-pep517")
    with open(path, encoding="utf-8") as lock:
        pins = pins_of(lock)
    installer.pip_install(["--require-hashes", "--no-deps", *wheels_only, "-r", path], len(pins))


def install_torch(version: str, installer: Installer) -> None:
    """Installs torch alone: a CPU build where there is no NVIDIA driver to use, else the index's own build."""
    cpu_build = ["--no-deps", "--only-binary", ":all:", f"torch=={version}+cpu"]
    with contextlib.suppress(NotInIndex):
        return installer.pip_install(cpu_build, 1)
    if sys.platform == "linux" and not has_nvidia_driver():
        with contextlib.suppress(IndexTrouble):
            return installer.pip_install(["--index-url", CPU_INDEX, *cpu_build], 1)
    if sys.platform == "linux":
        require_disk(installer.venv, CUDA_NEEDED_BYTES)
    size = "about 3 GB with its CUDA libraries" if sys.platform == "linux" else "about 200 MB"
    installer.progress.note(f"torch {version} comes from the package index in its usual build: {size} to download")
    constraints = os.path.join(installer.venv, "constraints.txt")
    return installer.pip_install(["-c", constraints, f"torch=={version}"], 1)


def torch_version() -> str:
    """The one version that requirements/torch.txt pins."""
    with open(os.path.join(ROOT, "requirements", "torch.txt"), encoding="utf-8") as lines:
        return next(line.strip().removeprefix("torch==") for line in lines if line.startswith("torch=="))


def has_nvidia_driver() -> bool:
    """True when this Linux has a driver that a CUDA build could use."""
    return any(os.path.exists(trace) for trace in DRIVER_TRACES) or shutil.which("nvidia-smi") is not None


def pins_of(lock: IO[str]) -> list[str]:
    """The `name==version ; marker` lines of a lock file, without hashes."""
    return [line.rstrip(" \\\n") for line in lock if re.match(r"[A-Za-z0-9]", line)]


# ------------------------------------------------------------------------------------ the folder, the lock, the stamp


def check_interpreter() -> None:
    """An interpreter that can not make virtual environments says so before anything is touched."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        version = short_version()
        raise EnvironmentTrouble(
            f"this Python {version} ({sys.executable}) comes without ensurepip, which makes virtual environments; "
            f"on Debian and Ubuntu `apt install python3-venv` (or python{version}-venv) brings it, "
            "then run the same command again."
        )


def prepare_folder(venv: str) -> None:
    """Leaves either a working environment or an almost empty folder, marked as being installed into."""
    mark = os.path.join(venv, INTERRUPTED_MARK)
    if os.path.lexists(mark) or not works(venv):
        remove_half_made(venv)
        require_disk(venv, DISK_NEEDED_BYTES)
    os.makedirs(venv, exist_ok=True)
    with open(mark, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    with open(os.path.join(venv, "constraints.txt"), "w", encoding="utf-8") as file:
        with open(os.path.join(ROOT, "requirements", "runtime.txt"), encoding="utf-8") as lock:
            file.write("\n".join(pins_of(lock)) + "\n")


def works(venv: str) -> bool:
    """True when the environment's interpreter starts, is supported, and finds its pip."""
    question = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [venv_python(venv), "-I", "-c", question], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.stdout.strip() in {f"{major}.{minor}" for major, minor in SUPPORTED}


def remove_half_made(venv: str) -> None:
    """Removes what stands where the environment should be; a folder that is anything else is refused, never emptied."""
    if os.path.isfile(venv):
        raise EnvironmentTrouble(f"{venv} is a file and should be the environment's folder; move it away.")
    entries = set(os.listdir(venv)) if os.path.isdir(venv) else set()
    if not (entries <= VENV_ENTRIES or entries & {"pyvenv.cfg", INTERRUPTED_MARK}):
        raise EnvironmentTrouble(
            f"{venv} is no virtual environment (it holds {sorted(entries - VENV_ENTRIES)[0]!r}) and is left alone; "
            "move it away, or name another folder in RAMIFY_VENV."
        )
    if entries:
        complain(f"{venv} is half made or its Python is gone; it is made again")
        shutil.rmtree(venv)


def require_disk(venv: str, needed_bytes: int) -> None:
    """Says that the disk is too full before an hour of downloads would find out."""
    free_bytes = shutil.disk_usage(os.path.dirname(venv)).free
    if free_bytes < needed_bytes:
        found = f"({free_bytes / 1e9:.1f} GB free, {needed_bytes / 1e9:.0f} GB needed)"
        raise disk_full(venv, f"before anything was installed {found}")


def forget_stamps(venv: str, groups: Sequence[str]) -> None:
    """Removes stamps of an older lock: going back to it half-way through must not find them valid."""
    for group in groups:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stamp_path(venv, group))


def write_stamp(venv: str, group: str) -> None:
    """Says for good that the group is complete: synced, then renamed into place."""
    path = stamp_path(venv, group)
    with open(path + ".part", "w", encoding="utf-8", newline="\n") as file:
        file.write(wanted_stamp(venv, group) + f"version {short_version()}.{sys.version_info[2]}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)
    if os.name == "posix":
        folder = os.open(venv, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


@contextlib.contextmanager
def only_one_installs(venv: str) -> Iterator[IO[str]]:
    """Holds the lock beside the environment; waits with a sentence while another first use holds it."""
    path = venv + ".lock"
    with open(path, "a", encoding="utf-8") as lock:
        started = time.monotonic()
        waiting = False
        while not try_lock(lock):
            if not waiting:
                complain(f"another first use is installing into {venv}; this one waits and then goes on")
                waiting = True
            if time.monotonic() - started > LOCK_WAIT_S_MAX:
                raise EnvironmentTrouble(
                    f"another process has held {path} for over an hour; end it (`fuser {path}` names it) and try again."
                )
            time.sleep(LOCK_POLL_S)
        yield lock


def try_lock(lock: IO[str]) -> bool:
    """Takes the file lock if it is free. It goes with the process, whatever kills it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends an install the way Ctrl-C does: the running pip is stopped too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
