"""What may go on the wire: subjects and their patterns, headers, sizes. Both brokers check with these functions.

A pattern is a subject in which `*` stands for one token and a final `>` for one or more. Headers that begin with
`Nats-` belong to the broker: nobody sends them through the port, nobody sees them. What goes out names the present span
(mesh/tracing.py), on either broker, without anybody's doing.
"""

from __future__ import annotations

import functools
import re

from mesh import limits, tracing
from mesh.errors import Malformed

PAYLOAD_BYTES_MAX = 1024 * 1024
"""The broker's default limit of one message, headers included; every server accepts it unless it says less."""

_TOKENS = re.compile(r"[^\s\x00-\x1f.]+(?:\.[^\s\x00-\x1f.]+)*")

_ERASED_BY = {"DEL", "PURGE"}
_BROKERS_OWN = "nats-"
_STATUS_LINE = {"status", "description"}  # names under which the client hands out the broker's own word


_ANSWERS_MAX = 8192
"""Answers of `matches` that are remembered: the memory broker asks for each message and listener, mostly the same."""


@functools.lru_cache(maxsize=_ANSWERS_MAX)
def matches(pattern: str, subject: str) -> bool:
    """Does `subject` (no wildcards) fall under `pattern`?"""
    if pattern == subject:
        return True
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(token in ("*", found) for token, found in zip(wanted, tokens, strict=False))


def overlap(one: str, other: str) -> bool:
    """Is there a subject that both patterns match?"""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">" or b == ">":
            return True
        if "*" not in (a, b) and a != b:
            return False
    return len(left) == len(right)


def check_subject(subject: str, *, pattern: bool = False) -> None:
    """Malformed unless `subject` is one (or, where allowed, a pattern)."""
    fine = _TOKENS.fullmatch(subject) is not None
    if fine and ("*" in subject or ">" in subject):
        tokens = subject.split(".")
        fine = ">" not in tokens[:-1] if pattern else "*" not in tokens and ">" not in tokens
    if not fine:
        wildcards = "'*' and a final '>' are allowed" if pattern else "no wildcards"
        raise Malformed(f"a subject is made of tokens with dots between them ({wildcards}), got {subject[:120]!r}")


def outgoing(
    data: bytes, headers: dict[str, str] | None, *, payload_max: int = PAYLOAD_BYTES_MAX
) -> dict[str, str] | None:
    """The headers with which a message goes: its own, and those of the present span where there is one and room.

    Malformed when headers are not plain lines, or when all together would come near the broker's payload limit.
    """
    return tracing.with_headers(headers, check_message(data, headers, payload_max=payload_max))


def check_message(data: bytes, headers: dict[str, str] | None, *, payload_max: int = PAYLOAD_BYTES_MAX) -> int:
    """Bytes that the message leaves free. Malformed as in `outgoing`.

    The headroom is not politeness: a payload of exactly the limit plus a header makes the client close for good.
    """
    size = len(data)
    for key, value in (headers or {}).items():
        if not _is_header(key, value):
            raise Malformed(f"a header is a line of text under a name not taken by the broker, got {key[:40]!r}")
        size += len(key) + len(value.encode()) + 4
    allowed = payload_max - limits.PAYLOAD_HEADROOM_BYTES
    if size > allowed:
        raise Malformed(f"a message may have {allowed} bytes with its headers, this one has {size}: send less")
    return allowed - size


def _is_header(key: str, value: str) -> bool:
    name_fine = bool(key) and key.isascii() and key.isprintable() and not set(key) & {":", " "}
    value_fine = value.isprintable() and value == value.strip()
    return name_fine and value_fine and not key.lower().startswith(_BROKERS_OWN) and key.lower() not in _STATUS_LINE


def own_headers(headers: dict[str, str] | None) -> dict[str, str]:
    """The headers without the broker's own."""
    return {key: value for key, value in (headers or {}).items() if not key.lower().startswith(_BROKERS_OWN)}


def erased(headers: dict[str, str] | None) -> bool:
    """Is this message a marker that says: the key was deleted, or has expired?"""
    if not headers:
        return False
    return headers.get("KV-Operation") in _ERASED_BY or "Nats-Marker-Reason" in headers
