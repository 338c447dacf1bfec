"""Tensors on disk, one at a time: reading, digesting and writing weights that are larger than the memory.

    open_model(folder) ── Stored: names, shapes ── read(name): one tensor; piece(name, …): a part of one
    Layout + write(path, …)                     ── header first, then each tensor, piece by piece, as it is made

Headers are checked as a whole before anything is read (executors/tensorfile.py): a torn file or one with a made-up
range is refused. Promise: besides the header, no more than what was asked for is in memory.

Not covered: whether numbers are finite; who reads a tensor looks at it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from executors import modelfolder, tensorfile
from executors.modelfolder import ADAPTER_WEIGHTS, INDEX, WEIGHTS
from mesh.errors import ModelRefused

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""Number types that models of these kinds are made of."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}

PIECE_BYTES = 8 * 1024 * 1024
"""Read at once while digesting."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor stands."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class Stored:
    """The tensors of some safetensors files, by name."""

    def __init__(self, files: Sequence[Path]) -> None:
        """ModelRefused when one is torn, holds a number type that is not read here, or repeats a name."""
        self.places: dict[str, Place] = {}
        for path in files:
            for name, place in _places(path).items():
                if name in self.places:
                    raise ModelRefused(f"the tensor {name[:80]!r} stands in two files, {path.name} is one: copy anew")
                self.places[name] = place

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(place.size_bytes for place in self.places.values())

    def read(self, name: str) -> Tensor:
        """One tensor. ModelRefused when it is not all there or holds numbers that are not finite."""
        place = self.places[name]
        return self.piece(name, 0, math.prod(place.shape)).reshape(place.shape)

    def piece(self, name: str, start: int, count: int) -> Tensor:
        """`count` numbers of a tensor, from its number `start` on, in a row; errors as `read`."""
        place = self.places[name]
        data = bytearray(count * place.dtype.itemsize)
        with place.path.open("rb") as file:
            file.seek(place.offset + start * place.dtype.itemsize)
            if file.readinto(data) != len(data):
                raise ModelRefused(f"{place.path.name} ended while {name[:80]!r} was read: copy it whole")
        found = torch.frombuffer(data, dtype=place.dtype) if data else torch.empty(0, dtype=place.dtype)
        if place.dtype.is_floating_point and not bool(torch.isfinite(found).all()):
            raise ModelRefused(f"the tensor {name[:80]!r} of {place.path.name} holds numbers that are not finite")
        return found

    def digest(self) -> str:
        """SHA-256 (hex) over names, types, shapes and bytes, in the order of the names: the same in one file or in
        shards."""
        total = hashlib.sha256()
        for name in sorted(self.places):
            place = self.places[name]
            total.update(f"{name} {NAMES[place.dtype]} {list(place.shape)}\n".encode())
            with place.path.open("rb") as file:
                file.seek(place.offset)
                left = place.size_bytes
                while left:
                    piece = file.read(min(left, PIECE_BYTES))
                    if not piece:
                        raise ModelRefused(f"{place.path.name} ended while it was read: copy it whole")
                    total.update(piece)
                    left -= len(piece)
        return total.hexdigest()


def open_model(folder: Path) -> Stored:
    """The weights of a model folder: of a whole model, in one file or in shards, or of an adapter. ModelRefused when
    there are none, or in a pickle alone."""
    files = modelfolder.look(folder).files
    if WEIGHTS in files:
        return Stored([folder / WEIGHTS])
    if INDEX in files:
        return Stored([folder / name for name in files if name.endswith(".safetensors") and "/" not in name])
    return Stored([folder / ADAPTER_WEIGHTS])


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Type and shape of a tensor that will be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many it has."""
        return math.prod(self.shape)


def layout_of(tensors: Stored, name: str) -> Layout:
    """Of a tensor as it is stored."""
    return Layout(tensors.places[name].dtype, tensors.places[name].shape)


def write(path: Path, layouts: Mapping[str, Layout], pieces: Callable[[str], Iterable[Tensor]]) -> Path:
    """A safetensors file of these tensors. pieces: the numbers of a tensor in their order, whole or piece by piece,
    asked for when it is its turn. ValueError when they are not as announced."""
    order = written_order(layouts)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        layout = layouts[name]
        end = offset + layout.numbers * layout.dtype.itemsize
        header[name] = {"dtype": NAMES[layout.dtype], "shape": list(layout.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            written = 0
            for piece in pieces(name):
                if piece.dtype != layouts[name].dtype:
                    raise ValueError(f"{name} was announced as {layouts[name].dtype}, a piece of {piece.dtype} came")
                file.write(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                written += piece.numel()
            if written != layouts[name].numbers:
                raise ValueError(f"{name} was announced with {layouts[name].numbers} numbers, {written} came")
    return path


def written_order(layouts: Mapping[str, Layout]) -> list[str]:
    """Wide numbers first, so that every tensor starts at a multiple of its number's size; then by name."""
    return sorted(layouts, key=lambda name: (-layouts[name].dtype.itemsize, name))


def _places(path: Path) -> dict[str, Place]:
    checked = tensorfile.tensors(path)
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    found = {}
    for name, tensor in checked.items():
        if tensor.dtype not in DTYPES:
            raise ModelRefused(f"the tensor {name[:80]!r} of {path.name} has numbers of type {tensor.dtype}, "
                               f"read here are {', '.join(DTYPES)}")  # fmt: skip
        found[name] = Place(path, 8 + length + header[name]["data_offsets"][0], DTYPES[tensor.dtype], tensor.shape)
    return found
