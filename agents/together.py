"""One process per role under one supervisor: what `run` and `up` start, watch, and stop in order.

    start   one child per role, leader of its own process group, output appended to <home>/logs/<role>.log
    watch   a child that ends is started again after a pause that doubles, unless somebody else fills its role by now;
            five quick deaths of one role, or an error that a restart can not mend, end it all
    stop    the worker first (it checkpoints and hands its leases back while the scheduler still listens), then
            consensus, gate and planner, the scheduler last; a child that does not end in time is killed with its group

Ctrl-C in the terminal reaches only the command: the children are stopped by it, in this order. If the command itself is
killed, its children end with it where the system offers that (mesh/platform.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mesh import platform
from mesh.errors import EnvironmentUnfit, RamifyError, SettingsInvalid

ROLES = ("scheduler", "planner", "consensus", "gate", "worker")
"""In the order of their start; the stop goes backwards, the worker first."""

WITH_GATEWAY = (*ROLES, "gateway")
"""The same, with the door that only some want."""

QUICK_S = 10.0
"""A life shorter than this counts as a quick death: a role that works lives longer than its start takes."""

QUICK_DEATHS_MAX = 5
"""After so many quick deaths in a row it is not bad luck: give up with a sentence."""

PAUSE_S_FIRST, PAUSE_S_MAX = 0.5, 15.0
"""Pause before a dead child is started again, doubled each time."""

STOP_S = 10.0
"""Patience with an agent that was asked to stop; the worker gets its own grace time on top."""

LOG_BYTES_MAX = 8 * 1024 * 1024
"""A log file larger than this is set aside as `.1` before the next start: one old generation is kept."""

FINAL = frozenset((SettingsInvalid.exit_code, EnvironmentUnfit.exit_code))
"""Exit codes that the next start would only repeat."""

CHECKOUT = Path(__file__).resolve().parents[1]

NeededAsk = Callable[[str, int], Awaitable[bool]]


async def always_needed(_role: str, _code: int) -> bool:
    """The simple answer: whatever ends is started again."""
    return True


def agent_argv(role: str) -> list[str]:
    """The program of one agent."""
    return [sys.executable, "-P", "-m", "agents", role]


@dataclasses.dataclass(slots=True)
class _Child:
    role: str
    process: asyncio.subprocess.Process
    started: float
    quick_deaths: int = 0


class Together:
    """The children of one command."""

    def __init__(
        self,
        home: Path,
        environ: Mapping[str, str],
        *,
        worker_grace_s: float,
        say: Callable[[str], None] = lambda _: None,
        needed: NeededAsk = always_needed,
        argv: Callable[[str], Sequence[str]] = agent_argv,
        own: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """environ: the children's environment, settings and secrets included (never on their command line); own: what
        a role's environment has besides, its credentials.

        needed(role, exit code): is the role that ended here still to be filled by us? argv: the program of a role.
        """
        self._logs = home / "logs"
        self._environ = with_checkout(environ)
        self._own = own
        self._worker_grace_s = worker_grace_s
        self._say = say
        self._needed = needed
        self._argv = argv
        self._children: dict[str, _Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.failure: RamifyError | None = None
        """Why the whole can not go on; None while it can."""

    @property
    def roles(self) -> list[str]:
        """Roles that run here."""
        return list(self._watchers)

    def log_of(self, role: str) -> Path:
        """Where a role's output goes."""
        return self._logs / f"{role}.log"

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    async def start(self, roles: Sequence[str]) -> None:
        """Start one child per role, in the order of WITH_GATEWAY."""
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnfit(
                f"the folder {self._logs} can not be made ({error.strerror}): choose another place with --home."
            ) from None
        for role in sorted(roles, key=WITH_GATEWAY.index):
            self._children[role] = await self._spawn(role, 0)
            self._watchers[role] = asyncio.create_task(self._watch(role), name=f"watch {role}")

    async def stop(self) -> None:
        """Stop all children in order: the worker, then the rest, the scheduler last."""
        self._stopping = True
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for group in (("worker",), ("gateway", "consensus", "gate", "planner"), ("scheduler",)):
            children = [self._children[role] for role in group if role in self._children]
            for child in children:
                if child.process.returncode is None:
                    platform.kill_group(child.process.pid, hard=False)
            await asyncio.gather(*(self._ended(child) for child in children))

    async def _ended(self, child: _Child) -> None:
        """Wait for a child that was asked to stop; kill its group when it takes too long."""
        patience_s = STOP_S + (self._worker_grace_s + STOP_S if child.role == "worker" else 0.0)
        try:
            async with asyncio.timeout(patience_s):
                await child.process.wait()
        except TimeoutError:
            self._say(f"{child.role} did not stop within {patience_s:.0f} s and is killed")
            platform.kill_group(child.process.pid, hard=True)
            await child.process.wait()

    async def _spawn(self, role: str, quick_deaths: int) -> _Child:
        path = self.log_of(role)
        set_aside(path)
        try:
            with path.open("ab") as log:
                process = await platform.spawn_group_async(
                    self._argv(role),
                    env={**self._environ, **self._own.get(role, {})},
                    stdout=log,
                    stderr=log,
                    die_with_parent=True,
                )
        except OSError as error:
            raise EnvironmentUnfit(
                f"{role} can not be started ({error.strerror or error}): check {self._logs} and {sys.executable}."
            ) from None
        return _Child(role, process, time.monotonic(), quick_deaths)

    async def _watch(self, role: str) -> None:
        """Start the role again whenever it ends, until it dies too quickly too often."""
        try:
            while True:
                child = self._children[role]
                code = await child.process.wait()
                if not await self._needed(role, code):
                    self._say(f"{role} is not needed here: another one works in this mesh")
                    del self._children[role], self._watchers[role]
                    return
                quick = child.quick_deaths + 1 if time.monotonic() - child.started < QUICK_S else 0
                if quick >= QUICK_DEATHS_MAX or (quick and code in FINAL):
                    raise EnvironmentUnfit(
                        f"{role} can not be kept running, it ended {_times(quick)} right after its start, with code "
                        f"{code}{self._last_words(role)}; its log is {self.log_of(role)}."
                    )
                pause_s = min(PAUSE_S_MAX, PAUSE_S_FIRST * 2**quick)
                self._say(f"{role} ended with code {code} and starts again in {pause_s:.1f} s")
                await asyncio.sleep(pause_s)
                self._children[role] = await self._spawn(role, quick)
        except RamifyError as error:
            self.failure = self.failure or error

    def _last_words(self, role: str) -> str:
        """The last line of the role's log, as a clause."""
        try:
            with self.log_of(role).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4_096))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({lines[-1].strip()[:300].rstrip('.')})" if lines else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"


def with_checkout(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which `python -P -m agents` finds this program, from any folder."""
    paths = [str(CHECKOUT), *(path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return {**environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def set_aside(path: Path) -> None:
    """Keep one old generation of a log that has grown too large."""
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(path.name + ".1"))
    except OSError:
        return  # not there yet, or not ours to move: the log goes on where it is
