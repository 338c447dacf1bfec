"""Keeper: holds the embedded broker and the lock on its store, as long as somebody on this machine uses it.

In:    connections of commands (the protocol stands in mesh/keeper.py); an open one is a use-lease
Out:   the broker's address; a sentence when it can not go on
Keeps: the store's lock; the broker running: started again with back-off when it dies, on the same port
Loses: nothing stored: the broker syncs every write. Killed -9, the broker ends with it, and the next command's lease
       starts another keeper
Not:   no agent: it speaks no NATS, and knows nothing of topics or tasks

    lock the store -> start the broker -> listen -> write the note -> say so on stdout, let go of the terminal
    … until asked to stop, or the last lease ended `keeper.linger_s` ago, or the broker died five times at once:
    stop listening -> remove the note -> end the connections -> stop the broker -> release the lock
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import sys
import time

from mesh import keeper as protocol
from mesh import log, platform
from mesh.errors import EnvironmentUnfit, RamifyError
from mesh.server import Server
from mesh.setting_tree import Settings

FIRST_LEASE_S = 10.0
"""Patience with the command that started this keeper: it only has to connect."""

ASK_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 1_000
"""Commands at a time; beyond it new ones are turned away, so that a mistake can not use up all descriptors."""

QUICK_DEATH_S = 10.0
QUICK_DEATHS_MAX = 5
"""A broker that lives shorter than this, so many times in a row, has a cause that another start does not mend."""


def run(settings: Settings) -> int:
    """The life of a keeper; its exit code. Complaints go to stdout as the protocol says, and to the log file."""
    try:
        (settings.home / "logs").mkdir(parents=True, exist_ok=True)
        log.setup(settings.log, "keeper", file=settings.home / "logs" / "keeper.log")
        return asyncio.run(Keeper(settings).run())
    except RamifyError as error:
        _say({"error": str(error), "class": type(error).__name__})
        log.get("agents.keeper").error("%s", error)
        return error.exit_code
    except OSError as error:
        _say({"error": f"The folder {settings.home} must be writable: {error.strerror}; choose another with --home."})
        return EnvironmentUnfit.exit_code


class Keeper:
    """One keeper process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = log.get("agents.keeper")
        self._server = Server(protocol.folder_of(settings), settings.broker, settings.home / "logs" / "nats-server.log")
        self._token = secrets.token_urlsafe(24)
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._leases: set[asyncio.StreamWriter] = set()
        self._used, self._unused = asyncio.Event(), asyncio.Event()
        self._failure: RamifyError | None = None

    async def run(self) -> int:
        """Until asked to stop, unused, or unable to go on; the exit code."""
        if not self._server.take_lock():
            _say({"busy": True})
            return protocol.EXIT_BUSY
        undo = platform.on_stop(asyncio.get_running_loop(), lambda _: self._stopping.set())
        try:
            await self._server.start()
            self._ready.set()
            listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=protocol.LINE_BYTES_MAX)
            try:
                port = listener.sockets[0].getsockname()[1]
                protocol.Note(port, self._token, os.getpid()).write(self._settings)
                self._log.info("broker %s runs as process %s", self._server.url, self._server.pid)
                _say({"ready": True})
                _let_go_of_output()
                await self._until_over()
            finally:
                listener.close()
                protocol.Note.path(self._settings).unlink(missing_ok=True)
                await self._end_connections()
        finally:
            await self._server.stop()
            self._server.release()
            undo()
            self._log.info("broker stopped")
        return self._failure.exit_code if self._failure else 0

    async def _until_over(self) -> None:
        """The first of: asked to stop, nobody uses the broker, the broker can not be kept running."""
        tasks = [
            asyncio.create_task(self._stopping.wait(), name="asked to stop"),
            asyncio.create_task(self._until_unused(), name="unused"),
            asyncio.create_task(self._keep_running(), name="broker"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._log.info("stopping: %s", ", ".join(task.get_name() for task in done))
            for task in done:
                task.result()
        except RamifyError as error:
            self._failure = error
            self._log.error("%s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _until_unused(self) -> None:
        patience_s = FIRST_LEASE_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    await self._used.wait()
            except TimeoutError:
                if not self._leases:
                    return
            patience_s = self._settings.keeper.linger_s
            await self._unused.wait()

    async def _keep_running(self) -> None:
        """Start the broker again whenever it dies; raises when that does not help."""
        quick_deaths, started = 0, time.monotonic()
        while True:
            if self._ready.is_set():
                status = await self._server.wait()
                self._ready.clear()
                self._log.warning("the broker ended with status %s and is started again", status)
            quick_deaths = quick_deaths + 1 if time.monotonic() - started < QUICK_DEATH_S else 0
            if quick_deaths >= QUICK_DEATHS_MAX:
                raise EnvironmentUnfit(
                    f"The broker must keep running, but it died {quick_deaths} times in a row: see "
                    f"{self._settings.home / 'logs' / 'nats-server.log'}."
                )
            await self._server.stop()
            await asyncio.sleep(self._pause_s(quick_deaths))
            started = time.monotonic()
            try:
                await self._server.start()
            except RamifyError as error:
                self._log.warning("the broker does not start: %s", error)
            else:
                self._ready.set()
                self._tell_all({"url": self._server.url})

    def _pause_s(self, quick_deaths: int) -> float:
        keeper = self._settings.keeper
        return float(min(keeper.back_off_s_max, keeper.back_off_s_first * 2 ** max(0, quick_deaths - 1)))

    # -- connections --------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One conversation. Its end, however it comes, is the end of the lease."""
        self._connections.add(writer)
        try:
            want = await self._asked(reader)
            if not want:
                return
            if want == "lease":
                self._count(writer, leased=True)
            writer.write(protocol.line({"keeper": protocol.PROTOCOL}))
            await self._ready.wait()
            writer.write(protocol.line({"url": self._server.url}))
            await writer.drain()
            while want == "lease" and await reader.read(protocol.LINE_BYTES_MAX):
                pass
        except (OSError, ValueError, TimeoutError) as error:
            self._log.debug("a connection broke: %s", error)
        finally:
            self._count(writer, leased=False)
            self._connections.discard(writer)
            writer.close()

    async def _asked(self, reader: asyncio.StreamReader) -> str:
        """What a connection wants: 'lease', 'look', or '' for strangers."""
        async with asyncio.timeout(ASK_TIMEOUT_S):
            asked = protocol.parsed(await reader.readline())
        token = asked.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            return ""
        return str(asked.get("want")) if len(self._connections) <= CONNECTIONS_MAX else ""

    def _count(self, writer: asyncio.StreamWriter, *, leased: bool) -> None:
        if leased:
            self._leases.add(writer)
        else:
            self._leases.discard(writer)
        (self._used if self._leases else self._unused).set()
        (self._unused if self._leases else self._used).clear()

    def _tell_all(self, fields: dict[str, object]) -> None:
        for writer in self._leases:
            writer.write(protocol.line(fields))

    async def _end_connections(self) -> None:
        """Tell why, if there is a reason, and close."""
        if self._failure is not None:
            self._tell_all({"error": str(self._failure), "class": type(self._failure).__name__})
        for writer in list(self._connections):
            writer.close()
        for writer in list(self._connections):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    await writer.wait_closed()


def _say(fields: dict[str, object]) -> None:
    """One line to whoever started this keeper, if it still listens."""
    with contextlib.suppress(OSError):
        os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, protocol.line(fields))


def _let_go_of_output() -> None:
    """The starter reads until the end of the output; nothing more is to come."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
