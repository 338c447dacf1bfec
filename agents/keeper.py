"""Keeper: holds the embedded broker and the lock on its store, as long as somebody on this machine uses it.

In:    connections of commands (the protocol stands in mesh/keeper.py); an open one is a use-lease
Out:   the broker's address; a sentence when it can not go on
Keeps: the store's lock; the broker running: started again with back-off when it dies, on the same port
Loses: nothing stored: the broker syncs every write. Killed -9, the broker ends with it, and the next command's lease
       starts another keeper
Not:   no agent: it knows nothing of topics or tasks

    lock the store -> prepare the guard, if there is to be one -> start the broker -> listen -> write the note -> say so
    on stdout, let go of the terminal
    … until asked to stop, or the last lease ended `keeper.linger_s` ago, or the broker died five times at once:
    stop listening -> remove the note -> end the connections -> stop the broker -> release the lock

A guarded broker (mesh/guard.py) is one that other machines may reach. Its keeper renews the certificate, hands out the
identities of this machine, and answers those who want to join (agents/keeper_members.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

from mesh import keeper as protocol
from mesh import log, platform
from mesh.errors import EnvironmentUnfit, RamifyError
from mesh.guard import PORT, Guard, listening
from mesh.server import Server
from mesh.setting_tree import Settings
from mesh.setting_values import place

if TYPE_CHECKING:
    from agents.keeper_guarded import GuardedKeeper

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
        self._guarded: GuardedKeeper | None = None

    async def run(self) -> int:
        """Until asked to stop, unused, or unable to go on; the exit code."""
        if not self._server.take_lock():
            _say({"busy": True})
            return protocol.EXIT_BUSY
        undo = platform.on_stop(asyncio.get_running_loop(), lambda _: self._stopping.set())
        try:
            await self._prepare()
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

    async def _prepare(self) -> None:
        """What other machines need before the broker may listen for them."""
        folder, settings = protocol.folder_of(self._settings), self._settings
        self._server.guard = await asyncio.to_thread(Guard.prepare, folder, settings.broker, settings.prefix)
        if self._server.guard is not None:
            from agents.keeper_guarded import GuardedKeeper

            self._guarded = GuardedKeeper(self._server.guard, self._server, settings)

    async def _until_over(self) -> None:
        """The first of: asked to stop, nobody uses the broker, the broker can not be kept running."""
        tasks = [
            asyncio.create_task(self._stopping.wait(), name="asked to stop"),
            asyncio.create_task(self._until_unused(), name="unused"),
            asyncio.create_task(self._keep_running(), name="broker"),
        ]
        if self._guarded is not None:
            tasks.append(asyncio.create_task(self._guarded.run(self._ready), name="guard"))
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
                self._tell_all(self._guarded.way() if self._guarded else {"url": self._server.url})

    def _pause_s(self, quick_deaths: int) -> float:
        keeper = self._settings.keeper
        return float(min(keeper.back_off_s_max, keeper.back_off_s_first * 2 ** max(0, quick_deaths - 1)))

    # -- connections --------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One conversation. Its end, however it comes, is the end of the lease."""
        self._connections.add(writer)
        try:
            asked = await self._asked(reader)
            want = asked.get("want")
            if not want or (want == "lease" and self._makes_way(asked)):
                return
            if want == "lease":
                self._count(writer, leased=True)
            writer.write(protocol.line({"keeper": protocol.PROTOCOL}))
            await self._ready.wait()
            answer = await self._answer(asked)
            writer.write(protocol.line(answer))
            await writer.drain()
            while "error" not in answer and want == "lease" and await reader.read(protocol.LINE_BYTES_MAX):
                pass
        except (OSError, ValueError, TimeoutError) as error:
            self._log.debug("a connection broke: %s", error)
        finally:
            self._count(writer, leased=False)
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the keeper says to this question."""
        try:
            if self._guarded is not None:
                self._check_place(asked)
                return await self._guarded.answer(asked)
            if asked["want"] not in ("lease", "look"):
                raise EnvironmentUnfit(
                    "The broker here is open to this machine only, so nobody can be invited: `bin/agent up --listen "
                    "ADDRESS` lets other machines reach it."
                )
            self._check_place(asked)
            return {"url": self._server.url}
        except RamifyError as error:
            return {"error": str(error), "class": type(error).__name__}

    def _makes_way(self, asked: dict[str, Any]) -> bool:
        """A broker that is to listen elsewhere is started anew when nobody uses this one."""
        if self._place_fits(asked) or self._leases:
            return False
        self._stopping.set()
        return True

    def _place_fits(self, asked: dict[str, Any]) -> bool:
        wanted = asked.get("listen")
        here = listening(self._settings.broker) if self._server.guard else None
        return not wanted or place(str(wanted), PORT) == here

    def _check_place(self, asked: dict[str, Any]) -> None:
        if not self._place_fits(asked):
            where = self._settings.broker.listen or "loopback only"
            raise EnvironmentUnfit(
                f"The broker of {self._settings.home} runs already and listens on {where}: end what uses it (another "
                "`run`, `up` or `worker`), then start again with --listen."
            )

    async def _asked(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        """What a connection wants, with its particulars; empty for strangers."""
        async with asyncio.timeout(ASK_TIMEOUT_S):
            asked = protocol.parsed(await reader.readline())
        token = asked.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            return {}
        return asked if isinstance(asked.get("want"), str) and len(self._connections) <= CONNECTIONS_MAX else {}

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
