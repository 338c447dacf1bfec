"""The embedded nats-server: find the program, configure it, start it, wait until it is ready, stop it.

    <folder>/lock               held while a server may run on this store: the server itself takes none, and two
                                servers on one store both start and both accept writes
    <folder>/nats-server.conf   private: it holds the system account's password
    <folder>/nats-server.pid    the running server, so that an orphan of a killed keeper is ended before the next starts
    <folder>/system.json        private: how its owner reaches the system account (mesh/disconnects.py)
    <folder>/port               the last port, taken again so that clients of a killed keeper find the next one
    <folder>/store              JetStream's files
    <folder>/ports              the server writes its address there when it listens

It listens on loopback only, open to this machine; the system account needs the password. Every write is synced, because
an acknowledgement is otherwise not on disk for two minutes. The server ends when this process dies (not on macOS: there
the pid file repairs it at the next start).

Errors, one sentence each: EnvironmentUnfit (no program, too old, port taken, store in use, folder not writable) and
DiskFull.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import secrets
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from mesh import limits, platform, units
from mesh.errors import DiskFull, EnvironmentUnfit, RamifyError
from mesh.setting_tree import BrokerSettings

VERSION_LEAST = (2, 11)
"""Older servers lack message expiry markers and consistent direct reads."""

STORE_BYTES_MOST = 20 << 30
STORE_SHARE_OF_DISK = 0.2
"""The automatic size of the store: the smaller of both, so that the mesh never fills its owner's disk; but never less
than its streams need."""

DISK_FREE_LEAST_BYTES = limits.STORE_BYTES_LEAST + (64 << 20)
"""Below this the store would stop in the middle of the first topic."""

MEMORY_STORE_BYTES = 256 << 20
"""Memory-only streams and consumers; ours are small."""

LOG_BYTES_MAX = 4 << 20
"""The server's own log is started anew beyond this; two old ones are kept."""

SYSTEM_USER = "system"
READY_POLL_S = 0.005
VERSION_TIMEOUT_S = 10.0
ORPHAN_TIMEOUT_S = 5.0


class Server:
    """One embedded server on one folder. `start` and `stop` may alternate; the lock is held from the first start on."""

    def __init__(self, folder: Path, settings: BrokerSettings, log_file: Path) -> None:
        self.folder = folder
        self.url = ""
        self.system_password = secrets.token_urlsafe(24)
        self._settings = settings
        self._log_file = log_file
        self._lock = platform.FileLock(folder / "lock")
        self._process: asyncio.subprocess.Process | None = None
        self._program: Path | None = None
        self._port = settings.port

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
        raise EnvironmentUnfit(
            f"Port {self._settings.port} of {self._settings.host} must be free for the broker, but another program "
            "uses it: choose another with RAMIFY_BROKER_PORT, or 0 for a free one."
        )

    async def wait(self) -> int:
        """Until the server has ended; its exit status."""
        assert self._process is not None
        return await self._process.wait()

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
        if self._settings.port:
            return [self._settings.port]
        last = self._port or _read_port(self.folder / "port")
        return [last, -1] if last and platform.port_is_free(self._settings.host, last) else [-1]

    async def _start_on(self, port: int) -> bool:
        """True when the server runs; False when the port is taken; raises for everything else."""
        log_start = self._log_file.stat().st_size if self._log_file.exists() else 0
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
                    return str(json.loads(path.read_text("utf-8"))["nats"][0])
            await asyncio.sleep(READY_POLL_S)
        return ""

    def _write_system_note(self) -> None:
        note = {"url": self.url, "user": SYSTEM_USER, "password": self.system_password}
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
        config = _config(
            self.folder, self._settings, port, self._store_bytes(free), self._log_file, self.system_password
        )
        # The server reads JSON as its own format, except for \u escapes.
        platform.write_private(
            self.folder / "nats-server.conf", json.dumps(config, indent=1, ensure_ascii=False).encode()
        )

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


def _config(
    folder: Path, settings: BrokerSettings, port: int, store_bytes: int, log_file: Path, password: str
) -> dict[str, Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "server_name": "ramify",
        "listen": f"{host}:{port}",
        "ports_file_dir": str(folder / "ports"),
        "log_file": str(log_file),
        "log_size_limit": LOG_BYTES_MAX,
        "log_max_num": 2,
        "max_payload": 1024 * 1024,
        "jetstream": {
            "store_dir": str(folder / "store"),
            "max_file_store": store_bytes,
            "max_memory_store": MEMORY_STORE_BYTES,
            "sync_interval": "always",
        },
        "accounts": {
            "SYS": {"users": [{"user": SYSTEM_USER, "password": password}]},
            "MESH": {"jetstream": "enabled", "users": [{"user": "mesh", "password": password}]},
        },
        "system_account": "SYS",
        "no_auth_user": "mesh",
    }


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


def _fatal_line(log_file: Path, start: int) -> str:
    """What the server said about its end, from the part of its log that belongs to this start."""
    try:
        with log_file.open("rb") as file:
            file.seek(start)
            text = file.read(LOG_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
    fatal = re.findall(r"\[(?:FTL|ERR)\] (.*)", text)
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
