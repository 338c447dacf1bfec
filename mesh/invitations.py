"""The token of an invitation: all that an empty machine has to be told, in one word that can be pasted.

    r1. base64url( msgpack [prefix, [address, …], SHA-256 of the CA's certificate, the invitation's seed] | checksum )

Whoever holds it may join once (or as often as it was made for), so it is a secret until then; it is worth nothing
afterwards. The checksum is no protection: it only tells a word that was cut or mistyped from one that is wrong.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib

from mesh import codec
from mesh.errors import Malformed, SettingsInvalid
from mesh.members import check_key
from mesh.messages.base import check_name

BEGINS = "r1."
"""How a token begins, and with which form of it."""

ADDRESSES_MAX = 16
ADDRESS_CHARS_MAX = 300
"""A host's name has 253 at most."""

TOKEN_CHARS_MAX = 16_384
CHECKSUM_BYTES = 4
SEED_BYTES = 36
"""Of an nkey seed: two for its kind, 32 of key, two of checksum; written, they are 58 characters."""


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """What an invitation tells a machine."""

    prefix: str
    """Name of the mesh in subjects."""
    addresses: tuple[str, ...]
    """HOST:PORT, the likeliest first."""
    authority: bytes
    """SHA-256 of the certificate of the mesh's own authority, in its DER form."""
    seed: str = dataclasses.field(repr=False)
    """Private half of the invitation's key, as nkeys write it (SU…)."""

    def __post_init__(self) -> None:
        check_name(self.prefix, "the mesh's prefix")
        if not 0 < len(self.addresses) <= ADDRESSES_MAX:
            raise ValueError(f"an invitation names 1 to {ADDRESSES_MAX} addresses, got {len(self.addresses)}")
        if any(not 0 < len(address) <= ADDRESS_CHARS_MAX for address in self.addresses):
            raise ValueError(f"an address has 1 to {ADDRESS_CHARS_MAX} characters")
        if len(self.authority) != hashlib.sha256().digest_size:
            raise ValueError("a fingerprint is a SHA-256")
        if len(_seed_bytes(self.seed)) != SEED_BYTES or not self.seed.startswith("SU"):
            raise ValueError("the seed is no user's")

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses as a connection wants them."""
        return tuple(f"tls://{address}" for address in self.addresses)

    def text(self) -> str:
        """The word."""
        data = codec.pack([self.prefix, list(self.addresses), self.authority, _seed_bytes(self.seed)])
        return BEGINS + base64.urlsafe_b64encode(data + _checksum(data)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Token:
        """The inverse of text(). SettingsInvalid with a sentence for anything else; it never repeats the word."""
        text = "".join(text.split())
        if not text.startswith(BEGINS) or len(text) > TOKEN_CHARS_MAX:
            newer = text[:1] == "r" and text[1:2].isdigit() and text[2:3] == "."
            what = (
                "one of a newer program: update Ramify here"
                if newer
                else f"something that does not begin with {BEGINS}"
            )
            raise SettingsInvalid(f"expected the token of an invitation (`bin/agent invite` prints one), got {what}.")
        try:
            whole = base64.b64decode(text[len(BEGINS) :] + "=" * (-len(text[len(BEGINS) :]) % 4), b"-_", validate=True)
            data, checksum = whole[:-CHECKSUM_BYTES], whole[-CHECKSUM_BYTES:]
            if checksum != _checksum(data):
                raise ValueError
            prefix, addresses, authority, seed = codec.unpack(data, bytes_max=TOKEN_CHARS_MAX)
            return cls(prefix, tuple(addresses), authority, base64.b32encode(seed).decode().rstrip("="))
        except (ValueError, TypeError, AttributeError, Malformed, binascii.Error):
            raise SettingsInvalid(
                f"the invitation's token is cut or mistyped ({len(text)} characters came): copy the whole line again."
            ) from None


def id_of(key: str) -> str:
    """The id of the invitation that has this public key; it stands in the subject on which a machine asks to join."""
    check_key(key)
    return key[1:13].lower()


def _seed_bytes(seed: str) -> bytes:
    return base64.b32decode(seed + "=" * (-len(seed) % 8))


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:CHECKSUM_BYTES]
