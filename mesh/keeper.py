"""The use-lease on this machine's embedded broker: take one, hold it, let it go; or look whether a broker runs.

One keeper process per home folder holds the broker (`agents/keeper.py`). A command that needs it opens a connection to
the keeper, and that open connection *is* the lease: the system closes it when the command ends, kill -9 included.

    command                                             keeper
      read <home>/broker/keeper.json   (port, token; only the owner can read it)
      connect to 127.0.0.1:port
      {"token": …, "want": "lease",   ------------->
       "role": …, "name": …}          <-------------    {"keeper": 1}              at once
                                      <-------------    {"url": "nats://…"}        when the broker is ready
                                      <-------------    {"error": …, "class": …}   it can not go on
      close                           ------------->    counts the lease as ended

A broker that other machines may reach is guarded (mesh/guard.py): its keeper says besides what to verify it with, which
file holds the seed of whoever asks, and where it listens: `{"url": "tls://…", "ca": …, "nkey": …, "name": …,
"listen": …}`. Whoever can read the token is this machine's owner, and may be anybody who works on it; a worker's
identity is made when it is asked for. A lease may say where the broker has to listen (`"listen"`): a keeper whose
broker listens elsewhere makes way when nobody uses it, and refuses else. Other wants ("invite", "members", "revoke")
are answered by the registrar, in one line.

Nobody answers: start a keeper and try again. Two commands may start two; the one that finds the store locked leaves,
and both commands meet at the other. A note that a killed keeper left behind leads to nobody, or to a stranger that does
not say the right words, and is overwritten by the next keeper. When the keeper dies under a lease, the lease starts
another one, on the same port where possible, so that connected clients find their broker again.

Loopback TCP with a token in a private file, not a local socket: one way for Linux, macOS and Windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh import platform
from mesh import settings as mesh_settings
from mesh.errors import Conflict, DiskFull, EnvironmentUnfit, NotFound, RamifyError, SettingsInvalid
from mesh.log import get
from mesh.setting_tree import NatsSettings, Settings

PROTOCOL = 1
LINE_BYTES_MAX = 8_192
"""One line of the conversation; a sentence and an address are far shorter."""

ANSWER_BYTES_MAX = 8 << 20
"""A registrar's answer: the list of all members."""

ANSWER_TIMEOUT_S = 3.0
"""Whoever does not say {"keeper": 1} within this is no keeper, or one that is stopped."""

LOOK_TIMEOUT_S = 1.0
RETRY_S = 0.05
"""Pause between two tries to reach a keeper that is starting or stopping."""

START_EXTRA_S = 10.0
"""Patience with a keeper beyond the broker's own start: a slow disk reads an interpreter for seconds."""

EXIT_BUSY = 75
"""Exit status of a keeper that found another one (EX_TEMPFAIL of sysexits)."""

OUTPUT_BYTES_MAX = 65_536
KEEPER = (sys.executable, "-P", "-m", "agents", "keeper")

_LOG = get(__name__)
_PASSED_ON = ("broker", "keeper", "log", "prefix")
"""Sections that a keeper has to know."""

PERSON = "operator"
"""The role of whoever gives commands on the broker's own machine."""

_ERRORS: dict[str, type[RamifyError]] = {
    class_.__name__: class_ for class_ in (Conflict, DiskFull, EnvironmentUnfit, NotFound, SettingsInvalid)
}
"""What a keeper may complain of, by the class's name; anything else is an unfit environment."""

_TOLD = {"url": "url", "ca": "ca", "nkey": "nkey", "name": "name"}
"""What a keeper says of the way to its broker, to the setting of section `nats` that it is."""


def folder_of(settings: Settings) -> Path:
    """Where the broker and the keeper's note live."""
    return settings.home / "broker"


def has_store(settings: Settings) -> bool:
    """Did a broker ever run in this home folder: is there something to read. EnvironmentUnfit for another user's."""
    try:
        return (folder_of(settings) / "store").is_dir()
    except PermissionError as error:
        raise EnvironmentUnfit(
            f"The folder {settings.home} must be yours to read and write: {error.strerror}; choose another with --home."
        ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """How to reach a keeper: what it writes when it listens."""

    port: int
    token: str = dataclasses.field(repr=False)
    pid: int

    @staticmethod
    def path(settings: Settings) -> Path:
        """The file."""
        return folder_of(settings) / "keeper.json"

    @classmethod
    def read(cls, settings: Settings) -> Note | None:
        """The note that is there, however old; None when there is none that can be read."""
        try:
            found = json.loads(cls.path(settings).read_text("utf-8"))
            return cls(int(found["port"]), str(found["token"]), int(found["pid"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def write(self, settings: Settings) -> None:
        """Put the note in place, whole."""
        platform.write_private(self.path(settings), json.dumps(dataclasses.asdict(self)).encode())

    def ask(self, want: str, **fields: object) -> bytes:
        """The first line of a conversation: want is 'lease', 'look', or a question for the registrar."""
        return line({"token": self.token, "want": want, "pid": os.getpid(), **fields})


def line(fields: Mapping[str, object]) -> bytes:
    """One line of the conversation."""
    return json.dumps(fields).encode() + b"\n"


def parsed(text: bytes) -> dict[str, Any]:
    """The fields of a line; empty for anything that is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


def peek(settings: Settings, role: str = PERSON, name: str = "") -> NatsSettings | None:
    """The running embedded broker of this home folder, as this role reaches it, or None. Starts and holds nothing;
    blocks a second or two. name: of whoever asks; its role's when it is empty.

    A RamifyError of the keeper's for a name that can not be used.
    """
    said = ask(settings, "look", role=role, name=name or role)
    return at(settings, said) if said and isinstance(said.get("url"), str) else None


def ask(settings: Settings, want: str, *, timeout_s: float = LOOK_TIMEOUT_S, **fields: object) -> dict[str, Any] | None:
    """The keeper's answer to one question; None when no keeper runs for this home. Blocks as long as `timeout_s`.

    The keeper's own error when it refuses.
    """
    note = Note.read(settings)
    if note is None:
        return None
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", note.port), LOOK_TIMEOUT_S) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(note.ask(want, prefix=settings.prefix, **fields))
            with connection.makefile("rb") as lines:
                if parsed(lines.readline(LINE_BYTES_MAX)).get("keeper") == PROTOCOL:
                    said = parsed(lines.readline(ANSWER_BYTES_MAX))
                    if "error" in said:
                        raise _error(said)
                    return said or None
    return None


def at(settings: Settings, said: Mapping[str, Any]) -> NatsSettings:
    """The settings of a connection to the embedded broker, from what its keeper says: the address, and where it is
    guarded, whose key to use."""
    more = {ours: str(said[theirs]) for theirs, ours in _TOLD.items() if said.get(theirs)}
    return NatsSettings(**more, connect_timeout_s=settings.nats.connect_timeout_s)


class KeeperLease:
    """The right to use the embedded broker, held until released or until this process ends."""

    def __init__(self, settings: Settings) -> None:
        self._said: dict[str, Any] = {}
        self._settings = settings
        self._writer: asyncio.StreamWriter | None = None
        self._holding: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[RamifyError] = asyncio.get_running_loop().create_future()

    @classmethod
    async def acquire(cls, settings: Settings) -> KeeperLease:
        """A lease on a broker that is ready; starts the keeper when none runs.

        EnvironmentUnfit or DiskFull, with the keeper's sentence, when there can be none.
        """
        lease = cls(settings)
        reader = await lease._reach()
        lease._holding = asyncio.create_task(lease._hold(reader), name="keeper lease")
        return lease

    @property
    def url(self) -> str:
        """The broker's address."""
        return str(self._said.get("url", ""))

    @property
    def nats(self) -> NatsSettings:
        """How this command connects to the broker."""
        return at(self._settings, self._said)

    @property
    def guarded(self) -> bool:
        """Does everybody who connects need TLS and a key?"""
        return bool(self._said.get("nkey"))

    async def nats_of(self, role: str, name: str = "") -> NatsSettings:
        """How an agent of this machine connects to the broker; name: its role's when it is empty."""
        if not self.guarded:
            return self.nats
        found = await asyncio.to_thread(peek, self._settings, role, name)
        if found is None:
            raise EnvironmentUnfit(f"The keeper of the broker in {folder_of(self._settings)} does not answer.")
        return found

    async def failed(self) -> RamifyError:
        """Wait until the lease can not be held any more (the keeper gave up and no other could be started); why."""
        return await asyncio.shield(self._failure)

    async def release(self) -> None:
        """Let the broker go; the keeper stops it when nobody else uses it. Harmless when released already."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait([self._holding])
            self._holding = None
        await self._close()

    async def __aenter__(self) -> KeeperLease:
        """`async with await KeeperLease.acquire(settings) as lease`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Hear what the keeper says; when it is gone, start another one."""
        try:
            while True:
                while text := await reader.readline():
                    self._hear(parsed(text))
                _LOG.warning("the keeper is gone; starting another one")
                await self._close()
                reader = await self._reach()
        except RamifyError as error:
            self._failure.set_result(error)
        except (OSError, ValueError) as error:  # a line beyond all bounds, a connection that broke
            self._failure.set_result(EnvironmentUnfit(f"The keeper of the broker can not be understood: {error}."))
        except Exception as error:
            self._failure.set_exception(error)

    def _hear(self, said: dict[str, Any]) -> None:
        if "error" in said:
            raise _error(said)
        if isinstance(said.get("url"), str):
            self._said = said
        if said.get("listen"):  # whoever starts the next keeper, it has to listen where this one did
            advertise = tuple(map(str, said.get("advertise", ())))
            broker = dataclasses.replace(self._settings.broker, listen=str(said["listen"]), advertise=advertise)
            self._settings = dataclasses.replace(self._settings, broker=broker)

    async def _reach(self) -> asyncio.StreamReader:
        """A connection to a keeper whose broker is ready."""
        loop = asyncio.get_running_loop()
        patience_s = self._settings.broker.start_timeout_s + START_EXTRA_S
        deadline = loop.time() + patience_s
        while loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    reader = await self._connect() or await self._start_and_connect()
                    if reader is not None:
                        return reader
                    await asyncio.sleep(RETRY_S)
            except TimeoutError:
                break
        holder = platform.FileLock(folder_of(self._settings) / "lock").holder()
        who = f"process {holder} keeps it" if holder else "none could be started"
        raise EnvironmentUnfit(
            f"The broker in {folder_of(self._settings)} must answer within {patience_s:g} s, but it does not ({who}): "
            f"see {self._settings.home / 'logs' / 'keeper.log'}, end that process, or choose another --home."
        )

    async def _connect(self) -> asyncio.StreamReader | None:
        """A connection over which the keeper has told its broker's address; None when no keeper answers."""
        note = Note.read(self._settings)
        if note is None:
            return None
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", note.port, limit=LINE_BYTES_MAX)
            broker = self._settings.broker
            self._writer.write(
                note.ask("lease", role=PERSON, name=PERSON, prefix=self._settings.prefix, listen=broker.listen)
            )
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                said = parsed(await reader.readline())
            if said.get("keeper") == PROTOCOL:
                said = parsed(await reader.readline())
                self._hear(said)
                if "url" in said:
                    return reader
        except (OSError, ValueError, TimeoutError) as error:
            _LOG.debug("no keeper answers on port %d: %s", note.port, error)
        except BaseException:
            await self._close()
            raise
        await self._close()
        return None

    async def _start_and_connect(self) -> asyncio.StreamReader | None:
        said = await _start(self._settings)
        if "error" in said:
            raise _error(said)
        return None if "busy" in said else await self._connect()

    async def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _start(settings: Settings) -> dict[str, Any]:
    """Start a keeper; what it says: {'ready'}, {'busy'} (another one has the store) or {'error'}."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[bytes] = loop.create_future()
    try:
        folder_of(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
        process = platform.spawn_group(
            KEEPER,
            env=_environment(settings, os.environ),
            cwd=settings.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            die_with_parent=False,
        )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"The disk of {settings.home} is full: free some space, or choose --home.") from error
        raise EnvironmentUnfit(
            f"The folder {settings.home} must be writable: {error.strerror}; choose another with --home."
        ) from error
    threading.Thread(target=_listen, args=(process, loop, heard), name="keeper start", daemon=True).start()
    output = await heard
    said = parsed(output.strip().rpartition(b"\n")[2])
    if said:
        return said
    last = output.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
    return {"error": f"The keeper of the broker must start, but it ended: {last or 'without a word'}."}


def _listen(process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, heard: asyncio.Future[bytes]) -> None:
    """In a thread: read what the keeper says until it closes its output, then wait for its end, so it is reaped."""
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read(OUTPUT_BYTES_MAX)
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_answer, heard, output)
    process.wait()


def _answer(heard: asyncio.Future[bytes], output: bytes) -> None:
    if not heard.done():
        heard.set_result(output)


def _environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The keeper's environment: its settings exactly as they are here, nothing else of ours, no credentials."""
    ours = {name for name in environ if name.startswith(("RAMIFY_", "NATS_"))} - {"RAMIFY_VENV"}
    kept = {name: value for name, value in environ.items() if name not in ours}
    for name, value, _ in settings.printable():
        if name == "home" or name.partition(".")[0] in _PASSED_ON:
            kept[mesh_settings.variable(name)] = value
    path = kept.get("PYTHONPATH", "")
    kept["PYTHONPATH"] = str(mesh_settings.CHECKOUT) + (os.pathsep + path if path else "")
    return kept


def _error(said: Mapping[str, Any]) -> RamifyError:
    """The keeper's complaint as an error of the class that it names."""
    return _ERRORS.get(str(said.get("class")), EnvironmentUnfit)(str(said["error"]))
