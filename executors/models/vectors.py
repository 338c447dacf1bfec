"""The vectors of a split's texts, computed once and kept: the artifact that the kind `embed` makes.

    vectors.safetensors   vectors float32[n, width]   of length one, in the split's order
                          id int64[n]                 the split's ids (the bits of a uint64)
    vectors.json          format, encoder (digest of the files that decide its answers), tokens_max, precision

Whoever reads them believes nothing: shapes, ids and encoder have to be those of the split and the encoder at hand, and
a few rows that the reader draws are encoded anew and compared. What does not hold is not used.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executors.data import Split
from executors.models.encoder import Encoder

FORMAT = 1

SAMPLE = 12
"""Rows that are encoded anew: a share of 20 % made-up ones is seen with a probability of 93 %."""

NEAR = {"fp32": 1e-4, "bf16": 2e-2}
"""Distance of two computations of one vector: other processors and other batches round otherwise."""

CONFIG_BYTES_MAX = 64 * 1024

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Vectors:
    """What was kept."""

    ids: NDArray[np.uint64]
    matrix: Floats
    encoder: str
    tokens_max: int
    precision: str


def write(folder: Path, split: Split, matrix: Floats, encoder: Encoder) -> Path:
    """The artifact of a split's vectors. The same vectors give the same bytes."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    ids: NDArray[Any] = np.ascontiguousarray(split.ids).view(np.int64)
    arrays: dict[str, NDArray[Any]] = {"vectors": np.ascontiguousarray(matrix, np.float32), "id": ids}
    save_file(arrays, folder / "vectors.safetensors")
    told = {
        "format": FORMAT,
        "encoder": encoder.digest,
        "tokens_max": encoder.tokens_max,
        "precision": encoder.precision,
    }
    (folder / "vectors.json").write_text(json.dumps(told, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def read(folder: Path) -> Vectors:
    """The inverse of `write`. ValueError with a reason when the folder is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        path = folder / "vectors.json"
        told = json.loads(path.read_bytes()) if path.stat().st_size <= CONFIG_BYTES_MAX else {}
        arrays = load_file(folder / "vectors.safetensors")
        matrix, ids = arrays["vectors"], arrays["id"]
        if told["format"] != FORMAT or matrix.dtype != np.float32 or ids.dtype != np.int64:
            raise ValueError("another format")
        if matrix.ndim != 2 or ids.shape != matrix.shape[:1] or not np.isfinite(matrix).all():
            raise ValueError(f"vectors {list(matrix.shape)} with ids {list(ids.shape)}")
        return Vectors(
            ids.view(np.uint64), matrix, str(told["encoder"]), int(told["tokens_max"]), str(told["precision"])
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{type(error).__name__} {' '.join(str(error).split())[:120]}") from None


def why_not(kept: Vectors, split: Split, encoder: Encoder, seed: int) -> str:
    """Why the kept vectors are not those of this split and encoder; '' when they are, as far as a sample tells."""
    if (kept.encoder, kept.tokens_max) != (encoder.digest, encoder.tokens_max):
        return f"they are of another encoder ({kept.encoder[:12]}, not {encoder.digest[:12]}), or of other cuts"
    if kept.precision != encoder.precision:
        return f"they were computed in {kept.precision}, and {encoder.precision} is asked for"
    if kept.matrix.shape[1] != encoder.width or not np.array_equal(kept.ids, split.ids):
        return "they are of another split"
    rows = np.random.default_rng(seed).choice(len(split), size=min(SAMPLE, len(split)), replace=False)
    anew = encoder.encode([split.texts[row] for row in rows])
    apart = float(np.linalg.norm(anew - kept.matrix[rows], axis=1).max())
    return "" if apart <= NEAR[encoder.precision] else f"a row that was encoded anew lies {apart:.3g} away"
