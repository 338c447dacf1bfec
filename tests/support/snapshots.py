"""Snapshots as a training child hands them over, without one: a buffer file, and a stupid reader of what was packed."""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from executors.frames import Span
from mesh import codec, coding, object_lists
from mesh.messages.artifacts import FileEntry

TENSORS, STATE = "state.safetensors", "state.msgpack"


def weights(count: int, seed: int) -> bytes:
    """Floats of four bytes as an optimizer leaves them: similar exponents, noise behind."""
    draw = random.Random(seed)
    return array("f", (draw.gauss(0.0, 0.02) for _ in range(count))).tobytes()


def a_step_later(body: bytes, seed: int, by: float = 1e-4) -> bytes:
    """The same floats, each moved a little."""
    draw = random.Random(seed)
    return array("f", (value * (1.0 + by * (draw.random() - 0.5)) for value in array("f", body))).tobytes()


def tensors_file(tensors: Mapping[str, bytes]) -> bytes:
    """A safetensors file of float tensors."""
    header, offset = {}, 0
    for name, body in tensors.items():
        header[name] = {"dtype": "F32", "shape": [len(body) // 4], "data_offsets": [offset, offset + len(body)]}
        offset += len(body)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def buffer_of(path: Path, files: Mapping[str, bytes]) -> tuple[Span, ...]:
    """Write a buffer with these files one after the other."""
    spans, offset = [], 64
    with path.open("wb") as buffer:
        for name, body in files.items():
            buffer.seek(offset)
            buffer.write(body)
            spans.append(Span(name, offset, len(body)))
            offset += len(body) + 100
    return tuple(spans)


def files_below(folder: Path) -> dict[str, bytes]:
    """The packed objects in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}


def restored(entries: Sequence[FileEntry], store: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that these entries name, from stored objects by name. KeyError when one that is named is not there;
    every digest is checked."""
    found = {}
    for entry in entries:
        parts, named = [], list(zip(entry.objects, entry.bases or [""] * len(entry.objects), strict=True))
        for listed in entry.lists:
            body = bytes(coding.decode(store[f"c.{listed}"]))
            assert codec.digest(body) == listed
            named += object_lists.read_list(listed, body).parts()
        for digest, base in named:
            stored = store[f"d.{digest}.{base}" if base else f"c.{digest}"]
            assert coding.base_of(stored) == base
            beneath = bytes(coding.decode(store[f"c.{base}"])) if base else None
            parts.append(bytes(coding.decode(stored, beneath)))
            assert codec.digest(parts[-1]) == digest
        found[entry.path] = b"".join(parts)
    return found
