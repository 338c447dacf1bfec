"""Runs the programs that fill the virtual environment, shows how far they are, and words what goes wrong.

In:    a command (venv or pip), the number of packages it will bring
Out:   progress on stderr: one line that is rewritten in a terminal, plain lines elsewhere
Keeps: each program's last lines, in memory for the sentence and in `install.log` inside the environment
Not:   no retry beyond pip's own, no parsing that decides anything but the wording and the torch fallback
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

from environment import EnvironmentTrouble, venv_python

LOG_NAME = "install.log"
TAIL_LINES_MAX = 400  # pip's last words; its longest complaint (a failed build) stays under this
REDRAW_S = 0.5  # in a terminal; slower looks stuck
PLAIN_LINE_EVERY_S = 15.0  # in a log file; more often is noise
CHILD_STOP_S = 10.0  # what a stopped pip gets to clean up
DISK_ERRNOS = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
DISK_WORDS = ("No space left on device", "Disk quota exceeded", "not enough space on the disk")
ACCESS_WORDS = ("Permission denied", "Read-only file system", "Access is denied")
NETWORK_WORDS = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Read timed out",
    "Network is unreachable",
    "ProxyError",
    "SSLError",
    "CERTIFICATE_VERIFY_FAILED",
    "Connection aborted",
    "ConnectionResetError",
)
ELSEWHERE = "make it writable, or name another folder in RAMIFY_VENV, and run the same command again."
ABSENT_WORDS = ("No matching distribution found", "Could not find a version that satisfies")


class IndexTrouble(EnvironmentTrouble):
    """pip ended by itself without a file it needed; what it had installed before is whole."""


class NotInIndex(IndexTrouble):
    """The package index answered, and does not have this package for this machine."""


class Progress:
    """One step's line: title, what is going on, elapsed seconds."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.rewrites = stream.isatty()
        self.title = ""
        self.started_s = 0.0
        self.shown_s = 0.0

    def begin(self, title: str) -> None:
        """Starts a step; outside a terminal its title is a line of its own."""
        self.title = title
        self.started_s = self.shown_s = time.monotonic()
        self._draw("...", final=False)

    def show(self, what: str) -> None:
        """Shows the state of the running step, as often as the stream bears."""
        now = time.monotonic()
        if now - self.shown_s >= (REDRAW_S if self.rewrites else PLAIN_LINE_EVERY_S):
            self.shown_s = now
            self._draw(what, final=False)

    def end(self, what: str) -> None:
        """Closes the step's line."""
        self._draw(what, final=True)

    def abandon(self) -> None:
        """Leaves a rewritten line as it is, so that the complaint that follows stands on its own."""
        if self.rewrites:
            self.stream.write("\n")

    def note(self, sentence: str) -> None:
        """A line of its own, above the step's."""
        self.stream.write(("\r\x1b[K" if self.rewrites else "") + f"ramify: {sentence}\n")
        self.stream.flush()

    def _draw(self, what: str, *, final: bool) -> None:
        line = f"{self.title}: {what} ({time.monotonic() - self.started_s:.0f} s)"
        if self.rewrites:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + line[:width] + ("\n" if final else ""))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


class PipOutput:
    """What pip's lines say about how far it is: packages found, out of those that the lock has for this machine."""

    def __init__(self, packages: int) -> None:
        self.packages = packages
        self.found = 0
        self.current = "packages"

    def read(self, line: str) -> None:
        """Takes one line; unknown lines change nothing."""
        if match := re.match(r"(Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)", line):
            self.found += 1
            self.current = match[2]
        elif match := re.match(r"Processing .*?([A-Za-z0-9._]+)-[^/\\]*\.whl", line):
            self.found += 1
            self.current = match[1]
        elif re.match(r"Ignoring \S+ markers", line):
            self.packages -= 1
        elif match := re.match(r"\s*Downloading .*\((.+?)\)", line):
            self.current = f"{self.current.split(' ')[0]} ({match[1]})"
        elif line.startswith("Installing collected packages"):
            self.current = "unpacking"

    def __str__(self) -> str:
        return f"{self.found} of {max(self.packages, self.found)} packages, {self.current}"

    def doing(self) -> str:
        """The same as a part of a sentence."""
        return "unpacking packages" if self.current == "unpacking" else f"fetching {self.current.split(' ')[0]}"

    def summary(self) -> str:
        """The step in a word, once it is over."""
        return f"{self.found} package{'' if self.found == 1 else 's'}"


class Installer:
    """Runs venv and pip for one environment. They inherit `lock_descriptor`, so the lock lives as long as they do."""

    def __init__(self, venv: str, progress: Progress, lock_descriptor: int | None = None) -> None:
        self.venv = venv
        self.progress = progress
        self.inherited = () if lock_descriptor is None or os.name == "nt" else (lock_descriptor,)

    def make_venv(self) -> None:
        """Makes the virtual environment with this interpreter."""
        status, tail = self.run([sys.executable, "-I", "-m", "venv", self.venv], PipOutput(0))
        if status:
            raise self._trouble(f"making the virtual environment (exit code {status})", tail)
        self.progress.end(f"Python {short_version()}")

    def pip_install(self, arguments: Sequence[str], packages: int) -> None:
        """`pip install` with the user's own configuration. Errors: NotInIndex, IndexTrouble, EnvironmentTrouble."""
        # -I: packages on somebody's PYTHONPATH or in the user's site would count as installed.
        command = [venv_python(self.venv), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        output = PipOutput(packages)
        status, tail = self.run([*command, "install", "--progress-bar", "off", *arguments], output)
        if status:
            raise self._trouble(f"{output.doing()} (pip's exit code {status})", tail)
        self.progress.end(output.summary())

    def run(self, command: list[str], output: PipOutput) -> tuple[int, str]:
        """Runs a program to its end, drawing progress while it is silent too. Returns exit status and last lines."""
        environment = {**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
        lines: queue.Queue[str | None] = queue.Queue()
        tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES_MAX)
        try:
            with _interrupts_held():  # between its start and our knowing of it, nobody could stop the program
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                    env=environment,
                    pass_fds=self.inherited,
                )
            assert child.stdout is not None
            threading.Thread(target=_pump, args=(child.stdout, lines), name="pip-output", daemon=True).start()
            while (line := self._next(lines, output)) is not None:
                tail.append(line)
                output.read(line)
            return child.wait(), "".join(tail)
        except KeyboardInterrupt:
            _stop(child)
            raise
        finally:
            self._keep(command, tail)

    def _next(self, lines: queue.Queue[str | None], output: PipOutput) -> str | None:
        """The program's next line, or None at its end; the elapsed time moves on while there is none."""
        while True:
            self.progress.show(str(output))
            with contextlib.suppress(queue.Empty):
                return lines.get(timeout=REDRAW_S)

    def _keep(self, command: Sequence[str], tail: Sequence[str]) -> None:
        """Appends to the install log; a disk that is full or closed is reported by the step itself, not from here."""
        with contextlib.suppress(OSError), open(os.path.join(self.venv, LOG_NAME), "a", encoding="utf-8") as log:
            log.write("$ " + " ".join(command) + "\n" + "".join(tail) + "\n")

    def _trouble(self, doing: str, tail: str) -> EnvironmentTrouble:
        """pip's complaint as one sentence: what was tried, what was found, what to do."""
        log = os.path.join(self.venv, LOG_NAME)
        if any(word in tail for word in DISK_WORDS):
            return disk_full(self.venv, f"while {doing}")
        if any(word in tail for word in ACCESS_WORDS):
            return EnvironmentTrouble(f"{self.venv} can not be written while {doing}; {ELSEWHERE}")
        if any(word in tail for word in NETWORK_WORDS):
            return IndexTrouble(
                f"no package index could be reached while {doing}; connect this machine (or name a mirror or proxy in "
                f"pip's configuration) and run the same command again; pip's words are in {log}."
            )
        if any(word in tail for word in ABSENT_WORDS):
            absent = re.search(r"No matching distribution found for (\S+)", tail)
            return NotInIndex(
                f"the package index in pip's configuration has no {absent[1] if absent else 'such package'} for Python "
                f"{short_version()} on {sys.platform}; check that it has an index and may use it (`pip config list`); "
                f"pip's words are in {log}."
            )
        if "DO NOT MATCH THE HASHES" in tail:
            return EnvironmentTrouble(
                f"a downloaded file is not the one that the lock names by hash, so it was not installed; an"
                f"other mirror or an emptied cache (`pip cache purge`) may help; pip's words are in {log}."
            )
        errors = [line.strip() for line in tail.splitlines() if line.startswith(("ERROR", "error", "Error"))]
        return EnvironmentTrouble(
            f"{doing} failed: {errors[-1] if errors else 'no reason given'}; its last words are in {log}."
        )


def short_version() -> str:
    """The running interpreter as "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def disk_full(venv: str, when: str) -> EnvironmentTrouble:
    """The sentence about a full disk or quota."""
    return EnvironmentTrouble(
        f"the disk is full {when}: {venv} takes about 1.6 GB, and pip unpacks in the temporary folder (TMPDIR) too; "
        "free some room and run the same command again."
    )


def trouble_of_write(error: OSError, venv: str) -> EnvironmentTrouble:
    """An operating system error of our own writes, as the sentence for the user."""
    if error.errno in DISK_ERRNOS:
        return disk_full(venv, "while writing the environment")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return EnvironmentTrouble(f"{error.filename or venv} can not be written; {ELSEWHERE}")
    return EnvironmentTrouble(f"the environment can not be made: {error}; {ELSEWHERE}")


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Reader thread: a pipe can not be waited on together with a clock on every system."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Inside, a stop signal waits; it is raised as KeyboardInterrupt at the end."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, frame: held.append(got)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        if held:
            raise KeyboardInterrupt


def _stop(child: subprocess.Popen[str]) -> None:
    """Ends a program that the user interrupted: asked first, then made to."""
    child.terminate()
    try:
        child.wait(timeout=CHILD_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
