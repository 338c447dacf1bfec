"""The embedded nats-server: find the program, configure it, start it, wait until it is ready, stop it.

    <folder>/lock               held while a server may run on this store: the server itself takes none, and two
                                servers on one store both start and both accept writes
    <folder>/nats-server.conf   private: it holds the system account's password
    <folder>/nats-server.pid    the running server, so that an orphan of a killed keeper is ended before the next starts
    <folder>/system.json        private: how its owner reaches the system account (mesh/disconnects.py)
    <folder>/port               the last port, taken again so that clients of a killed keeper find the next one
    <folder>/store              JetStream's files
    <folder>/ports              the server writes its address there when it listens

It listens on loopback, open to this machine; or where it was told to, behind a guard (mesh/guard.py) that asks everyone
for TLS and a key. The system account needs the password. Every write is synced, because an acknowledgement is otherwise
not on disk for two minutes. The server ends when this process dies (not on macOS: there the pid file repairs it at the
next start).

Who may come in changes while it runs: `reload` writes the configuration anew and has the server read it. Whoever is not
in it any more is cut off by that, everybody else notices nothing. Where a program can not be told to (Windows) it
is started again in its place.

Errors, one sentence each: EnvironmentUnfit (no program, too old, port taken, store in use, folder not writable) and
DiskFull.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import re
import secrets
import shutil
import signal
import sysconfig
import time
from pathlib import Path
from typing import Any

from mesh import limits, members, platform, server_config, units
from mesh.errors import DiskFull, EnvironmentUnfit, RamifyError
from mesh.guard import Guard, listening, local_host
from mesh.server_config import LOG_BYTES_MAX, SYSTEM_USER, ServerPlan
from mesh.setting_tree import BrokerSettings

VERSION_LEAST = (2, 11)
"""Older servers lack message expiry markers and consistent direct reads."""

STORE_BYTES_MOST = 20 << 30
STORE_SHARE_OF_DISK = 0.2
"""The automatic size of the store: the smaller of both, so that the mesh never fills its owner's disk; but never less
than its streams need."""

DISK_FREE_LEAST_BYTES = limits.STORE_BYTES_LEAST + (64 << 20)
"""Below this the store would stop in the middle of the first topic."""

READY_POLL_S = 0.005
VERSION_TIMEOUT_S = 10.0
ORPHAN_TIMEOUT_S = 5.0

RELOAD_TIMEOUT_S = 30.0
"""Patience with a server that reads its accounts anew: milliseconds for ten members, a second or two for a thousand."""

RELOAD_SIGNAL: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Has the server read its configuration anew; None where the system has no such signal."""

RELOADS = 2
"""How often the server reads the same file anew: an account that the first reading makes reaches nothing of the mesh's
account before the second (seen with nats-server 2.15.1: requests of a new guest find no responders)."""


class Server:
    """One embedded server on one folder. `start` and `stop` may alternate; the lock is held from the first start on."""

    def __init__(self, folder: Path, settings: BrokerSettings, log_file: Path, guard: Guard | None = None) -> None:
        """guard: what everybody who connects is asked for; None: nothing, and only this machine reaches it."""
        self.folder = folder
        self.guard = guard
        self.url = ""
        self.system_password = secrets.token_urlsafe(24)
        self._settings = settings
        self._log_file = log_file
        self._lock = platform.FileLock(folder / "lock")
        self._process: asyncio.subprocess.Process | None = None
        self._program: Path | None = None
        self._host, self._port_wanted = listening(settings)
        self._port = self._port_wanted
        self._plan: ServerPlan | None = None
        self._reloading = asyncio.Lock()
        self._started_again = asyncio.Event()
        self._started_again.set()

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def take_lock(self) -> bool:
        """Make the folder and take the store's lock; False when another process holds it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            return self._lock.acquire()
        except OSError as error:
            raise _unfit(self.folder, error) from error

    async def start(self) -> None:
        """Start and wait until the server accepts connections; `url` is its address then."""
        async with self._reloading:  # a signal that comes before the server knows it would end it
            await self._start()

    async def _start(self) -> None:
        if not self.take_lock():
            raise EnvironmentUnfit(
                f"The store {self.folder} must be free, but process {self._lock.holder() or 'unknown'} uses it: end "
                "that process, or choose another folder with --home."
            )
        if self._program is None:
            self._program = find_program(self._settings.binary)
            await check_version(self._program)
        await self._end_orphan()
        for port in self._ports_to_try():
            if await self._start_on(port):
                return
        choice = "--listen ADDRESS:PORT" if self._settings.listen else "RAMIFY_BROKER_PORT, or 0 for a free one"
        raise EnvironmentUnfit(
            f"Port {self._port_wanted} of {self._host} must be free for the broker, but another program uses it: "
            f"choose another with {choice}."
        )

    async def wait(self) -> int:
        """Until the server has ended by itself; its exit status."""
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if self._started_again.is_set():
                return status
            await self._started_again.wait()

    async def reload(self) -> None:
        """Have the server follow members.json and its certificates, now: it has done so when this returns.

        Harmless when no server runs: the next one reads both at its start. EnvironmentUnfit with the server's reason
        when it does not take them; then everybody who was in stays in.
        """
        async with self._reloading:
            if self.guard is None or self._plan is None or self.pid is None:
                return
            plan = dataclasses.replace(self._plan, accounts=await asyncio.to_thread(self._accounts))
            try:
                platform.write_private(self.folder / "nats-server.conf", server_config.text(plan))
            except OSError as error:
                raise _unfit(self.folder, error) from error
            self._plan = plan
            if RELOAD_SIGNAL is None:
                await self._start_again()
                return
            for _ in range(RELOADS):
                log_start = self._log_size()
                if self._process is not None:
                    with contextlib.suppress(ProcessLookupError):  # it ended just now: the next one reads the same file
                        self._process.send_signal(RELOAD_SIGNAL)
                    await self._reloaded(log_start)

    async def _start_again(self) -> None:
        """For whoever waits for the server's end it has not ended."""
        self._started_again.clear()
        try:
            await self.stop()
            await self._start()
        finally:
            self._started_again.set()

    async def _reloaded(self, log_start: int) -> None:
        """Wait for what the server says about its new configuration."""
        deadline = asyncio.get_running_loop().time() + RELOAD_TIMEOUT_S
        while self.pid is not None and asyncio.get_running_loop().time() < deadline:
            said = _log_since(self._log_file, log_start)
            if "Reloaded server configuration" in said:
                return
            if failed := re.search(r"\[ERR\] Failed to reload server configuration: (.*)", said):
                raise EnvironmentUnfit(f"The broker does not take its new configuration: {failed[1].strip()[:500]}.")
            await asyncio.sleep(READY_POLL_S)
        if self.pid is not None:
            raise EnvironmentUnfit(
                f"The broker must read its new configuration within {RELOAD_TIMEOUT_S:g} s, but says nothing: see "
                f"{self._log_file}."
            )

    def _accounts(self) -> dict[str, Any]:
        now_ms = int(time.time() * 1000)
        return self.guard.accounts(members.load(self.folder).live(now_ms)) if self.guard else {}

    def _log_size(self) -> int:
        return self._log_file.stat().st_size if self._log_file.exists() else 0

    async def stop(self) -> None:
        """Ask, wait, kill. The lock stays held. Harmless when nothing runs."""
        process, self.url = self._process, ""
        if process is None:
            return
        await end_group(process, self._settings.stop_timeout_s)
        self._process = None
        for name in ("nats-server.pid", "system.json"):
            (self.folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Let the store's lock go, after `stop`."""
        self._lock.release()

    def _ports_to_try(self) -> list[int]:
        if self._port_wanted:
            return [self._port_wanted]
        last = self._port or _read_port(self.folder / "port")
        return [last, -1] if last and platform.port_is_free(self._host, last) else [-1]

    async def _start_on(self, port: int) -> bool:
        """True when the server runs; False when the port is taken; raises for everything else."""
        log_start = self._log_size()
        try:
            self._write_config(port)
            self._process = await platform.spawn_group_async(
                [str(self._program), "-c", str(self.folder / "nats-server.conf")],
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                die_with_parent=True,
            )
            platform.write_private(self.folder / "nats-server.pid", str(self._process.pid).encode())
            self.url = await self._ready(self._process)
            if self.url:
                self._write_system_note()
                self._port = int(self.url.rpartition(":")[2])
                platform.write_private(self.folder / "port", str(self._port).encode())
                return True
        except OSError as error:
            await self.stop()
            raise _unfit(self.folder, error) from error
        except BaseException:
            await self.stop()
            raise
        reason = _fatal_line(self._log_file, log_start)
        ended = self._process.returncode is not None
        await self.stop()
        if "address already in use" in reason:
            return False
        if "cannot assign requested address" in reason or "no such host" in reason:
            raise EnvironmentUnfit(
                f"{self._host} must be an address or name of this machine, for the broker to listen there: "
                "choose one that is (0.0.0.0 means all of them), and say with --advertise how others reach it."
            )
        what = "ended at once" if ended else f"was not ready within {self._settings.start_timeout_s:g} s"
        raise EnvironmentUnfit(
            f"The broker {self._program} must start, but it {what}{': ' + reason if reason else ''}; "
            f"see {self._log_file}."
        )

    async def _ready(self, process: asyncio.subprocess.Process) -> str:
        """The address once the server listens; '' when it ended or the time is over."""
        folder = self.folder / "ports"
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout_s
        while process.returncode is None and asyncio.get_running_loop().time() < deadline:
            for path in folder.glob(f"*_{process.pid}.ports"):
                with contextlib.suppress(ValueError, LookupError, OSError):  # half-written: look again
                    port = int(str(json.loads(path.read_text("utf-8"))["nats"][0]).rpartition(":")[2])
                    return self._url(port)
            await asyncio.sleep(READY_POLL_S)
        return ""

    def _url(self, port: int) -> str:
        """How this machine reaches the server."""
        host = local_host(self._host)
        return f"{'tls' if self.guard else 'nats'}://{f'[{host}]' if ':' in host else host}:{port}"

    def _write_system_note(self) -> None:
        note = {"url": self.url, "user": SYSTEM_USER, "password": self.system_password}
        if self.guard is not None:
            note["ca"] = str(self.guard.authority)
        platform.write_private(self.folder / "system.json", json.dumps(note).encode())

    def _write_config(self, port: int) -> None:
        for path in (self.folder / "ports", self.folder / "store"):
            path.mkdir(mode=0o700, exist_ok=True)
        for stale in (self.folder / "ports").glob("*.ports"):
            stale.unlink(missing_ok=True)
        free = platform.disk_free(self.folder)
        if free < DISK_FREE_LEAST_BYTES:
            raise DiskFull(
                f"The broker needs at least {units.show_size(DISK_FREE_LEAST_BYTES)} of free disk at {self.folder}, "
                f"there are {free >> 20} MiB: free some space, or choose another disk with --home."
            )
        self._plan = ServerPlan(
            folder=self.folder, log_file=self._log_file, host=self._host, port=port, guard=self.guard,
            store_bytes=self._store_bytes(free), password=self.system_password, accounts=self._accounts(),
        )  # fmt: skip
        platform.write_private(self.folder / "nats-server.conf", server_config.text(self._plan))

    def _store_bytes(self, free: int) -> int:
        """Most bytes of the store. What it holds already counts as free: a fuller disk must not shrink it below."""
        if self._settings.store_bytes_max:
            return self._settings.store_bytes_max
        used = sum(entry.stat().st_size for entry in (self.folder / "store").rglob("*") if entry.is_file())
        return max(used, limits.STORE_BYTES_LEAST, min(STORE_BYTES_MOST, int((free + used) * STORE_SHARE_OF_DISK)))

    async def _end_orphan(self) -> None:
        """End a server that a killed keeper left behind on this store."""
        path = self.folder / "nats-server.pid"
        with contextlib.suppress(OSError, ValueError):
            await asyncio.to_thread(_end_if_ours, int(path.read_text("ascii")), str(self.folder / "nats-server.conf"))
        path.unlink(missing_ok=True)


def find_program(wanted: str) -> Path:
    """The nats-server program: the one that was named, the installed package's, or the one on PATH."""
    if wanted:
        found = shutil.which(wanted)
        if not found:
            raise EnvironmentUnfit(
                f"broker.binary (NATS_SERVER_BIN) must be a program, but {wanted} is not there or can not be run: "
                "correct it, or leave it out to use the installed one."
            )
        return Path(found)
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if not found:
        raise EnvironmentUnfit(
            "The program nats-server is needed and is neither installed with Ramify nor on PATH: remove .venv so that "
            "it is made again, set NATS_SERVER_BIN, or name a running broker with --server."
        )
    return Path(found)


async def check_version(program: Path) -> str:
    """The program's version as text; EnvironmentUnfit when it is too old or no nats-server."""
    least = ".".join(map(str, VERSION_LEAST))
    try:
        process = await platform.spawn_group_async(
            [str(program), "--version"], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            die_with_parent=True,
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentUnfit(
            f"{program} must be a nats-server of this system, but it does not run: {error}."
        ) from error
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        await end_group(process, 0.0)
        raise EnvironmentUnfit(f"{program} must be a nats-server, but it did not tell its version in time.") from None
    found = re.search(rb"nats-server:? v?(\d+)\.(\d+)[.\d]*", output)
    if found is None:
        raise EnvironmentUnfit(f"{program} must be a nats-server of version {least} or newer; it says it is none.")
    if (int(found[1]), int(found[2])) < VERSION_LEAST:
        text = f"{int(found[1])}.{int(found[2])}"
        raise EnvironmentUnfit(f"{program} must be nats-server {least} or newer, not {text}: set NATS_SERVER_BIN.")
    return found[0].decode().rpartition("v")[2]


async def end_group(process: asyncio.subprocess.Process, patience_s: float) -> None:
    """SIGTERM to the whole group, then SIGKILL after `patience_s`; returns when the leader is gone."""
    if process.returncode is None and patience_s > 0:
        platform.kill_group(process.pid, hard=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
    if process.returncode is None:
        platform.kill_group(process.pid, hard=True)
        await process.wait()


def _end_if_ours(pid: int, config: str) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if config not in process.cmdline():
            return  # the number belongs to another program now
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(ORPHAN_TIMEOUT_S)
            return
        process.kill()
        process.wait(ORPHAN_TIMEOUT_S)


def _log_since(log_file: Path, start: int) -> str:
    """The part of the server's log from a place on; all of it where the server has begun a new file since."""
    try:
        with log_file.open("rb") as file:
            file.seek(start if start <= os.fstat(file.fileno()).st_size else 0)
            return file.read(LOG_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


def _fatal_line(log_file: Path, start: int) -> str:
    """What the server said about its end, from the part of its log that belongs to this start."""
    fatal = re.findall(r"\[(?:FTL|ERR)\] (.*)", _log_since(log_file, start))
    return fatal[-1].strip()[:500] if fatal else ""


def _read_port(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text("ascii"))
    return 0


def _unfit(folder: Path, error: OSError) -> RamifyError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The broker needs room at {folder}, but the disk is full: free some space, or choose --home.")
    what = error.strerror or str(error)
    return EnvironmentUnfit(f"The folder {folder} must be writable for the broker: {what}; choose another with --home.")


def store_bytes_max(home: Path) -> int:
    """Most bytes of the store of the embedded broker of this home folder, as its server was told; the most that an
    embedded broker ever gets where none has run here (the broker is another machine's)."""
    try:
        config = json.loads((home / "broker" / "nats-server.conf").read_bytes())
        return int(config["jetstream"]["max_file_store"])
    except (OSError, ValueError, KeyError, TypeError):
        return STORE_BYTES_MOST
