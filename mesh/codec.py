"""Bytes to record and back: the border. What passes here is typed and checked; inside, nobody checks again.

    record  ->  {"kind": …, "v": …, field: value, …}  ->  msgpack bytes

Fields are written in declared order, so equal records have equal bytes (artifact digests and the ledger's hash chain
rest on that). Unknown fields are ignored; an unknown kind, a newer version, a wrong type, a broken invariant or too
many bytes raise `Malformed` with a sentence. Nothing here can run code: msgpack carries data only.

Every task crosses this border a dozen times, so valid bytes go straight into the record (a microsecond or two); only
bytes that do not fit are taken apart into plain values, to say in words what is wrong with them.
"""

from __future__ import annotations

import functools
import hashlib
import typing
from typing import Any, TypeVar

import msgpack
import msgspec

from mesh import limits
from mesh.errors import InvariantBroken, Malformed
from mesh.messages import (
    artifacts,
    collecting,
    commands,
    graph,
    judgement,
    leases,
    ledger,
    membership,
    models,
    packs,
    results,
    services,
    studies,
    tasks,
    topics,
    trust,
)
from mesh.messages.base import Record
from mesh.messages.packs import Pack

R = TypeVar("R", bound=Record)


def _records() -> dict[str, type[Record]]:
    """Every record kind of the mesh by its name on the wire."""
    found: dict[str, type[Record]] = {}
    modules = (
        artifacts, collecting, commands, graph, judgement, leases, ledger, membership, models, packs, results, services,
        studies, tasks, topics, trust,
    )  # fmt: skip
    for module in modules:
        for value in vars(module).values():
            is_record = isinstance(value, type) and issubclass(value, Record) and value.kind
            if is_record and found.setdefault(value.kind, value) is not value:
                raise InvariantBroken(f"two records are called {value.kind!r} on the wire")
    return found


RECORDS = _records()


_ENCODER = msgspec.msgpack.Encoder()


class _Head(msgspec.Struct):
    """What stands before a record's own fields."""

    kind: Any = None
    v: Any = None


_HEAD = msgspec.msgpack.Decoder(_Head)


def encode(record: Record, *, bytes_max: int | None = None) -> bytes:
    """The bytes of `record`. Malformed when they exceed `bytes_max` (default: what its kind may have)."""
    data = pack_fields(record, {"kind": record.kind, "v": record.version})
    allowed = record.bytes_max if bytes_max is None else bytes_max
    if len(data) > allowed:
        raise Malformed(f"a {record.kind!r} record may have {allowed} bytes, this one has {len(data)}: send less")
    return data


def pack_fields(struct: msgspec.Struct, before: dict[str, Any]) -> bytes:
    """A map of the pairs in `before`, then the fields of `struct`, as msgpack bytes. Malformed when they can not be."""
    try:
        fields = _ENCODER.encode(struct)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Malformed(f"these values can not be packed: {error}") from None
    count, size = (fields[0] & 0x0F, 1) if fields[0] < 0xDE else (int.from_bytes(fields[1:3], "big"), 3)
    count += len(before)
    header = bytes((0x80 | count,)) if count < 16 else b"\xde" + count.to_bytes(2, "big")
    return header + _pairs(tuple(before.items())) + fields[size:]


@functools.lru_cache(maxsize=256)
def _pairs(items: tuple[tuple[str, Any], ...]) -> bytes:
    """Pairs of a map without its header: one small map, less its first byte."""
    return _ENCODER.encode(dict(items))[1:]


def decode(data: bytes, *wanted: type[R], bytes_max: int | None = None) -> R:
    """The record in `data`, one of the `wanted` types. Malformed with a reason for anything else."""
    allowed = max(candidate.bytes_max for candidate in wanted) if bytes_max is None else bytes_max
    if len(data) <= allowed:
        try:
            return _straight(data, wanted)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            pass  # the long way says what is wrong
    return _at_length(data, wanted, allowed)


def _straight(data: bytes, wanted: tuple[type[R], ...]) -> R:
    """The record, or any of msgspec's errors."""
    head = _HEAD.decode(data)
    for candidate in wanted:
        if candidate.kind == head.kind:
            if not isinstance(head.v, int) or not 1 <= head.v <= candidate.version:
                break
            record: R = unpack_fields(data, candidate)
            return record
    raise ValueError("another kind or version")


def rows(data: bytes) -> tuple[bytes, ...]:
    """The records of a message, still encoded: those of a pack, else the message itself. Malformed for a bad pack."""
    try:
        is_pack = _HEAD.decode(data).kind == Pack.kind
    except msgspec.MsgspecError:
        is_pack = False
    return decode(data, Pack).rows if is_pack else (data,)


S = TypeVar("S", bound=msgspec.Struct)


def unpack_fields(data: bytes, wanted: type[S]) -> S:
    """The struct in a map; unknown names are passed over. ValueError or an error of msgspec if it is none."""
    found: S = _decoder(wanted).decode(data)
    if _too_deep(found, 1):
        raise ValueError("too deep")
    return found


@functools.cache
def _decoder(wanted: type[S]) -> msgspec.msgpack.Decoder[S]:
    return msgspec.msgpack.Decoder(wanted)


def _at_length(data: bytes, wanted: tuple[type[R], ...], allowed: int) -> R:
    """The record by way of plain values, which can be looked at and named in an error."""
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


def _too_deep(struct: msgspec.Struct, level: int) -> bool:
    """Does anything in the fields of free form (facts) nest deeper than allowed? level: of the struct's own map."""
    for name in _loose(type(struct)):
        value = getattr(struct, name)
        if not value:
            continue
        if isinstance(value, msgspec.Struct):
            if _too_deep(value, level + 1):
                return True
        elif isinstance(value, dict | list | tuple):
            items = value.values() if isinstance(value, dict) else value
            for item in items:
                if isinstance(item, msgspec.Struct):
                    if _too_deep(item, level + 2):
                        return True
                elif isinstance(item, dict | list) and level + 1 + _depth(item) > limits.NEST_DEPTH_MAX:
                    return True
    return False


@functools.cache
def _loose(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Fields below which something of free form can stand."""
    return tuple(
        name
        for name, hint in typing.get_type_hints(struct).items()
        if name in struct.__struct_fields__ and _is_loose(hint)
    )


def _is_loose(hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return bool(_loose(hint))
    return any(_is_loose(part) for part in typing.get_args(hint))


def digest(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 as 64 hex digits: the name of artifacts, chunks and ledger entries."""
    return hashlib.sha256(data).hexdigest()
