"""The tables of docs/protocol.md, made from the records' types and the docstrings in their source.

Types are written as a reader of any language knows them: text, integer, list of lease, map of text to float, epoch.
"""

from __future__ import annotations

import ast
import enum
import inspect
import types
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

from mesh import codec, limits, streams
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
from mesh.messages.base import Epoch, Key, Record
from mesh.subjects import Subjects

CONVERSATIONS: tuple[tuple[str, ModuleType], ...] = (
    ("Topics", topics),
    ("Tasks", tasks),
    ("Commands: what is asked of the ledger", commands),
    ("Beats, answers, leases, receipts", leases),
    ("The ledger", ledger),
    ("Results and progress", results),
    ("Packs: several records in one message", packs),
    ("Evidence, recommendation, verdict, champion", judgement),
    ("Trust in workers", trust),
    ("Artifacts", artifacts),
    ("Collecting garbage", collecting),
    ("Studies", studies),
    ("The graph", graph),
    ("Models that people push, and base models", models),
    ("Hello and questions", services),
    ("Joining", membership),
)
_PLAIN = {str: "text", int: "integer", float: "float", bool: "bool", bytes: "bytes", Any: "any value"}
_SHAPES = {Epoch: "epoch", Key: "key"}


def stream_table() -> str:
    """Streams and buckets of the mesh `mesh`, with what they keep."""
    rows = ["| stream | subjects | keeps | when full | for |", "|---|---|---|---|---|"]
    for spec in streams.table(Subjects("mesh"), artifact_bytes_max=1):
        age = f"{spec.max_age_s / 86_400:g} days" if spec.max_age_s else "for ever"
        kept = f"the last {spec.max_per_subject} of each key" if spec.max_per_subject > 1 else age
        full = "refuses" if spec.discard_new else "drops the oldest"
        rows.append(f"| `{spec.name}` | `{' '.join(spec.subjects)}` | {kept} | {full} | {spec.why} |")
    return "\n".join(rows)


def limit_table() -> str:
    """The caps that a program on the wire has to respect."""
    caps = {
        "RECORD_BYTES_MAX": "one encoded record",
        "REPEATING_BYTES_MAX": "one encoded `answer`, `planned`, `task-ended`, `recommendation`, `verdict` or `status`",
        "LEDGER_ENTRY_BYTES_MAX": "one ledger entry",
        "NEST_DEPTH_MAX": "maps and lists inside each other",
        "NAME_CHARS_MAX": "characters of a name in a subject",
        "TEXT_CHARS_MAX": "characters of a sentence or reason",
        "TASKS_PER_PLAN_MAX": "tasks of one submit",
        "LEASES_PER_ANSWER_MAX": "leases of one answer",
        "HELD_PER_BEAT_MAX": "leases named in one beat",
        "OWED_PER_REQUEST_MAX": "keys in one beat or question",
        "ROWS_PER_PACK_MAX": "records of one pack",
        "CHUNK_BYTES": "decoded bytes of one object",
        "MANIFEST_BYTES_MAX": "one manifest",
        "ARTIFACT_FILES_MAX": "files of one artifact",
        "ARTIFACT_OBJECTS_MAX": "objects of one artifact",
        "LIST_ROWS_MAX": "objects named by one `object-list`",
    }
    return "\n".join(
        ["| limit | of |", "|---|---|", *(f"| {getattr(limits, name):,} | {of} |" for name, of in caps.items())]
    )


def record_tables() -> str:
    """Every record, part and choice of every conversation."""
    return "\n\n".join(part for title, module in CONVERSATIONS for part in (f"### {title}", *_module(module)))


def _module(module: ModuleType) -> Iterator[str]:
    notes = _notes(module)
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            if issubclass(value, enum.Enum):
                yield _choices(value, notes)
            elif issubclass(value, msgspec.Struct) and (msgspec.structs.fields(value) or value is not ledger.Event):
                yield _record(value, notes)


def _choices(value: type[enum.Enum], notes: dict[str, str]) -> str:
    lines = [
        f"- `{member.value}`: {notes.get(f'{value.__name__}.{name}', '')}" for name, member in value.__members__.items()
    ]
    return f"**{_name(value)}** (a choice). {_flat(value.__doc__)}\n\n" + "\n".join(line.rstrip(": ") for line in lines)


def _record(value: type[msgspec.Struct], notes: dict[str, str]) -> str:
    config = value.__struct_config__
    if issubclass(value, Record) and value.kind:
        title = f"#### `{value.kind}`, version {value.version}"
    elif config.tag_field:
        title = f"**{_name(value)}** (an event; `{config.tag_field}` = `{config.tag}`)"
    else:
        title = f"**{_name(value)}** (a part)"
    hints = typing.get_type_hints(value)
    rows = ["| field | type | without it | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(value):
        note = notes.get(f"{value.__name__}.{field.name}", "").replace("|", "\\|")
        rows.append(f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} | {note} |")
    join = "\n\n" if title.startswith("#") else ". "
    return f"{title}{join}{_flat(value.__doc__)}\n\n" + "\n".join(rows)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, msgspec.Struct):
        return "its own defaults"
    plain = value.value if isinstance(value, enum.Enum) else value
    shown = {"": "empty", None: "null", True: "true", False: "false"}
    return "empty" if plain in ({}, ()) else shown.get(plain, f"{plain}") if not _is_number(plain) else f"{plain:,}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type(hint: Any) -> str:
    if hint in _PLAIN or hint in _SHAPES:
        return _PLAIN.get(hint) or _SHAPES[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(_type(part) for part in inner)}]"
    if origin is dict:
        return f"map of {_type(inner[0])} to {_type(inner[1])}"
    if origin in (typing.Union, types.UnionType):
        parts = ["null" if part is type(None) else _type(part) for part in inner]
        return "event" if len(parts) > 4 else " or ".join(parts)
    return _name(hint)


def _name(value: type) -> str:
    """`TaskSpec` becomes `task`, `OrderKind` becomes `order kind`."""
    if issubclass(value, Record) and value.kind:
        return f"`{value.kind}`"
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in value.__name__)
    return f"{words.strip()}"


def _notes(module: ModuleType) -> dict[str, str]:
    """The docstring below each field or member, by `Class.name`."""
    found: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in zip(node.body, node.body[1:], strict=False):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            target = before.target if isinstance(before, ast.AnnAssign) else None
            if isinstance(before, ast.Assign):
                target = before.targets[0]  # type: ignore[assignment]
            if isinstance(text, str) and isinstance(target, ast.Name):
                found[f"{node.name}.{target.id}"] = _flat(text)
    return found


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


TABLES = {"streams": stream_table, "limits": limit_table, "records": record_tables}
"""Name of each generated part of docs/protocol.md, and what makes it."""

KINDS = frozenset(codec.RECORDS)
