"""Checkpoints: everything that a task needs to continue bit-identically elsewhere.

    000003/state.safetensors   weights, moments, the best weights so far
           state.msgpack       {"digest": SHA-256 of `body`, "body": {step, plan, best, generators, fingerprint, …,
                                "tensors": SHA-256 of state.safetensors}}

A checkpoint exists when its folder has its name: both files are written and synced under a temporary name, then
renamed. `load` believes nothing: a torn, foreign or changed file raises ArtifactCorrupt, so that the caller may take an
older one.

Saving does not hold up training for longer than a copy in memory: a thread writes, syncs and hands over. While it is
busy another periodic snapshot is skipped and counted; the last one of a run waits for it.

Not covered: shards of several devices. The random generators of CUDA devices are saved, their kernels' order is not
ours.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mesh import codec
from mesh.errors import ArtifactCorrupt, DiskFull, Malformed

TENSORS, STATE = "state.safetensors", "state.msgpack"

STATE_BYTES_MAX = 4 * 1024 * 1024
"""The small half: generators take some 12 KB, a history of a thousand validations 100 KB."""

SAVE_WAIT_S = 300.0
"""How long the end of a run waits for the disk before it gives up on the last checkpoint."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a run at one step: tensors by name, and plain values that msgpack can carry."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write `snapshot` as `folder`, completely or not at all. `folder` must not exist yet."""
    from safetensors.torch import save_file

    waiting = folder.with_name(folder.name + ".tmp")
    waiting.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
    save_file(tensors, waiting / TENSORS)
    _sync(waiting / TENSORS)
    body = codec.pack({**snapshot.state, "tensors": _digest_of(waiting / TENSORS)})
    (waiting / STATE).write_bytes(codec.pack({"digest": codec.digest(body), "body": body}))
    _sync(waiting / STATE)
    os.replace(waiting, folder)
    return folder


def load(folder: Path) -> Snapshot:
    """The snapshot in `folder`. ArtifactCorrupt when anything about it is not as it was saved."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _read_state(folder)
    try:
        if _digest_of(folder / TENSORS) != state.pop("tensors", None):
            raise ArtifactCorrupt(f"the checkpoint {folder.name} is torn: {TENSORS} is not the file that was saved")
        return Snapshot(load_file(folder / TENSORS), state)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactCorrupt(f"the checkpoint {folder.name} can not be read: {str(error)[:160]}") from None


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        outer = codec.unpack((folder / STATE).read_bytes(), bytes_max=STATE_BYTES_MAX)
        body = outer["body"]
        if codec.digest(body) != outer["digest"]:
            raise ArtifactCorrupt(f"the checkpoint {folder.name} is damaged: {STATE} does not match its digest")
        state = codec.unpack(body, bytes_max=STATE_BYTES_MAX)
    except (OSError, Malformed, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"the checkpoint {folder.name} has no usable {STATE}: {str(error)[:160]}") from None
    if not isinstance(state, dict):
        raise ArtifactCorrupt(f"the checkpoint {folder.name} has no usable {STATE}: it is no map")
    return state


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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
    return found


def restore_generators(saved: Mapping[str, Any]) -> None:
    """Put every generator where it stood."""
    version, internal, gauss_next = saved["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, np.frombuffer(keys, "<u4"), position, has_gauss, gauss))
    torch.set_rng_state(_bytes_tensor(saved["torch"]))
    if "cuda" in saved and torch.cuda.is_available() and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes_tensor(state) for state in saved["cuda"]])


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


class Saver:
    """Writes snapshots in a thread, one at a time, and hands finished folders on."""

    def __init__(self) -> None:
        self.skipped = 0
        self.saved = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True while a snapshot is being written."""
        return self._thread is not None and self._thread.is_alive()

    def offer(self, folder: Path, take: Callable[[], Snapshot], done: Callable[[Path], None]) -> bool:
        """Save what `take` copies, unless the previous save is still under way. An earlier save's error is raised
        here."""
        if self.busy:
            self.skipped += 1
            return False
        self._raise()
        snapshot = take()
        self._thread = threading.Thread(target=self._write, args=(folder, snapshot, done), name="saving a checkpoint")
        self._thread.start()
        return True

    def wait(self) -> None:
        """Until the save under way is on the disk; its error is raised here. TimeoutError when the disk hangs."""
        if self._thread is not None:
            self._thread.join(SAVE_WAIT_S)
            if self._thread.is_alive():
                raise TimeoutError(f"a checkpoint was not written within {SAVE_WAIT_S:g} s: check the disk")
        self._raise()

    def _write(self, folder: Path, snapshot: Snapshot, done: Callable[[Path], None]) -> None:
        try:
            done(save(folder, snapshot))
            self.saved += 1
        except OSError as error:
            full = error.errno == errno.ENOSPC
            self._error = DiskFull(f"no room for a checkpoint in {folder.parent}: free some space") if full else error
        except BaseException as error:
            self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
