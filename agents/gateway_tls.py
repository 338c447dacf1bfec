"""The gateway's side of TLS: which certificate it shows, when it may do without, and how a new one is taken up.

    --cert, --key       the operator's own, read again when the file changes (a renewed one needs no restart)
    else, off loopback  one by the mesh's own authority, where this home has a guarded broker, or by an authority of the
                        gateway's own below <home>/gateway/tls; made anew in time (mesh/certificates.py)
    loopback            none: nobody else reads there. Also behind a proxy on this machine, which ends TLS before it

Not covered: clients' certificates. Who asks is told by his token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import ssl
from pathlib import Path

from agents.gateway_limits import is_loopback
from agents.runtime import Agent
from mesh import certificates, guard
from mesh.errors import RamifyError, SettingsInvalid
from mesh.guard import Guard

WHICH = "gateway"
"""Name of its certificate among those of an authority."""

LOOK_EVERY_S = 60.0
"""How often a certificate is looked at while the gateway runs."""


class Tls:
    """The certificate of one gateway, and the context that shows it."""

    def __init__(self, agent: Agent) -> None:
        """SettingsInvalid for a place to listen that would be open."""
        self._agent, self._settings = agent, agent.settings.gateway
        check(self._settings.host, self._settings.cert, self._settings.key, behind_proxy=self._settings.behind_proxy)
        self._own = not self._settings.cert and not is_here(self._settings.host)
        self._shown: tuple[object, ...] = ()
        self.context: ssl.SSLContext | None = None
        """None: without TLS."""

    @property
    def authority(self) -> Path | None:
        """What clients verify with, where the certificate is of our own making."""
        return certificates.authority(self._folder()) if self._own else None

    async def start(self) -> None:
        """Have a certificate. SettingsInvalid for one that can not be used."""
        if not self._settings.cert and not self._own:
            return
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        await asyncio.to_thread(self._look)

    async def run(self) -> None:
        """Take up renewed certificates: connections from then on see the new one."""
        while self.context is not None and not self._agent.stopping.is_set():
            await self._agent.pause(LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self._look)
            except (RamifyError, OSError) as error:
                self._agent.log.warning("the certificate is not renewed, the old one is shown: %s", error)

    def _look(self) -> None:
        if self._own:
            chosen = dataclasses.replace(self._agent.settings.broker, listen=self._settings.host)
            certificates.prepare(self._folder(), guard.certified(chosen), which=WHICH)
            combined = certificates.combined(self._folder(), WHICH)
            cert, key = combined, combined
        else:
            cert, key = Path(self._settings.cert), Path(self._settings.key)
        now = tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (_stat(cert), _stat(key)))
        if now == self._shown or self.context is None:
            return
        try:
            self.context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise SettingsInvalid(f"the certificate {cert} with the key {key} can not be used: {error}.") from None
        self._shown = now

    def _folder(self) -> Path:
        found = Guard.found(self._agent.settings.home / "broker")
        return found.tls if found is not None else self._agent.settings.home / "gateway" / "tls"


def check(host: str, cert: str, key: str, *, behind_proxy: bool) -> None:
    """SettingsInvalid for what does not go together."""
    if bool(cert) != bool(key):
        raise SettingsInvalid("a certificate needs its key: give --cert FILE and --key FILE.")
    if behind_proxy and not is_here(host):
        raise SettingsInvalid(f"--behind-proxy is for a proxy on this machine: listen on loopback, not on {host}.")


def is_here(host: str) -> bool:
    """Does only this machine reach that address?"""
    return host == "localhost" or is_loopback(host)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise SettingsInvalid(f"{path} can not be read ({error.strerror}): check --cert and --key.") from None


def _no_password() -> str:
    raise ValueError("the key asks for a password, and nobody is there to give it")
