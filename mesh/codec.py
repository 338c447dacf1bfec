"""Bytes to record and back: the border. What passes here is typed and checked; inside, nobody checks again.

    record  ->  {"kind": …, "v": …, field: value, …}  ->  msgpack bytes

Fields are written in declared order, so equal records have equal bytes (artifact digests and the ledger's hash chain
rest on that). Unknown fields are ignored; an unknown kind, a newer version, a wrong type, a broken invariant or too
many bytes raise `Malformed` with a sentence. Nothing here can run code: msgpack carries data only.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgpack
import msgspec

from mesh import limits
from mesh.errors import InvariantBroken, Malformed
from mesh.messages import artifacts, commands, graph, judgement, leases, ledger, results, services, tasks, topics
from mesh.messages.base import Record

R = TypeVar("R", bound=Record)


def _records() -> dict[str, type[Record]]:
    """Every record kind of the mesh by its name on the wire."""
    found: dict[str, type[Record]] = {}
    for module in (artifacts, commands, graph, judgement, leases, ledger, results, services, tasks, topics):
        for value in vars(module).values():
            is_record = isinstance(value, type) and issubclass(value, Record) and value.kind
            if is_record and found.setdefault(value.kind, value) is not value:
                raise InvariantBroken(f"two records are called {value.kind!r} on the wire")
    return found


RECORDS = _records()


def encode(record: Record, *, bytes_max: int | None = None) -> bytes:
    """The bytes of `record`. Malformed when they exceed `bytes_max` (default: what its kind may have)."""
    body = {"kind": record.kind, "v": record.version, **msgspec.to_builtins(record, builtin_types=(bytes,))}
    data = pack(body)
    allowed = record.bytes_max if bytes_max is None else bytes_max
    if len(data) > allowed:
        raise Malformed(f"a {record.kind!r} record may have {allowed} bytes, this one has {len(data)}: send less")
    return data


def decode(data: bytes, *wanted: type[R], bytes_max: int | None = None) -> R:
    """The record in `data`, one of the `wanted` types. Malformed with a reason for anything else."""
    allowed = max(candidate.bytes_max for candidate in wanted) if bytes_max is None else bytes_max
    body = unpack(data, bytes_max=allowed)
    if not isinstance(body, dict):
        raise Malformed(f"a record is a map, got {type(body).__name__}")
    name = body.get("kind")
    for candidate in wanted:
        if candidate.kind == name:
            return _convert(body, candidate)
    expected = " or ".join(repr(candidate.kind) for candidate in wanted)
    known = "" if isinstance(name, str) and name in RECORDS else ", which this version does not know"
    raise Malformed(f"expected a record of kind {expected}, got {str(name)[:80]!r}{known}")


def _convert(body: dict[str, Any], wanted: type[R]) -> R:
    version = body.get("v")
    if not isinstance(version, int) or not 1 <= version <= wanted.version:
        raise Malformed(
            f"this program reads {wanted.kind!r} records up to version {wanted.version}, got {str(version)[:20]}: "
            "update the older side"
        )
    try:
        return msgspec.convert(body, wanted)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise Malformed(f"a {wanted.kind!r} record is not valid: {str(error)[:300]}") from None


def pack(value: Any) -> bytes:
    """Plain values (maps, lists, numbers, texts, bytes, None) as msgpack bytes."""
    try:
        return msgpack.packb(value, use_bin_type=True)  # type: ignore[no-any-return]
    except (TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"these values can not be packed: {error}") from None


def unpack(data: bytes, *, bytes_max: int = limits.RECORD_BYTES_MAX) -> Any:
    """Plain values from msgpack bytes; Malformed when they are too many, too deep, or no msgpack."""
    if len(data) > bytes_max:
        raise Malformed(f"expected at most {bytes_max} bytes, got {len(data)}")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:  # a family of its own, ValueError, UnicodeDecodeError, RecursionError
        raise Malformed(f"these bytes are no msgpack: {type(error).__name__} {str(error)[:120]}") from None
    if _depth(value) > limits.NEST_DEPTH_MAX:
        raise Malformed(f"a record nests at most {limits.NEST_DEPTH_MAX} levels deep")
    return value


def _depth(value: Any) -> int:
    """Levels of maps and lists, counted no further than one beyond the limit."""
    level, layer = 0, [value]
    while layer and level <= limits.NEST_DEPTH_MAX + 1:
        layer = [
            child
            for item in layer
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        level += 1
    return level - 1


def digest(data: bytes) -> str:
    """SHA-256 as 64 hex digits: the name of artifacts, chunks and ledger entries."""
    return hashlib.sha256(data).hexdigest()
