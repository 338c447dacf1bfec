"""How a file becomes objects: where it is cut. Pure but for reading file headers.

    any file             cut every CHUNK_BYTES
    *.safetensors        | length, header | small tensors together | tensor ............ | tensor ... |
                           own object       one object per run        cut every CHUNK_BYTES

A piece knows the width of its numbers, for its coding (mesh/coding.py), and is called by its first tensor, so that it
is recognised in the next checkpoint also when the layout has moved.

A tensor that did not change between two checkpoints, or a frozen base weight in two models, keeps its objects' digests
wherever it lies in the file, so it is sent and stored once. Neighbouring tensors under SMALL_TENSOR_BYTES share an
object: an optimizer has thousands of scalars, and a message each would cost more than their bytes.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from mesh import limits

SMALL_TENSOR_BYTES = 16 * 1024
"""Tensors below this are stored together with their neighbours: at 16 KiB a message's own cost is about its bytes'."""

SMALL_RUN_BYTES = 64 * 1024
"""Neighbouring small tensors in one object: one changed scalar sends at most this much again."""

TENSOR_HEADER_BYTES_MAX = 64 * 1024 * 1024
"""Longest safetensors header that is read; a longer one is cut by size alone (the format allows 100 MB)."""


ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "C64": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
}  # fmt: skip
"""Width of the numbers of each safetensors type; all others have one byte."""

ReadAt = Callable[[int, int], bytes]
"""(offset, size) to bytes, fewer at the end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file that becomes one object."""

    offset: int
    size: int
    item_bytes: int = 1
    """Width of its numbers, a divisor of its size; 1 when they are of several kinds."""
    name: str = ""
    """The same for the same part of the same tensor, in whatever version of the file; unique in the file."""


class _Span(NamedTuple):
    """A range of a file that is cut by size alone."""

    begin: int
    end: int
    item_bytes: int
    name: str


class Pieces(Sequence[Piece]):
    """The pieces of a file, made when they are asked for: a terabyte has two million."""

    def __init__(self, spans: list[_Span]) -> None:
        self._spans = spans
        counts = (-(-(span.end - span.begin) // limits.CHUNK_BYTES) for span in spans)
        self._ends = list(itertools.accumulate(counts))
        """How many pieces each span and those before it have."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Piece: ...

    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...

    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, at)
        span, before = self._spans[number], self._ends[number - 1] if number else 0
        return _piece(span, span.begin + (at - before) * limits.CHUNK_BYTES)

    def __iter__(self) -> Iterator[Piece]:
        return (_piece(span, at) for span in self._spans for at in range(span.begin, span.end, limits.CHUNK_BYTES))


def cut(path: Path, size_bytes: int) -> Pieces:
    """The pieces of a file of `size_bytes`, in order and without gaps; none for an empty file."""
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        return cut_by(read, path.name, size_bytes)


def cut_by(read: ReadAt, name: str, size_bytes: int) -> Pieces:
    """`cut` for bytes that lie elsewhere: what kind of file they are is told by the `name`."""
    spans = _tensor_spans(read, size_bytes) if name.endswith(".safetensors") else None
    if spans is None:
        spans = [_Span(0, size_bytes, 1, "")]
    return Pieces(spans)


def _piece(span: _Span, offset: int) -> Piece:
    width = span.item_bytes if (span.end - span.begin) % span.item_bytes == 0 else 1
    return Piece(offset, min(limits.CHUNK_BYTES, span.end - offset), width, f"{span.name}@{offset - span.begin}")


def _tensor_spans(read: ReadAt, size_bytes: int) -> list[_Span] | None:
    """The header, each run of small tensors, each large tensor; None for another format.

    Layout (huggingface.co/docs/safetensors): 8 bytes little-endian header length, JSON header, tensor bytes.
    """
    prefix = read(0, 8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size_bytes
    if length > min(TENSOR_HEADER_BYTES_MAX, size_bytes - 8):
        return None
    start = 8 + length
    try:
        tensors = json.loads(read(8, length))
        found = sorted(
            (start + int(entry["data_offsets"][0]), start + int(entry["data_offsets"][1]),
             ITEM_BYTES.get(entry.get("dtype"), 1), name)
            for name, entry in tensors.items()
            if name != "__metadata__"
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    spans = _closed(_join_small([_Span(*each) for each in found]), start, size_bytes)
    edges = [span.end for span in spans]
    return spans if edges == sorted(set(edges)) and edges[-1] == size_bytes else None


def _join_small(tensors: list[_Span]) -> list[_Span]:
    """Each large tensor, and each run of neighbouring small ones."""
    spans: list[_Span] = []
    run_start = -1  # where the open run of small tensors begins; -1: none is open
    for tensor in tensors:
        small = tensor.end - tensor.begin < SMALL_TENSOR_BYTES
        if small and run_start >= 0 and tensor.end - run_start <= SMALL_RUN_BYTES:
            run = spans[-1]
            width = run.item_bytes if run.item_bytes == tensor.item_bytes else 1
            spans[-1] = run._replace(end=tensor.end, item_bytes=width)
        elif tensor.end > tensor.begin:
            spans.append(tensor)
            run_start = tensor.begin if small else -1
    return spans


def _closed(spans: list[_Span], start: int, size_bytes: int) -> list[_Span]:
    """Header in front, whatever stands behind the last tensor at the end; a gap belongs to the tensor after it."""
    closed = [_Span(0, start, 1, "header ")]
    for span in spans:
        gap = span.begin != closed[-1].end
        closed.append(span._replace(begin=closed[-1].end, item_bytes=1 if gap else span.item_bytes))
    if closed[-1].end < size_bytes:
        closed.append(_Span(closed[-1].end, size_bytes, 1, "rest "))
    return closed
