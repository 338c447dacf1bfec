"""Checkpoints: everything that a task needs to continue bit-identically elsewhere.

    state.safetensors   weights, moments, the best weights so far
    state.msgpack       {"digest": SHA-256 of `body`, "body": {run: {step, plan, best, trace, fingerprint, …},
                         generators, tensors: {size_bytes of state.safetensors, digest of its header}}}

Both stand in memory first (executors/snapshot.py), in exactly these bytes; whoever packs them cuts, digests and stores
them as an artifact, whose manifest vouches for every byte of the tensors. Where nobody packs, `write` makes a folder of
them: it exists when it has its name; both files are written and synced under a temporary one, then renamed.

`load` believes nothing: a torn, foreign or changed file raises ArtifactCorrupt, so that the caller may take an older
checkpoint. What the values mean is checked where they are put to use (executors/state.py).

Not covered: shards of several devices. The tensors' bytes carry no digest of their own here, because computing one
would stop the training; whoever fetches a checkpoint verifies it against its manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from executors.tensorfile import HEADER_BYTES_MAX
from mesh import codec
from mesh.errors import ArtifactCorrupt, Malformed

TENSORS, STATE = "state.safetensors", "state.msgpack"

STATE_BYTES_MAX = 4 * 1024 * 1024
"""The small half: generators take some 12 KB, a history of a thousand validations 100 KB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one step: tensors by name, and plain values that msgpack can carry."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def small_half(state: Mapping[str, Any], header: bytes, tensors_bytes: int) -> bytes:
    """The bytes of state.msgpack. header: of state.safetensors, without its length; tensors_bytes: that file's size."""
    body = codec.pack({**state, "tensors": {"size_bytes": tensors_bytes, "header": codec.digest(header)}})
    return codec.pack({"digest": codec.digest(body), "body": body})


def write(folder: Path, files: Mapping[str, memoryview]) -> Path:
    """Write a checkpoint's files as `folder`, completely or not at all. `folder` must not exist yet. OSError."""
    waiting = folder.with_name(folder.name + ".tmp")
    waiting.mkdir(parents=True)
    for name, data in files.items():
        with (waiting / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    os.replace(waiting, folder)
    return folder


def load(folder: Path) -> Snapshot:
    """The snapshot in `folder`. ArtifactCorrupt when anything about it is not as it was saved."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _read_state(folder)
    try:
        if _seal_of(folder / TENSORS) != state.pop("tensors", None):
            raise ArtifactCorrupt(f"the checkpoint {folder.name} is torn: {TENSORS} is not the file that was saved")
        return Snapshot(load_file(folder / TENSORS), state)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ArtifactCorrupt(f"the checkpoint {folder.name} can not be read: {str(error)[:160]}") from None


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        with (folder / STATE).open("rb") as file:
            outer = codec.unpack(file.read(STATE_BYTES_MAX + 1), bytes_max=STATE_BYTES_MAX)
        body = outer["body"]
        if codec.digest(body) != outer["digest"]:
            raise ArtifactCorrupt(f"the checkpoint {folder.name} is damaged: {STATE} does not match its digest")
        state = codec.unpack(body, bytes_max=STATE_BYTES_MAX)
    except (OSError, Malformed, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"the checkpoint {folder.name} has no usable {STATE}: {str(error)[:160]}") from None
    if not isinstance(state, dict):
        raise ArtifactCorrupt(f"the checkpoint {folder.name} has no usable {STATE}: it is no map")
    return state


def _seal_of(path: Path) -> dict[str, Any]:
    """Size and header digest of a safetensors file, as `small_half` writes them. OSError, ValueError."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= HEADER_BYTES_MAX:
            raise ValueError(f"{path.name} begins with no header")
        return {
            "size_bytes": os.fstat(file.fileno()).st_size,
            "header": hashlib.sha256(file.read(length)).hexdigest(),
        }


def seed_generators(seed: int) -> None:
    """Start every generator of this process from `seed`."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed & 0x7FFFFFFFFFFFFFFF)


def generators() -> dict[str, Any]:
    """The state of every random generator of this process, as plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    found = {
        "python": [version, list(internal), gauss_next],
        "numpy": [kind, np.asarray(keys, "<u4").tobytes(), position, has_gauss, gauss],
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state().numpy().tobytes()
    return found


def restore_generators(saved: Mapping[str, Any]) -> list[str]:
    """Put every generator where it stood; names those of devices that this process has not. All or none of them move:
    ArtifactCorrupt when `saved` is no state of generators."""
    before = generators()
    try:
        return _set_generators(saved)
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError, IndexError) as error:
        _set_generators(before)
        raise ArtifactCorrupt(f"the checkpoint's random generators can not be read: {str(error)[:160]}") from None


def _set_generators(saved: Mapping[str, Any]) -> list[str]:
    version, internal, gauss_next = saved["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, np.frombuffer(keys, "<u4"), position, has_gauss, gauss))
    torch.set_rng_state(_bytes_tensor(saved["torch"]))
    left = []
    if "cuda" in saved:
        if torch.cuda.is_available() and len(saved["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([_bytes_tensor(state) for state in saved["cuda"]])
        else:
            left.append("cuda")
    if "mps" in saved:
        if torch.backends.mps.is_available():
            torch.mps.set_rng_state(_bytes_tensor(saved["mps"]))
        else:
            left.append("mps")
    return left


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
