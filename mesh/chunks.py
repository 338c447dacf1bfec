"""How a file becomes objects: where it is cut, and how an object's bytes are stored. Pure but for reading file headers.

    any file             cut every CHUNK_BYTES
    *.safetensors        | length, header | small tensors together | tensor ............ | tensor ... |
                           own object       one object per run        cut every CHUNK_BYTES

A tensor that did not change between two checkpoints, or a frozen base weight in two models, keeps its objects' digests
wherever it lies in the file, so it is sent and stored once. Neighbouring tensors under SMALL_TENSOR_BYTES share an
object: an optimizer has thousands of scalars, and a message each would cost more than their bytes.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path

from mesh import limits
from mesh.errors import ArtifactCorrupt
from mesh.messages.artifacts import CODING_RAW, OBJECT_FORMAT, OBJECT_MAGIC

HEADER = OBJECT_MAGIC + bytes((OBJECT_FORMAT, CODING_RAW))
"""First four bytes of a stored object in raw coding."""

OBJECT_BYTES_MAX = limits.CHUNK_BYTES + 64 * 1024
"""Stored bytes of one object beyond which it is refused unread: a chunk, its header, a coding's overhead."""

SMALL_TENSOR_BYTES = 16 * 1024
"""Tensors below this are stored together with their neighbours: at 16 KiB a message's own cost is about its bytes'."""

SMALL_RUN_BYTES = 64 * 1024
"""Neighbouring small tensors in one object: one changed scalar sends at most this much again."""

TENSOR_HEADER_BYTES_MAX = 64 * 1024 * 1024
"""Longest safetensors header that is read; a longer one is cut by size alone (the format allows 100 MB)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file that becomes one object."""

    offset: int
    size: int


def cut(path: Path, size_bytes: int) -> list[Piece]:
    """The pieces of a file of `size_bytes`, in order and without gaps; none for an empty file."""
    edges = _tensor_edges(path, size_bytes) if path.suffix == ".safetensors" else [size_bytes]
    pieces: list[Piece] = []
    start = 0
    for edge in edges:
        pieces.extend(_by_size(start, edge))
        start = edge
    return pieces


def _by_size(start: int, end: int) -> Iterator[Piece]:
    for offset in range(start, end, limits.CHUNK_BYTES):
        yield Piece(offset, min(limits.CHUNK_BYTES, end - offset))


def _tensor_edges(path: Path, size_bytes: int) -> list[int]:
    """Ends of the header, of each run of small tensors, of each large tensor; [size_bytes] for another format.

    Layout (huggingface.co/docs/safetensors): 8 bytes little-endian header length, JSON header, tensor bytes.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size_bytes
        if length > min(TENSOR_HEADER_BYTES_MAX, size_bytes - 8):
            return [size_bytes]
        text = file.read(length)
    base = 8 + length
    try:
        tensors = json.loads(text)
        spans = sorted(tuple(entry["data_offsets"]) for name, entry in tensors.items() if name != "__metadata__")
        edges = _join_small([(base + int(begin), base + int(end)) for begin, end in spans], base)
    except (ValueError, TypeError, KeyError, AttributeError):
        return [size_bytes]
    if any(edge > size_bytes for edge in edges) or edges != sorted(set(edges)):
        return [size_bytes]
    return edges if edges[-1] == size_bytes else [*edges, size_bytes]


def _join_small(spans: list[tuple[int, int]], base: int) -> list[int]:
    """Edges after the header (`base`), after each large tensor, and after each run of small ones."""
    edges = [base]
    run_start = -1  # where the open run of small tensors begins; -1: none is open
    for begin, end in spans:
        small = end - begin < SMALL_TENSOR_BYTES
        if small and run_start >= 0 and end - run_start <= SMALL_RUN_BYTES:
            edges[-1] = end
        elif end > begin:
            edges.append(end)
            run_start = begin if small else -1
    return edges


def wrap(body: bytes) -> bytes:
    """The stored bytes of an object in raw coding."""
    return HEADER + body


def unwrap(stored: bytes) -> memoryview:
    """The decoded bytes of a stored object. ArtifactCorrupt when the header is not one that this version reads."""
    if stored[:2] != OBJECT_MAGIC:
        raise ArtifactCorrupt(f"a stored object begins with {OBJECT_MAGIC!r}, this one with {stored[:2]!r}")
    if len(stored) < len(HEADER) or stored[2] != OBJECT_FORMAT or stored[3] != CODING_RAW:
        raise ArtifactCorrupt(
            f"this version reads objects of format {OBJECT_FORMAT} in raw coding, got header {stored[:4].hex()}: "
            "update this machine"
        )
    return memoryview(stored)[len(HEADER) :]
