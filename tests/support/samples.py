"""One example of every record, built from its type: with every field filled (`full`), or only with those it needs.

The values are plain and always the same, so that their bytes can be pinned. Where a record has invariants between its
fields, `SPECIAL` says which values satisfy them.
"""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

import msgspec

from mesh.messages.base import Epoch, Key, Part, Record

DIGEST = "ab" * 32

SPECIAL: dict[tuple[str, str], Any] = {
    ("Beat", "incarnation"): "worker.1a2b",
    ("Gone", "incarnation"): "worker.1a2b",
    ("Cancel", "topic"): "",
    ("Resubmit", "topic"): "",
    ("Kpi", "maximum"): None,
    ("Outcomes", "items"): 1,
    ("Outcomes", "ids"): bytes(range(8)),
    ("Outcomes", "clusters"): bytes(range(4)),
    ("Outcomes", "label"): bytes(4),
    ("Outcomes", "predicted"): bytes([1, 0, 0, 0]),
    ("Outcomes", "loss"): bytes([0, 0, 128, 63]),
    ("FileEntry", "path"): "part/file.bin",
    ("FileEntry", "objects"): (DIGEST,),
    ("FileEntry", "lists"): (),
    ("ObjectList", "digests"): bytes(range(32)),
    ("ObjectList", "bases"): bytes(range(32, 64)),
    ("Entry", "previous"): "0" * 64,
    ("BaseModel", "model"): DIGEST,
    ("Missed", "digest"): DIGEST,
    ("Condemned", "wholes"): bytes(range(32)),
    ("Condemned", "deltas"): bytes(range(64)),
    ("Condemned", "manifests"): bytes(range(32)),
    ("Joined", "servers"): ("tls://mesh.example:4222",),
    ("StudyEntry", "entry"): '{"op_code": 0}',
}
"""(type, field) to a value that the type's own invariants accept."""

NEEDED: dict[str, tuple[str, ...]] = {"Kpi": ("minimum",), "Cancel": ("task",)}
"""Fields with a default that even the smallest example must fill."""


def sample(kind: type[Record] | type[Part], *, full: bool) -> Any:
    """An example of this record or part."""
    return _struct(kind, full)


def least(record: Record) -> dict[str, Any]:
    """The record as the map that a writer sends who knows the fields without a default only."""
    return {"kind": record.kind, "v": record.version, **_bare(record)}


def _bare(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    if not isinstance(value, msgspec.Struct) or value.__struct_config__.array_like:
        return msgspec.to_builtins(value, builtin_types=(bytes,))
    config = value.__struct_config__
    needed = NEEDED.get(type(value).__name__, ())
    fields = [field.name for field in msgspec.structs.fields(value) if field.required or field.name in needed]
    tag = {config.tag_field: config.tag} if config.tag_field else {}
    return tag | {name: _bare(getattr(value, name)) for name in fields}


def _struct(kind: type[msgspec.Struct], full: bool) -> Any:
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        needed = field.required or field.name in NEEDED.get(kind.__name__, ())
        if not (full or needed):
            continue
        key = (kind.__name__, field.name)
        values[field.name] = SPECIAL[key] if key in SPECIAL else _value(hints[field.name], field.name, full)
    return kind(**values)


def _value(hint: Any, name: str, full: bool) -> Any:
    plain: dict[Any, Any] = {
        str: name.replace("_", "-"), int: 3, float: 1.5, bool: True, bytes: b"bytes", Any: "any",
        Epoch: Epoch(1, 2), Key: Key("task", Epoch(1, 2), "result", 3),
    }  # fmt: skip
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)[-1]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint, full)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _tuple(inner, name, full)
    if origin is dict:
        return {"key": _value(inner[1], name, full)}
    if origin in (typing.Union, types.UnionType):
        return _value(next(part for part in inner if part is not type(None)), name, full)
    raise TypeError(f"no example for {hint} of {name}: teach tests/support/samples.py")


def _tuple(inner: tuple[Any, ...], name: str, full: bool) -> tuple[Any, ...]:
    if len(inner) != 2 or inner[1] is not Ellipsis:
        return tuple(_value(part, name, full) for part in inner)
    members = typing.get_args(inner[0]) if typing.get_origin(inner[0]) in (typing.Union, types.UnionType) else ()
    if len(members) > 1:  # a union of records, such as the ledger's events: one of each
        return tuple(_value(member, name, full) for member in members)
    return (_value(inner[0], name, full),)
