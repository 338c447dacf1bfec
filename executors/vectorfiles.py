"""Vectors in files: what the kind `index` reads. Nothing is unpickled, nothing believed.

    NAME.safetensors, or a folder with vectors.safetensors     vectors  float32 | float16 [n, d]
                                                               ids      int64 [n], where there are any
    NAME.npy                                                   a plain array [n, d] of floats; ids are row numbers

Vectors become float32. Ids are 0 or more, each once.

Not covered: arrays larger than memory; float16 takes twice its file while it is read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors import tensorfile
from mesh.errors import DataRefused, ModelRefused

NAME = "vectors.safetensors"

FLOATS = (np.float32, np.float16, np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Vectors:
    """n vectors of d numbers, and what each stands for."""

    rows: NDArray[np.float32]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """Numbers of each."""
        return int(self.rows.shape[1])


def read(path: Path) -> Vectors:
    """The vectors at `path`, a file or a folder. DataRefused in one sentence."""
    if path.is_dir():
        path = _only(path)
    if path.suffix == ".npy":
        rows, ids = _array(path), None
    elif path.suffix == ".safetensors":
        rows, ids = _tensors(path)
    else:
        raise DataRefused(f"vectors stand in a .safetensors or .npy file, got {path.name!r}")
    if rows.ndim != 2 or rows.dtype not in FLOATS or 0 in rows.shape:
        raise DataRefused(
            f"expected vectors as floats [n, d], found {rows.dtype}{list(rows.shape)} in {path.name}: save one row for "
            "each vector"
        )
    if ids is None:
        ids = np.arange(len(rows), dtype=np.int64)
    if ids.dtype != np.int64 or ids.shape != (len(rows),) or int(ids.min()) < 0 or len(np.unique(ids)) != len(ids):
        raise DataRefused(f"expected ids int64[{len(rows)}] in {path.name}, none negative and each once")
    return Vectors(np.ascontiguousarray(rows, np.float32), ids)


def write(folder: Path, vectors: Vectors) -> Path:
    """A folder that `read` reads."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=False)
    save_file({"vectors": vectors.rows, "ids": vectors.ids}, folder / NAME)
    return folder


def _only(folder: Path) -> Path:
    """The file of vectors in a folder: vectors.safetensors, else the only one there."""
    if (folder / NAME).is_file():
        return folder / NAME
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".npy"))
    if len(found) != 1:
        raise DataRefused(f"expected {NAME}, or one .safetensors or .npy file, in {folder.name!r}: found {len(found)}")
    return found[0]


def _array(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataRefused(f"{path.name} is no array of numbers: {str(error)[:160]}") from None
    if not isinstance(loaded, np.ndarray):
        raise DataRefused(f"{path.name} is an archive of arrays: save the vectors alone, as .npy")
    return loaded


def _tensors(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        held = tensorfile.tensors(path)
        if "vectors" not in held:
            raise DataRefused(f"expected a tensor `vectors` in {path.name}, found {', '.join(sorted(held))[:160]}")
        with safe_open(path, framework="np") as opened:
            return opened.get_tensor("vectors"), opened.get_tensor("ids") if "ids" in held else None
    except ModelRefused as error:
        raise DataRefused(str(error)) from None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise DataRefused(f"{path.name} holds no vectors: {str(error)[:160]}") from None
