"""To be introduced to a server of which only the fingerprint of its authority is known.

An invitation names the SHA-256 of the certificate of the mesh's own authority, not the certificate: so that it fits
into a line. The server sends that certificate in its chain:

    1. connect, read the server's INFO line, begin TLS without verifying anything; take the chain; send nothing; close
    2. keep the certificate whose SHA-256 is the one in the invitation; without one, this is another server
    3. connect once more, verified with that certificate alone: chain, times and the address that was dialled

Whoever stands between can show that certificate as well, for it is public, but can not end the handshake of step 3.
What is sent later (a signature, a wish to join) goes over connections that are verified like step 3.

Not covered: an authority that has left the mesh's hands vouches for anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from mesh.errors import BrokerRefused, BusUnavailable, EnvironmentUnfit, RamifyError

INFO_BYTES_MAX = 64 * 1024
"""A server's first line is some 500 bytes."""

CHAIN_MAX = 8
"""Certificates that are looked at: a mesh's own chain has two."""

NOT_YET_VALID, EXPIRED, WRONG_NAME, WRONG_ADDRESS = 9, 10, 62, 64
"""Codes of OpenSSL's x509_vfy.h."""


def introduce(addresses: Sequence[str], authority: bytes, *, timeout_s: float) -> tuple[str, str]:
    """(the first of the addresses (HOST:PORT) that is the mesh's own, its authority's certificate as PEM). Blocks,
    at most `timeout_s` per address and step.

    authority: SHA-256 of the certificate in its DER form. BusUnavailable when nobody answers; BrokerRefused when who
    answers is somebody else; EnvironmentUnfit when this machine's clock can not be right.
    """
    worst: RamifyError | None = None
    for address in addresses:
        try:
            certificate = _authority_of(address, authority, timeout_s)
            _check(address, certificate, timeout_s)
            return address, certificate
        except RamifyError as error:
            if worst is None or (isinstance(worst, BusUnavailable) and not isinstance(error, BusUnavailable)):
                worst = error
    assert worst is not None, "an invitation names an address"
    raise worst


def _authority_of(address: str, authority: bytes, timeout_s: float) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _handshake(address, context, timeout_s) as connection:
        chain = unverified_chain(connection)
    for der in chain[:CHAIN_MAX]:
        if hashlib.sha256(der).digest() == authority:
            return ssl.DER_cert_to_PEM_cert(der)
    seen = hashlib.sha256(chain[-1]).hexdigest()[:16] if chain else "none"
    raise BrokerRefused(
        f"the server at {address} is not the one that the invitation is from: expected an authority with fingerprint "
        f"{authority.hex()[:16]}…, got {seen}…: somebody may stand between, or the mesh's keys were made anew; ask for "
        "another invitation."
    )


def _check(address: str, certificate: str, timeout_s: float) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    with _handshake(address, context, timeout_s):
        return


@contextlib.contextmanager
def _handshake(address: str, context: ssl.SSLContext, timeout_s: float) -> Iterator[ssl.SSLSocket]:
    """A connection on which TLS has begun; every failure is a sentence."""
    parts = urlsplit(f"//{address}")
    host, port = parts.hostname or "", parts.port or 4222
    try:
        with socket.create_connection((host, port), timeout_s) as plain:
            _read_info(plain, address)
            with context.wrap_socket(plain, server_hostname=host) as connection:
                yield connection
    except ssl.SSLCertVerificationError as error:
        raise _unverified(address, error) from None
    except ssl.SSLError as error:
        raise BrokerRefused(f"the server at {address} does not speak TLS as expected ({_words(error)}).") from None
    except (OSError, UnicodeError) as error:
        what = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise BusUnavailable(
            f"the mesh can not be reached at {address} ({what}): check that its machine is up and that a firewall lets "
            f"this machine connect to port {port}."
        ) from None


def _read_info(plain: socket.socket, address: str) -> None:
    """The server's first line, byte for byte: what follows it belongs to TLS."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = plain.recv(1)
        if not byte or len(line) > INFO_BYTES_MAX:
            break
        line += byte
    try:
        if not line.startswith(b"INFO "):
            raise ValueError
        found = json.loads(line[5:])
        if not (found.get("tls_required") or found.get("tls_available")):
            raise BrokerRefused(f"the server at {address} offers no TLS: the invitation is from another one.")
    except (ValueError, AttributeError):
        raise BrokerRefused(
            f"what answers at {address} is no broker of a mesh: check the address, and what forwards it."
        ) from None


def unverified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """The certificates that the other side has sent, in DER form, its own first; nothing about them is checked.

    Python 3.13 has a method for it; before, it is one of the object that the socket wraps.
    """
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = connection._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain() or ()]


def _unverified(address: str, error: ssl.SSLCertVerificationError) -> RamifyError:
    """Why a server that showed the right authority is not believed."""
    if error.verify_code in (NOT_YET_VALID, EXPIRED):
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        when = "is not valid yet" if error.verify_code == NOT_YET_VALID else "has expired"
        return EnvironmentUnfit(
            f"the certificate of {address} {when}, if this machine's clock is right: it says {now} UTC. Set the clock, "
            "or have the mesh's machine look to its own."
        )
    if error.verify_code in (WRONG_NAME, WRONG_ADDRESS):
        return BrokerRefused(
            f"the certificate of the server at {address} does not name that address: have the mesh started with "
            f"--advertise {address.rpartition(':')[0]}."
        )
    return BrokerRefused(
        f"the server at {address} shows the mesh's authority but can not prove it ({error.verify_message}): somebody "
        "may stand between; nothing was sent."
    )


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
