"""How stored objects are called, in every store and in every list of them.

c.<digest>           a whole object, named by the SHA-256 of its decoded bytes
d.<digest>.<base>    the same bytes as a delta against the whole object <base>: a name of its own, so that nobody is
                     told "already there" for an object whose base he does not have
m.<digest>           a manifest, named by the SHA-256 of its bytes
"""

from __future__ import annotations

import re
from typing import NamedTuple

WHOLE, DELTA, MANIFEST = "c", "d", "m"

_TEXT = re.compile(r"(?:c|m)\.[0-9a-f]{64}|d\.[0-9a-f]{64}\.[0-9a-f]{64}")


class ObjectName(NamedTuple):
    """The name of one stored object or manifest."""

    kind: str
    digest: str
    base: str = ""
    """Digest of the whole object that a delta needs; empty for the other kinds."""

    def __str__(self) -> str:
        return ".".join(part for part in self if part)


def whole(digest: str) -> ObjectName:
    """The name of a whole object."""
    return ObjectName(WHOLE, digest)


def delta(digest: str, base: str) -> ObjectName:
    """The name of a delta against `base`."""
    return ObjectName(DELTA, digest, base)


def of_part(digest: str, base: str) -> ObjectName:
    """The name of an object as a manifest spells it: a base, or an empty text for a whole object."""
    return delta(digest, base) if base else whole(digest)


def manifest(digest: str) -> ObjectName:
    """The name of a manifest."""
    return ObjectName(MANIFEST, digest)


def parse(text: str) -> ObjectName | None:
    """The name that a text spells; None when it spells none."""
    return ObjectName(*text.split(".")) if _TEXT.fullmatch(text) else None
