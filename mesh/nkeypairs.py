"""Key pairs of users (nkeys, Ed25519): made once, kept in a file of its owner alone, and never sent.

The file holds the seed as the `nats` tool writes it (`SU…`): `--nkey FILE` of any NATS client reads it. The server
knows the public half (`U…`) and has a nonce signed at each connection. Whoever can read the file is its identity.
"""

from __future__ import annotations

import os
from pathlib import Path

import nkeys

from mesh import platform
from mesh.errors import SettingsInvalid

SEED_BYTES_MAX = 4_096
"""Of a file with a seed; the seed itself has 58."""


def make(path: Path) -> str:
    """Make a pair, write its seed (0600, whole or not at all), and give the public half. OSError."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    platform.write_private(path, seed + b"\n")
    return public_of(seed)


def public_key(path: Path) -> str:
    """The public half of the pair whose seed stands in this file. SettingsInvalid when none does, OSError."""
    with path.open("rb") as file:
        text = file.read(SEED_BYTES_MAX).strip()
    try:
        return public_of(text)
    except (nkeys.NkeysError, ValueError):
        raise SettingsInvalid(
            f"{path} must hold the seed of a user's nkey (SU…), and does not: name the right file, or join again."
        ) from None


def public_of(seed: bytes) -> str:
    """The public half of a seed. nkeys.NkeysError or ValueError for what is none of a user."""
    if not seed.startswith(b"SU"):
        raise ValueError("a seed of a user begins with SU")
    pair = nkeys.from_seed(bytearray(seed))
    try:
        return bytes(pair.public_key).decode()
    finally:
        pair.wipe()
