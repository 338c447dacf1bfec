"""A copy of a training in memory that other processes can read, laid out as the files of a checkpoint.

    | 8 bytes | safetensors header, padded | tensors, wide items first, then by name | state.msgpack |  room  |
    '---------------------- state.safetensors -------------------------------------'

The memory is reserved once, in a thread beside the first steps (`prepare`), and grows only when the training does.
`fill` is all that the training waits for: every tensor is copied into its place (CPU to memory at the speed of a
memcpy; from a GPU without waiting in between, into pinned memory, with one synchronisation at the end), then the small
half behind them. Nothing is digested, compressed or written to a disk here. Tensors that are known to stand still
(frozen weights, the best weights so far) are copied again only when they became others.

Whoever fills it must know that nobody reads it any more (executors/saving.py). Other processes open it by `path` while
this one lives; a process that has mapped it keeps what it has mapped.

Not covered: pinning and the copy from a GPU follow torch's documentation; docs/executors.md says what was tried where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from executors import checkpoint
from executors.checkpoint import STATE, TENSORS, Snapshot
from mesh import platform

ALIGN_BYTES = 64
"""Tensors begin at a multiple of this in the file: a cache line, and more than any item needs."""

STATE_ROOM_BYTES = 256 * 1024
"""Reserved behind the tensors at first; the small half grows with the history of validations."""

GROWTH = 1.125
"""Reserved at least so many times what was there when more is needed, so that it is rare."""

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""How the safetensors format writes types of numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where a set of tensors stands in a safetensors file."""

    key: tuple[tuple[str, torch.dtype, torch.Size], ...]
    """Name, type and shape of the tensors that it is for, as they were given."""
    head: bytes
    """The header with its length before it."""
    places: Mapping[str, int]
    """Offset of each tensor's first byte in the file."""
    size_bytes: int

    @property
    def header(self) -> bytes:
        """Without its length."""
        return self.head[8:]


def laid_out(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout of a file with these tensors."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    offset, entries, ranges = 0, {}, {}
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        ranges[name] = offset
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGN_BYTES)
    begin = 8 + len(text)
    places = {name: begin + at for name, at in ranges.items()}
    return Layout(_key(tensors), struct.pack("<Q", len(text)) + text, places, begin + offset)


def _key(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, torch.dtype, torch.Size], ...]:
    return tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())


class Buffer:
    """The memory of one training's snapshots. For one thread, but for `parts`; it may have one of its own."""

    def __init__(self, folder: Path) -> None:
        """folder: where its file goes on systems without files in memory."""
        self.path = ""
        """By which other processes open it; '' until it was filled once."""
        self._folder, self._fd = folder, -1
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._layout: Layout | None = None
        self._views: dict[str, Tensor] = {}
        self._still: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        self._files: tuple[tuple[str, int, int], ...] = ()
        self._pinned = False
        self._preparing: threading.Thread | None = None

    @property
    def size_bytes(self) -> int:
        """Of the snapshot that it holds."""
        return sum(size for _, _, size in self._files)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin to reserve the memory for a snapshot of such tensors, without waiting for it."""
        if self._preparing is None and not self.path:
            size_bytes = laid_out(tensors).size_bytes + STATE_ROOM_BYTES
            self._preparing = threading.Thread(target=self._prepare, args=(size_bytes,), name="reserving memory")
            self._preparing.start()

    def _prepare(self, size_bytes: int) -> None:
        with contextlib.suppress(OSError):  # who fills it asks again, and hears why not
            self._reserve(size_bytes)

    def _prepared(self) -> None:
        """Wait until the memory that was begun is there."""
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None

    def fill(self, snapshot: Snapshot, still: Collection[str] = ()) -> tuple[tuple[str, int, int], ...]:
        """Copy a snapshot into the buffer: (name, offset, size in bytes) of its files there.

        still: names of tensors that are never changed in place: copied again only when they are other tensors.
        OSError when there is no room.
        """
        self._prepared()
        layout = self._layout_for(snapshot.tensors)
        small = checkpoint.small_half(snapshot.state, layout.header, layout.size_bytes)
        self._make_room(layout, len(small))
        with torch.no_grad():
            for name, tensor in snapshot.tensors.items():
                if name not in still or not self._stands_still(name, tensor):
                    self._views[name].copy_(tensor, non_blocking=True)
        _synchronise(snapshot.tensors)
        end = layout.size_bytes
        self._memory[end : end + len(small)] = torch.frombuffer(bytearray(small), dtype=torch.uint8)
        self._files = ((TENSORS, 0, end), (STATE, end, len(small)))
        return self._files

    def parts(self) -> dict[str, memoryview]:
        """The files that it holds, by name."""
        memory = self._memory.numpy().data
        return {name: memory[offset : offset + size] for name, offset, size in self._files}

    def close(self) -> None:
        """Let the memory go, here; processes that have opened it keep it."""
        self._prepared()
        self._unpin()
        self._views, self._still, self._layout, self._files = {}, {}, None, ()
        self._memory = torch.empty(0, dtype=torch.uint8)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if Path(self.path).parent == self._folder:
                Path(self.path).unlink(missing_ok=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _layout_for(self, tensors: Mapping[str, Tensor]) -> Layout:
        if self._layout is not None and self._layout.key == _key(tensors):
            return self._layout
        return laid_out(tensors)

    def _make_room(self, layout: Layout, small_bytes: int) -> None:
        """Have memory for so much, and a view of it for every tensor."""
        needed = layout.size_bytes + small_bytes
        if needed > len(self._memory):
            self._reserve(max(needed + STATE_ROOM_BYTES, int(len(self._memory) * GROWTH)))
            self._layout = None
        if self._layout is layout:
            return
        self._still = {}
        self._memory[: len(layout.head)] = torch.frombuffer(bytearray(layout.head), dtype=torch.uint8)
        self._views = {
            name: self._memory[at : at + size.numel() * dtype.itemsize].view(dtype).view(size)
            for (name, dtype, size), at in ((row, layout.places[row[0]]) for row in layout.key)
        }
        self._layout = layout

    def _reserve(self, size_bytes: int) -> None:
        if self._fd < 0:
            self._fd, self.path = platform.shared_memory(self._folder)
        self._unpin()
        platform.reserve(self._fd, size_bytes)
        memory = torch.frombuffer(mmap.mmap(self._fd, size_bytes), dtype=torch.uint8)
        memory[:: mmap.PAGESIZE] = 0  # maps every page now; torch lets the training's thread run meanwhile
        self._memory = memory
        self._pin()

    def _stands_still(self, name: str, tensor: Tensor) -> bool:
        """True when this very tensor is in its place already; remembers that it is, from now on."""
        known = self._still.get(name)
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            return True
        self._still[name] = (weakref.ref(tensor), tensor._version)
        return False

    def _pin(self) -> None:
        """Let a GPU write straight into the memory; without it the copy is slower and no less right."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            with contextlib.suppress(RuntimeError):
                refused = int(torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), len(self._memory), 0))
                self._pinned = refused == 0

    def _unpin(self) -> None:
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr())
            self._pinned = False


def _synchronise(tensors: Mapping[str, Tensor]) -> None:
    """Wait until what devices were told to copy is there."""
    devices = {tensor.device for tensor in tensors.values()}
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write `snapshot` as a folder, completely or not at all. `folder` must not exist yet. OSError."""
    buffer = Buffer(folder.parent)
    try:
        buffer.fill(snapshot)
        return checkpoint.write(folder, buffer.parts())
    finally:
        buffer.close()
