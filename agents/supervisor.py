"""The small supervisor of `bin/agent worker`: keeps one worker process alive, and tells the mesh when a life has ended.

    start -> the worker ends -> report which incarnation ended, and how -> pause (doubled) -> start …
    code 0, or a stop that was asked for       it is over
    the code of an error that a restart can not mend (settings, broker, environment)    it is over, with that code
    QUICK_DEATHS_MAX lives shorter than QUICK_S in a row                                it is over, with one sentence
    the broker's code, once a life has reached a broker: an outage                      it is tried again for ever

Signals that ask to stop are passed on once; a worker that does not leave in its grace time is killed with its group.
The worker dies with this process, however that ends. Nothing here talks to the mesh but the short report of a death,
which lets the scheduler hand the tasks on at once instead of after the silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from agents.together import with_checkout
from mesh import codec, platform
from mesh.errors import (
    BrokerRefused,
    BusUnavailable,
    Deposed,
    EnvironmentUnfit,
    Interrupted,
    RamifyError,
    SettingsInvalid,
)
from mesh.messages.leases import Gone
from mesh.settings import Settings
from mesh.subjects import Subjects

QUICK_S = 10.0
"""A life shorter than this is a quick death: a worker that works lives longer than its start takes."""

QUICK_DEATHS_MAX = 5
"""After so many quick deaths in a row it is not bad luck."""

PAUSE_S_FIRST, PAUSE_S_MAX = 0.5, 30.0
"""Pause before the next life, doubled with each quick death."""

STOP_EXTRA_S = 10.0
"""Beyond the worker's own grace time, before it is killed."""

REPORT_S = 3.0
"""Patience with the broker for the report of a death."""

FINAL = frozenset(
    error.exit_code
    for error in (SettingsInvalid, BusUnavailable, BrokerRefused, EnvironmentUnfit, Deposed, Interrupted)
)
"""Exit codes that the next life would only repeat. A defect (70) is not among them: it may depend on the task."""


class Supervisor:
    """Keeps one worker alive."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        worker: str,
        incarnation_file: Path,
        grace_s: float,
        report: Callable[[Gone], Awaitable[None]],
        say: Callable[[str], None],
    ) -> None:
        """argv: starts the worker; incarnation_file: where it writes its incarnation; report: tells the mesh."""
        self._argv, self._environ = list(argv), dict(environ)
        self._worker, self._incarnation_file, self._grace_s = worker, incarnation_file, grace_s
        self._report, self._say = report, say
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    def stop(self) -> None:
        """Pass the wish to stop on to the worker."""
        if not self._stopping.is_set():
            self._stopping.set()
            if self._process is not None and self._process.returncode is None:
                platform.kill_group(self._process.pid, hard=False)

    async def run(self) -> int:
        """Until it is over; the exit code. EnvironmentUnfit after too many quick deaths."""
        quick = aways = 0
        worked = False
        while not self._stopping.is_set():
            began, before = time.monotonic(), self._incarnation()
            code = await self._one_life()
            long = time.monotonic() - began >= QUICK_S
            worked = worked or long or self._incarnation() != before
            away = worked and code == BusUnavailable.exit_code
            if code == 0 or self._stopping.is_set() or (code in FINAL and not away):
                return max(0, code)
            aways = aways + 1 if away and not long else 0
            if not aways:
                await self._tell(code)
                quick = 0 if long else quick + 1
            if quick >= QUICK_DEATHS_MAX:
                raise EnvironmentUnfit(
                    f"The worker ended {quick} times in a row right after its start, the last time with "
                    f"{_words(code)}: its log says why."
                )
            pause_s = min(PAUSE_S_MAX, PAUSE_S_FIRST * 2 ** min(quick + aways, 16))
            self._say(f"the worker ended with {_words(code)} and starts again in {pause_s:.1f} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
        return 0

    async def _one_life(self) -> int:
        """Start the worker and wait for its end; its code (negative: the signal)."""
        try:
            process = await platform.spawn_group_async(self._argv, env=self._environ, die_with_parent=True)
        except OSError as error:
            raise EnvironmentUnfit(f"The worker can not be started: {error}.") from error
        self._process = process
        stop = asyncio.ensure_future(self._stopping.wait())
        end = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((stop, end), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((end,), timeout=self._grace_s + STOP_EXTRA_S)
            if not end.done():
                self._say("the worker did not leave in its grace time and is killed")
        finally:
            stop.cancel()
            platform.kill_group(process.pid, hard=True)  # also what it left behind in its group
        return await end

    def _incarnation(self) -> str:
        """The newest life that had a broker and its folder; '' when there was none."""
        try:
            return self._incarnation_file.read_text().strip()
        except OSError:
            return ""

    async def _tell(self, code: int) -> None:
        """Report which incarnation has ended; a broker that is away learns it from the silence."""
        incarnation = self._incarnation()
        if not incarnation:
            return  # it held nothing
        try:
            gone = Gone(worker=self._worker, incarnation=incarnation, exit_code=code)
            async with asyncio.timeout(REPORT_S):
                await self._report(gone)
        except (TimeoutError, RamifyError) as error:
            self._say(f"the end of the worker could not be reported ({str(error) or 'no answer in time'})")


def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Supervise a worker with these settings; the exit code. environ: in which a process has these settings."""
    argv = [sys.executable, "-P", "-m", "agents", "worker", "--alone"]
    try:
        return asyncio.run(_run(argv, settings, with_checkout(environ)))
    except EnvironmentUnfit as error:
        _say(str(error))
        return error.exit_code


async def _run(argv: Sequence[str], settings: Settings, environ: Mapping[str, str]) -> int:
    name = settings.worker.name
    supervisor = Supervisor(
        argv,
        environ,
        worker=name,
        incarnation_file=settings.home / "workers" / name / "incarnation",
        grace_s=settings.worker.stop_grace_s,
        report=lambda gone: _publish(settings, gone),
        say=_say,
    )
    undo = platform.on_stop(asyncio.get_running_loop(), lambda _: supervisor.stop())
    try:
        return await supervisor.run()
    finally:
        undo()


async def _publish(settings: Settings, gone: Gone) -> None:
    """Tell the mesh over a connection of its own; the client is imported only now."""
    from mesh import broker as mesh_broker

    subjects = Subjects(settings.prefix)
    broker = await mesh_broker.connect(settings.nats, subjects, name=gone.worker)
    try:
        await broker.publish(subjects.gone(gone.worker), codec.encode(gone))
    finally:
        await broker.close()


def _say(text: str) -> None:
    print(f"bin/agent worker: {text}", file=sys.stderr, flush=True)


def _words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
