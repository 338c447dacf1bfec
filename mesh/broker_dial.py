"""The first moments of a connection: try each address, and say in one sentence why it can not be.

The client library retries for ever and tells its failures to a callback only; so the callback's reports are counted,
and when every address has failed once the attempt is called off. A server that refuses credentials may reset the
connection before its refusal was read: a reset alone tells nothing, and is tried three times.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client

from mesh import limits
from mesh.errors import BrokerRefused, BusUnavailable, RamifyError, SettingsInvalid
from mesh.nats_options import NatsLike, client_arguments

SERVER_VERSION_MIN = (2, 11)
"""Batched direct reads and compare-and-set per subject, which we rest on, came with it."""

RESETS_MAX = 3
"""Attempts per address while the server resets the connection and gives no reason."""

ABANDON_TRIES = 10
"""How often an attempt that is given up is cancelled, within CLOSE_S."""

REASON_CHARS_MAX = 200
"""A library's words in our sentence: some quote what they received."""

MEMBERSHIP = "membership"
"""Folder of the key of a machine that has joined (mesh/membership.py)."""

_CREDENTIALS = ("authorization", "authentication", "user jwt", "nkey", "expired", "revoked")


class Dialer:
    """Makes connected clients for one agent, as often as one is needed."""

    def __init__(self, options: NatsLike, inbox: str, name: str) -> None:
        self._options, self._inbox, self._name = options, inbox, name
        self._failures: list[Exception] = []
        self._failed = asyncio.Event()

    @property
    def address(self) -> str:
        """The addresses as given, without credentials, for people."""
        return ", ".join(re.sub(r"//[^@/]*@", "//", server) for server in self._options.servers)

    def failed(self, error: Exception) -> None:
        """The library reports a failure."""
        self._failures.append(error)
        del self._failures[:-64]
        self._failed.set()

    async def dial(self, client: Client, callbacks: dict[str, Any]) -> None:
        """Connect. BusUnavailable, BrokerRefused or SettingsInvalid when every address was tried in vain."""
        self._failures, self._failed = [], asyncio.Event()
        arguments = client_arguments(self._options, self._name) | callbacks
        arguments |= {"inbox_prefix": self._inbox, "reconnect_to_server_handler": partial(_next_of, client)}
        connecting = asyncio.ensure_future(client.connect(**arguments))
        failing = asyncio.ensure_future(self._until_failed())
        deadline_s = self._options.connect_timeout_s * len(self._options.servers)
        try:
            await asyncio.wait({connecting, failing}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise self._refusal(self._telling_failure(client))
            connecting.result()
        except (RamifyError, asyncio.CancelledError):
            await _abandon(client, connecting)
            raise
        except Exception as error:  # the library's own, and those of its libraries for keys and addresses
            await _abandon(client, connecting)
            raise self._refusal(error) from None
        finally:
            failing.cancel()

    async def _until_failed(self) -> None:
        tries = len(self._options.servers)
        while len(self._failures) < RESETS_MAX * tries:
            told = [error for error in self._failures if not isinstance(error, ConnectionError)]
            nobody = [error for error in self._failures if isinstance(error, ConnectionRefusedError)]
            if len(told) + len(nobody) >= tries:
                return
            await self._failed.wait()
            self._failed.clear()

    def _telling_failure(self, client: Client) -> Exception | None:
        """The failure that says most."""
        refusals = [error for error in self._failures if _is_refusal(str(error))]
        if refusals or not self._failures:
            return refusals[0] if refusals else None
        reset = isinstance(self._failures[-1], ConnectionError)
        if reset and (client._server_info or {}).get("auth_required"):
            return nats.errors.AuthorizationError()
        return self._failures[-1]

    def _refusal(self, error: Exception | None) -> RamifyError:
        """The sentence for a connection that could not be made."""
        text = (str(error).removeprefix("nats: ").strip("'") if error else "")[:REASON_CHARS_MAX]
        if type(error) is ValueError or "invalid connect url" in text:
            return SettingsInvalid(f"expected addresses like nats://HOST:4222, got {self.address}: check --server")
        if isinstance(error, ssl.SSLCertVerificationError):
            return BrokerRefused(
                f"the certificate of the broker at {self.address} can not be verified ({error.verify_message}): "
                "name who vouches for it with --tlsca, and the broker by a name that stands in it"
            )
        foreign = error is not None and not isinstance(error, OSError | nats.errors.Error | TimeoutError)
        if foreign and not _is_web(error):
            what = "they hold no user's key" if isinstance(error, TypeError) or not text else text
            return BrokerRefused(f"the credentials for {self.address} can not be used ({what}): {self._advice()}")
        if _is_refusal(text):
            return BrokerRefused(f"the broker at {self.address} refuses these credentials ({text}): {self._advice()}")
        why = f" ({text})" if text else ""
        return BusUnavailable(f"no broker answers at {self.address}{why}: check that it runs and the address is right")

    def _advice(self) -> str:
        """Which option to look at."""
        options = self._options
        if Path(options.nkey).parent.name == MEMBERSHIP and not options.creds:
            return (
                "this machine was revoked, or its membership is over; `bin/agent leave`, and ask for a new invitation"
            )
        if options.creds or options.nkey:
            return f"check {f'--creds {options.creds}' if options.creds else f'--nkey {options.nkey}'}"
        userinfo = any("@" in server.partition("://")[2] for server in options.servers)
        given = options.user or options.token or userinfo
        return "check user and password" if given else "name yours with --creds, --nkey or --user"

    def check(self, client: Client) -> None:
        """BrokerRefused for a server that could not do what we rest on."""
        info, version = client._server_info, client.connected_server_version
        if (version.major, version.minor) < SERVER_VERSION_MIN:
            wanted = ".".join(str(part) for part in SERVER_VERSION_MIN)
            raise BrokerRefused(
                f"expected nats-server {wanted} or newer at {self.address}, found {info.get('version')}: update it"
            )
        if not info.get("jetstream") and not self._options.js_domain:
            raise BrokerRefused(
                f"the broker at {self.address} runs without JetStream: start it with -js, or name its --js-domain"
            )


def _is_web(error: Exception | None) -> bool:
    """Did the library for WebSockets fail: what answers there speaks no HTTP."""
    return type(error).__module__.partition(".")[0] == "aiohttp"


def is_refusal(error: Exception) -> bool:
    """Does the server refuse the credentials, by its own words?"""
    return _is_refusal(str(error))


def _is_refusal(text: str) -> bool:
    return any(word in text.lower() for word in _CREDENTIALS)


def _next_of(client: Client, servers: list[Any], info: Any) -> tuple[Any, float]:
    """`next_server`, for the client's present attempt to reconnect. An earlier one that the library has replaced may
    have swallowed its cancellation (a wait that ended in the same moment): it would go on for ever beside the other,
    even after the client was closed. It ends here."""
    if client.is_closed or asyncio.current_task() is not client._reconnection_task:
        raise asyncio.CancelledError
    return next_server(servers, info)


def next_server(servers: list[Any], _: Any) -> tuple[Any, float]:
    """The address that failed least, and how long to wait before it: doubling, with jitter."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    pause_s = min(0.1 * 2 ** min(server.reconnects, 10), limits.RECONNECT_PAUSE_S_MAX)
    return server, random.uniform(pause_s / 5, pause_s)


async def _abandon(client: Client, connecting: asyncio.Future[None]) -> None:
    """End an attempt. The library may swallow a cancellation and try the next address, so it is told until it ends."""
    try:
        for _ in range(ABANDON_TRIES):
            connecting.cancel()
            # Not awaited itself: our own cancellation, coming just now, would look like the end of the other one.
            if (await asyncio.wait({connecting}, timeout=limits.CLOSE_S / ABANDON_TRIES))[0]:
                break
        if connecting.done() and not connecting.cancelled():
            connecting.exception()
    finally:
        await end(client)


async def end(client: Client) -> None:
    """Close a client, whatever state it is in: it may raise, and it may wait for what never comes."""
    try:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(limits.CLOSE_S):
                await client.close()
    finally:
        abort(client)
    for _ in range(3):  # the library cancels its tasks without waiting for them
        await asyncio.sleep(0)


def abort(client: Client) -> None:
    """Close a client's socket without waiting for what was not sent; the library only knows how to wait."""
    writer = getattr(client._transport, "_io_writer", None)  # a WebSocket has none: its own time limits must do
    if writer is not None:
        writer.transport.abort()
