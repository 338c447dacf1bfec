"""Tensors on disk, one at a time: reading, digesting and writing weights that are larger than the memory.

    open_model(folder) ── Stored: names, shapes ── read(name): one tensor, in memory of its own
    Layout + write(path, …)                      ── header first, then each tensor as it is made

Headers are checked as a whole before anything is read (executors/tensorfile.py): a torn file or one with a made-up
range is refused. Promise: besides the header, no more than the one tensor that was asked for is in memory.

Not covered: whether numbers are finite; who reads a tensor looks at it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
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

    @property
    def largest(self) -> int:
        """Numbers in the largest tensor."""
        return max((math.prod(place.shape) for place in self.places.values()), default=0)

    def read(self, name: str) -> Tensor:
        """One tensor. ModelRefused when it is not all there or holds numbers that are not finite."""
        place = self.places[name]
        data = bytearray(place.size_bytes)
        with place.path.open("rb") as file:
            file.seek(place.offset)
            if file.readinto(data) != len(data):
                raise ModelRefused(f"{place.path.name} ended while {name[:80]!r} was read: copy it whole")
        found = torch.frombuffer(data, dtype=place.dtype) if data else torch.empty(0, dtype=place.dtype)
        if place.dtype.is_floating_point and not bool(torch.isfinite(found).all()):
            raise ModelRefused(f"the tensor {name[:80]!r} of {place.path.name} holds numbers that are not finite")
        return found.reshape(place.shape)

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


def write(path: Path, layouts: Mapping[str, Layout], tensors: Iterable[tuple[str, Tensor]]) -> Path:
    """A safetensors file of these tensors. tensors: in the order of `written_order(layouts)`, each made when it is its
    turn. ValueError when one is not as announced."""
    order = written_order(layouts)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        layout = layouts[name]
        size = math.prod(layout.shape) * layout.dtype.itemsize
        header[name] = {"dtype": NAMES[layout.dtype], "shape": list(layout.shape),
                        "data_offsets": [offset, offset + size]}  # fmt: skip
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for expected, (name, tensor) in zip(order, tensors, strict=True):
            layout = layouts[expected]
            if name != expected or tensor.dtype != layout.dtype or tuple(tensor.shape) != layout.shape:
                raise ValueError(f"expected {expected} as {layout}, got {name} as {tensor.dtype} {list(tensor.shape)}")
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
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
